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

# On other hardware or versions sums are rounded in another order, which the steps that follow carry on. Of a
# parameter's array: the largest difference as a share of its largest value. Of a loss: the relative difference.
TOLERANCE = 1e-2

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
      largest: the largest difference found, as `TOLERANCE` has it; 0 for the same bits.
      compared: in words, what was.
    """

    span: Span
    exact: bool
    difference: str | None
    largest: float
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
    wanted = [step for step in rows if chosen.start < step <= chosen.last]
    state, found = _replayed(stage, workdir, context, chosen, wanted, programs)
    largest = 0.0
    for step in sorted(wanted):
        for name, then in rows[step].items():
            now = found[step].get(name)
            off = np.inf if now is None or then is None else abs(now - then) / max(abs(then), 1e-6)
            largest = max(largest, off)
            if off > (0 if exact else TOLERANCE):
                what = f"{name} of step {step} is {now!r}, was {then!r}"
                return Outcome(chosen, exact, what, largest, f"{len(wanted)} logged steps")
    if chosen.last < chosen.end:
        rest = f"the losses of {len(wanted)} logged steps (the state is that of step {chosen.end} alone)"
        return Outcome(chosen, exact, None, largest, rest)
    if exact:
        different, count = _first_other_digest(state, receipt["state"]["arrays"])
    else:
        different, count, off = _first_far_off(state, stage, workdir, context, chosen.end)
        largest = max(largest, off)
    return Outcome(chosen, exact, different, largest, f"{count} arrays and the losses of {len(wanted)} logged steps")


def _replayed(
    stage: Stage, workdir: Workdir, context: Context, chosen: Span, wanted: Collection[int], programs: Programs
) -> tuple[Any, dict[int, dict[str, float]]]:
    """Returns the state after the last step, and the losses of some steps."""
    mesh, seed, identity = context.mesh, context.experiment.seed, context.identity
    if chosen.start:
        state = states.load(stage, workdir, mesh, chosen.start, identity)
    else:
        state = states.initial(stage, workdir, seed, mesh, identity=identity)
    step_function = _program(stage, workdir, context, programs)
    split, found = sharding.split_over_batch(mesh), {}
    with contextlib.closing(stage.stream(stage.domains_in(workdir), seed)) as stream:
        stream.set_state({"step": chosen.start})
        for step in range(chosen.start + 1, chosen.last + 1):
            state, metrics = step_function(state, sharding.to_global(next(stream), split))
            if step in wanted:
                found[step] = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return state, found


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


def _first_far_off(
    state: Any, stage: Stage, workdir: Workdir, context: Context, step: int
) -> tuple[str | None, int, float]:
    """Returns the first parameter that is further off than it may be, how many there are, and the largest distance."""
    stored = states.load(stage, workdir, context.mesh, step, context.identity)
    largest, first = 0.0, None
    pairs = list(zip(jax.tree.leaves_with_path(state.params), jax.tree.leaves(stored.params), strict=True))
    for (path, now), then in pairs:
        now, then = sharding.on_host(now), sharding.on_host(then)
        off = float(np.max(np.abs(now - then), initial=0)) / max(float(np.max(np.abs(then), initial=0)), 1e-6)
        largest = max(largest, off)
        if off > TOLERANCE and first is None:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            first = f"params/{name} comes to other values, {off:.2g} of its largest one away"
    return first, len(pairs), largest
