"""One confusion matrix, every protocol that its classes answer, told by the names of the classes."""

import numpy as np
import pytest

from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import CLASS_NAMES, LabelSpace, label_space
from uda_jax.inference.evaluate import protocols, summarise


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("19", ["19", "16", "13"]),
        ("plca19", ["19", "16", "13"]),
        ("16", ["16", "13"]),
        ("plca16", ["16", "13"]),
        ("13", ["13"]),
        ("10", ["10"]),
        ("7", ["7"]),
        ("7_dada", ["7"]),
        ("camvid", ["camvid"]),
    ],
)
def test_every_protocol_that_applies(space, expected):
    answered = protocols(label_space(space))
    assert list(answered) == expected
    for protocol, classes in answered.items():
        assert tuple(label_space(space).names[k] for k in classes) == label_space(protocol).names


def test_every_label_space_is_headed_by_its_own_kind():
    for protocol in label_spaces.PROTOCOLS:
        assert next(iter(protocols(label_space(protocol)))) == protocol.removeprefix("plca").removesuffix("_dada")


def test_other_classes_are_their_own_protocol():
    space = LabelSpace(("road", "tram"), ((1, 2, 3), (4, 5, 6)))
    assert protocols(space) == {"own": (0, 1)}
    assert protocols(LabelSpace(CLASS_NAMES[:18], ((0, 0, 0),) * 18)) == {"own": tuple(range(18))}


def test_scores_do_not_depend_on_the_order_of_the_classes():
    matrix = np.random.default_rng(0).integers(0, 50, (19, 19))
    order = list(label_spaces.PROTOCOL_CLASSES["plca19"])
    plain = summarise(matrix, label_space("19"))
    permuted = summarise(matrix[np.ix_(order, order)], label_space("plca19"))
    assert permuted["miou"] == pytest.approx(plain["miou"]) and permuted["iou"] == pytest.approx(plain["iou"])


def test_mean_of_thirteen_within_sixteen_by_hand():
    # Every pixel right, but for wall (class 3 of 16, not among the 13): half of it is taken for road.
    matrix = np.diag([10] * 16)
    matrix[3, 3], matrix[3, 0] = 5, 5
    result = summarise(matrix, label_space("16"))["miou"]
    assert result["16"] == pytest.approx((14 + 0.5 + 10 / 15) / 16)
    assert result["13"] == pytest.approx((12 + 10 / 15) / 13)
