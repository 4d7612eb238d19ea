"""Depth conversions: hand-computed values, and the targets of DADA and CorDA on generated files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.depth import disparity_target, inverse_depth_target, metres_from_disparity, read_relative_disparity
from uda_jax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "datasets" / "format_fixtures.npz")


def test_inverse_depth_by_hand():
    metres = np.array([655.35, 99.99, 9.99, 1.0, 0.0], np.float32)
    published = inverse_depth_target(metres, nearest=0)
    assert published.dtype == np.float32
    assert published[0] == 1.0  # exactly: the losses compare with 1
    np.testing.assert_allclose(published, [1, 6.5536, 65.536, 655.36 / 1.01, 65536], rtol=1e-6)


def test_nothing_to_learn_is_exactly_1():
    missing = np.array([0.0, 0.0999, -3.0, 655.36, 900.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(inverse_depth_target(missing), np.ones(8, np.float32))
    assert inverse_depth_target(np.array([0.1]))[0] == np.float32(655.36 / 0.11)
    assert inverse_depth_target(np.array([655.34]))[0] > 1


def test_inverse_depth_falls_with_distance():
    targets = inverse_depth_target(np.arange(1, 65536, dtype=np.float32) * np.float32(0.01), nearest=0)
    assert (np.diff(targets) < 0).all() and targets[-1] == 1


def test_targets_of_dada_and_corda():
    synthia = GOLDEN["synthia_depth_raw"]
    metres = (synthia * 0.01).astype(np.float32)
    for nearest in (0, 0.1):
        target = inverse_depth_target(metres, nearest=nearest)
        np.testing.assert_allclose(target, GOLDEN["synthia_inverse_depth"], rtol=1e-6)
    np.testing.assert_array_equal(target == 1, synthia == 65535)
    stereo = GOLDEN["corda_depth_map"]
    for metres in (stereo, stereo.astype(np.float32)):
        np.testing.assert_allclose(inverse_depth_target(metres), GOLDEN["corda_cs_stereo_target"], rtol=1e-6)
    for name in ("cs", "gta"):
        disparity = (GOLDEN[f"corda_{name}_disparity"] / 256).astype(np.float32)
        target = disparity_target(disparity)
        assert target.dtype == np.float32
        np.testing.assert_allclose(target, GOLDEN[f"corda_{name}_mono_target"], rtol=1e-6)
    np.testing.assert_array_equal(disparity_target(np.array([0, 65535 / 256], np.float32)), [1, 256.99609375])


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
