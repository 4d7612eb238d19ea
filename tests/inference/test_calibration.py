"""The calibration error, by hand."""

import jax
import numpy as np
import pytest

from uda_jax.inference import calibration
from uda_jax.report import reliability


def test_the_error_is_the_mean_gap_of_accuracy_and_confidence():
    # Four labelled pixels of confidence 0.9, three of them right, and one of 0.6 that is wrong; one has no label.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] + [[0.5, 0.5]])[None, None]
    labels = np.array([0, 0, 0, 1, 1, 255])[None, None]
    sums = calibration.row_sums(np.log(probabilities), labels)
    assert sums.shape == (1, 1, 3, calibration.BINS)
    found = calibration.summary(np.asarray(sums, np.float64).sum(axis=(0, 1)))
    assert found["ece"] == pytest.approx((4 * abs(0.75 - 0.9) + 1 * abs(0 - 0.6)) / 5)
    full = [one for one in found["bins"] if one["share"]]
    assert [one["share"] for one in full] == pytest.approx([0.2, 0.8])
    assert [one["accuracy"] for one in full] == pytest.approx([0, 0.75])
    assert [one["confidence"] for one in full] == pytest.approx([0.6, 0.9])
    compiled = jax.jit(calibration.row_sums)(np.log(probabilities), labels)
    np.testing.assert_allclose(np.asarray(compiled), np.asarray(sums), rtol=1e-6)


def test_certain_pixels_lie_in_the_last_bin():
    sums = np.asarray(calibration.row_sums(np.array([[[[100.0, 0.0]]]]), np.array([[[0]]])))
    assert sums[0, 0, :, -1].tolist() == [1, 1, 1] and not sums[..., :-1].any()


def test_nothing_labelled_has_no_error():
    found = calibration.summary(np.zeros((3, calibration.BINS)))
    assert found == {"ece": None, "bins": []}
    assert reliability.diagram(found, "empty").dtype == np.uint8


def test_the_diagram_shows_accuracy_and_gap():
    sums = np.zeros((3, 2))
    sums[:, 1] = 10, 4, 9
    picture = reliability.diagram(calibration.summary(sums), "final")
    blue, red = ((picture == colour).all(-1) for colour in ((70, 120, 190), (235, 140, 110)))
    rows = np.flatnonzero(blue.any(axis=1))
    # 0.4 of 480 pixels, the outlines less.
    assert 180 < len(rows) <= 192 and red.any() and not blue[:, : picture.shape[1] // 2].any()
