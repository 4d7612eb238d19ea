"""What the benchmark of topologies compares, without its runs."""

import sys
from pathlib import Path

import pytest

from uda_jax import methods

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def topology():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import topology, topology_run
    finally:
        sys.path.remove(str(ROOT))
    topology.run = topology_run
    return topology


def test_every_method_has_a_recipe_that_trains_it(topology):
    found = topology.recipes()
    assert list(found) == methods.names()
    assert found["dacs"] == "dacs:smoke" and found["cycada"].startswith("digits:smoke")


def test_every_stage_is_short_slow_and_shares_its_batch(topology):
    found = topology.run.experiment("intrada:smoke", 3, "fsdp")
    trained = [stage.train or found.train for stage in found.stages.values()]
    assert {(train.steps, train.batch_size, train.sharding) for train in trained} == {(3, 8, "fsdp")}
    before = topology.run.config.experiment(topology.run.config.load("intrada:smoke"))
    rates = [stages["inter"].method["optimiser"]["learning_rate"] for stages in (found.stages, before.stages)]
    assert rates[0] == pytest.approx(topology.SLOWER * rates[1])


def test_the_largest_difference_of_losses_is_named(topology):
    expected = {"train/loss/a": [1.0, 2.0], "train/loss/b": [10.0, 0.0]}
    assert topology.difference(expected, expected)["difference"] == 0
    found = topology.difference({"train/loss/a": [1.0, 2.0], "train/loss/b": [10.1, 0.001]}, expected)
    assert found == {"difference": pytest.approx(0.01), "loss": "train/loss/b", "step": 1}
    with pytest.raises(RuntimeError, match="other losses"):
        topology.difference({"train/loss/a": [1.0, 2.0]}, expected)
    with pytest.raises(RuntimeError, match="other losses"):
        topology.difference(expected | {"train/loss/a": [1.0]}, expected)


def test_pixels_that_are_counted_elsewhere(topology):
    expected = {"totals": {"final": {"confusion": [[3, 1], [0, 4]], "depth": [2.0, 100.0]}}}
    found = {"totals": {"final": {"confusion": [[2, 2], [0, 4]], "depth": [2.0, 101.0]}}}
    assert topology.moved(expected, expected) == {"other_pixels": 0, "pixels": 8, "depth_difference": 0}
    assert topology.moved(found, expected) == {
        "other_pixels": 1, "pixels": 8, "depth_difference": pytest.approx(0.01)
    }  # fmt: skip


def test_the_table(topology):
    row = {"method": "dacs", "topology": "1x8", "sharding": "fsdp", "difference": 2e-7, "other_pixels": 0, "pixels": 8}
    row |= {"device_mb": 0.25, "state_mb": 2.0, "restored": {"1x1": {"other_pixels": 0}}}
    depth = row | {"pixels": 0, "depth_difference": 1e-6, "restored": {}}
    lines = topology.table([row, depth]).splitlines()
    assert lines[2] == "| dacs | 1x8 | fsdp | 2.0e-07 | 0 of 8 | 0.25 of 2.00 | 1x1: 0 pixels elsewhere |"
    assert "| depth 1.0e-06 |" in lines[3]
