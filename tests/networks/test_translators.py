"""The translator against CycleGAN's generator, its two special convolutions against plain ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import networks, weights
from uda_jax.errors import UserError
from uda_jax.networks.convolution import convolve, grouped_convolve, narrow_convolve, transposed_convolve
from uda_jax.networks.translators import instance_norm, reflect
from uda_jax.ops.platform import made_for
from uda_jax.training.initialisation import initialise

GOLDEN = vectors.FOLDER
FILES = sorted((GOLDEN / "gio-ada").glob("resnet_generator*.npz"))
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 24, 5), minval=-1)


def random(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


@pytest.fixture(scope="module")
def small():
    """A tiny translator and variables from NumPy."""
    network = networks.build("translator", 1, width=4, blocks=2)
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(1), IMAGES)
    return network, jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.1, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file):
    golden = np.load(file)
    path = file.with_suffix(".manifest.json")
    manifest, variables = vectors.manifest(path), weights.from_torch(vectors.stand_in(path), "cyclegan_generator")
    blocks = sum(name.startswith("block_") for name in variables["params"])
    network = networks.build("translator", 1, width=manifest["model.1.weight"][0], blocks=blocks)

    @jax.jit
    def run(x, cotangent):
        y, pullback = jax.vjp(lambda x: network.apply(variables, x), x)
        return y, *pullback(cotangent)

    with jax.default_matmul_precision("highest"):
        results = run(nhwc(golden["x"]), nhwc(golden["cotangent"]))
    for value, name in zip(results, ("y", "grad_x"), strict=True):
        expected = nhwc(golden[name])
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_golden_files_are_there():
    assert len(FILES) >= 2


@pytest.mark.parametrize("name", ["translator", "refiner"])
def test_in_grey_one_channel_is_seen_and_drawn(name):
    network = networks.build(name, 1, width=4, blocks=1, grey=True)
    variables = initialise(lambda key: network.init(key, IMAGES), jax.random.key(1))
    assert variables["params"]["conv1"]["kernel"].shape[2] == 1 + 2  # the mean, and the two further channels
    run = jax.jit(network.apply)
    drawn = run(variables, IMAGES)
    assert drawn.shape == (2, 16, 24, 3) and np.ptp(drawn, axis=-1).max() == 0 and np.ptp(drawn) > 0
    other = IMAGES.at[..., :3].set(IMAGES[..., :3].mean(-1, keepdims=True))
    np.testing.assert_allclose(drawn, run(variables, other), atol=1e-5)
    assert np.abs(drawn - run(variables, IMAGES.at[..., 4].set(0))).max() > 1e-6


def test_transposed_convolution_by_hand():
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)  # rows 1 2 3, 4 5 6, 7 8 9
    one = transposed_convolve(jnp.ones((1, 1, 1, 1)), kernel)
    np.testing.assert_array_equal(one[0, :, :, 0], [[5, 6], [8, 9]])
    # The second pixel, 10, adds its left column to the first one's right.
    row = transposed_convolve(jnp.array([1.0, 10.0]).reshape(1, 1, 2, 1), kernel)
    np.testing.assert_array_equal(row[0, :, :, 0], [[5, 6 + 40, 50, 60], [8, 9 + 70, 80, 90]])
    column = transposed_convolve(jnp.array([1.0, 10.0]).reshape(1, 2, 1, 1), kernel)
    np.testing.assert_array_equal(column[0, :, :, 0], [[5, 6], [8 + 20, 9 + 30], [50, 60], [80, 90]])


@pytest.mark.parametrize(
    ("function", "kernel_shape", "shape"),
    [
        (transposed_convolve, (3, 3, 4, 2), (2, 10, 14, 2)),
        (narrow_convolve, (3, 3, 4, 2), (2, 3, 5, 2)),
        (narrow_convolve, (5, 5, 4, 3), (2, 1, 3, 3)),
    ],
)
def test_forms_agree(function, kernel_shape, shape):
    """The CPU's products and the accelerators' convolutions, in value and gradient."""
    x, kernel = random(0, 2, 5, 7, 4), random(1, *kernel_shape)

    def run(platform):
        # A new function each time: traces are remembered by function.
        def results(x, kernel):
            y, pullback = jax.vjp(lambda *arguments: function(*arguments), x, kernel)
            return y, *pullback(y)

        with made_for(platform):
            traced = jax.jit(results).trace(x, kernel)
        return traced.lower().compile()(x, kernel), "conv_general_dilated" in str(traced.jaxpr)

    (products, plain), (convolved, convolution) = run("cpu"), run("gpu")
    assert (plain, convolution) == (False, True)
    assert products[0].shape == shape
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), products, convolved)


@pytest.mark.parametrize(("channels", "features", "groups"), [(23, 5, 2), (16, 5, 1), (23, 17, 1)])
def test_groups_of_channels_agree_with_one_convolution(channels, features, groups):
    x, kernel = random(0, 2, 9, 8, channels), random(1, 3, 3, channels, features)
    run = lambda conv: jax.jit(jax.value_and_grad(lambda x, k: (conv(x, k) ** 2).sum(), (0, 1)))(x, kernel)  # noqa: E731
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
    with made_for("cpu"):
        assert str(jax.make_jaxpr(grouped_convolve)(x, kernel)).count("conv_general_dilated") == groups
        jax.tree.map(close, run(grouped_convolve), run(convolve))


def test_instance_norm():
    x = jnp.array([[[[0.0, 5.0], [4.0, 5.0]]], [[[10.0, 1.0], [20.0, 3.0]]]])
    z = [2 / np.sqrt(4 + 1e-5), 5 / np.sqrt(25 + 1e-5), 1 / np.sqrt(1 + 1e-5)]
    y = instance_norm(x)
    np.testing.assert_allclose(y[0, 0], [[-z[0], 0], [z[0], 0]], rtol=1e-6)
    np.testing.assert_allclose(y[1, 0], [[-z[1], -z[2]], [z[1], z[2]]], rtol=1e-6)
    assert instance_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_reflect():
    padded = reflect(jnp.arange(4.0).reshape(1, 1, 4, 1).repeat(4, 1), 3)
    np.testing.assert_array_equal(padded[0, 0, :, 0], [3, 2, 1, 0, 1, 2, 3, 2, 1, 0])


def test_images_are_independent_and_bounded(small):
    network, variables = small
    run = jax.jit(network.apply)
    both = run(variables, 100 * IMAGES)
    assert both.shape == (2, 16, 24, 3)
    assert 0.1 < np.abs(both).max() <= 1
    np.testing.assert_allclose(both[1:], run(variables, 100 * IMAGES[1:]), rtol=1e-3, atol=1e-5)


def test_every_channel_counts(small):
    network, variables = small
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x)[0, 4, 4, 0]))(IMAGES)
    assert np.abs(gradient[0]).max((0, 1)).min() > 1e-6
    np.testing.assert_array_equal(gradient[1], 0)


def test_remat(small):
    network, variables = small
    other = networks.build("translator", 1, width=4, blocks=2, remat=True)

    def gradient(network):
        return jax.jit(jax.grad(lambda v: jnp.sum(network.apply(v, IMAGES) ** 2)))(variables)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), gradient(network), gradient(other)
    )


def test_start():
    """CycleGAN's counts: with three channels in and out, 11 378 179 parameters."""
    network = networks.build("translator", 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    layers = [7 * 7 * 3 * 64 + 64, 9 * 64 * 128 + 128, 9 * 128 * 256 + 256]
    blocks = 9 * 2 * (9 * 256 * 256 + 256)
    ups = [9 * 256 * 128 + 128, 9 * 128 * 64 + 64, 7 * 7 * 64 * 3 + 3]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(layers) + blocks + sum(ups) == 11_378_179
    small = networks.build("translator", 1, width=8, blocks=1)
    params = jax.jit(small.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 5)))["params"]
    for name in ("conv1", "down_2", "up_1", "up_2", "output"):
        np.testing.assert_allclose(np.std(params[name]["kernel"]), 0.02, rtol=0.1, err_msg=name)
        np.testing.assert_array_equal(params[name]["bias"], 0)
    np.testing.assert_allclose(np.std(params["block_0"]["conv2"]["kernel"]), 0.02, rtol=0.05)


def test_bfloat16(small):
    network, variables = small
    compute = networks.build("translator", 1, width=4, blocks=2, dtype=jnp.bfloat16)
    fresh = jax.eval_shape(compute.init, jax.random.key(1), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}
    y, expected = jax.jit(compute.apply)(variables, IMAGES), jax.jit(network.apply)(variables, IMAGES)
    assert y.dtype == jnp.float32
    assert 0 < np.abs(y - expected).max() < 0.05


@pytest.mark.parametrize("size", [(18, 24), (16, 25), (4, 16)])
def test_wrong_sizes(small, size):
    network, variables = small
    with pytest.raises(UserError, match=f"network.translator: .* multiples of 4, at least 8, got {size[0]}x{size[1]};"):
        network.apply(variables, jnp.zeros((1, *size, 5)))
