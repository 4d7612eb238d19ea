"""Choosing frames to label: constants by hand, and what each criterion must fulfil."""

import itertools

import numpy as np
import pytest

from uda_jax import ops


def test_the_most_uncertain_come_first_and_equal_ones_in_their_order():
    assert ops.most_uncertain(np.array([0.1, 0.5, 0.3, 0.5])).tolist() == [1, 3, 2, 0]


def test_k_centres_by_hand():
    """On a line: the one nearest to the mean (3.4), the furthest from it, and then the widest gap."""
    line = np.array([[0.0], [1.0], [2.0], [4.0], [10.0]])
    assert ops.k_centre_greedy(line, 5).tolist() == [3, 4, 0, 2, 1]
    assert ops.k_centre_greedy(line, 2).tolist() == [3, 4]
    # What is labelled is covered already.
    assert ops.k_centre_greedy(line, 2, np.array([[9.0], [0.5]])).tolist() == [3, 2]


def test_frames_that_are_all_alike_are_each_chosen_once():
    assert sorted(ops.k_centre_greedy(np.ones((4, 2)), 4).tolist()) == [0, 1, 2, 3]
    assert sorted(ops.k_centre_greedy(np.ones((3, 2)), 3, np.ones((1, 2))).tolist()) == [0, 1, 2]


def test_the_covering_radius_is_at_most_twice_the_best_one():
    features = np.random.default_rng(0).normal(size=(12, 3))
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    radius = lambda chosen: distance[:, list(chosen)].min(axis=1).max()  # noqa: E731
    best = min(radius(chosen) for chosen in itertools.combinations(range(12), 3))
    assert best <= radius(ops.k_centre_greedy(features, 3)) <= 2 * best


def test_both_covers_the_uncertain_ones():
    scores, features = np.array([9.0, 8.0, 7.0, 6.0, 0.0]), np.array([[0.0], [0.1], [0.2], [5.0], [99.0]])
    # Of the four most uncertain ones, that nearest to their mean (1.3) and the one furthest from it.
    assert ops.uncertain_and_diverse(scores, features, 2).tolist() == [2, 3]
    assert ops.uncertain_and_diverse(scores, features, 2, share=1).tolist() == [0, 1]
    assert ops.uncertain_and_diverse(scores, features, 2, np.array([[5.0]])).tolist() == [0, 2]


@pytest.mark.parametrize("count", [0, 4])
def test_counts_that_cannot_be_chosen_are_refused(count):
    with pytest.raises(ValueError, match=f"count: expected 1 to 3, got {count}"):
        ops.k_centre_greedy(np.zeros((3, 1)), count)
    with pytest.raises(ValueError, match="share"):
        ops.uncertain_and_diverse(np.zeros(3), np.zeros((3, 1)), 1, share=0.5)
