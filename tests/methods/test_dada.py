"""DADA: both players' objectives written out, what the discriminator sees, targets, the published values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import vectors

from uda_jax import config, losses, networks, ops, weights
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.dada import DADA, depth_aware_information
from uda_jax.methods.parts.alignment import Discriminator, DiscriminatorInputs
from uda_jax.runs import stages
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER
RATE = 0.1


def make(**fields):
    return DADA(
        segmenter=base.Segmenter(name="dada_resnet14", width=4, input_norm="imagenet_rgb"),
        optimiser=optimisers.sgd(
            learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True
        ),
        schedule=Schedule(name="constant"),
        discriminator=Discriminator(width=4, optimiser=optimisers.adam(learning_rate=0.01)),
        **{"num_classes": 3, "target_weight": 0.5, "depth_weight": 0.3, "depth_unit": 40.0} | fields,
    )


@pytest.fixture(scope="module")
def with_depth(batch):
    """The batch with depth on the source: 1 to 100 m, and a strip without any."""
    depth = np.random.default_rng(1).uniform(1, 100, (2, 32, 64)).astype(np.float32)
    depth[:, :4] = 0
    return {**batch, "source": batch["source"] | {"depth": depth}}


@pytest.fixture(scope="module")
def played(with_depth):
    """The method, the first state, what one step makes of it, and the jitted step."""
    method = make()
    state = initialise(lambda key: method.init(key, with_depth), jax.random.key(0))
    step = jax.jit(method.train_step)
    return method, state, step(state, with_depth), step


def maps(method, params, state, batch):
    """Each domain's logits and depth at the image's size, source first, and the statistics after both."""
    stats, found = state.model_state["segmenter"], {}
    for domain in ("source", "target"):
        images = ops.normalise(batch[domain]["image"], "imagenet_rgb")
        outputs, stats = method.network.apply({"params": params, **stats}, images, train=True, mutable=["batch_stats"])
        up = lambda z: ops.resize_bilinear(z, (32, 64), align_corners=True)  # noqa: E731
        found[domain] = {name: up(outputs[name]) for name in ("logits", "depth")}
    return found, stats


def test_the_objectives_of_both_sides_written_out(played, with_depth, flat):
    method, state, (after, metrics), _ = played
    source = with_depth["source"]
    # 655.36 / (metres + 0.01), and 1 where there is none.
    inverse = np.where(source["depth"] > 0, 655.36 / (source["depth"] + 0.01), 1.0)[..., None] / 40

    def judge(params, found):
        p = jax.nn.softmax(found["logits"])
        seen = -p * jnp.log2(p + 1e-30) / np.log2(3) * found["depth"]
        return method.discriminator.of_outputs("fp32").module.apply({"params": params}, seen)

    def segmenter_objective(params):
        found, stats = maps(method, params, state, with_depth)
        terms = {
            "segmentation": losses.cross_entropy(found["source"]["logits"], source["label"].astype(np.int32)),
            "depth": 0.3 * losses.berhu(found["source"]["depth"], inverse, jnp.ones(inverse.shape, bool)),
            "adversarial": 0.5 * jnp.mean(jax.nn.softplus(judge(state.params["discriminator"], found["target"]))),
        }
        return sum(terms.values()), (terms, found, stats)

    def judge_objective(params, found):
        source, target = (judge(params, found[domain]) for domain in ("source", "target"))
        # No halves.
        return jnp.mean(jax.nn.softplus(source)) + jnp.mean(jax.nn.softplus(-target))

    @jax.jit
    def written_out(params, judges):
        (_, (terms, found, stats)), gradient = jax.value_and_grad(segmenter_objective, has_aux=True)(params)
        value, slopes = jax.value_and_grad(judge_objective)(judges, found)
        return terms, gradient, stats, value, optax.tree.norm(slopes)

    expected = written_out(state.params["segmenter"], state.params["discriminator"])
    terms, gradient, stats, value, norm = jax.device_get(expected)
    for name, term in terms.items():
        assert metrics[f"loss/{name}"] == pytest.approx(term, rel=1e-5) and term > 0
    assert metrics["loss/discriminator"] == pytest.approx(value, rel=1e-5)
    assert metrics["norm/discriminator"] == pytest.approx(norm, rel=1e-4)
    now, gradient = flat(after.params["segmenter"]), flat(gradient)
    for path, before in flat(state.params["segmenter"]).items():
        np.testing.assert_allclose(now[path], before - RATE * gradient[path], rtol=2e-3, atol=2e-5, err_msg=path)
    for ours, theirs in zip(jax.tree.leaves(after.model_state["segmenter"]), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_adversarial_loss_reaches_classes_and_depth(played):
    method, state, *_ = played
    discriminators = method.discriminator.of_outputs("fp32")

    @jax.jit
    @jax.grad
    def gradient(maps):
        seen = {"logits": depth_aware_information(jax.nn.softmax(maps["logits"]), maps["depth"])}
        return discriminators.adversarial_losses(state.params, seen, {"logits": 0.5})["adversarial"]

    maps = {
        name: jax.random.normal(jax.random.key(0), (1, 32, 64, size)) for name, size in (("logits", 3), ("depth", 1))
    }
    assert all(np.any(leaf) for leaf in gradient(maps).values())


@pytest.mark.parametrize("file", sorted((GOLDEN / "gio-ada").glob("dada_adversarial*.npz")), ids=lambda file: file.stem)
def test_golden(file):
    """From logits and depth to the discriminator's decision and back, against the released code."""
    golden = {k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in np.load(file).items()}
    shapes = json.loads((GOLDEN / "gio-ada" / "dada_discriminator.manifest.json").read_text())
    params = weights.from_torch(vectors.stand_in_state_dict(shapes), "advent_discriminator")
    classes = golden["seg_logits"].shape[-1]
    judge = networks.build("pixel_discriminator", classes)

    @jax.jit
    def run(logits, depth):
        def loss(logits, depth):
            seen = depth_aware_information(jax.nn.softmax(logits), depth)
            decisions = judge.apply(params, seen)
            return losses.adversarial(decisions, 0), (seen, decisions)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(logits, depth)

    with jax.default_matmul_precision("highest"):
        (value, (seen, decisions)), gradients = run(golden["seg_logits"], golden["depth"])
    names = ("fused", "d_out", "grad_bce_label0_seg_logits", "grad_bce_label0_depth")
    for ours, name in zip((seen, decisions, *gradients), names, strict=True):
        assert np.abs(ours - golden[name]).max() <= 1e-4 * np.abs(golden[name]).max(), name
    np.testing.assert_allclose(value, golden["bce_label0"], rtol=1e-5)
    np.testing.assert_allclose(losses.adversarial(decisions, 1), golden["bce_label1"], rtol=1e-5)


def test_what_the_discriminator_sees():
    even = jnp.full((1, 2, 2, 3), 1 / 3)
    depth = jnp.array([1.0, -2.0, 0.0, 6.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(depth_aware_information(even, depth), jnp.broadcast_to(depth / 3, even.shape), rtol=1e-6)
    certain = jax.nn.one_hot(jnp.array([[[0, 1], [2, 1]]]), 3)
    np.testing.assert_array_equal(depth_aware_information(certain, depth), 0)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (1, 2, 2, 3)))
    np.testing.assert_array_equal(depth_aware_information(p, jnp.ones_like(depth)), losses.self_information(p))
    np.testing.assert_allclose(depth_aware_information(p, 2 * depth), 2 * depth_aware_information(p, depth), rtol=1e-6)


@pytest.mark.parametrize(("halves", "expected"), [(False, 2 * np.log(2)), (True, np.log(2))])
def test_an_undecided_discriminator(played, halves, expected):
    blank = jax.tree.map(jnp.zeros_like, {"discriminator": played[1].params["discriminator"]})
    seen = {"logits": jnp.ones((1, 32, 64, 3))}
    method, inputs = make(discriminator_halves=halves), DiscriminatorInputs(seen, seen)
    discriminators = method.discriminator.of_outputs("fp32")
    found, _ = discriminators.discriminator_losses(blank, inputs, domain_weight=method.domain_weight)
    assert found == {"discriminator": pytest.approx(expected, rel=1e-6)}


def test_targets_of_the_nearest_depths():
    """Without a nearest depth, 0 m is a value like any other: 655.36 / 0.01, in the unit."""
    outputs = {"depth": jnp.zeros((1, 1, 2, 1))}
    depth = jnp.array([0.0, 0.05]).reshape(1, 1, 2, 1)
    error = lambda **fields: float(make(**fields)._depth_loss(outputs, depth))  # noqa: E731
    assert error(nearest_depth=0.1) == pytest.approx(2.6 / 40)
    largest, other = 65536 / 40, 655.36 / 0.06 / 40
    cut = 0.2 * largest
    assert cut > other and error(nearest_depth=0.0) == pytest.approx((2.6 * largest + other) / 2, rel=1e-4)


def test_a_source_without_depth_is_refused(played, batch):
    method, state, *_ = played
    with pytest.raises(
        UserError, match=r"config.data.source.fields: expected 'depth', in metres, among them"
    ) as caught:
        jax.eval_shape(method.train_step, state, batch)
    assert "\n" not in str(caught.value)


def test_one_trace(played, with_depth):
    _, _, (after, _), step = played
    step(after, with_depth)
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmenter": {"name": "deeplab_v2_resnet14"}}, "m.segmenter.name: expected a network with the depth"),
        ({"depth_unit": 0.0}, "m.depth_unit: expected a number above 0, got 0.0"),
        ({"nearest_depth": -1.0}, "m.nearest_depth: expected a number >= 0.0, got -1.0"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        from_mapping(DADA, fields, "m")
    assert "\n" not in str(caught.value)


def test_published_settings_are_the_specification():
    experiment = config.experiment(config.load("dada:synthia_cityscapes"))
    (stage,) = stages.recipe(experiment, num_classes=16)
    method = stage.method
    assert experiment.train.steps == method.schedule.horizon == 90_000 and method.schedule.power == 0.9
    assert experiment.train.batch_size == 1
    sizes = {name: domain.size for name, domain in experiment.data.items()}
    assert sizes == {"source": (760, 1280), "target": (512, 1024)}
    assert experiment.data["source"].fields == ("image", "label", "depth")
    assert experiment.data["target"].fields == ("image",)
    assert (method.depth_weight, method.target_weight, method.depth_unit, method.nearest_depth) == (0.001, 0.001, 1, 0)
    assert not method.discriminator_halves
    assert (method.segmenter.name, method.segmenter.input_norm) == ("dada_resnet101", "caffe_bgr")
    assert (method.segmenter.options.aspp_branches, method.segmenter.options.bn_mode) == (4, "batch")
    sgd = method.optimiser
    assert (sgd.learning_rate, sgd.head_multiplier, sgd.weight_decay, sgd.train_norm_affine) == (
        2.5e-4,
        10,
        5e-4,
        False,
    )
    adam = method.discriminator.optimiser
    assert (adam.learning_rate, adam.beta1, adam.beta2, method.discriminator.kind) == (1e-4, 0.9, 0.99, "bce")
    init = experiment.init_from["segmenter"]
    assert init.path.endswith("DeepLab_resnet_pretrained_imagenet.pth") and init.fresh == ("head", "depth_branch")


def test_imagenet_weights_fit_all_but_the_new_parts():
    """A DeepLab file with another head starts the encoder; head and depth branch stay as they are."""
    network = networks.build("dada_resnet14", 3, width=4)
    deeplab = networks.build("deeplab_v2_resnet14", 21, width=4, multi_level=True)
    shapes = lambda module: jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))  # noqa: E731
    fresh = config.experiment(config.load("dada:synthia_cityscapes")).init_from["segmenter"].fresh
    _, report = weights.fit(shapes(deeplab), shapes(network), fresh=fresh, where="file")
    assert {path.split("/")[1] for path in report.loaded} == {"encoder"}
    assert {path.split("/")[1] for path in report.missing} == {"depth_branch"}


def test_domains_without_depth_are_refused():
    for setting in ("gta5_cityscapes", "camvid_day2dusk"):
        with pytest.raises(UserError, match=f"--config: unknown setting '{setting}'"):
            config.load(f"dada:{setting}")
