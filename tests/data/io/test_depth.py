"""Depth from disparity: hand-computed values and files."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.io.depth import metres_from_disparity, read_relative_disparity
from uda_jax.errors import UserError


def test_metres_from_disparity():
    disparity = np.array([[10, 0.5, 0], [-1, np.nan, np.inf]], np.float32)
    depth = metres_from_disparity(disparity, baseline=0.2, focal_length=2000)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, np.array([[40, 800, 0], [0, 0, 0]], np.float32))


def test_relative_disparity_needs_16_bits(tmp_path):
    counts = np.array([[0, 1, 255]], np.uint16)
    Image.fromarray(counts).save(tmp_path / "whole.png")
    np.testing.assert_array_equal(read_relative_disparity(tmp_path / "whole.png"), counts.astype(np.float32) / 256)
    Image.fromarray(counts.astype(np.uint8)).save(tmp_path / "cut.png")
    with pytest.raises(UserError, match=r"cut\.png: expected a PNG .* of 16 bits, got 8 bits; copy the original"):
        read_relative_disparity(tmp_path / "cut.png")
