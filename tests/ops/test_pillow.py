"""Pillow's resizing within a program, against Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax.data.pipeline.transforms import RULES
from uda_jax.ops.pillow import resize_as_pillow

# Smaller, larger, along one axis only, and by factors that are no whole numbers.
SIZES = [((37, 53), (20, 31)), ((20, 31), (64, 48)), ((33, 40), (33, 7)), ((5, 4), (1, 4)), ((6, 8), (6, 8))]


@pytest.mark.parametrize("rule", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("have", "size"), SIZES)
def test_every_bit_is_pillows(have, size, rule):
    images = np.random.default_rng(0).integers(0, 256, (2, *have, 3), np.uint8)
    # Black beside white: where a bicubic filter leaves the range of 8 bits.
    images[1] = np.where(np.arange(have[1])[:, None] % 4 < 2, 0, 255)
    found = resize_as_pillow(images, size, rule)
    assert found.dtype == np.uint8
    expected = [np.asarray(Image.fromarray(image).resize(size[::-1], RULES[rule])) for image in images]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_eager_is_jit():
    images = np.random.default_rng(1).integers(0, 256, (1, 9, 7, 3), np.uint8)
    compiled = jax.jit(resize_as_pillow, static_argnums=(1, 2))(images, (4, 11), "bicubic")
    np.testing.assert_array_equal(compiled, resize_as_pillow(images, (4, 11), "bicubic"))
