"""Choosing among what was measured: ranks, guards and warnings, on made-up figures."""

import pytest

from uda_jax.cli import select
from uda_jax.errors import UserError
from uda_jax.inference.criteria import CRITERIA, DEFAULT
from uda_jax.inference.label_free import Measured
from uda_jax.runs import choice, target_frames
from uda_jax.runs.choice import Candidate, choose

CLASSES = ("road", "sky", "car")
PRIOR = [0.6, 0.3, 0.1]


def candidate(run, shares=(0.6, 0.3, 0.1), prior=PRIOR, **values):
    given = {"entropy": 0.2, **dict.fromkeys(DEFAULT, 0.5), "source_score": 0.4} | values
    measured = Measured({name: given.get(name) for name in CRITERIA}, list(shares), prior)
    return Candidate(run, 10, measured)


def test_equal_values_share_their_ranks():
    assert choice.ranks([0.1, 0.3, 0.3, 0.7], higher_is_better=True) == [4, 2.5, 2.5, 1]
    assert choice.ranks([0.1, 0.3, 0.3, 0.7], higher_is_better=False) == [1, 2.5, 2.5, 4]


def test_the_lowest_mean_rank_is_chosen():
    good = {"information": -0.9, "flip_agreement": 0.9, "scale_agreement": 0.9}
    found = choose([candidate("a"), candidate("b", **good), candidate("c", mask_agreement=0.6)], CLASSES)
    assert found.index == 1 and found.used == DEFAULT and found.warnings == []
    # Two of five columns are equal for all; in the last, c is the best and the others share 2.5.
    assert found.figures[1] == pytest.approx((1 + 2 + 1 + 1 + 2.5) / 5)
    assert "1.50 of 3 candidates over information" in found.reason


def test_a_criterion_that_one_lacks_is_left_out_of_all_ranks():
    found = choose([candidate("a", flip_agreement=None), candidate("b", flip_agreement=0.9)], CLASSES)
    assert "flip_agreement" not in found.used and found.figures == [1.5, 1.5] and found.index == 0
    with pytest.raises(UserError, match="--by flip_agreement: it does not apply to a"):
        choose([candidate("a", flip_agreement=None), candidate("b")], CLASSES, "flip_agreement")


@pytest.mark.parametrize(("by", "best"), [("entropy", "low"), ("neighbourhood_density", "high")])
def test_one_criterion_alone_goes_its_own_way(by, best):
    found = choose([candidate("low", **{by: 0.3}), candidate("high", **{by: 0.6})], CLASSES, by)
    assert ("low", "high")[found.index] == best and by in found.reason


def test_what_collapsed_is_set_aside_however_well_it_ranks():
    perfect = dict.fromkeys(DEFAULT, 1.0) | {"information": -1.0}
    forgot = candidate("forgot", source_score=0.1, **perfect)
    emptied = candidate("emptied", shares=(1.0, 0.0, 0.0), **perfect)
    found = choose([forgot, emptied, candidate("sound")], CLASSES)
    assert found.index == 2 and set(found.aside) == {0, 1} and found.figures[:2] == [None, None]
    assert "below half of the best one, 0.400" in found.aside[0] and "2 of the source's 3 classes" in found.aside[1]
    headings, rows = choice.table([forgot, emptied, candidate("sound")], found)
    assert [row[1] for row in rows] == ["sound", "forgot", "emptied"] and [row[0] for row in rows] == ["*", "", ""]
    assert [row[-1] for row in rows] == ["1.00", "aside", "aside"] and "teacher" not in headings
    # Alone, there is nothing better to take: it is chosen, and warned of.
    alone = choose([emptied], CLASSES)
    assert alone.aside == {} and "next to no sky, car" in alone.warnings[0] and alone.reason == "the only candidate"


def test_sure_but_unsteady_predictions_are_warned_of():
    views = dict.fromkeys(("flip_agreement", "scale_agreement", "mask_agreement"), 0.3)
    (warning,) = choose([candidate("a", entropy=0.02, **views)], CLASSES).warnings
    assert "entropy 0.020" in warning and "kappa 0.30" in warning
    assert choose([candidate("a", entropy=0.3, **views)], CLASSES).warnings == []
    (warning,) = choose([candidate("a", shares=(0.97, 0.02, 0.01), prior=None)], CLASSES).warnings
    assert warning == "97% of the pixels are predicted as road"


def test_the_command_knows_the_criteria_and_the_count_of_frames():
    assert select.CRITERIA == tuple(CRITERIA) and select.FRAMES == target_frames.COUNT
    assert set(DEFAULT) < set(CRITERIA)
