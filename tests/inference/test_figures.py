"""What counts as an error, by counts that can be checked by hand."""

import numpy as np
import pytest

from uda_jax.data.labels.label_spaces import label_space
from uda_jax.inference.figures import counted, summarise

ROAD, SIDEWALK, WALL = 0, 1, 3  # of the 19 classes; wall is none of the 13


def counts():
    matrix = np.zeros((19, 19), np.int64)
    matrix[ROAD, ROAD], matrix[ROAD, WALL], matrix[WALL, ROAD] = 8, 2, 1
    matrix[SIDEWALK, SIDEWALK], matrix[SIDEWALK, ROAD] = 5, 1
    void = np.zeros(19, np.int64)
    void[ROAD], void[WALL] = 4, 7
    return matrix, void


@pytest.mark.parametrize(
    ("void_labels", "void_predictions", "road", "accuracy"),
    [
        (False, True, 8 / 12, 13 / 17),  # 8 of 8, 2 seen as wall, and 2 of others seen as road
        (False, False, 8 / 10, 13 / 15),
        (True, True, 8 / 16, 13 / 17),
        (True, False, 8 / 14, 13 / 15),
    ],
)
def test_void_predictions_and_labels_count_or_not(void_labels, void_predictions, road, accuracy):
    matrix, void = counts()
    found = summarise(
        matrix,
        label_space("19"),
        "13",
        void=void if void_labels else None,
        count_void_predictions=void_predictions,
    )
    assert found["iou"]["road"] == pytest.approx(road) and found["iou"]["sidewalk"] == pytest.approx(5 / 6)
    assert found["miou"]["13"] == pytest.approx((road + 5 / 6) / 2) == found["metrics"]["miou"]
    assert found["dice"]["road"] == pytest.approx(2 * road / (1 + road))
    assert found["pixel_accuracy"] == pytest.approx(accuracy)
    assert (found["iou"]["wall"] is None) is not void_predictions


def test_no_prediction_lies_outside_of_all_classes():
    matrix, _ = counts()
    for_all = summarise(matrix, label_space("19"), "19", count_void_predictions=False)
    assert for_all == summarise(matrix, label_space("19"), "19") | {"miou": for_all["miou"]}
    assert for_all["miou"]["19"] == pytest.approx((8 / 12 + 5 / 6 + 0) / 3)
    # Each protocol leaves out what lies outside of it.
    assert for_all["miou"]["13"] == pytest.approx((8 / 10 + 5 / 6) / 2)


def test_counts_are_not_changed_in_place():
    matrix, void = counts()
    found = counted(matrix, (ROAD, SIDEWALK), void, False)
    assert found.shape == (20, 20) and not found[:, -1].any() and matrix[ROAD, WALL] == 2
