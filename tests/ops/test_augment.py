"""Colour jitter and blur: golden files of kornia 0.4.1, hand constants, what is drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import ops

GOLDEN = vectors.FOLDER / "dacs-corda"
ORDER = np.arange(4)
# Not compiled for each of its callers.
colour_jitter = jax.jit(ops.colour_jitter)
gaussian_blur = jax.jit(ops.gaussian_blur, static_argnames="kernel_size")


def jittered(colour, factors, order=ORDER):
    """One pixel of a colour, jittered."""
    images = np.full((1, 1, 1, 3), colour, np.float32)
    return np.asarray(colour_jitter(images, np.array([factors], np.float32), order))[0, 0, 0]


def test_golden_jitter():
    golden = np.load(GOLDEN / "color_jitter.npz")
    assert len(golden["factors"])
    for factors, order, expected in zip(golden["factors"], golden["order"], golden["output"], strict=True):
        ours = colour_jitter(nhwc(golden["image"]), factors[None], order)
        np.testing.assert_allclose(ours[0], np.moveaxis(expected, 0, -1), rtol=0, atol=2e-5)


def test_golden_blur():
    golden = np.load(GOLDEN / "gaussian_blur.npz")
    images = np.repeat(nhwc(golden["image"]), len(golden["sigmas"]), axis=0)
    size = ops.blur_kernel_size(images.shape[1:3])
    assert size == tuple(golden["kernel_size"])
    ours = gaussian_blur(images, golden["sigmas"], kernel_size=size)
    np.testing.assert_allclose(ours, nhwc(golden["output"]), rtol=0, atol=1e-3)


def test_jitter_of_one_pixel_by_hand():
    np.testing.assert_allclose(jittered((0.5, 0.2, 0.9), (1.2, 1, 1, 0)), (0.7, 0.4, 1.0), atol=1e-6)
    np.testing.assert_allclose(jittered((0.5, 0.1, 0.9), (0.8, 1, 1, 0)), (0.3, 0.0, 0.7), atol=1e-6)
    np.testing.assert_allclose(jittered((0.5, 0.2, 0.9), (1, 1.2, 1, 0)), (0.6, 0.24, 1.0), atol=1e-6)
    # Half the saturation of an orange of value 0.8; twice that of a colour at S = 0.75 ends at 1.
    np.testing.assert_allclose(jittered((0.8, 0.4, 0.0), (1, 1, 0.5, 0)), (0.8, 0.6, 0.4), atol=1e-6)
    np.testing.assert_allclose(jittered((0.8, 0.2, 0.2), (1, 1, 2, 0)), (0.8, 0.0, 0.0), atol=1e-6)
    # A third of a turn takes red to green and green to blue, a quarter back takes red to violet.
    np.testing.assert_allclose(jittered((0.6, 0.1, 0.1), (1, 1, 1, 1 / 3)), (0.1, 0.6, 0.1), atol=1e-6)
    np.testing.assert_allclose(jittered((0.1, 0.6, 0.1), (1, 1, 1, 1 / 3)), (0.1, 0.1, 0.6), atol=1e-6)
    np.testing.assert_allclose(jittered((1.0, 0.0, 0.0), (1, 1, 1, -0.25)), (0.5, 0.0, 1.0), atol=1e-6)


def test_the_order_matters():
    first_brighter = jittered((0.5, 0.5, 0.5), (1.25, 0.8, 1, 0), np.array([0, 1, 2, 3]))
    first_contrast = jittered((0.5, 0.5, 0.5), (1.25, 0.8, 1, 0), np.array([1, 0, 2, 3]))
    np.testing.assert_allclose(first_brighter, 0.6, atol=1e-6)
    np.testing.assert_allclose(first_contrast, 0.65, atol=1e-6)


def test_neutral_factors_change_nothing():
    images = np.random.default_rng(0).uniform(0, 1, (2, 5, 7, 3)).astype(np.float32)
    images[0, 0, :3] = [[0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3]]
    for order in itertools.islice(itertools.permutations(range(4)), 0, None, 5):
        ours = colour_jitter(images, np.tile(np.float32([1, 1, 1, 0]), (2, 1)), np.array(order))
        np.testing.assert_allclose(ours, images, rtol=0, atol=1e-6)


def test_draws_are_uniform_and_of_each_image():
    spans = {"brightness": 0.25, "contrast": 0.1, "saturation": 0.4, "hue": 0.05}
    draw = jax.jit(jax.vmap(lambda key: ops.draw_jitter(key, 3, **spans)))
    factors, orders = map(np.asarray, draw(jax.random.split(jax.random.key(0), 1000)))
    assert factors.shape == (1000, 3, 4) and orders.shape == (1000, 4)
    deviation = factors - [1, 1, 1, 0]
    largest = np.array(list(spans.values()))
    assert (np.abs(deviation) <= largest + 1e-6).all() and (np.abs(deviation).max(axis=(0, 1)) > 0.97 * largest).all()
    np.testing.assert_allclose(deviation.mean(axis=(0, 1)) / largest, 0, atol=0.04)
    assert (factors[:, 0] != factors[:, 1]).all()
    seen = {tuple(order) for order in orders}
    assert seen == set(itertools.permutations(range(4)))


@pytest.mark.parametrize(("side", "size"), [(512, 51), (1024, 103), (96, 9), (192, 19), (42, 5), (34, 3), (1, 1)])
def test_kernel_size(side, size):
    assert ops.blur_kernel_size((side, side)) == (size, size)


def test_blur_of_a_point_by_hand():
    """Weights of exp(-d^2 / 2 sigma^2) over five rows and three columns, normalised along each axis."""
    images = np.zeros((2, 11, 9, 1), np.float32)
    images[:, 5, 4] = 1
    sigmas = np.array([0.5, 2.0], np.float32)
    blurred = np.asarray(gaussian_blur(images, sigmas, kernel_size=(5, 3)))[..., 0]
    for image, sigma in zip(blurred, sigmas, strict=True):
        rows, columns = (np.exp(-(np.arange(-r, r + 1.0) ** 2) / (2 * sigma**2)) for r in (2, 1))
        expected = np.zeros((11, 9))
        expected[3:8, 3:6] = np.outer(rows / rows.sum(), columns / columns.sum())
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_blur_reflects_at_the_border_and_keeps_constants():
    ramp = np.tile(np.arange(6, dtype=np.float32)[:, None, None], (1, 1, 4, 1))
    first = np.asarray(gaussian_blur(ramp, jnp.ones(1), kernel_size=(5, 1)))[0, :2, 0, 0]
    weights = np.exp(-(np.arange(-2, 3.0) ** 2) / 2)
    # Rows 2, 1, 0, 1, 2 around the first, and 1, 0, 1, 2, 3 around the second.
    np.testing.assert_allclose(first, [weights @ [2, 1, 0, 1, 2], weights @ [1, 0, 1, 2, 3]] / weights.sum(), atol=1e-6)
    constant = np.full((1, 12, 10, 3), 137.0, np.float32)
    np.testing.assert_allclose(gaussian_blur(constant, jnp.full(1, 0.7), kernel_size=(7, 5)), constant, rtol=1e-6)


@pytest.mark.parametrize("case", range(3))
def test_golden_jitter_of_kornia_0_5_8(case):
    """With DAFormer's version, on normalised images, each with its own factors."""
    golden = np.load(vectors.FOLDER / "vfm-uda" / "daformer_color_jitter.npz")
    factors = [golden[f"case{case}_{name}"] for name in ("brightness", "contrast", "saturation", "hue")]
    images = (nhwc(golden["image"]) * golden["std"] + golden["mean"]) / 255
    ours = colour_jitter(images, np.stack(factors, axis=-1), golden[f"case{case}_order"])
    ours = (255 * ours - golden["mean"]) / golden["std"]
    np.testing.assert_allclose(ours, nhwc(golden[f"case{case}_out"]), rtol=0, atol=1.5e-5)


@pytest.mark.parametrize("case", range(2))
def test_golden_blur_of_daformer(case):
    golden = np.load(vectors.FOLDER / "vfm-uda" / "daformer_blur.npz")
    images, size = nhwc(golden[f"case{case}_image"]), tuple(int(side) for side in golden[f"case{case}_kernel"])
    assert size == ops.blur_kernel_size(images.shape[1:3])
    ours = gaussian_blur(images, golden[f"case{case}_sigma"][None], kernel_size=size)
    np.testing.assert_allclose(ours, nhwc(golden[f"case{case}_out"]), rtol=0, atol=1e-5)
