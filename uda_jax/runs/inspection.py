"""What a run's checkpoints hold, told from their metadata: no data set and no array is read."""

import contextlib
import math
from typing import Any

import jax

from uda_jax.errors import UserError
from uda_jax.runs import instruments
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import StageFiles


def describe(workdir: Workdir, stage: str | None = None, step: str | int = "last", *, full: bool = False) -> str:
    """Describes a run, and one checkpoint of it.

    Args:
      workdir: the run's.
      stage: whose checkpoint; None = the last stage that has one.
      step: "last", "best" on the dev domain, or a step.
      full: whether every parameter is listed with its shape and type.

    Returns:
      Lines: every stage with the steps it keeps; then each network, the teacher, what is frozen, the optimisers and
      whatever else the state holds, with the number of values and their size.

    Raises:
      UserError: no run, no such stage or checkpoint, or one that another version wrote.
    """
    names = workdir.experiment().recipe or ("train",)
    if stage is not None and stage not in names:
        raise UserError(f"--stage {stage}: the run has no such stage, only {', '.join(names)}")
    stages = {name: workdir.stage(name) for name in names}
    lines = [f"{name}: {_progress(files)}" for name, files in stages.items()]
    stored = [name for name, files in stages.items() if files.checkpoints.is_dir()]
    if stage is None and not stored:
        return "\n".join(lines)
    files = stages[stage or stored[-1]]
    if not files.checkpoints.is_dir():
        raise UserError(f"{files.path}: no checkpoint yet; train it first")
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        number = checkpoints.resolve(step)
        checkpoints.notes(number)  # Refuses another version's.
        state = checkpoints.shapes(number)
    lines += ["", f"{files.path.name}, step {number}: {instruments.parameter_line(state['params'])}"]
    lines += [f"  {name:32} {count:>14,} values {size:>16,} bytes" for name, count, size in _parts(state)]
    if full:
        lines += ["", instruments.parameter_table(state["params"])]
    return "\n".join(lines)


def _progress(files: StageFiles) -> str:
    """Returns how far a stage is and which steps it keeps."""
    done = "finished" if files.finished.exists() else "not finished"
    if not files.checkpoints.is_dir():
        return done
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        steps, best = checkpoints.all_steps(), checkpoints.best_step()
    kept = ", ".join(f"{step} (best)" if step == best else str(step) for step in steps)
    return f"{done}, checkpoints of steps {kept}" if steps else f"{done}, no checkpoint"


def _parts(state: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Returns (name, number of values, bytes) of every part of a state that holds something."""
    parts: dict[str, Any] = {}
    for field, text in (("params", "{}"), ("model_state", "statistics of {}"), ("opt_state", "optimiser of {}")):
        parts |= {text.format(name): tree for name, tree in (state.get(field) or {}).items()}
    parts |= {f"frozen {name}": tree for name, tree in (state.get("frozen") or {}).items()}
    parts |= {"teacher": state.get("teacher")}
    parts |= {f"extra {name}": tree for name, tree in (state.get("extra") or {}).items()}
    sized = [(name, [leaf for leaf in jax.tree.leaves(tree) if leaf.shape is not None]) for name, tree in parts.items()]
    return [
        (name, sum(map(_count, leaves)), sum(_count(leaf) * leaf.dtype.itemsize for leaf in leaves))
        for name, leaves in sized
        if leaves
    ]


def _count(leaf: Any) -> int:
    return math.prod(leaf.shape)
