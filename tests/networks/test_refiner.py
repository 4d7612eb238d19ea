"""The refiner: its formula with weights that make it the identity, its counts, its field of view and its switches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.training.initialisation import initialise

IMAGES = jax.random.uniform(jax.random.key(0), (2, 10, 14, 5), minval=-1.0)


@pytest.fixture(scope="module")
def small():
    """A tiny refiner and its start."""
    network = networks.build("refiner", 1, width=6, blocks=2)
    return network, initialise(lambda key: network.init(key, IMAGES), jax.random.key(1))


def edited(variables, changes):
    """The variables with every kernel and bias 0 but those given, by path."""
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables["params"])
    for (layer, name), value in changes.items():
        params[layer][name] = value
    return {"params": params}


def test_it_can_copy_the_image(small):
    """Colours and their negatives pass the ReLUs as six features, which the last layer takes apart again."""
    network, variables = small
    first = np.zeros((3, 3, 5, 6), np.float32)
    first[1, 1, :3, :3], first[1, 1, :3, 3:] = np.eye(3), -np.eye(3)
    last = np.concatenate([np.eye(3), -np.eye(3)])[None, None].astype(np.float32)
    copy = edited(variables, {("conv1", "kernel"): first, ("output", "kernel"): last})
    np.testing.assert_allclose(network.apply(copy, IMAGES), np.tanh(IMAGES[..., :3]), rtol=0, atol=1e-6)


def test_a_block_adds_its_second_convolution_to_what_it_sees(small):
    """One feature of 1 everywhere; both convolutions add its 3x3 neighbours, outside the image there is nothing."""
    network, variables = small
    ones = edited(variables, {("conv1", "bias"): np.eye(6, dtype=np.float32)[0]})
    kernel = np.zeros((3, 3, 6, 6), np.float32)
    kernel[:, :, 0, 0] = 0.01
    for layer in ("conv1", "conv2"):
        ones["params"]["block_1"][layer]["kernel"] = kernel
    ones["params"]["output"]["kernel"] = np.eye(6, 3, dtype=np.float32)[None, None]
    found = network.apply(ones, IMAGES)[0, :, :, 0]
    # Inside 1 + 9 * 0.09 / 100; in a corner four neighbours count, which have seen 4, 6, 6 and 9 of them.
    np.testing.assert_allclose(found[5, 7], np.tanh(1 + 0.09 * 0.09), rtol=1e-5)
    np.testing.assert_allclose(found[0, 0], np.tanh(1 + 0.01 * (0.04 + 0.06 + 0.06 + 0.09)), rtol=1e-5)


def test_start():
    """Three channels in and out: 297 411 parameters; He's spread keeps features' size."""
    shapes = jax.eval_shape(networks.build("refiner", 1).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == (9 * 3 * 64 + 64) + 4 * 2 * (9 * 64 * 64 + 64) + (64 * 3 + 3) == 297_411
    params = jax.jit(networks.build("refiner", 1, width=32, blocks=1).init)(jax.random.key(0), IMAGES)["params"]
    np.testing.assert_allclose(np.std(params["block_0"]["conv2"]["kernel"]), np.sqrt(2 / (9 * 32)), rtol=0.05)
    assert not any(np.any(layer["bias"]) for layer in params["block_0"].values())


def test_a_pixel_sees_its_surroundings_and_every_channel(small):
    network, variables = small
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(network.apply(variables, x)[0, 0, 0])))(IMAGES)
    seen = np.abs(gradient[0]).max(-1) > 0
    # One border of the first convolution, two of each block.
    assert seen[:6, :6].any(0).all() and not seen[:, 6:].any() and not seen[6:].any()
    assert (np.abs(gradient[0]).max((0, 1)) > 0).all()
    np.testing.assert_array_equal(gradient[1], 0)


def test_remat_and_bfloat16(small):
    network, variables = small

    def gradient(network):
        return jax.jit(jax.grad(lambda v: jnp.sum(network.apply(v, IMAGES) ** 2)))(variables)

    other = networks.build("refiner", 1, width=6, blocks=2, remat=True)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, gradient(network), gradient(other))
    half = networks.build("refiner", 1, width=6, blocks=2, dtype=jnp.bfloat16)
    y, expected = half.apply(variables, IMAGES), network.apply(variables, IMAGES)
    assert y.dtype == jnp.float32
    assert 0 < np.abs(y - expected).max() < 0.05
