"""DeepLab on VGG-16: golden outputs of the released PyTorch code, sizes, counts, options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nchw, nhwc, relative_error

from uda_jax import networks, weights
from uda_jax.methods.base import forward

GOLDEN = vectors.FOLDER
FILES = sorted((GOLDEN / "gio-ada").glob("deeplab_vgg16*.npz"))
IMAGES = jax.random.normal(jax.random.key(1), (2, 39, 48, 3))


def small(**options):
    return networks.build("deeplab_v2_vgg16", 5, **{"width": 4, **options})


@pytest.fixture(scope="module")
def variables():
    """Variables of `small(depth_head=True)` from NumPy."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(small(depth_head=True).init, jax.random.key(0), IMAGES)

    def fill(leaf):
        scale = (2 / math.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(generator.normal(0, scale, leaf.shape), jnp.float32)

    return jax.tree.map(fill, shapes)


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def golden(request):
    """A golden file, our features and the logits of two and of four branches."""
    arrays = np.load(request.param)
    variables = weights.from_torch(vectors.stand_in(request.param.with_suffix(".manifest.json")), "vgg16")
    two, four = (
        networks.build("deeplab_v2_vgg16", arrays["logits"].shape[1], aspp_branches=branches) for branches in (2, 4)
    )

    @jax.jit
    def run(variables, images):
        outputs = two.apply(variables, images)
        return outputs["features"], outputs["logits"], four.apply(variables, outputs["features"], method="classify")

    with jax.default_matmul_precision("highest"):
        return arrays, run(variables, nhwc(arrays["image"]))


def test_golden(golden):
    arrays, (features, logits, all_branches) = golden
    compared = {
        "features_head16": features[..., : arrays["features_head16"].shape[1]],
        "logits": logits,
        "logits_all_branches": all_branches,
    }
    for name, ours in compared.items():
        error = relative_error(nchw(ours), arrays[name])
        assert error <= 1e-4, f"{name}: {error}"


def test_parameters():
    for file in FILES:
        manifest = vectors.manifest(file.with_suffix(".manifest.json"))
        num_classes = manifest["classifier.conv2d_list.0.weight"][0]
        network = networks.build("deeplab_v2_vgg16", num_classes)
        variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        assert set(variables) == {"params"}  # no batch norm
        total = sum(leaf.size for leaf in jax.tree.leaves(variables))
        assert total == sum(math.prod(shape) for shape in manifest.values())
        # 13 convolutions of VGG-16, fc6, fc7 and four branches.
        assert total == 14_714_688 + 1024 * (9 * 512 + 1) + 1024 * (9 * 1024 + 1) + 4 * num_classes * (9 * 1024 + 1)
        stages = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
        names = {f"conv{stage}_{i + 1}" for stage, count in stages for i in range(count)}
        assert set(variables["params"]["encoder"]) == names | {"fc6", "fc7"}


def test_width_scales_every_layer():
    shapes = jax.eval_shape(small(width=6).init, jax.random.key(0), IMAGES)["params"]
    channels = {name: layer["bias"].shape[0] for name, layer in shapes["encoder"].items()}
    last = {name: channels[name] for name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", "fc6", "fc7")}
    assert list(last.values()) == [6, 12, 24, 48, 48, 96, 96]


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (8, 8)), ((65, 97), (8, 12)), ((63, 71), (7, 8)), ((376, 1241), (47, 155))]
)
def test_output_sizes(size, expected):
    network = small(depth_head=True)
    outputs, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    assert outputs["logits"].shape == (1, *expected, 5)
    assert outputs["features"].shape == (1, *expected, 64)
    assert outputs["depth"].shape == (1, *expected, 1)


def test_heads_are_parallel(variables):
    network = small(depth_head=True)

    def total(params, name):
        outputs = network.apply({"params": params}, IMAGES)
        return outputs[name].sum(), outputs

    gradient = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    for name, own, other in [("logits", "head", "depth_head"), ("depth", "depth_head", "head")]:
        gradients, outputs = gradient(variables["params"], name)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients[own]))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[other]))
        assert np.any(gradients["encoder"]["conv1_1"]["kernel"])
    bound = network.bind(variables)
    expected = 1 / (1 + np.exp(-np.asarray(bound.depth_head(outputs["features"]), np.float64)))
    np.testing.assert_allclose(outputs["depth"], expected, rtol=1e-5)
    np.testing.assert_allclose(bound.classify(outputs["features"]), outputs["logits"], rtol=1e-5, atol=1e-5)
    plain = {name: variables["params"][name] for name in ("encoder", "head")}
    without = small().apply({"params": plain}, IMAGES)
    assert set(without) == {"logits", "features"}
    np.testing.assert_allclose(without["logits"], outputs["logits"], rtol=1e-5, atol=1e-5)


def test_training_keeps_no_state(variables):
    """What a method calls in a step works for a network without running statistics."""
    network = small(depth_head=True)
    outputs, model_state = forward(network, variables["params"], {}, IMAGES, train=True)
    assert model_state == {}
    evaluated, model_state = forward(network, variables["params"], {}, IMAGES, train=False)
    assert model_state == {}
    jax.tree.map(np.testing.assert_array_equal, outputs, evaluated)


@pytest.mark.parametrize(
    ("options", "encoder", "head"),
    [
        ({}, (2 / (9 * 128)) ** 0.5, 0.01),
        ({"encoder_init": "uniform", "head_init": "he"}, (3 * 9 * 128) ** -0.5, (2 / (9 * 256)) ** 0.5),
    ],
)
def test_start(options, encoder, head):
    network = small(width=16, **options)

    @jax.jit
    def start(key):  # only what is looked at, so that only this is compiled
        params = network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]
        return params["encoder"]["conv5_2"], params["encoder"]["fc6"], params["head"]["branch_1"]

    conv5, fc6, branch = start(jax.random.key(0))
    np.testing.assert_allclose(conv5["kernel"].std(), encoder, rtol=0.02)
    np.testing.assert_allclose(fc6["kernel"].std(), encoder, rtol=0.02)
    np.testing.assert_allclose(branch["kernel"].std(), head, rtol=0.05)
    bound = (9 * 128) ** -0.5
    assert 0.9 * bound < float(jnp.abs(fc6["bias"]).max()) <= bound


def test_bfloat16_keeps_float32_state(variables):
    outputs = jax.jit(small(depth_head=True, dtype=jnp.bfloat16).apply)(variables, IMAGES)
    exact = jax.jit(small(depth_head=True).apply)(variables, IMAGES)
    fresh = jax.eval_shape(small(dtype=jnp.bfloat16).init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, fresh))} == {jnp.dtype(jnp.float32)}
    error = float(jnp.abs(outputs["logits"] - exact["logits"]).max() / exact["logits"].std())
    assert 0 < error < 0.3
