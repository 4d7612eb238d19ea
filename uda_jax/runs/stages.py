"""A recipe is a list of stages; a stage is one training (or one ordinary function) with a folder of its own.

Each stage's step, schedule and optimisers start at 0. A finished stage leaves a marker, so that the same
command, run again, goes on at the first unfinished one.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax import methods
from uda_jax.config import Experiment, InitFrom, StagePlan, Train
from uda_jax.data.base import MAPS
from uda_jax.data.io import atomic
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.schema import from_mapping

MARKER = "finished.json"

# In a domain of a stage, the folder of the run: what an earlier stage wrote is only found there.
WORKDIR = "{workdir}"
HARD_LIST = "hard.txt"


class Stopped(Exception):
    """The run was asked to stop (SIGTERM) and has saved its state."""


class Start(NamedTuple):
    """Where a network's first weights come from: an earlier stage's network, which may bear another name."""

    stage: "Stage"
    network: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
      name: its folder within the workdir.
      kind: what it does, see `StagePlan.run`.
      run: does the work: run(stage, workdir); returns what the marker shall say.
      method: the method, built from its config section.
      streams: training domains by name; see `domains`.
      init_from: network -> the file of weights that it starts from, unless an earlier stage gives them.
      start_from: network -> the network of an earlier stage whose final weights it starts from.
      train: steps, batch size and the rest of the loop's section.
    """

    name: str
    kind: str
    run: Callable[["Stage", Path], dict[str, Any]] | None
    method: Any
    streams: Mapping[str, Domain]
    init_from: Mapping[str, InitFrom]
    start_from: Mapping[str, Start]
    train: Train

    def folder(self, workdir: Path) -> Path:
        """Returns the stage's folder in a workdir."""
        return Path(workdir) / self.name

    def domains(self, workdir: Path) -> dict[str, Domain]:
        """Returns the streams' domains with the files of earlier stages found in a workdir."""
        place = lambda path: path and path.replace(WORKDIR, str(workdir))  # noqa: E731
        return {
            name: dataclasses.replace(
                domain, names_file=place(domain.names_file), labels_from=place(domain.labels_from)
            )
            for name, domain in self.streams.items()
        }

    def initialise(self, key: jax.Array) -> Any:
        """Returns the method's first state for batches of this stage's shapes; pure, and no frame is read."""
        return self.method.init(key, self.example())

    def example(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns a batch of this stage's shapes with every map that a frame may have, all zeros."""
        example = {}
        for name, domain in self.streams.items():
            # Networks whose parameters depend on the image's size have domains that fix it.
            size, batch = domain.crop or domain.size or (64, 64), (self.train.batch_size,)
            maps = {field: np.zeros(spec.shape(size, batch), spec.dtype) for field, spec in MAPS.items()}
            example[name] = {**maps, "index": np.zeros(batch, np.int32)}
        return example


def recipe(experiment: Experiment, runners: Mapping[str, Callable], num_classes: int) -> list[Stage]:
    """Returns the stages of an experiment, a single one called "train" unless its config lists several.

    Args:
      experiment: the validated config.
      runners: the function behind each `run` of a plan; none are needed to open what a run has left.
      num_classes: classes of the data's label space, which sizes every head.

    Raises:
      UserError: a method field that is unknown or wrong, `start_from` naming no earlier stage, a recipe that ends
        without training or ranks without a rank section.
    """
    plans = {name: experiment.stages[name] for name in experiment.recipe} or {"train": StagePlan()}
    stages: list[Stage] = []
    for name, plan in plans.items():
        path = f"config.stages.{name}" if experiment.stages else "config"
        start_from = {
            network: _start(origin, network, stages, f"{path}.start_from")
            for network, origin in (plan.start_from or {}).items()
        }
        if plan.run == "rank" and (experiment.rank is None or "segmenter" not in start_from):
            missing = "config.rank" if experiment.rank is None else f"{path}.start_from.segmenter"
            raise UserError(f"{missing}: expected a value, since stage {name} ranks frames, got None")
        train = plan.train or experiment.train
        method = build_method(plan.method or experiment.method, num_classes, train, f"{path}.method")
        domains = dict(plan.data or experiment.data)
        if experiment.rank and experiment.rank.fraction == 1:
            # No frame is hard then, and what is left of the adaptation is self-training.
            domains = {key: domain for key, domain in domains.items() if not _is_hard_split(domain)}
        runner = runners.get(plan.run)
        init_from = experiment.init_from if plan.init_from is None else plan.init_from
        stages.append(Stage(name, plan.run, runner, method, domains, init_from or {}, start_from, train))
    if stages[-1].kind != "train":
        raise UserError(f"config.stages.{stages[-1].name}.run: expected 'train' in the last stage, got {plan.run!r}")
    return stages


def _start(origin: str, network: str, earlier: list[Stage], path: str) -> Start:
    """Finds what "stage" or "stage.network" names."""
    stage_name, _, other = origin.partition(".")
    trained = {stage.name: stage for stage in earlier if stage.kind == "train"}
    if stage_name not in trained:
        raise UserError(f"{path}.{network}: expected an earlier stage that trains, of {list(trained)}, got {origin!r}")
    return Start(trained[stage_name], other or network)


def _is_hard_split(domain: Domain) -> bool:
    return bool(domain.names_file) and WORKDIR in domain.names_file and Path(domain.names_file).name == HARD_LIST


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
    return from_mapping(cls, fields | decided, path)


def run_recipe(stages: list[Stage], workdir: Path, *, write: bool) -> dict[str, dict[str, Any]]:
    """Runs the stages that are not finished yet, in order.

    Args:
      stages: from `recipe`.
      workdir: holds one folder per stage.
      write: whether this process writes markers (the first one does).

    Returns:
      What each stage's marker says, by the stage's name.
    """
    said: dict[str, dict[str, Any]] = {}
    for stage in stages:
        marker = stage.folder(workdir) / MARKER
        if marker.exists():
            said[stage.name] = json.loads(marker.read_text())
            continue
        said[stage.name] = stage.run(stage, workdir)
        if write:
            atomic.write(marker, json.dumps(said[stage.name]) + "\n")
    return said
