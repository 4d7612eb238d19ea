"""Replays of training steps: from a stored checkpoint, or a stage's first state, over the batches that followed it."""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

import jax
import numpy as np

from uda_jax.errors import UserError
from uda_jax.runs import checksums, plan, receipts, states
from uda_jax.runs.instruments import TrainStep
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
from uda_jax.training.precision import at_precision

# On other hardware or versions sums are rounded in another order, which the steps that follow carry on. So far may each
# network end from where it ended, as a share of the way that it goes in these steps: other batches or rates lead it
# elsewhere by as much as the way itself. And so far may a logged loss be off, relative to itself or to 0.01.
TOLERANCE = 0.1
LOSS_TOLERANCE = 0.05
_SMALL_LOSS = 0.01

# Compiled steps by what they were compiled for.
Programs = MutableMapping[str, TrainStep]


@dataclasses.dataclass(frozen=True)
class Span:
    """The steps of a replay.

    Attributes:
      start: the step of the checkpoint that it starts from; 0 = the stage's first state.
      last: the step that it ends with.
      end: the stage's last step.
    """

    start: int
    last: int
    end: int

    @property
    def words(self) -> str:
        """What is replayed."""
        origin = f"checkpoint {self.start}" if self.start else "the stage's first state"
        steps = f"step {self.last}" if self.last == self.start + 1 else f"steps {self.start + 1} to {self.last}"
        return f"{steps} from {origin}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a replay compares with what was recorded.

    Attributes:
      span: what was replayed.
      exact: whether the same bits were asked for.
      difference: the first thing that is another one; None if there is none.
      largest: how far off the worst network is, as `TOLERANCE` has it; None where that was not looked at.
      compared: in words, what was.
    """

    span: Span
    exact: bool
    difference: str | None
    largest: float | None
    compared: str


def span(receipt: Mapping[str, Any], steps: int | None, path: str) -> Span:
    """Returns which steps to replay: those from the last stored checkpoint before the end, or so many.

    Args:
      receipt: of the stage.
      steps: how many; more than lie between that checkpoint and the end begin at an earlier one, or at the stage's
        first state; fewer stop before the end, where only losses can be compared. None = up to the end.
      path: of the stage, for the message.

    Raises:
      UserError: no loss was logged in so few steps.
    """
    end = receipt["state"]["step"]
    kept = sorted(step for step in map(int, receipt["checkpoints"]) if step < end)
    nearest = max(kept, default=0)
    if steps is None:
        return Span(nearest, end, end)
    if steps < end - nearest:
        last = nearest + steps
        if not any(nearest < row["step"] <= last for row in receipt["losses"]):
            first = min((row["step"] for row in receipt["losses"] if row["step"] > nearest), default=end)
            raise UserError(
                f"--steps {steps}: {path}: expected at least {first - nearest}, since no loss was logged in the steps "
                f"{nearest + 1} to {last} that could be compared"
            )
        return Span(nearest, last, end)
    return Span(max((step for step in kept if end - step >= steps), default=0), end, end)


def compare(
    stage: Stage,
    workdir: Workdir,
    context: Context,
    receipt: Mapping[str, Any],
    chosen: Span,
    *,
    exact: bool,
    programs: Programs,
) -> Outcome:
    """Replays steps of a stage and compares the state and the losses with those of its receipt.

    Args:
      stage, workdir, context: of the run.
      receipt: of the stage, whose data and weights are those that are there.
      chosen: from `span`.
      exact: whether to expect the same bits; otherwise `TOLERANCE` counts.
      programs: compiled steps of earlier calls, to which this one's is added.
    """
    rows = {row["step"]: receipts.losses(row) for row in receipt["losses"]}
    rows = {step: row for step, row in rows.items() if chosen.start < step <= chosen.last}
    began, state, found = _replayed(stage, workdir, context, chosen, rows, programs)
    logged = f"the losses of {len(rows)} logged step{'s' * (len(rows) != 1)}"
    for step in sorted(rows):
        for name, then in rows[step].items():
            if _loss_is_off(found[step].get(name), then, 0 if exact else LOSS_TOLERANCE):
                what = f"{name} of step {step} is {found[step].get(name)!r}, was {then!r}"
                return Outcome(chosen, exact, what, None, logged)
    if chosen.last < chosen.end:
        return Outcome(chosen, exact, None, None, f"{logged}; the state is only known at step {chosen.end}")
    if exact:
        other, count = _first_other_digest(state, receipt["state"]["arrays"])
        return Outcome(chosen, exact, other, None, f"{count} arrays and {logged}")
    stored = states.load(stage, workdir, context.mesh, chosen.end, context.identity)
    off = {name: _off(began[name], state.params[name], stored.params[name]) for name in state.params}
    worst = max(off, key=off.get)
    other = f"params/{worst} comes to other values" if off[worst] > TOLERANCE else None
    return Outcome(chosen, exact, other, off[worst], f"{len(off)} network{'s' * (len(off) > 1)} and {logged}")


def _loss_is_off(now: float | None, then: float | None, tolerance: float) -> bool:
    if now is None or then is None:
        return now is not then
    return abs(now - then) > tolerance * max(abs(then), _SMALL_LOSS)


def _replayed(
    stage: Stage, workdir: Workdir, context: Context, chosen: Span, wanted: Collection[int], programs: Programs
) -> tuple[Any, Any, dict[int, dict[str, float]]]:
    """Returns the parameters before the first step, the state after the last one, and the metrics of some steps."""
    mesh, seed, identity = context.mesh, context.experiment.seed, context.identity
    if chosen.start:
        state = states.load(stage, workdir, mesh, chosen.start, identity)
    else:
        state = states.initial(stage, workdir, seed, mesh, identity=identity)
    began = jax.tree.map(sharding.on_host, state.params)
    # Not a view of what the first step is about to take.
    began = jax.tree.map(np.array, began)
    step_function = _program(stage, workdir, context, programs)
    split, found = sharding.split_over_batch(mesh), {}
    with contextlib.closing(stage.stream(stage.domains_in(workdir), seed)) as stream:
        stream.set_state({"step": chosen.start})
        for step in range(chosen.start + 1, chosen.last + 1):
            state, metrics = step_function(state, sharding.to_global(next(stream), split))
            if step in wanted:
                found[step] = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return began, state, found


def _program(stage: Stage, workdir: Workdir, context: Context, programs: Programs) -> TrainStep:
    batch = plan.batch_from_data(stage, workdir)
    key = receipts.plain_digest([context.identity, stage.name, context.mesh.size, str(batch)])
    if key not in programs:
        function = at_precision(stage.method, stage.method.train_step)
        programs[key] = TrainStep(function, states.abstract(stage, context.mesh), context.mesh)
        programs[key].compile(batch)
    return programs[key]


def _first_other_digest(state: Any, recorded: Mapping[str, str]) -> tuple[str | None, int]:
    """Returns the first array whose bits are others, and how many there are."""
    found = checksums.digests(state)
    for path in sorted(recorded.keys() | found.keys()):
        if recorded.get(path) != found.get(path):
            return f"{path} comes to other values", len(found)
    return None, len(found)


def _off(began: Any, now: Any, then: Any) -> float:
    """Returns how far a network is from where it was, as a share of its way there; 0 for a network that stays."""
    distance = way = 0.0
    for start, one, other in zip(*map(jax.tree.leaves, (began, now, then)), strict=True):
        one, other = (np.asarray(sharding.on_host(x), np.float64) for x in (one, other))
        distance, way = distance + np.sum((one - other) ** 2), way + np.sum((other - start) ** 2)
    return float(np.sqrt(distance / way)) if way else float(distance > 0)
