"""Pixel normalisation against hand constants and the references' network inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nchw, nhwc

from uda_jax import ops

GOLDEN = vectors.FOLDER / "advent-intrada"
PIXEL = np.array([[[[255, 0, 51]]]], np.uint8)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("caffe_bgr", [51 - 104.00698793, -116.66876762, 255 - 122.67891434]),
        ("imagenet_rgb", [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]),
        ("lite_rgb", [1.0, -127 / 128, -76 / 128]),
        ("tanh", [1.0, -1.0, -0.6]),
    ],
)
def test_hand_values(convention, expected):
    result = ops.normalise(PIXEL, convention)
    assert result.dtype == jnp.float32 and result.shape == PIXEL.shape
    np.testing.assert_allclose(result[0, 0, 0], expected, rtol=1e-6, atol=1e-6)
    jitted = jax.jit(ops.normalise, static_argnums=1)(PIXEL, convention)
    np.testing.assert_allclose(jitted, result, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("convention", ops.CONVENTIONS)
def test_normalised_images_are_turned_back(convention):
    stored = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    np.testing.assert_allclose(ops.denormalise(ops.normalise(stored, convention), convention), stored, atol=1e-4)
    with pytest.raises(
        ValueError, match="convention: expected one of caffe_bgr, imagenet_rgb, lite_rgb, tanh, got 'caffe'"
    ):
        ops.denormalise(np.zeros((1, 1, 1, 3), np.float32), "caffe")


@pytest.mark.parametrize("convention", ["caffe_bgr", "imagenet_rgb", "lite_rgb", "tanh"])
def test_drawn_images_are_normalised_like_stored_ones(convention):
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1) + np.arange(3, dtype=np.uint8) * 40
    expected = ops.normalise(stored, convention)
    np.testing.assert_allclose(
        ops.normalise(ops.from_tanh(ops.normalise(stored, "tanh")), convention), expected, atol=2e-5 * 255
    )
    slope = jax.grad(lambda x: ops.normalise(ops.from_tanh(x), convention).sum())(jnp.zeros((1, 1, 1, 3)))
    scale = {"caffe_bgr": [127.5] * 3, "imagenet_rgb": [0.5 / 0.229, 0.5 / 0.224, 0.5 / 0.225], "tanh": [1.0] * 3}
    scale["lite_rgb"] = [127.5 / 128] * 3
    np.testing.assert_allclose(slope[0, 0, 0], scale[convention], rtol=1e-5)


def test_pixels_of_drawn_images_are_those_that_were_stored():
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = ops.to_pixels(ops.normalise(stored, "tanh"))
    assert pixels.dtype == jnp.uint8
    np.testing.assert_array_equal(pixels, stored)
    beyond = jnp.array([-1.5, -1.0, 0.0, 1.0, 1.5]).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(ops.to_pixels(beyond).ravel(), [0, 0, 128, 255, 255])


def test_golden_advent():
    golden = np.load(GOLDEN / "preprocess.npz")
    result = ops.normalise(golden["resized_rgb"][None], "caffe_bgr")
    np.testing.assert_allclose(result[0].transpose(2, 0, 1), golden["output_chw"], rtol=0, atol=1e-4)
    golden = np.load(GOLDEN / "deeplab_v2_multi_eval.npz")
    result = ops.normalise(nhwc(golden["image_bgr"])[..., ::-1], "caffe_bgr")
    np.testing.assert_allclose(nchw(result), golden["input"], rtol=0, atol=1e-4)


def test_unknown_convention():
    with pytest.raises(ValueError, match="caffe_bgr.*got 'rgb'"):
        ops.normalise(PIXEL, "rgb")
