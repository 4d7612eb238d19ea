"""What a workdir may be used for besides going on with its own run: a run anew, or the same run for longer.

A run that ended before it saved anything has nothing to lose, so that its folder may be used with any config. A run
that is finished goes on if nothing but the length of its last stage has grown.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import mirrors
from uda_jax.runs.stages import Stage
from uda_jax.runs.workdir import Workdir, longer, steps_field
from uda_jax.training.layout import StageFiles

# The run itself; another one in place of one that has saved nothing; the same one with a longer last stage.
SAME, ANEW, LONGER = "same", "anew", "longer"


def check(workdir: Workdir, experiment: Experiment, classes: Sequence[str]) -> str:
    """Returns what a workdir is used for, `SAME`, `ANEW` or `LONGER`.

    Args:
      workdir: the folder, which need not be there.
      experiment: what is asked for.
      classes: the names of the data's classes, in the order of the label values.

    Raises:
      UserError: it holds another run, which has saved something; see `Workdir.check`.
    """
    if workdir.config.exists():
        old, new = config.to_plain(workdir.experiment()), config.to_plain(experiment)
        if saves_nothing(workdir):
            return ANEW
        if longer(old, new):
            workdir.check_classes(classes)
            return LONGER
    workdir.check(experiment, classes)
    return SAME


def saves_nothing(workdir: Workdir) -> bool:
    """Returns whether a run has left neither a checkpoint nor anything else that a rerun could go on from."""
    return not workdir.result.exists() and not any(map(_saves_something, workdir.stages()))


def _saves_something(files: StageFiles) -> bool:
    logs = (files.metrics, files.parameters, files.nonfinite, files.illustrations, files.profile, files.frozen)
    for path in files.path.iterdir():
        if path in logs or path.name == f"{files.frozen.name}.checksums.json" or path.name.startswith("events."):
            continue
        # What Orbax has not finished bears no number.
        if path in (files.checkpoints, files.unscored) and not any(step.name.isdecimal() for step in path.iterdir()):
            continue
        return True
    return False


def is_done(stage: Stage, recipe: Sequence[Stage], workdir: Workdir, how: str) -> bool:
    """Returns whether a stage of a run is finished and stays so."""
    return workdir.stage(stage.name).finished.exists() and not (how == LONGER and stage is recipe[-1])


def begin(workdir: Workdir, recipe: Sequence[Stage], how: str) -> None:
    """Takes away what would keep the run from going on so; broken off and called again, it comes to the same.

    Args:
      workdir: the folder, whose lock is held.
      recipe: the stages of what is asked for.
      how: from `check`.
    """
    last = workdir.stage(recipe[-1].name)
    gone = {
        SAME: (),
        ANEW: (*(files.path for files in workdir.stages()), workdir.data),
        # In this order: without a marker the stage goes on, whatever is still there.
        LONGER: (workdir.receipt, workdir.result, last.receipt, last.finished),
    }
    for path in gone[how]:
        mirrors.remove(path)


def notes(workdir: Workdir, experiment: Experiment, recipe: Sequence[Stage], how: str) -> list[str]:
    """Returns lines on how the workdir is used; called before `begin`."""
    if how == ANEW and config.to_plain(workdir.experiment()) != config.to_plain(experiment):
        return [f"note: {workdir.path}: the run there has saved no checkpoint, so that this one takes its place"]
    if how != LONGER:
        return []
    before = _at(config.to_plain(workdir.experiment()), steps_field(config.to_plain(experiment)))
    last = recipe[-1]
    told = f"note: stage {last.name}: goes on from {before} to {last.train.steps} steps; "
    own = experiment.stages[last.name].method if experiment.stages else None
    written = ((own or experiment.method).get("schedule") or {}).get("horizon")
    schedule = getattr(last.method, "schedule", None)
    if schedule is None or schedule.name == "constant":
        return [f"{told}the learning rate is constant"]
    if written is None:
        return [
            f"{told}its learning rate decays over all of them, so that it rises again at step {before}, and the result "
            "is not that of so many steps at one go"
        ]
    if written < last.train.steps:
        return [f"{told}the learning rate is 0 from step {written} on, the schedule's horizon; raise that as well"]
    return [f"{told}the learning rate goes on as its horizon of {written} steps has it"]


def _at(plain: Mapping[str, Any], path: Sequence[str]) -> Any:
    return functools.reduce(lambda node, name: node[name], path, plain)
