"""A recipe is a list of stages; a stage is one training (or another kind of work) with a folder of its own.

Each stage's step, schedule and optimisers start at 0. A finished stage leaves a marker, so that the same
command, run again, goes on at the first unfinished one.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax import config, methods
from uda_jax.config import Evaluation, Experiment, InitFrom, StageConfig, Train
from uda_jax.data.base import MAPS
from uda_jax.data.contents import Contents
from uda_jax.data.io import atomic, mirrors
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pipeline import domains, streams
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.runs import kinds
from uda_jax.runs.kinds.base import Kind, wait_for_all
from uda_jax.runs.late_files import WORKDIR, before_the_run, placed
from uda_jax.runs.signals import Stop
from uda_jax.runs.signals import Stopped as Stopped  # what stages raise
from uda_jax.runs.workdir import Identity, Workdir, read_json
from uda_jax.schema import from_mapping
from uda_jax.training.initialisation import Traced, trace


@dataclasses.dataclass(frozen=True)
class Context:
    """What the stages of one run share.

    Attributes:
      experiment: the validated config.
      mesh: the device mesh.
      space: the label space of the data.
      stop: whether the run was asked to stop, asked after every step: a `signals.Stop`, or any function.
      evaluators: by stage and field, "final" or "dev", those of its splits by name; opened once.
      evaluation_steps: by stage, the compiled function that its evaluators share.
      measurers: by stage, what measures its states without labels.
      trained: the last state of the stage that ran last, by the stage's name, if it trained in this process.
      steps: by stage, the batch that its step was compiled for, and the step, until the stage takes it.
      ignore_memory: whether steps start all the same that take more memory than there is.
      contents: reads the files of data for receipts, each once.
    """

    experiment: Experiment
    mesh: jax.sharding.Mesh
    space: LabelSpace
    stop: Callable[[], bool]
    evaluators: dict[tuple[str, str], dict[str, Any]] = dataclasses.field(default_factory=dict)
    evaluation_steps: dict[str, Callable] = dataclasses.field(default_factory=dict)
    measurers: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    ignore_memory: bool = False
    contents: Contents = dataclasses.field(default_factory=Contents)

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [C, 3]."""
        return self.space.palette

    @property
    def identity(self) -> Identity:
        """What tells the run from others."""
        return Identity(config.to_plain(self.experiment), self.space.names)

    @functools.cached_property
    def guard(self) -> Stop:
        """What `stop` is, with all that it can do."""
        return self.stop if isinstance(self.stop, Stop) else Stop(polled=self.stop)

    def leave_if_asked(self) -> None:
        """Raises what ends a run that was asked to stop; every process has to call it equally often."""
        if self.guard.point():
            raise self.guard.leaving()

    @property
    def first_process(self) -> bool:
        """Whether this process writes the logs."""
        return jax.process_index() == 0


class StartFrom(NamedTuple):
    """Where a network's first weights come from.

    Attributes:
      stage: an earlier stage.
      network: its network, which may bear another name.
      step: which of its checkpoints, "last", "best" or a step.
    """

    stage: "Stage"
    network: str
    step: str | int


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
      name: its folder within the workdir.
      kind: what it does, with the fields of that kind.
      method: the method, built from its config section.
      domains: training domains by name; see `domains_in`.
      init_from: network -> the file of weights that it starts from, unless an earlier stage gives them.
      start_from: network -> the network of an earlier stage whose weights it starts from.
      train: steps, batch size and the rest of the loop's section.
    """

    name: str
    kind: Kind
    method: Any
    domains: Mapping[str, Domain]
    init_from: Mapping[str, InitFrom]
    start_from: Mapping[str, StartFrom]
    train: Train

    def domains_in(self, workdir: Workdir) -> dict[str, Domain]:
        """Returns the domains with the files of earlier stages found in a workdir."""
        return {name: placed(domain, str(workdir.path)) for name, domain in self.domains.items()}

    def stream(self, found: Mapping[str, Domain], seed: int) -> streams.TrainStream:
        """Returns the batches of this process, of the domains that `domains_in` has found."""
        options = {"global_batch": self.train.batch_size, "workers": self.train.workers, "seed": seed}
        options |= {"process_index": jax.process_index(), "process_count": jax.process_count()}
        return streams.train_stream(found, **options)

    def initialise(self, key: jax.Array) -> Any:
        """Returns the method's first state for batches of this stage's shapes; pure, and no frame is read."""
        return self.method.init(key, self.example())

    @functools.cached_property
    def first_state(self) -> Traced:
        """What `initialise` draws, traced once for all who ask for shapes and for the one who draws."""
        return trace(self.initialise)

    def example(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns a batch of this stage's shapes with every map that a frame may have, all zeros."""
        example = {}
        for name, domain in self.domains.items():
            # Networks whose parameters depend on the image's size have domains that fix it.
            size, batch = domain.crop or domain.size or (64, 64), (self.train.batch_size,)
            maps = {field: np.zeros(spec.shape(size, batch), spec.dtype) for field, spec in MAPS.items()}
            example[name] = {**maps, "index": np.zeros(batch, np.int32)}
        return example


def recipe(experiment: Experiment, num_classes: int) -> list[Stage]:
    """Returns the stages of an experiment, a single one called "train" unless its config lists several.

    Args:
      experiment: the validated config.
      num_classes: classes of the data's label space, which sizes every head.

    Raises:
      UserError: a field of a method or kind that is unknown or wrong, `start_from` naming no earlier stage, a recipe
        that ends without training.
    """
    stages: list[Stage] = []
    for name, stage_config in (_configs(experiment) or {"train": StageConfig()}).items():
        path = f"config.stages.{name}" if experiment.stages else "config"
        kind = dict(stage_config.kind)
        kind_class = kinds.get(kind.pop("name", "train"), f"{path}.kind")
        train = stage_config.train or experiment.train
        init_from = experiment.init_from if stage_config.init_from is None else stage_config.init_from
        stages.append(
            Stage(
                name=name,
                kind=from_mapping(kind_class, kind, f"{path}.kind"),
                method=build_method(stage_config.method or experiment.method, num_classes, train, f"{path}.method"),
                domains=_domains_with_frames(stage_config.data or experiment.data, stages),
                init_from=init_from or {},
                start_from={
                    network: _start_from(text, network, stages, f"{path}.start_from", experiment.evaluation)
                    for network, text in (stage_config.start_from or {}).items()
                },
                train=train,
            )
        )
        if stages[-1].kind.TRAINS:
            methods.check_domains(stages[-1].method, stages[-1].domains, f"{path}.data")
    if not (last := stages[-1]).kind.TRAINS:
        got = experiment.stages[last.name].kind["name"]
        raise UserError(f"config.stages.{last.name}.kind.name: expected 'train' in the last stage, got {got!r}")
    return stages


def _configs(experiment: Experiment) -> dict[str, StageConfig]:
    return {name: experiment.stages[name] for name in experiment.recipe}


def _start_from(text: str, network: str, earlier: Sequence[Stage], path: str, section: Evaluation) -> StartFrom:
    """Finds what "stage", "stage.network" or either of them followed by "@step" names."""
    name, at, step = text.partition("@")
    stage_name, _, other = name.partition(".")
    trained = {stage.name: stage for stage in earlier if stage.kind.TRAINS}
    if stage_name not in trained:
        raise UserError(f"{path}.{network}: expected an earlier stage that trains, of {list(trained)}, got {text!r}")
    if at and not (step in ("last", "best") or step.isdecimal()):
        raise UserError(f"{path}.{network}: expected last, best or a step after '@', got {text!r}")
    if step == "best" and section.best_by is None and not section.splits("dev"):
        raise UserError(
            f"{path}.{network}: the best checkpoint is chosen on config.evaluation.dev, which is None; set it"
        )
    step = int(step) if step.isdecimal() else step or section.chosen_step
    return StartFrom(trained[stage_name], other or network, step)


def _domains_with_frames(data: Mapping[str, Domain], earlier: Sequence[Stage]) -> dict[str, Domain]:
    """Returns the domains less those whose frames an earlier stage is known to list in an empty file."""
    empty = {f"{WORKDIR}/{stage.name}/{file}" for stage in earlier for file in stage.kind.empty_lists()}
    found = {name: _with_frames(domain, empty) for name, domain in data.items()}
    return {name: domain for name, domain in found.items() if domain is not None}


def _with_frames(domain: Domain, empty: Collection[str]) -> Domain | None:
    """Returns a domain less the parts of its mixture whose list of frames is empty; None if none is left."""
    mix = {name: member for name, member in (domain.mix or {}).items() if member.names_file not in empty}
    if domain.names_file not in empty:
        return dataclasses.replace(domain, mix=mix or None)
    if not mix:
        return None
    name = next(iter(mix))
    return dataclasses.replace(mix.pop(name), mix=mix or None)


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
    if "num_classes" not in {field.name for field in dataclasses.fields(cls)}:
        del decided["num_classes"]  # A method of depth alone has no classes.
    for name in decided:
        if name in fields:
            where = "the data's label space" if name == "num_classes" else f"config.train.{name}"
            raise UserError(f"{path}.{name}: set by {where}; leave it out here")
    schedule = dict(fields.get("schedule") or {})
    if "schedule" in fields and schedule.get("horizon") is None:
        fields["schedule"] = schedule | {"horizon": train.steps}
    return from_mapping(cls, fields | decided, path)


def label_space(experiment: Experiment) -> LabelSpace:
    """Returns the label space that the evaluation splits and all training domains with labels must share."""
    space, path = None, ""
    for which in ("final", "dev"):
        for split, domain in experiment.evaluation.splits(which).items():
            where = experiment.evaluation.path(which, split)
            # Scored or not, see `Evaluator.scored`.
            found = domains.open_domain(dataclasses.replace(domain, fields=("image",)), where).label_space
            # A video knows no classes but those that it is given.
            space, path = (space, path) if space and space.names else (found, where)
            if found.names and found.names != space.names:
                raise UserError(
                    f"{where}: expected the classes of {path} {list(space.names)}, got {list(found.names)}; give both "
                    "the same label_space"
                )
    sections = [experiment.data, *(stage.data for stage in _configs(experiment).values() if stage.data)]
    opened: list[Domain] = []
    for name, domain in (item for section in sections for item in section.items()):
        if domain in opened:  # the stages of a recipe share their domains
            continue
        opened.append(domain)
        found = domains.open_domain(before_the_run(domain), f"config.data.{name}").label_space
        space = space if space.names else found
        if "label" in domain.fields and found.names != space.names:
            raise UserError(
                f"config.data.{name}: expected the classes of {path} {list(space.names)}, "
                f"got {list(found.names)}; give both the same label_space"
            )
    return space


def run_recipe(
    recipe: Sequence[Stage], workdir: Workdir, context: Context, ended: Callable[..., None] = lambda *_: None
) -> dict[str, dict[str, Any]]:
    """Runs the stages that are not finished yet, in order, and calls `ended` with each before its marker is written.

    Returns what each stage's marker says, by the stage's name.
    """
    results: dict[str, dict[str, Any]] = {}
    for stage in recipe:
        marker: Path = workdir.stage(stage.name).finished
        if marker.exists():
            results[stage.name] = _stored_result(marker, trains=stage.kind.TRAINS)
            continue
        context.trained.clear()  # Its memory is the next stage's.
        context.guard.doing = f"in stage {stage.name}"
        context.guard.saved = functools.partial("what stage {} has written is kept".format, stage.name)
        if not stage.kind.TRAINS:
            mirrors.fetch(marker.parent)  # What an interrupted attempt has left, it counts by its files.
        results[stage.name] = stage.kind.run(stage, workdir, context)
        # What comes later reads what all processes have written.
        wait_for_all(f"{stage.name} is done", marker.parent, all_files=not stage.kind.TRAINS)
        ended(stage, workdir, context)
        if context.first_process:
            atomic.write(marker, json.dumps(results[stage.name]) + "\n")
    return results


def _stored_result(marker: Path, *, trains: bool) -> dict[str, Any]:
    """Returns what a finished stage's marker says; raises a UserError if it is damaged."""
    remedy = "delete it and rerun the same command, which goes on from what the stage's folder holds"
    found = read_json(marker, remedy)
    names = ("seconds", "step", "best") if trains else ("seconds",)
    if not isinstance(found, dict) or not set(names) <= found.keys() or not isinstance(found["seconds"], (int, float)):
        raise UserError(f"{marker}: expected {', '.join(names)} of a finished stage, found other things; {remedy}")
    return found
