"""Norms, distances and ranges of states, by hand-made numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.errors import UserError
from uda_jax.runs import measures
from uda_jax.training import optimisers
from uda_jax.training.schedules import Schedule

ONE = {"encoder": {"conv1": np.full((2, 2), 2.0, np.float32)}, "head": {"bias": jnp.array([3.0, 0.0])}}
OTHER = {"encoder": {"conv1": np.full((2, 2), 3.0, np.float32)}, "head": {"bias": jnp.array([3.0, 0.0])}}


def test_norms_are_of_all_values_together():
    assert measures.norm(ONE) == 5 and measures.norm({}) == 0
    assert measures.norms(ONE) == {"encoder": 4, "head": 3}
    # Of this many equal numbers, float32 sums are off in the fourth digit.
    assert measures.norm(np.full(2**22, 0.1, np.float32)) == pytest.approx(0.1 * 2**11, rel=1e-6)
    assert measures.norm(jnp.full(4, 1.5, jnp.bfloat16)) == 3


def test_sizes_are_those_of_arrays_and_of_their_shapes():
    shapes = jax.eval_shape(lambda: ONE)
    assert measures.size(ONE) == measures.size(shapes) == 6
    assert measures.byte_size(ONE) == measures.byte_size(shapes) == 24
    assert measures.byte_size(jnp.zeros(3, jnp.bfloat16)) == 6


def test_a_checksum_tells_trees_from_others():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(1), "none": None}
    found = measures.checksum(tree)
    assert len(found) == 8 and measures.checksum({"a": jnp.asarray(tree["a"]), "b": tree["b"]}) == found
    assert measures.checksum(tree | {"a": tree["a"].T}) != found
    assert measures.checksum(tree | {"b": np.float32(2)}) != found


def test_distances_are_relative_to_the_first():
    assert measures.distance(ONE, OTHER) == (2, 0.4)
    assert measures.distance(ONE, ONE) == (0, 0)
    zeros = jax.tree.map(np.zeros_like, ONE)
    assert measures.distance(zeros, ONE)[0] == 5 and math.isnan(measures.distance(zeros, ONE)[1])
    with pytest.raises(UserError, match="head/bias: expected two states of one network, got .2,. and no such array"):
        measures.distance(ONE, {"encoder": ONE["encoder"]})


def test_a_teacher_is_compared_with_the_segmenter():
    params = {"segmenter": ONE, "discriminator": OTHER}
    assert measures.teacher_distance(params, {"params": OTHER, "model_state": {}}).absolute == 2
    assert measures.teacher_distance(params, None) is None


def test_what_changed_most_comes_first():
    before = {"a": {"x": np.ones(4)}, "b": {"x": np.ones(1), "y": np.ones(3)}, "c": {"x": np.zeros(2)}}
    after = {"a": {"x": np.full(4, 1.5)}, "b": {"x": np.full(1, 3.0), "y": np.ones(3)}, "c": {"x": np.ones(2)}}
    found = measures.changes(before, after, depth=1)
    assert list(found) == ["b", "a", "c"]
    assert found["a"] == (1, 0.5) and found["b"] == (2, 1) and math.isnan(found["c"].relative)
    assert list(measures.changes(before, after)) == ["b/x", "a/x", "b/y", "c/x"]


def test_ranges_are_told_by_kind():
    state = {"batch_stats": {"bn1": {"mean": np.array([-1.0, 2.0]), "var": np.array([0.5])}, "bn2": {"mean": -3.0}}}
    state = jax.tree.map(np.asarray, state)
    assert measures.ranges(state) == {"mean": (-3, 2), "var": (0.5, 0.5)}
    assert measures.ranges({}) == {}


@pytest.mark.parametrize(
    ("section", "accumulation", "kinds"),
    [
        (optimisers.sgd(), 1, {"momentum"}),
        (optimisers.sgd(clip_norm=1.0), 2, {"momentum", "acc_grads"}),
        (optimisers.adam(), 1, {"mu", "nu"}),
        (optimisers.adamw(), 1, {"mu", "nu"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_moments_of_every_optimiser_are_found(section, accumulation, kinds):
    params = {"segmenter": {"encoder": {"bn1": {"scale": jnp.ones(2)}}, "head": {"kernel": jnp.ones((3, 2))}}}
    transform = optimisers.build(section, Schedule(horizon=10), params, accumulation=accumulation)
    state = transform.init(params)
    _, state = transform.update(jax.tree.map(jnp.ones_like, params), state, params)
    trained = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    norms = measures.moment_norms({"player": state}, ["segmenter"])
    assert norms.keys() == {"player"} and norms["player"].keys() == kinds
    assert math.hypot(*norms["player"].values()) == pytest.approx(measures.norm(trained), rel=1e-6)
    assert measures.moments({"count": jnp.zeros(())}, ["segmenter"]) == {}
