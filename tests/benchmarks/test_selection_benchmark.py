"""The benchmark of choosing without labels, on made-up candidates and on configs."""

import pytest

from benchmarks import selection
from benchmarks.selection import LOWEST_LOSS, Scored
from uda_jax import config
from uda_jax.inference.criteria import CRITERIA, DEFAULT
from uda_jax.inference.label_free import Measured
from uda_jax.runs import stages
from uda_jax.runs.choice import COMBINED, Candidate


def scored(truth, loss=None, **values):
    given = dict.fromkeys(DEFAULT, 0.5) | {"source_score": 0.5} | values
    measured = Measured({name: given.get(name) for name in CRITERIA}, [0.5, 0.5], [0.5, 0.5])
    return Scored(Candidate(f"run{truth}", 10, measured), truth, loss)


def test_spearman_is_that_of_ranks():
    assert selection.spearman([1, 2, 3], [10, 200, 3000]) == pytest.approx(1)
    assert selection.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (1 + 1) / (4 * 15), without ties
    assert selection.spearman([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert selection.spearman([5, 6, 6, 7], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert selection.spearman([1, 1], [0, 1]) is None


def test_regret_is_the_best_true_score_less_that_of_the_choice():
    group = [
        scored(0.30, loss=2.0, entropy=0.3, mask_agreement=0.9, prior_distance=0.1),
        scored(0.20, loss=1.0, entropy=0.2, mask_agreement=0.6, prior_distance=0.1),
        scored(0.10, loss=3.0, entropy=0.1, mask_agreement=0.3),
    ]
    found = selection.figures(group)
    assert (found["candidates"], found["best"], found["mean"]) == (3, 0.3, pytest.approx(0.2))
    assert found["mask_agreement"] == {"spearman": pytest.approx(1), "regret": 0.0, "compared": 3}
    assert found["entropy"] == {"spearman": pytest.approx(-1), "regret": pytest.approx(0.2), "compared": 3}
    assert found[COMBINED]["regret"] == 0 and found[COMBINED]["spearman"] == pytest.approx(1)
    assert found[LOWEST_LOSS] == {"spearman": pytest.approx(0.5), "regret": pytest.approx(0.1), "compared": 3}
    # Equal ones: any of them may be taken. What applies to two is compared among two.
    assert found["flip_agreement"]["regret"] == pytest.approx(0.1) and found["flip_agreement"]["spearman"] is None
    assert found["prior_distance"] == {"spearman": None, "regret": pytest.approx(0.05), "compared": 2}
    assert "teacher_agreement" not in found


def test_groups_are_averaged_with_their_spread():
    good = {"spearman": 0.8, "regret": 0.0, "compared": 3}
    bad = {"spearman": None, "regret": 0.04, "compared": 3}
    groups = {"a": {"candidates": 3, "entropy": good}, "b": {"candidates": 3, "entropy": bad, LOWEST_LOSS: bad}}
    found = selection.over_groups(groups)
    assert list(found) == ["entropy", LOWEST_LOSS] and found["entropy"]["groups"] == 2
    assert found["entropy"]["regret"] == {"mean": pytest.approx(0.02), "deviation": pytest.approx(0.0282843, rel=1e-5)}
    assert found["entropy"]["spearman"] == {"mean": 0.8, "deviation": None}
    table = selection.markdown({"groups": groups, "over_groups": found})
    assert "| entropy | 0.80 | 2.00 ± 2.83 | 0.0 | 4.0 |" in table and "| lowest_loss | – | 4.00 | – | 4.0 |" in table


@pytest.mark.parametrize(
    ("reference", "saw"),
    [
        ("source_only:streets", False),
        ("source_only:streets,oracle", True),
        ("source_only:streets,labelled", True),
        ("ass:streets", True),
        ("dacs:streets", False),
        ("intrada:streets", False),
        ("digits:mnist_usps", False),
    ],
)
def test_runs_that_saw_target_labels_are_no_candidates(reference, saw):
    assert selection.saw_labels(stages.recipe(config.experiment(config.load(reference)), 19)) is saw
