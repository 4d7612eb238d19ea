"""Regression targets of depth: hand-computed values, and those of DADA and CorDA."""

import jax
import numpy as np
import vectors

from uda_jax.ops import inverse_depth, relative_inverse_depth

GOLDEN = vectors.FOLDER
FILES = np.load(GOLDEN / "datasets" / "format_fixtures.npz")


def test_inverse_depth_by_hand():
    metres = np.array([655.35, 99.99, 9.99, 1.0, 0.0], np.float32)
    published = inverse_depth(metres, nearest=0)
    assert published.dtype == np.float32
    assert published[0] == 1.0  # exactly: the losses compare with 1
    np.testing.assert_allclose(published, [1, 6.5536, 65.536, 655.36 / 1.01, 65536], rtol=1e-6)


def test_nothing_to_learn_is_exactly_1():
    missing = np.array([0.0, 0.0999, -3.0, 655.36, 900.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(inverse_depth(missing), np.ones(8, np.float32))
    np.testing.assert_allclose(inverse_depth(np.array([0.1])), 655.36 / 0.11, rtol=1e-6)
    assert inverse_depth(np.array([655.34]))[0] > 1


def test_inverse_depth_falls_with_distance():
    targets = inverse_depth(np.arange(1, 65536, dtype=np.float32) * np.float32(0.01), nearest=0)
    assert (np.diff(targets) < 0).all() and targets[-1] == 1


def test_targets_of_dada_and_corda():
    synthia = FILES["synthia_depth_raw"]
    metres = (synthia * 0.01).astype(np.float32)
    for nearest in (0, 0.1):
        target = inverse_depth(metres, nearest=nearest)
        far = metres >= nearest
        np.testing.assert_allclose(target[far], FILES["synthia_inverse_depth"][far], rtol=1e-6)
        np.testing.assert_array_equal(target == 1, (synthia == 65535) | ~far)
    stereo = FILES["corda_depth_map"]
    np.testing.assert_allclose(inverse_depth(stereo), FILES["corda_cs_stereo_target"], rtol=1e-6)
    for name in ("cs", "gta"):
        disparity = (FILES[f"corda_{name}_disparity"] / 256).astype(np.float32)
        target = relative_inverse_depth(disparity)
        assert target.dtype == np.float32
        np.testing.assert_allclose(target, FILES[f"corda_{name}_mono_target"], rtol=1e-6)
    np.testing.assert_array_equal(relative_inverse_depth(np.array([0, 65535 / 256], np.float32)), [1, 256.99609375])


def test_official_conversions_exact_at_1():
    golden = np.load(GOLDEN / "dacs-corda" / "depth_targets.npz")
    raw = golden["raw_uint16"].astype(np.float32)
    metric = jax.jit(lambda depth: inverse_depth(depth, nearest=0))(raw * np.float32(0.01))
    relative = relative_inverse_depth(raw / 256)
    for ours, name in (
        (metric, "synthia"),
        (relative, "monocular"),
        (inverse_depth(golden["stereo_metres"]), "stereo"),
    ):
        np.testing.assert_allclose(ours, golden[name], rtol=1e-6)
        np.testing.assert_array_equal(ours == 1, golden[name] == 1)
