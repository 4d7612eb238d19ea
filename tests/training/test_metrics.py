"""Scores from confusion matrices: golden files and hand constants."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax.errors import UserError
from uda_jax.training import metrics

GOLDEN = vectors.FOLDER
CLASSES_13 = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
CLASSES_16 = tuple(sorted((*CLASSES_13, 3, 4, 5)))
# Positions of the 13 classes among the 16 of a network trained for SYNTHIA.
CLASSES_13_OF_16 = tuple(CLASSES_16.index(c) for c in CLASSES_13)

# Class 2 is predicted but never labelled, class 3 is in neither map.
CONFUSION = np.array([[6, 2, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_hand_values():
    np.testing.assert_allclose(metrics.iou(CONFUSION), [6 / 9, 3 / 10, 0.0, np.nan])
    np.testing.assert_allclose(metrics.dice(CONFUSION), [12 / 15, 6 / 13, 0.0, np.nan])
    assert metrics.mean_iou(CONFUSION) == pytest.approx((6 / 9 + 3 / 10) / 3)
    assert metrics.mean_iou(CONFUSION, classes=(0, 3)) == pytest.approx(6 / 9)
    assert metrics.pixel_accuracy(CONFUSION) == pytest.approx(9 / 16)
    assert isinstance(metrics.mean_iou(CONFUSION), float)
    np.testing.assert_array_equal(metrics.iou(jnp.asarray(CONFUSION)), metrics.iou(CONFUSION))


def test_dice_follows_from_iou():
    scores = metrics.iou(CONFUSION)
    np.testing.assert_allclose(metrics.dice(CONFUSION), 2 * scores / (1 + scores))


@pytest.mark.filterwarnings("error")
def test_nothing_counted_is_nan_without_warning():
    empty = np.zeros((3, 3), np.int32)
    assert np.isnan(metrics.iou(empty)).all() and np.isnan(metrics.dice(empty)).all()
    assert math.isnan(metrics.mean_iou(empty)) and math.isnan(metrics.pixel_accuracy(empty))
    assert math.isnan(metrics.mean_iou(CONFUSION, classes=(3,)))


def test_counts_beyond_int32():
    assert metrics.mean_iou(np.diag([2**40, 2**40])) == 1.0
    sums = metrics.iou(np.array([[2**31 - 1, 2**31 - 1], [0, 1]], np.int32))
    np.testing.assert_allclose(sums, [0.5, 1 / 2**31])


def test_golden_adaptsegnet():
    golden = np.load(GOLDEN / "adaptsegnet-ass/iou.npz")
    np.testing.assert_allclose(metrics.iou(golden["hist"]), golden["iou"], atol=1e-6)
    for name, classes in (("mean_iou", None), ("mean_iou_13", CLASSES_13), ("mean_iou_16", CLASSES_16)):
        np.testing.assert_allclose(metrics.mean_iou(golden["hist"], classes), golden[name], atol=1e-6)


def test_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/iou.npz")
    i = 0
    while f"case{i}_hist" in golden:
        counts = golden[f"case{i}_hist"]
        np.testing.assert_allclose(metrics.iou(counts), golden[f"case{i}_iou"], atol=1e-6)
        np.testing.assert_allclose(100 * metrics.mean_iou(counts), golden[f"case{i}_miou_percent"], rtol=1e-6)
        if f"case{i}_miou13_percent" in golden:
            score = metrics.mean_iou(counts, CLASSES_13_OF_16)
            np.testing.assert_allclose(100 * score, golden[f"case{i}_miou13_percent"], rtol=1e-6)
        i += 1
    assert i > 0


def test_depth_metrics_by_hand():
    sums = dict.fromkeys(metrics.DEPTH_SUMS, 0.0)
    assert all(math.isnan(value) for value in metrics.depth_metrics(sums).values())
    sums |= {"count": 4.0, "abs_rel": 1.0, "sq_rel": 2.0, "squares": 36.0, "log_squares": 1.0, "delta1": 1.0}
    found = metrics.depth_metrics(sums)
    assert found == {
        **{"abs_rel": 0.25, "sq_rel": 0.5, "rmse": 3.0, "rmse_log": 0.5, "delta1": 0.25},
        **{"delta2": 0.0, "delta3": 0.0},
    }
    forms = {f"{name}{form}" for name in found for form in ("", "_scaled")}
    assert forms == {name for name, known in metrics.METRICS.items() if known.map == "depth"}


def test_what_is_better():
    assert metrics.METRICS["rmse"].better(2.0, 3.0) == 2.0 and metrics.METRICS["miou"].better(0.2, 0.3) == 0.3
    assert metrics.metric("delta1", "config").higher_is_better
    with pytest.raises(UserError, match="config.headline: unknown metric 'rms'; did you mean 'rmse'"):
        metrics.metric("rms", "config.headline")


def test_kappa_by_hand():
    assert metrics.kappa([[2, 0], [0, 2]]) == 1.0
    assert metrics.kappa([[1, 1], [1, 1]]) == 0.0
    # p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4
    assert metrics.kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    # All of one class, or nothing at all: no agreement beyond chance.
    assert metrics.kappa([[9, 0], [0, 0]]) == 0.0 == metrics.kappa([[0, 0], [0, 0]])
