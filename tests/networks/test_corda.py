"""CorDA's network: golden values of the released PyTorch code, where gradients flow, options."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from flax import linen as nn
from vectors import assert_map_close, nhwc

from uda_jax import networks, weights
from uda_jax.errors import UserError
from uda_jax.networks.corda import SpatialAttention

GOLDEN = vectors.FOLDER / "dacs-corda"
IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 48, 3))
FORMS = {"network_gta": "aspp", "network_synthia": "linear"}
# Ours and the golden files' names.
OUTPUTS = {
    "logits": "s",
    "aux_logits": "initial_s",
    "depth": "d",
    "source_depth": "d_src",
    "aux_depth": "initial_d",
    "aux_source_depth": "initial_d_src",
}


def small(**options):
    return networks.build("corda_resnet14", 5, **{"width": 4, **options})


@pytest.fixture(scope="module")
def variables(filled):
    return filled(small(), IMAGES)


def stand_in(name):
    return vectors.stand_in(GOLDEN / f"{name}_manifest.json")


def part(name, modules):
    """Converts the stand-ins of one part, whose names lack the network's: `modules` maps patterns to Flax paths."""
    leaves = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
    variables = {}
    for torch_name, tensor in stand_in(name).items():
        path, _, leaf = torch_name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        for pattern, flax in modules.items():
            path = re.sub(pattern, flax, path)
        node = variables.setdefault("batch_stats" if leaf.startswith("running") else "params", {})
        for module in path.split("/"):
            node = node.setdefault(module, {})
        node[leaves.get(leaf, "kernel" if tensor.ndim == 4 else "scale")] = (
            tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
        )
    return variables


@pytest.mark.parametrize("name", FORMS)
def test_whole_network(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    # The image is stored once for all networks of this folder.
    images = nhwc(np.load(GOLDEN / "network_synthia.npz")["image"])
    network = networks.build("corda_resnet101", golden["s"].shape[1], initial_head=FORMS[name])

    @jax.jit
    def run(variables, images):
        outputs = network.apply(variables, images)
        return outputs, network.apply(variables, outputs["features"], method="classify")

    with jax.default_matmul_precision("highest"):
        outputs, classified = run(weights.from_torch(stand_in(name), "corda"), images)
    assert set(outputs) == {*OUTPUTS, "features"}
    for ours, theirs in OUTPUTS.items():
        assert_map_close(outputs[ours], golden[theirs], rtol=0, atol=1e-2)
    np.testing.assert_allclose(classified, outputs["logits"], rtol=0, atol=1e-3)


def test_correlation():
    golden = np.load(GOLDEN / "distillation.npz")
    network = small(width=golden["features_s"].shape[1] // 4)
    # Which name refines which task follows from the values: swapped, they are off by the size of the features.
    variables = part(
        "distillation",
        {
            r"self_attention\.S\.D\.": "correlation/depth_to_segmentation/",
            r"self_attention\.D\.S\.": "correlation/segmentation_to_depth/",
            r"attention\.0$": "attention",
            "conv$": "projection",
        },
    )

    @jax.jit
    def run(segmentation, depth, cotangents):
        apply = functools.partial(network.apply, variables, method=lambda m, s, d: m.correlation(s, d))
        outputs, pullback = jax.vjp(apply, segmentation, depth)
        return outputs, pullback(cotangents)

    def both(kind):
        return tuple(nhwc(golden[f"{kind}_{task}"]) for task in "sd")

    with jax.default_matmul_precision("highest"):
        outputs, gradients = run(*both("features"), both("cotangent"))
    for task, output, gradient in zip("sd", outputs, gradients, strict=True):
        assert_map_close(output, golden[f"out_{task}"], rtol=0, atol=1e-5)
        assert_map_close(gradient, golden[f"grad_features_{task}"], rtol=0, atol=1e-5)


def test_attention_block():
    golden = np.load(GOLDEN / "distillation.npz")
    variables = part("attention_block", {r"attention\.0$": "attention", "conv$": "projection"})
    with jax.default_matmul_precision("highest"):
        given = SpatialAttention("normal", jnp.float32).apply(variables, nhwc(golden["features_d"]))
    assert_map_close(given, golden["attention_block_out"], rtol=0, atol=1e-5)


def test_initial_heads():
    golden = np.load(GOLDEN / "initial_heads.npz")
    classes, width = golden["initial_s"].shape[1], golden["features_s"].shape[1] // 4
    network = networks.build("corda_resnet14", classes, initial_head="linear", width=width)
    variables = part(
        "initial_heads",
        {
            r"layers\.S\.(\d)\.": r"segmentation_features/block_\1/",
            r"layers\.D\.(\d)\.": r"depth_features/block_\1/",
            r"downsample\.(\d)": r"downsample_\1",
            r"conv_out\.S$": "aux_head",
            r"conv_out\.D$": "aux_depth_head",
            r"conv_out\.D_src$": "aux_source_depth_head",
        },
    )

    def initial(module, x):
        segmentation, depth = module.segmentation_features(x, False), module.depth_features(x, False)
        return {
            "features_s": segmentation,
            "features_d": depth,
            "initial_s": module.aux_head(segmentation),
            "initial_d": module.aux_depth_head(depth),
            "initial_d_src": module.aux_source_depth_head(depth),
        }

    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(functools.partial(network.apply, method=initial))(variables, nhwc(golden["features"]))
    for name, value in outputs.items():
        assert_map_close(value, golden[name], rtol=0, atol=1e-5)


def test_final_head():
    golden = np.load(GOLDEN / "final_head.npz")
    network = networks.build("corda_resnet101", golden["output"].shape[1])
    variables = part("final_head", {r"conv2d_list\.(\d)": r"head/branch_\1"})
    with jax.default_matmul_precision("highest"):
        logits = network.apply(variables, nhwc(golden["features"]), method="classify")
    assert_map_close(logits, golden["output"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("initial_head", "count"), [("linear", 46_619_049), ("aspp", 48_015_074)])
def test_parameters_and_sizes(initial_head, count):
    network = networks.build("corda_resnet101", 19, initial_head=initial_head)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 65, 97, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    # A task adds two bottlenecks, of three batch norms each, and the one of its projection.
    affine = [path[0].key for path, _ in jax.tree.leaves_with_path(shapes["params"]) if path[-1].key == "scale"]
    assert len(affine) == 104 + 2 * 7 and affine.count("encoder") == 104
    for size, expected in [((512, 512), (65, 65)), ((512, 1024), (65, 129)), ((65, 97), (9, 13))]:
        outputs = jax.eval_shape(network.apply, shapes, jnp.zeros((1, *size, 3)))
        channels = {name: 19 if "logits" in name else 1 for name in OUTPUTS} | {"features": 256}
        assert {name: value.shape for name, value in outputs.items()} == {
            name: (1, *expected, c) for name, c in channels.items()
        }


def test_correlation_without_kernels(variables):
    """Without projection nothing is exchanged; without attention exactly half of the projection is."""
    correlation = variables["params"]["correlation"]
    keys = jax.random.split(jax.random.key(2))
    segmentation, depth = (jax.random.normal(key, (1, 6, 7, 16)) for key in keys)

    def run(without):
        params = jax.tree.map_with_path(
            lambda path, leaf: leaf * (path[-2].key != without), {"correlation": correlation}
        )
        apply = functools.partial(small().apply, {"params": params}, segmentation, depth)
        return apply(method=lambda m, s, d: m.correlation(s, d))

    np.testing.assert_array_equal(jnp.stack(run("projection")), jnp.stack([segmentation, depth]))
    refined, other = run("attention"), (depth, segmentation)
    directions = ("depth_to_segmentation", "segmentation_to_depth")
    for own, result, source, direction in zip((segmentation, depth), refined, other, directions, strict=True):
        projected = jax.lax.conv_general_dilated(
            source,
            correlation[direction]["projection"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        assert np.abs(projected).max() > 0.1
        np.testing.assert_allclose(result, own + 0.5 * projected, rtol=1e-5, atol=1e-6)


FEATURES = {"encoder", "segmentation_features", "depth_features"}
HEADS = ("head", "aux_head", "depth_head", "source_depth_head")
REACHED = {
    "logits": FEATURES | {"depth_to_segmentation", "head"},
    "aux_logits": {"encoder", "aux_head"},
    "depth": FEATURES | {"segmentation_to_depth", "depth_head"},
    "source_depth": FEATURES | {"segmentation_to_depth", "source_depth_head"},
    "aux_depth": {"encoder", "depth_features", "aux_depth_head"},
    "aux_source_depth": {"encoder", "depth_features", "aux_source_depth_head"},
}


def nonzero(tree):
    return any(map(np.any, jax.tree.leaves(tree)))


@pytest.mark.parametrize("initial_head", ["aspp", "linear"])
def test_gradient_routes(filled, initial_head):
    """No depth head learns from another's loss, and the predictions before the correlation bypass it."""
    network = small(initial_head=initial_head)
    variables = filled(network, IMAGES)
    params, batch_stats = dict(variables["params"]), dict(variables["batch_stats"])
    del params["encoder"], batch_stats["encoder"]

    def intercept(call, arguments, keywords, context):
        if context.module.name == "encoder":  # what comes before the last stage plays no part
            return {"layer4": arguments[0]}
        return call(*arguments, **keywords)

    @jax.jit
    @jax.jacrev
    def gradients(inputs):
        with nn.intercept_methods(intercept):
            outputs = network.apply({"params": inputs["params"], "batch_stats": batch_stats}, inputs["encoder"])
        return {name: jnp.square(outputs[name]).sum() for name in OUTPUTS}

    encoded = nn.relu(jax.random.normal(jax.random.key(2), (1, 25, 14, 128)))
    for name, gradient in gradients({"params": params, "encoder": encoded}).items():
        parts = {"encoder": gradient["encoder"], **gradient["params"], **gradient["params"]["correlation"]}
        del parts["correlation"]
        linear = {"segmentation_features"} if (name, initial_head) == ("aux_logits", "linear") else set()
        assert {part for part, tree in parts.items() if nonzero(tree)} == REACHED[name] | linear, name
        # The map is large enough for the wide branches; they are dead, as in the released code.
        assert not any(nonzero(parts[head].get(f"branch_{i}", {})) for head in HEADS for i in (2, 3)), name


def test_dead_branches(variables):
    def changed(path, leaf):
        return leaf + 1 if re.fullmatch("branch_[23]", path[-2].key) else leaf

    other = jax.tree.map_with_path(changed, variables)
    two, again, four = jax.jit(
        lambda: (
            small().apply(variables, IMAGES),
            small().apply(other, IMAGES),
            small(aspp_branches=4).apply(other, IMAGES),
        )
    )()
    for name in OUTPUTS:
        np.testing.assert_array_equal(two[name], again[name])
        linear = name in ("aux_depth", "aux_source_depth")
        assert (np.abs(four[name] - two[name]).max() > 0.1) != linear


def test_training_mode(variables):
    def train(**options):
        step = functools.partial(small(**options).apply, train=True, mutable=["batch_stats"])
        _, updated = jax.jit(step)(variables, IMAGES)
        return jax.tree.map(lambda a, b: bool(np.any(a != b)), updated["batch_stats"], variables["batch_stats"])

    assert all(jax.tree.leaves(train(remat=True)))
    changed = train(bn_mode="frozen")
    assert not any(jax.tree.leaves(changed.pop("encoder")))
    assert set(changed) == {"segmentation_features", "depth_features"}
    assert all(jax.tree.leaves(changed))


def test_options(variables):
    def sizes(**options):
        outputs = jax.eval_shape(lambda v: small(**options).apply(v, IMAGES), variables)
        return {value.shape[1:3] for value in outputs.values()}

    assert sizes() == {(5, 7)}
    assert sizes(output_stride=4) == {(9, 12)}
    assert sizes(encoder_style="torchvision") == {(5, 6)}  # the stem's pool rounds down
    shapes = jax.eval_shape(small(aspp_bias=False, initial_head="linear").init, jax.random.key(0), IMAGES)["params"]
    biases = [path for path, _ in jax.tree.leaves_with_path(shapes) if path[-1].key == "bias" and "head" in path[0].key]
    assert not biases
    with pytest.raises(UserError, match="initial_head: expected one of 'aspp', 'linear', got 'ASPP'"):
        small(initial_head="ASPP")
    with pytest.raises(UserError, match="multi_level: unknown field"):
        small(multi_level=True)


def test_bfloat16_keeps_float32_state(variables):
    network = small(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    outputs, exact = jax.jit(lambda: (network.apply(variables, IMAGES), small().apply(variables, IMAGES)))()
    assert {leaf.dtype for leaf in jax.tree.leaves((fresh, outputs))} == {jnp.dtype(jnp.float32)}
    for name in OUTPUTS:
        error = float(jnp.abs(outputs[name] - exact[name]).max() / exact[name].std())
        assert 0 < error < 0.3, name


@pytest.mark.parametrize(
    ("options", "body", "head"),
    [
        ({"encoder_init": "normal"}, 0.01, 0.01),
        ({"head_init": "he"}, (2 / (9 * 64)) ** 0.5, (2 / 64) ** 0.5),
    ],
)
def test_start(options, body, head):
    network = networks.build("corda_resnet14", 19, initial_head="linear", **options)

    @jax.jit
    def start(key):  # only what is looked at, so that only this is compiled
        params = network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]
        return params["correlation"]["depth_to_segmentation"]["attention"], params["aux_head"]

    attention, linear = start(jax.random.key(0))
    np.testing.assert_allclose(attention["kernel"].std(), body, rtol=0.02)
    np.testing.assert_allclose(linear["kernel"].std(), head, rtol=0.08)
    assert 0 < float(jnp.abs(linear["bias"]).max()) <= 64**-0.5
    assert attention.keys() == {"kernel"}


def test_ablations_without_correlation(filled):
    """The structure of the released code's networks for them: what predicts, and which parts there are."""
    shapes = lambda network: jax.eval_shape(network.init, jax.random.key(0), IMAGES)["params"]  # noqa: E731
    one, two = small(structure="uncorrelated"), small(structure="multi_task")
    heads = {"encoder", "head", "depth_head"}
    assert set(shapes(two)) == heads
    assert set(shapes(one)) == heads | {"segmentation_features", "depth_features", "source_depth_head"}
    for network, maps in (
        (one, {"logits", "features", "depth", "source_depth"}),
        (two, {"logits", "features", "depth"}),
    ):
        found = jax.eval_shape(lambda x, network=network: network.init_with_output(jax.random.key(0), x)[0], IMAGES)
        assert set(found) == maps and found["logits"].shape == (2, 5, 7, 5) and found["depth"].shape == (2, 5, 7, 1)
    assert shapes(two)["depth_head"]["branch_0"]["kernel"].shape[2] == 4 * 8 * 4  # on the encoder itself
