"""The guard: which step and which frames it blames."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.training.guard import Guard, NonFiniteLoss


@pytest.fixture
def guard(tmp_path):
    return Guard(lambda domain, index: f"{domain}_{index}", tmp_path / "nonfinite.json", write=True)


def add(guard, step, loss, norm=1.0):
    """Adds a step whose batch holds the frames `10 * step` and the one after it."""
    indices = {"source": np.array([10 * step, 10 * step + 1]), "target": np.array([step])}
    guard.add(step, {"loss/total": np.float32(loss), "loss/a": np.float32(loss), "norm/a": np.float32(norm)}, indices)


def test_the_last_step_of_a_window_is_returned(guard, tmp_path):
    for step in (1, 2, 3):
        add(guard, step, step / 2)
    assert guard.check() == {"loss/total": 1.5, "loss/a": 1.5, "norm/a": 1.0}
    assert guard.check() == {} and not (tmp_path / "nonfinite.json").exists()


@pytest.mark.parametrize("bad", [4, 5, 6])
def test_the_first_bad_step_of_a_window_is_blamed(guard, tmp_path, bad):
    """All steps of the window are looked at, though only the last one's values are logged."""
    for step in (1, 2, 3):
        add(guard, step, 1.0)
    guard.check()
    for step in (4, 5, 6):
        add(guard, step, np.nan if step >= bad else 1.0)
    with pytest.raises(NonFiniteLoss, match=f"^step {bad}: loss/a is nan; the frames of its batch are listed in"):
        guard.check()
    frames = {"source": [f"source_{10 * bad}", f"source_{10 * bad + 1}"], "target": [f"target_{bad}"]}
    assert json.loads((tmp_path / "nonfinite.json").read_text()) == {
        "step": bad,
        "term": "loss/a",
        "value": "nan",
        "frames": frames,
    }


def test_a_norm_is_blamed_where_losses_are_finite(guard):
    add(guard, 1, 1.0, np.inf)
    with pytest.raises(NonFiniteLoss, match="^step 1: norm/a is inf"):
        guard.check()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["params", "model_state", "opt_state", "teacher", "extra"])
def test_a_state_that_the_last_update_made_infinite_is_blamed(guard, tmp_path, part, bad):
    state = {name: {"net": jnp.ones((2, 3))} for name in ("params", "model_state", "opt_state", "teacher", "extra")}
    state |= {"key": jax.random.key(0), "count": jnp.int32(3), "none": None, "empty": jnp.zeros((0,))}
    state["half"] = jnp.ones(3, jnp.bfloat16)
    add(guard, 3, 1.0)
    guard.check()
    guard.check_state(state)
    state[part] = {"net": state[part]["net"].at[1, 2].set(bad)}
    with pytest.raises(NonFiniteLoss, match=f"^step 3: {part}/net is {bad}; the frames .* in another workdir$"):
        guard.check_state(state)
    assert json.loads((tmp_path / "nonfinite.json").read_text())["frames"]["target"] == ["target_3"]
