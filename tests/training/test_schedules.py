"""Learning rates against the references' values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax import schema
from uda_jax.errors import UserError
from uda_jax.training import schedules
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER


def rates(schedule, base, counts):
    """The rate at each count, jitted as in a step, and checked against the eager value."""
    function = schedules.make(schedule, base)
    values = [jax.jit(function)(jnp.int32(count)) for count in counts]
    np.testing.assert_allclose(values, [function(int(count)) for count in counts], rtol=1e-6)
    return np.array(values)


def test_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/lr_poly.npz")
    for name, base, horizon in (
        ("lr_seg_250k", 2.5e-4, 250_000),
        ("lr_disc_250k", 1e-4, 250_000),
        ("lr_seg_90k", 2.5e-4, 90_000),
    ):
        values = rates(Schedule(horizon=horizon), base, golden["iteration"])
        np.testing.assert_allclose(values, golden[name], rtol=1e-5, atol=1e-10)


def test_golden_plca():
    golden = np.load(GOLDEN / "plca/poly_lr.npz")
    i = 0
    while f"lr_{i}" in golden:
        schedule = Schedule(horizon=int(golden[f"max_iter_{i}"]))
        values = rates(schedule, float(golden[f"base_{i}"]), golden[f"iter_{i}"])
        np.testing.assert_allclose(values, golden[f"lr_{i}"], rtol=1e-5)
        i += 1
    assert i > 0


def test_golden_daformer_warmup():
    golden = np.load(GOLDEN / "daformer/schedules.npz")
    schedule = Schedule(horizon=40_000, power=1.0, warmup=1500)
    values = rates(schedule, float(golden["base_lr"]), golden["iteration"])
    np.testing.assert_allclose(values, golden["lr_backbone"], rtol=1e-5)


def test_a_tenth_after_a_share_of_the_horizon():
    values = rates(Schedule(name="constant_drop", horizon=100, drop=0.75), 2.0, [0, 74, 75, 99, 100])
    np.testing.assert_allclose(values, [2.0, 2.0, 0.2, 0.2, 0.0], rtol=1e-6)


def test_hand_values():
    # Exactly 0 at the horizon and beyond, compiled too; full precision just before.
    values = rates(Schedule(horizon=100), 1.0, [0, 50, 99, 100, 1000])
    np.testing.assert_allclose(values, [1.0, 0.5**0.9, 0.01**0.9, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(rates(Schedule(name="constant"), 0.3, [0, 10**6]), 0.3, rtol=1e-6)
    values = rates(Schedule(name="constant", warmup=10), 1.0, [0, 5, 10, 20])
    np.testing.assert_allclose(values, [1e-6, 0.5, 1.0, 1.0], atol=1e-6)
    # CycleGAN's: the first half constant, then down in a straight line.
    values = rates(Schedule(name="constant_linear", horizon=200), 2e-4, [0, 99, 100, 101, 150, 199, 200, 1000])
    np.testing.assert_allclose(values, 2e-4 * np.array([1, 1, 1, 0.99, 0.5, 0.01, 0, 0]), rtol=1e-5)


def test_section_is_checked():
    assert schema.from_mapping(Schedule, {"horizon": 10, "warmup": 10}).warmup == 10
    with pytest.raises(UserError, match="config.warmup: expected at most horizon = 10, got 11"):
        schema.from_mapping(Schedule, {"horizon": 10, "warmup": 11})
    with pytest.raises(UserError, match="config.warmup: expected at most horizon = 10, got 11"):
        schema.from_mapping(Schedule, {"name": "constant_linear", "horizon": 10, "warmup": 11})
    with pytest.raises(UserError, match="config.name: expected one of 'poly', 'constant'"):
        schema.from_mapping(Schedule, {"name": "cosine"})


def test_a_horizon_is_needed():
    with pytest.raises(ValueError, match="schedule.horizon: expected a number of steps, got None"):
        schedules.make(Schedule(horizon=None), 0.1)


def test_a_warmup_apart_jumps_onto_the_decay():
    golden = vectors.load("vfm-uda/schedules_vfm.npz")
    schedule = Schedule(horizon=40_000, power=1.0, warmup=1500, warmup_form="apart")
    rate = jax.jit(jax.vmap(schedules.make(schedule, 1.0)))(jnp.asarray(golden["iteration"], jnp.int32))
    np.testing.assert_allclose(rate, golden["factor_f64"], rtol=1e-6)
    with jax.enable_x64(True):
        exact = [float(schedules.make(schedule, 1.0)(jnp.float64(step))) for step in golden["iteration"]]
    np.testing.assert_allclose(exact, golden["factor_f64"], rtol=1e-9)
