"""EfficientNet-Lite0 and what it is made of: depthwise convolutions, TensorFlow's padding, ReLU6; pyramids on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from uda_jax import networks
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import depthwise_convolve, same_padding
from uda_jax.networks.efficientnet import InvertedBottleneck
from uda_jax.networks.kernels import relu6
from uda_jax.ops.platform import made_for

IMAGES = jax.random.normal(jax.random.key(0), (2, 64, 96, 3))


@pytest.mark.parametrize(
    ("sides", "geometry", "expected"),
    [
        ((8, 7), (3, 2, 1), ((0, 1), (1, 1))),
        ((8, 7), (5, 2, 1), ((1, 2), (2, 2))),
        ((8, 7), (3, 1, 4), ((4, 4), (4, 4))),
        ((1, 2), (1, 2, 1), ((0, 0), (0, 0))),
    ],
)
def test_tensorflows_padding(sides, geometry, expected):
    """The odd pixel comes after; XLA's own word for it agrees where it is one."""
    assert same_padding(sides, *geometry) == expected
    size, stride, dilation = geometry
    reach = dilation * (size - 1) + 1
    assert list(expected) == lax.padtype_to_pads(sides, (reach, reach), (stride, stride), "SAME")


@pytest.mark.parametrize("geometry", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2)])
def test_depthwise_forms_agree(geometry):
    """Values and gradients, eager and compiled, on maps of an even and an odd side."""
    size, stride, dilation = geometry
    x = jax.random.normal(jax.random.key(1), (2, 8, 7, 6))
    kernel = jax.random.normal(jax.random.key(2), (size, size, 1, 6))

    def results(platform, x, kernel):
        with made_for(platform):
            y, pullback = jax.vjp(lambda x, kernel: depthwise_convolve(x, kernel, stride, dilation), x, kernel)
            return y, pullback(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    expected = jax.jit(functools.partial(results, "gpu"))(x, kernel)
    assert expected[0].shape == (2, -(-8 // stride), -(-7 // stride), 6)
    for run in (results, jax.jit(results, static_argnums=0)):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), run("cpu", x, kernel), expected
        )
    for platform, grouped in (("cpu", False), ("gpu", True), ("tpu", True)):
        with made_for(platform):
            # A function of its own: what JAX has traced of one, it keeps.
            traced = jax.make_jaxpr(lambda x, kernel: depthwise_convolve(x, kernel, stride, dilation))(x, kernel)
            assert ("feature_group_count=6" in str(traced)) == grouped


def test_depthwise_by_hand():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1) * jnp.array([1.0, -2.0])
    kernel = jnp.zeros((3, 3, 1, 2)).at[1, 1, 0].set(1.0).at[2, 2, 0, 0].set(10.0)
    # Of three rows, one of padding lies before them; of four columns, none: windows are centred on columns 1 and 3.
    with made_for("cpu"):
        y = depthwise_convolve(x, kernel, 2)
    np.testing.assert_array_equal(y[0, ..., 1], [[-2 * 1, -2 * 3], [-2 * 9, -2 * 11]])
    np.testing.assert_array_equal(y[0, ..., 0], [[1 + 10 * 6, 3], [9, 11]])


def test_relu6():
    x = jnp.array([-1.0, 0.0, 2.0, 6.0, 7.0, jnp.nan])
    np.testing.assert_array_equal(relu6(x), [0, 0, 2, 6, 6, np.nan])
    np.testing.assert_array_equal(relu6(x), nn.relu6(x))
    np.testing.assert_array_equal(jax.grad(lambda x: relu6(x).sum())(x[:5]), [0, 0, 1, 0, 0])


@pytest.mark.parametrize("train", [False, True])
def test_epsilon_of_batch_norm(train):
    x = jnp.array([[1.0], [3.0]])
    module = BatchNorm(epsilon=3.0)
    variables = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    variables["batch_stats"] = {"mean": jnp.full(1, 2.0), "var": jnp.ones(1)}
    y, _ = module.apply(variables, x, train, mutable=["batch_stats"])
    np.testing.assert_allclose(y, [[-0.5], [0.5]])
    # The variance of the batch is 1 as well; of the half sum of y squared, by the quotient rule.
    gradient = jax.grad(lambda x: jnp.square(module.apply(variables, x, train, mutable=["batch_stats"])[0]).sum() / 2)
    np.testing.assert_allclose(gradient(x), [[-0.25], [0.25]] if not train else [[-0.1875], [0.1875]], rtol=1e-6)


@pytest.mark.parametrize(("output_stride", "sides"), [(32, (4, 2)), (16, (4, 4)), (8, (8, 8))])
def test_output_stride(output_stride, sides):
    encoder = networks.build_encoder("efficientnet_lite0", output_stride=output_stride)
    variables = jax.eval_shape(encoder.init, jax.random.key(0), IMAGES)
    maps = jax.eval_shape(encoder.apply, variables, IMAGES)
    assert [maps[f"stage{i}"].shape[3] for i in range(1, 8)] == [16, 24, 40, 80, 112, 192, 320]
    assert maps["stem"].shape == (2, 32, 48, 32) and maps["stage3"].shape == (2, 8, 12, 40)
    assert (maps["stage5"].shape[1], maps["stage7"].shape[1]) == sides
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == 2_958_848  # the same parameters at every stride


def test_dilation_keeps_what_stride_reads(filled):
    """Where a stride was traded for dilation, the map at every second pixel is the strided one, up to its borders.

    TensorFlow's padding at a stride of 2 puts the window of the first pixel of an even side around the second one.
    """
    images = jax.random.normal(jax.random.key(3), (1, 256, 256, 3))
    strided, dense = (networks.build_encoder("efficientnet_lite0", width=2, output_stride=s) for s in (32, 16))
    variables = filled(strided, images)
    found = [jax.jit(m.apply)(variables, images)["stage6"] for m in (strided, dense)]
    assert found[0].shape[1:3] == (8, 8) and found[1].shape[1:3] == (16, 16)
    inner = found[0][:, 4, 4]
    np.testing.assert_allclose(found[1][:, 9, 9], inner, rtol=1e-4, atol=1e-5)


BLOCK = {"expansion": 6, "size": 5, "dilation": 1, "kernel_init": "he", "dtype": jnp.float32}


def test_frozen_statistics_stay_and_are_used(filled):
    """Of the encoder's blocks; with the mode of a batch the same block's move."""
    frozen, moving = (InvertedBottleneck(channels=4, stride=2, bn_mode=mode, **BLOCK) for mode in ("frozen", "batch"))
    x = IMAGES[:, :8, :8]
    variables = filled(Stand(frozen), x)
    inside = {collection: tree["block"] for collection, tree in variables.items()}
    y, updated = frozen.apply(inside, x, train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], inside["batch_stats"])
    np.testing.assert_array_equal(y, frozen.apply(inside, x, train=False))
    _, updated = moving.apply(inside, x, train=True, mutable=["batch_stats"])
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), updated["batch_stats"], inside["batch_stats"])
    assert all(jax.tree.leaves(changed))
    assert networks.build_encoder("efficientnet_lite0", bn_mode="frozen").bn_mode == "frozen"


class Stand(nn.Module):
    """Something that takes images alone, as an encoder does."""

    block: nn.Module

    def __call__(self, x):
        return self.block(x, train=False)


def test_gradients_of_a_block_are_those_of_xlas_form(filled):
    """With a shortcut, of all parameters; eager and compiled."""
    block = InvertedBottleneck(channels=3, stride=1, bn_mode="frozen", **BLOCK)
    x = IMAGES[:, :6, :7]
    variables = filled(Stand(block), x)

    def gradients(platform, params):
        def loss(params):
            return jnp.square(Stand(block).apply(variables | {"params": params}, x)).mean()

        with made_for(platform):
            return jax.grad(loss)(params)

    expected = jax.jit(functools.partial(gradients, "gpu"))(variables["params"])
    assert len(jax.tree.leaves(expected)) == 9 and all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(expected))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for run in (gradients, jax.jit(gradients, static_argnums=0)):
        jax.tree.map(close, run("cpu", variables["params"]), expected)


PYRAMIDS = {"efficientnet_lite0": ("pyramid", "dada", "corda"), "resnet18": ("pyramid",), "resnet50": ("pyramid",)}


@pytest.mark.parametrize("encoder", PYRAMIDS)
def test_pyramids_give_what_methods_ask_for(encoder):
    expected = {"logits": 5, "features": 16}
    further = {"pyramid": {"depth": 1}, "dada": {"depth": 1}}
    further["corda"] = {"aux_logits": 5, "features": 8, **dict.fromkeys(("depth", "source_depth"), 1)}
    further["corda"] |= dict.fromkeys(("aux_depth", "aux_source_depth"), 1)
    for prefix in PYRAMIDS[encoder]:
        options = {"depth_head": True, "multi_level": True} if prefix == "pyramid" else {}
        network = networks.build(f"{prefix}_{encoder}", 5, width=4, neck_width=16, **options)
        variables = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
        outputs = jax.eval_shape(network.apply, variables, IMAGES)
        if prefix == "pyramid":
            assert outputs.pop("aux_logits").shape == (2, 4, 6, 5)
        shapes = {name: (2, 8, 12, channels) for name, channels in (expected | further[prefix]).items()}
        assert {name: output.shape for name, output in outputs.items()} == shapes
        features = jax.ShapeDtypeStruct(shapes["features"], jnp.float32)
        classify = functools.partial(network.apply, method="classify")
        assert jax.eval_shape(classify, variables, features).shape == shapes["logits"]
    larger = networks.build(f"pyramid_{encoder}", 5, width=4, neck_stride=4)
    variables = jax.eval_shape(larger.init, jax.random.key(0), IMAGES)
    assert jax.eval_shape(larger.apply, variables, IMAGES)["logits"].shape == (2, 16, 24, 5)


def test_segmenter_is_small():
    network = networks.build("pyramid_efficientnet_lite0", 19)
    params = jax.eval_shape(network.init, jax.random.key(0), IMAGES)["params"]
    assert {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()} == {
        "encoder": 2_958_848,
        "neck": 208_896,
        "head": 87_628,
    }
    depth = networks.layer_depth("pyramid_efficientnet_lite0")
    paths = ("encoder/bn0/scale", "encoder/blocks_0/bn1/scale", "encoder/blocks_10/bn0/bias", "neck/smooth/kernel")
    assert [depth(f"segmenter/{path}") for path in paths] == [0, 1, 5, 8]
