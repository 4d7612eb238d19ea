"""Learning-rate schedules, counted in steps (batches) of the stage."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from uda_jax.errors import UserError
from uda_jax.schema import config_field

# A warm-up starts at this share of the rate (the mmsegmentation recipe that DAFormer trains with).
_WARMUP_START = 1e-6
# And a warm-up apart from the decay at this one (VFM-UDA).
_APART_START = 1e-3


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the learning rate changes over a stage."""

    name: str = config_field(
        "poly",
        "Rate at step i: base (1 - i / horizon)^power (poly), base (constant), base and, over the second half, down to "
        "0 (constant_linear), or base and, after the share 'drop' of the horizon, a tenth of it (constant_drop).",
        choices=("poly", "constant", "constant_linear", "constant_drop"),
    )
    horizon: int | None = config_field(
        250_000, "Step at which the rate reaches 0; may lie beyond the last one; None = the stage's last step.", low=1
    )
    power: float = config_field(0.9, "Exponent of poly.", low=0.0)
    drop: float = config_field(
        0.75, "Share of the horizon that constant_drop holds the rate for (Monodepth2: 0.75).", low=0.0, high=1.0
    )
    warmup: int = config_field(0, "Steps over which the rate is ramped up linearly.", low=0)
    warmup_form: str = config_field(
        "on_top",
        "How: on_top of the decay, from nearly 0 (DAFormer), or apart from it, from a thousandth of the base rate to "
        "all of it at the warm-up's last step, after which the rate jumps to what the decay has left (VFM-UDA).",
        choices=("on_top", "apart"),
    )

    def check(self, path: str) -> None:
        """Raises a UserError if the warm-up does not fit into the horizon."""
        if self.name != "constant" and self.horizon is not None and self.warmup > self.horizon:
            raise UserError(f"{path}.warmup: expected at most horizon = {self.horizon}, got {self.warmup}; shorten it")


def make(schedule: Schedule, base_rate: float) -> optax.Schedule:
    """Returns the function from the step's index, 0 for the first, to its learning rate.

    Past the horizon it stays at 0, unless it is constant.

    Args:
      schedule: the section that says how the rate changes.
      base_rate: the rate that the schedule multiplies.

    Raises:
      ValueError: a schedule that decays without a horizon; the stage that it lasts has to be filled in first.
    """
    if schedule.name != "constant" and schedule.horizon is None:
        raise ValueError("schedule.horizon: expected a number of steps, got None; only configs may leave it out")

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        # Whole numbers are subtracted first: 1 - count / horizon, which optax's polynomial schedule computes, loses
        # digits towards the end and, compiled, does not reach 0.
        value = jnp.asarray(base_rate, jnp.float32)
        if schedule.name != "constant":
            left = jnp.maximum(schedule.horizon - count, 0) / schedule.horizon
            value *= _share(schedule, left)
        if schedule.warmup and schedule.warmup_form == "apart":
            done = jnp.minimum(count / max(schedule.warmup - 1, 1), 1.0)
            risen = base_rate * (_APART_START + (1.0 - _APART_START) * done)
            value = jnp.where(count < schedule.warmup, risen, value)
        elif schedule.warmup:
            done = jnp.minimum(count, schedule.warmup) / schedule.warmup
            value *= done + _WARMUP_START * (1.0 - done)
        return value

    return rate


def _share(schedule: Schedule, left: jax.Array) -> jax.Array:
    """Returns the share of the base rate when such a share of the horizon is left."""
    if schedule.name == "poly":
        return left**schedule.power
    if schedule.name == "constant_linear":
        return jnp.minimum(2.0 * left, 1.0)
    return jnp.where(left > 1.0 - schedule.drop, 1.0, jnp.where(left > 0, 0.1, 0.0))
