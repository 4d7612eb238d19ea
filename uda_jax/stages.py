"""A recipe is a list of stages; a stage is one training (or one ordinary function) with a folder of its own.

Each stage's step, schedule and optimisers start at 0. A finished stage leaves a marker, so that the same
command, run again, goes on at the first unfinished one.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax import methods
from uda_jax.config import Experiment, StagePlan, Train
from uda_jax.data.domains import Domain
from uda_jax.errors import UserError
from uda_jax.report.files import write_atomically
from uda_jax.sections import build

MARKER = "finished.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
      name: its folder within the workdir.
      run: does the work: run(stage, workdir); returns what the marker shall say.
      method: the method, built from its config section.
      streams: training domains by name.
      start_from: network -> earlier stage whose final weights it starts from.
      train: steps, batch size and the rest of the loop's section.
    """

    name: str
    run: Callable[["Stage", Path], dict[str, Any]]
    method: Any
    streams: Mapping[str, Domain]
    start_from: Mapping[str, str]
    train: Train

    def folder(self, workdir: Path) -> Path:
        """Returns the stage's folder in a workdir."""
        return Path(workdir) / self.name

    def initialise(self, key: jax.Array) -> Any:
        """Returns the method's first state for batches of this stage's shapes; pure, and no frame is read."""
        example = {}
        for name, domain in self.streams.items():
            # Networks whose parameters depend on the image's size have domains that fix it.
            shape = (self.train.batch_size, *(domain.crop or domain.size or (64, 64)))
            maps = {"image": np.zeros((*shape, 3), np.uint8), "label": np.zeros(shape, np.uint8)}
            depths = {field: np.zeros(shape, np.float32) for field in ("depth", "disparity")}
            example[name] = {**maps, **depths, "index": np.zeros(shape[:1], np.int32)}
        return self.method.init(key, example)


def recipe(experiment: Experiment, runners: Mapping[str, Callable], num_classes: int) -> list[Stage]:
    """Returns the stages of an experiment, a single one called "train" unless its config lists several.

    Args:
      experiment: the validated config.
      runners: the function behind each `run` of a plan.
      num_classes: classes of the data's label space, which sizes every head.

    Raises:
      UserError: a method field that is unknown or wrong, `start_from` naming no earlier stage.
    """
    plans = experiment.stages or {"train": StagePlan()}
    stages: list[Stage] = []
    for name, plan in plans.items():
        path = f"config.stages.{name}" if experiment.stages else "config"
        earlier = [stage.name for stage in stages]
        for network, origin in (plan.start_from or {}).items():
            if origin not in earlier:
                raise UserError(f"{path}.start_from.{network}: expected an earlier stage of {earlier}, got {origin!r}")
        train = plan.train or experiment.train
        method = build_method(plan.method or experiment.method, num_classes, train, f"{path}.method")
        streams = plan.data or experiment.data
        stages.append(Stage(name, runners[plan.run], method, streams, plan.start_from or {}, train))
    return stages


def build_method(section: Mapping[str, Any], num_classes: int, train: Train, path: str) -> Any:
    """Builds a method from its config section, with what the data and the loop decide filled in.

    Args:
      section: "name" and the method's own fields.
      num_classes: classes of the label space.
      train: the loop's section: precision, accumulation, and the steps that a schedule without a horizon lasts.
      path: dotted name for messages.
    """
    fields = dict(section)
    cls = methods.get(fields.pop("name"))
    decided = {"num_classes": num_classes, "precision": train.precision, "accumulation": train.accumulation}
    for name in decided:
        if name in fields:
            where = "the data's label space" if name == "num_classes" else f"config.train.{name}"
            raise UserError(f"{path}.{name}: set by {where}; leave it out here")
    schedule = dict(fields.get("schedule") or {})
    if "schedule" in fields and schedule.get("horizon") is None:
        fields["schedule"] = schedule | {"horizon": train.steps}
    return build(cls, fields | decided, path)


def run_recipe(stages: list[Stage], workdir: Path, *, write: bool) -> dict[str, Any]:
    """Runs the stages that are not finished yet, in order.

    Args:
      stages: from `recipe`.
      workdir: holds one folder per stage.
      write: whether this process writes markers (the first one does).

    Returns:
      What the last stage's marker says.
    """
    said: dict[str, Any] = {}
    for stage in stages:
        marker = stage.folder(workdir) / MARKER
        if marker.exists():
            said = json.loads(marker.read_text())
            continue
        said = stage.run(stage, workdir)
        if write:
            write_atomically(marker, json.dumps(said) + "\n")
    return said
