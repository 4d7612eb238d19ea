"""Figures of several splits together, by hand constants."""

import numpy as np
import pytest

from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.inference.evaluate import summarise
from uda_jax.inference.joint import joint_summary, mean_of

SPACE = LabelSpace(("road", "sky", "tram"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
# Of the small split: IoU 6/8 of road, 0/2 of sky, no tram. Of the large one: 50/100, 100/150, 0 labelled as tram.
SMALL = np.array([[6, 0, 0], [2, 0, 0], [0, 0, 0]])
LARGE = np.array([[50, 50, 0], [0, 100, 0], [0, 0, 0]])


class Summing:
    """An evaluator as far as a joint row needs one."""

    def summary(self, totals):
        return summarise(totals["confusion"], SPACE)


def joint(kind):
    totals = [{"confusion": SMALL}, {"confusion": LARGE}]
    return joint_summary(kind, [Summing()] * 2, totals, [Summing().summary(each) for each in totals])


def test_the_mean_counts_each_split_alike():
    found = joint("mean")
    assert found["iou"] == {"road": pytest.approx((6 / 8 + 1 / 2) / 2), "sky": pytest.approx(1 / 3), "tram": None}
    small, large = (6 / 8 + 0) / 2, (1 / 2 + 2 / 3) / 2
    assert found["miou"] == {"own": pytest.approx((small + large) / 2)}
    assert found["metrics"]["miou"] == found["miou"]["own"]
    assert found["pixel_accuracy"] == pytest.approx((6 / 8 + 150 / 200) / 2)


def test_one_confusion_matrix_counts_each_pixel_alike():
    found = joint("pixels")
    assert found["iou"] == {"road": pytest.approx(56 / 108), "sky": pytest.approx(100 / 152), "tram": None}
    assert found["miou"] == {"own": pytest.approx((56 / 108 + 100 / 152) / 2)}
    assert found["pixel_accuracy"] == pytest.approx(156 / 208)


def test_depths_are_summed_too_and_what_one_split_lacks_is_left_out():
    seen = {}

    class Keeping:
        def summary(self, totals):
            seen.update(totals)

    depths = [{"confusion": SMALL, "depth": np.array([1.0, 2.0])}, {"depth": np.array([3.0, 5.0])}]
    joint_summary("pixels", [Keeping()] * 2, depths, [None, None])
    assert list(seen) == ["depth"] and seen["depth"].tolist() == [4.0, 7.0]


def test_a_figure_that_a_split_lacks_has_no_mean():
    plain = {"miou": {"19": 0.5}, "metrics": {}, "iou": {}, "dice": {}, "pixel_accuracy": 0.5}
    of = lambda **changes: plain | changes  # noqa: E731
    found = mean_of([of(metrics={"rmse": 2.0}), of(miou={"19": None}, metrics={"rmse": 4.0}, pixel_accuracy=None)])
    assert found["miou"] == {"19": None} and found["pixel_accuracy"] is None and found["metrics"] == {"rmse": 3.0}
    assert mean_of([of(), of(miou={"16": 0.4})])["miou"] == {}
