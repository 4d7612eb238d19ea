"""DAFormer's and HRDA's networks: golden outputs and gradients of the released code, fusion, windows, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nhwc

from uda_jax import losses, networks
from uda_jax.errors import UserError
from uda_jax.networks import daformer, hrda, mit
from uda_jax.networks.daformer import DAFormerOptions
from uda_jax.networks.mit import SIZES
from uda_jax.ops import resize_bilinear
from uda_jax.weights import mix_transformer, rules
from uda_jax.weights.matching import nest

GOLDEN = vectors.FOLDER / "daformer"
IMAGES = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
TINY = {"width": 4, "blocks": (1, 1, 1, 1), "head_width": 8}
DETAIL = {"detail_size": (32, 32), "detail_stride": 16}


def heads(name, groups):
    """The stand-in variables of heads alone, whose names a checkpoint has behind "decode_head."."""
    state_dict = {f"decode_head.{name}": array for name, array in vectors.stand_in(f"daformer/{name}").items()}
    tensors = rules.match([groups], state_dict, rules.TORCH, "heads")
    rules.check(tensors, state_dict, rules.TORCH, "heads")
    return nest({t.flax: t.layout.to_flax(state_dict[t.torch]) for t in tensors if not t.counter})


def part(variables, name):
    return {collection: tree[name] for collection, tree in variables.items()}


def maps(golden, prefix=""):
    return {f"stage{s}": nhwc(golden[f"{prefix}c{s}"]) for s in range(1, 5)}


@pytest.fixture(scope="module")
def head():
    variables = heads("daformer_head.manifest.json", mix_transformer.DAFORMER[-1:])
    return daformer.build_head(19, DAFormerOptions()), part(variables, "head")


def test_golden_head(head):
    golden = np.load(GOLDEN / "daformer_head.npz")
    network, variables = head
    with jax.default_matmul_precision("highest"):
        logits, fused = jax.jit(network.apply)(variables, maps(golden))
    assert_map_close(logits, golden["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(fused.mean(-1), golden["fused_mean_over_channels"], rtol=0, atol=1e-4)


def test_golden_head_in_training(head):
    golden = np.load(GOLDEN / "daformer_head_train_bn.npz")
    network, variables = head
    train = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    with jax.default_matmul_precision("highest"):
        (logits, _), updated = train(variables, maps(golden))
    assert_map_close(logits, golden["logits"], rtol=0, atol=1e-4)
    statistics = updated["batch_stats"]["fuse_layer"]["bottleneck"]["bn"]
    for ours in ("mean", "var"):
        expected = golden[f"bottleneck_running_{ours}"]
        np.testing.assert_allclose(statistics[ours], expected, rtol=0, atol=1e-5, err_msg=ours)


@pytest.fixture(scope="module")
def pair():
    """HRDA's two heads as functions of maps, and their variables."""
    variables = heads("hrda_head.manifest.json", mix_transformer.HRDA[-2:])
    options = DAFormerOptions()
    modules = {"head": daformer.build_head(19, options), "scale_attention": daformer.build_head(19, options, "linear")}
    return lambda name, x: modules[name].apply(part(variables, name), x)[0]


def test_golden_fusion_of_a_box(pair):
    golden = np.load(GOLDEN / "hrda_head_train.npz")
    top, bottom, left, right = map(int, golden["crop_box"])
    labels, weight = golden["label"][:, 0], golden["seg_weight"]
    size = (bottom - top, right - left)

    def losses_of(context_maps, detail_maps):
        context, details = pair("head", context_maps), pair("head", detail_maps)
        attention = jax.nn.sigmoid(pair("scale_attention", context_maps))
        masked = hrda.inside(attention, top // 8, left // 8, size[0] // 8, size[1] // 8)
        placed = jnp.zeros((2, 16, 16, 19)).at[:, top // 4 : bottom // 4, left // 4 : right // 4].set(details)
        fused = hrda.fuse(context, masked, placed)
        box = [hrda.detail(x, top, left, size) for x in (labels, weight)]
        terms = {}
        for name, logits, (y, q), share in (
            ("loss_seg", fused, (labels, weight), 0.9),
            ("hr_loss_seg", details, box, 0.1),
        ):
            logits = resize_bilinear(logits, y.shape[1:], align_corners=False)
            terms[name] = share * losses.cross_entropy(logits, y, pixel_weights=q)
        found = {"att": attention, "lr_logits_raw": context, "lr_seg_scaled": (1 - masked) * context}
        return sum(terms.values()), (terms, found | {"hr_seg": details, "fused": fused})

    step = jax.jit(jax.value_and_grad(losses_of, (0, 1), has_aux=True))
    with jax.default_matmul_precision("highest"):
        (total, (terms, found)), gradients = step(maps(golden, "lr_"), maps(golden, "hr_"))
    for name, ours in found.items():
        assert_map_close(ours, golden[name], rtol=0, atol=1e-4, err_msg=name)
    for name, ours in {**terms, "total": total}.items():
        assert float(ours) == pytest.approx(float(golden[name]), rel=1e-5), name
    assert_map_close(gradients[0]["stage1"], golden["grad_lr_c1"], rtol=0, atol=1e-7)
    assert_map_close(gradients[1]["stage4"], golden["grad_hr_c4"], rtol=0, atol=1e-7)


def test_golden_fusion_of_windows(pair):
    golden = np.load(GOLDEN / "hrda_head_slide.npz")
    boxes = hrda.windows((64, 64), (32, 32), 16)
    assert [[y, y + 32, x, x + 32] for y, x in boxes] == golden["boxes"].tolist()

    @jax.jit
    def run(context_maps, detail_maps):
        context = pair("head", context_maps)
        attention = jax.nn.sigmoid(pair("scale_attention", context_maps))
        covered = hrda.average_windows(pair("head", detail_maps), boxes, 4, (16, 16))
        return covered, hrda.fuse(context, attention, covered)

    with jax.default_matmul_precision("highest"):
        covered, fused = run(maps(golden, "lr_"), maps(golden, "hr_"))
    assert_map_close(covered, golden["hr_seg"], rtol=0, atol=1e-4)
    assert_map_close(fused, golden["fused"], rtol=0, atol=1e-4)


def test_the_last_windows_are_moved_back():
    assert hrda.windows((40, 70), (32, 32), 16) == [(y, x) for y in (0, 8) for x in (0, 16, 32, 38)]
    assert hrda.windows((32, 32), (32, 32), 16) == [(0, 0)] and hrda.window((64, 24), (32, 32)) == (32, 24)


def test_attention_of_zero_is_the_context_and_of_one_the_details():
    context, details = jnp.arange(18.0).reshape(1, 3, 3, 2), jnp.arange(72.0).reshape(1, 6, 6, 2)
    none = hrda.fuse(context, jnp.zeros_like(context), details)
    np.testing.assert_allclose(none, resize_bilinear(context, (6, 6), align_corners=False), rtol=1e-6)
    np.testing.assert_allclose(hrda.fuse(context, jnp.ones_like(context), details), details, rtol=1e-6)


def test_boxes_lie_on_the_grid_and_never_at_the_end():
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(hrda.draw_box(key, (64, 40), (32, 40)))))
    tops, lefts = draw(jax.random.split(jax.random.key(0), 200)).T
    assert set(tops.tolist()) == {0, 8, 16, 24} and set(lefts.tolist()) == {0}


@functools.cache
def small(name, **options):
    return networks.build(name, 3, **({} if "resnet" in name else TINY), **options)


def test_hrda_puts_its_parts_together(filled):
    """Both forwards are those of encoder and heads, the context's before the details', whose statistics follow."""
    network, boxes = small("hrda_mit_b0", **DETAIL), hrda.windows((64, 64), (32, 32), 16)
    variables = filled(network, IMAGES)

    def by_hand(module, images):
        encoder, head, attention = module.encoder, module.head, module.scale_attention
        context, inside = encoder(hrda.shrunk(images)), jnp.zeros((8, 8, 1)).at[1:5, 2:6].set(1.0)
        logits = head(context, True)[0]
        weight = jax.nn.sigmoid(attention(context, True)[0])
        details = head(encoder(images[:, 8:40, 16:48]), True)[0]
        placed = jnp.zeros((2, 16, 16, 3)).at[:, 2:10, 4:12].set(details)
        boxed = {"logits": hrda.fuse(logits, weight * inside, placed), "detail_logits": details}
        crops = jnp.concatenate([images[:, y : y + 32, x : x + 32] for y, x in boxes])
        logits, weight = head(context, True)[0], jax.nn.sigmoid(attention(context, True)[0])
        covered = hrda.average_windows(head(encoder(crops), True)[0], boxes, 4, (16, 16))
        features = {"encoder_features": context["stage4"]}
        return boxed | features, {"logits": hrda.fuse(logits, weight, covered)} | features

    def ours(module, images):
        return module.with_detail(images, jnp.int32(8), jnp.int32(16), True), module(images, True)

    run = jax.jit(lambda v, x: [network.apply(v, x, method=m, mutable=["batch_stats"]) for m in (ours, by_hand)])
    found, expected = run(variables, IMAGES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


def test_daformer_outputs(filled):
    network = small("daformer_mit_b0")
    variables = filled(network, IMAGES[:, :33])
    outputs, classified = jax.jit(
        lambda v, x: network.apply(v, x, method=lambda m, x: ((o := m(x)), m.classify(o["features"])))
    )(variables, IMAGES[:, :33])
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes == {"logits": (2, 9, 16, 3), "features": (2, 9, 16, 8), "encoder_features": (2, 2, 2, 32)}
    np.testing.assert_allclose(classified, outputs["logits"], rtol=1e-5, atol=1e-6)


def test_parameters():
    network, counts = networks.build("daformer_mit_b5", 19), {}
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert counts == {"encoder": 81_443_008, "head": 3_712_275}


def test_on_a_resnet():
    """The variants on DeepLab-v2: two parallel convolutions, a stem of three, at the same strides on both scales."""
    network = networks.build("hrda_resnet14", 3, width=4, aspp_branches=2, **DETAIL)
    boxed = functools.partial(network.apply, method="with_detail")
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    outputs = jax.eval_shape(boxed, shapes, IMAGES, jnp.int32(8), jnp.int32(0))
    assert {name: x.shape for name, x in outputs.items()} == {
        "logits": (2, 8, 8, 3), "detail_logits": (2, 4, 4, 3), "encoder_features": (2, 4, 4, 128)
    }  # fmt: skip
    assert {"stem_0", "stem_1", "stem_3", "stem_4", "stem_6", "stem_7"} < set(shapes["params"]["encoder"])
    assert set(shapes["params"]) == {"encoder", "head", "scale_attention"}
    reference = networks.build("deeplab_v2_resnet101", 19, encoder_style="v1c")
    stem = jax.eval_shape(reference.init, jax.random.key(0), IMAGES)["params"]["encoder"]
    assert [stem[f"stem_{i}"]["kernel"].shape for i in (0, 3, 6)] == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]


@pytest.mark.parametrize(
    ("name", "options", "images", "message"),
    [
        ("hrda_mit_b0", {"detail_size": (32, 36)}, None, r"detail_size: expected multiples of 8, got \(32, 36\)"),
        ("hrda_mit_b0", {"detail_stride": 12}, None, "detail_stride: expected multiples of 8, got 12"),
        ("hrda_resnet14", {"encoder_style": "caffe"}, None, "encoder_style: expected one of 'torchvision', 'v1c'"),
        ("hrda_mit_b0", DETAIL, IMAGES[:, :60], "expected images whose sides are multiples of the context's stride"),
    ],
)
def test_mistakes(name, options, images, message):
    with pytest.raises(UserError, match=message):
        network = networks.build(name, 3, width=4, **options)
        jax.eval_shape(network.init, jax.random.key(0), images)


def test_every_size_has_both_networks():
    names = [f"{kind}_{size}" for kind in ("daformer", "hrda") for size in SIZES]
    assert set(names) < set(networks.names()) and set(mit.SIZES) < set(networks.encoder_names())
