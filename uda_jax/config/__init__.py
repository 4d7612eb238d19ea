"""Config files to one validated `Experiment`.

A config file defines `get_config(setting) -> ml_collections.ConfigDict`. `load` finds it, applies the
overrides of the command line with ml_collections' own typed flags, and `experiment` turns the result into
frozen dataclasses whose fields are all described and checked.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from uda_jax.config import files, overrides
from uda_jax.config.files import names as names
from uda_jax.config.overrides import as_config, one_line
from uda_jax.data.io import places
from uda_jax.data.pipeline.domains import Domain, check_name
from uda_jax.errors import UserError
from uda_jax.inference.options import Evaluation
from uda_jax.schema import config_field, from_mapping, to_dict
from uda_jax.training.precision import PRECISION_TEXT, PRECISIONS
from uda_jax.training.sharding import SHARDINGS

# The number in config.json. It rises when fields are renamed or moved, so that no older run is misread.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Train:
    """How a stage is trained: length, batch, logging, checkpoints."""

    steps: int = config_field(1000, "Batches to train on.", low=1)
    batch_size: int = config_field(4, "Global batch size of each domain.", low=1)
    accumulation: int = config_field(1, "Batches whose gradients are averaged into one update; divides steps.", low=1)
    precision: str = config_field("fp32", PRECISION_TEXT, choices=PRECISIONS)
    sharding: str = config_field(
        "replicated",
        "How the state lies on several devices: whole on each, or its large arrays, optimisers' and teachers' among "
        "them, split over them (fsdp), each brought together when a step needs it.",
        choices=SHARDINGS,
    )
    # 64 KB. Below, waiting for the devices takes longer than sending; it leaves 0.4 % of DeepLab's ResNet-101 whole.
    split_from: int = config_field(
        2**14, "Elements from which sharding=fsdp splits an array; smaller ones stay whole on every device.", low=1
    )
    workers: int = config_field(0, "Worker processes that decode and augment; 0 uses threads.", low=0)
    log_every: int = config_field(50, "Steps between two rows of metrics.", low=1)
    evaluate_every: int = config_field(
        0, "Steps between two evaluations on the dev domain; 0 = at the end only.", low=0
    )
    checkpoint_every: int = config_field(500, "Steps between two checkpoints; the last step is always saved.", low=1)
    keep_latest: int = config_field(
        2, "Checkpoints kept, counted from the last; the best on dev is kept besides.", low=1
    )
    profile: str | None = config_field(
        None, "First and last step of a trace by jax.profiler, such as 10:12; None = no trace."
    )

    @property
    def profiled_steps(self) -> range:
        """The steps of the trace, which may be none."""
        first, _, last = (self.profile or "1:0").partition(":")
        return range(int(first), int(last) + 1)

    def check(self, path: str) -> None:
        if self.steps % self.accumulation:
            raise UserError(f"{path}.accumulation: expected a divisor of steps ({self.steps}), got {self.accumulation}")
        if self.profile is None:
            return
        steps = self.profiled_steps if re.fullmatch("[0-9]+:[0-9]+", self.profile) else range(0)
        if not (steps and 1 <= steps[0] and steps[-1] <= self.steps):
            raise UserError(
                f"{path}.profile: expected the first and the last step of a trace within 1:{self.steps}, such as "
                f"10:12, got {self.profile!r}"
            )


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """Where a network's first weights come from, instead of random ones."""

    path: str | None = config_field(
        None,
        "A .pth, .safetensors or other PyTorch checkpoint, a folder that 'uda convert' wrote, or the workdir of a run; "
        "any of them may lie in a bucket (s3://, gs://). Or a name of 'uda weights list', whose file is fetched once. "
        "None or an empty path = random.",
    )
    fresh: tuple[str, ...] = config_field(
        (), "Parts that start at random all the same, such as ('head', 'aux_head') for a file of other classes."
    )
    dialect: str | None = config_field(None, "Family of the checkpoint; None tells it from the names in the file.")
    which: str = config_field("student", "Network of a file that holds two.", choices=("student", "teacher"))
    step: str = config_field(
        "last", "Checkpoint of a run: last, best on its dev split, or the number of a step that it kept."
    )
    domain: str | None = config_field(
        None, "Batch norms of a file that has them per domain.", choices=("source", "target", None)
    )

    def check(self, path: str) -> None:
        if self.path:
            places.place(self.path, f"{path}.path")
        if self.step not in ("last", "best") and not self.step.isdecimal():
            raise UserError(f"{path}.step: expected last, best or a step, got {self.step!r}")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of a recipe; what it leaves out it takes from the experiment."""

    kind: dict[str, Any] = config_field(
        {"name": "train"}, "What the stage does, a file of uda_jax/runs/kinds by its name, and that kind's own fields."
    )
    method: dict[str, Any] | None = config_field(None, "The stage's own method section.")
    data: dict[str, Domain] | None = config_field(None, "The stage's own domains.")
    train: Train | None = config_field(None, "The stage's own train section.")
    init_from: dict[str, InitFrom] | None = config_field(None, "The stage's own files of first weights.")
    start_from: dict[str, str] | None = config_field(
        None,
        "Network name -> earlier stage whose weights it starts from: stage, stage.network, or either followed by @best "
        "or by @ and a step that was kept; without it what evaluation.selection names.",
    )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole run: one method (or a recipe of stages) on one benchmark."""

    label: str = config_field("", "Row name in tables, such as source_only or advent.")
    benchmark: str = config_field("", "Benchmark name in tables, such as streets.")
    seed: int = config_field(0, "Seed of initialisation, data order and device randomness.", low=0)
    method: dict[str, Any] = config_field(None, "The method's name and its own fields.")
    data: dict[str, Domain] = config_field(None, "Training domains by name: source, labelled_target, target.")
    train: Train = config_field(Train(), "The training loop.")
    evaluation: Evaluation = config_field(Evaluation(), "Scoring.")
    init_from: dict[str, InitFrom] = config_field(
        {"segmenter": InitFrom()}, "Network name -> file of weights that it starts from."
    )
    stages: dict[str, StageConfig] | None = config_field(None, "Stages by name; left out for a single one.")
    # Config files keep their sections in no order.
    recipe: tuple[str, ...] = config_field((), "Names of the stages in the order in which they run.")

    def check(self, path: str) -> None:
        if not self.method or "name" not in self.method:
            raise UserError(f"{path}.method.name: expected a method's name, got nothing")
        if not self.data:
            raise UserError(f"{path}.data: expected at least one training domain, got none")
        if sorted(self.recipe) != sorted(self.stages or ()):
            raise UserError(
                f"{path}.recipe: expected every stage of {sorted(self.stages or ())} once, got {list(self.recipe)}"
            )
        for name in self.data:
            check_name(name, f"{path}.data")


def load(reference: str, words: Sequence[str] = ()) -> ConfigDict:
    """Loads a config file and applies overrides.

    Args:
      reference: `advent:streets` (a packaged file and its setting) or `path/to/file.py:setting`.
      words: overrides of the command line, such as `--config.train.steps=100`.

    Returns:
      The locked config.

    Raises:
      UserError: no such config or setting, an unknown field, a value of the wrong type.
    """
    config = files.read(reference)
    if words:
        override(config, words)
    return config


def override(config: ConfigDict, words: Sequence[str]) -> None:
    """Applies words such as "--config.train.steps=100" to an experiment's config; see `overrides.apply`."""
    overrides.apply(config, words, Experiment)


def update(config: ConfigDict, path: str, value: Any) -> None:
    """Sets a field of an experiment's config by its dotted path, as in `update(config, "train.steps", 90_000)`.

    It does what the override `--config.train.steps=90000` would do, the name of a network or of an optimiser, which
    decides its section's other fields, included.

    Raises:
      UserError: an unknown field, with the closest known one, or a value of another type.
    """
    overrides.set_field(config, path, value, Experiment)


def with_method(experiment: Experiment, name: str, method: Any) -> ConfigDict:
    """Returns the config of a benchmark with a method, less the fields that the data and the loop decide."""
    section = named(name, method, without=("num_classes", "precision", "accumulation"))
    return as_config(dataclasses.replace(experiment, method=section))


def named(name: str, section: Any, *, without: Sequence[str] = ()) -> ConfigDict:
    """Returns a section beside its name, as the fields `method` and `kind` hold it."""
    entries = as_config(section, without=without)
    entries.name = name
    return entries


def experiment(config: ConfigDict | Mapping[str, Any]) -> Experiment:
    """Turns a config into its validated dataclass; raises UserError naming the first wrong field."""
    return from_mapping(Experiment, config.to_dict() if isinstance(config, ConfigDict) else config)


def to_json(value: Experiment) -> str:
    """Returns the experiment as readable JSON, the text of `config.json`: its fields and the format's number."""
    return json.dumps({"format": FORMAT} | to_dict(value), indent=1, sort_keys=True) + "\n"


def to_plain(value: Experiment) -> dict[str, Any]:
    """Returns the experiment as plain JSON values, in which two of them can be compared."""
    return json.loads(json.dumps(to_dict(value)))


def from_json(path: Path) -> Experiment:
    """Reads a `config.json` back; raises UserError for another file, or one of another version's format."""
    try:
        stored = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        found = error.strerror.lower() if isinstance(error, OSError) else f"no JSON ({one_line(error)})"
        raise UserError(
            f"{path}: expected the config of a run, found {found}; is this a workdir of uda train?"
        ) from error
    if not isinstance(stored, dict):
        raise UserError(f"{path}: expected the config of a run, found {stored!r}; is this a workdir of uda train?")
    check_format(stored.pop("format", 1), path)
    return from_mapping(Experiment, stored, path=str(path))


def check_format(found: Any, path: Path) -> None:
    """Raises a UserError unless this version of the library reads what another version may have written."""
    if found != FORMAT:
        raise UserError(
            f"{path}: expected format {FORMAT}, got {found}, of another version of uda_jax, whose fields have other "
            "names; train anew in another workdir, or use the version that wrote it"
        )


def with_overrides(value: Experiment, words: Sequence[str], allowed_fields: Sequence[str], what: str) -> Experiment:
    """Returns the experiment of a finished run with some fields changed that still have an effect.

    Args:
      value: what the run was trained with.
      words: overrides such as "--config.evaluation.batch_size=2".
      allowed_fields: the fields and sections that have an effect, such as "evaluation.batch_size".
      what: what they have an effect on, for messages.

    Raises:
      UserError: an unknown field, a wrong value, or a field that has no effect.
    """
    stored = as_config(value)
    for word in words:
        override(stored, [word])
        name = word.partition("=")[0].removeprefix("--config.")
        if not any(name == field or name.startswith(f"{field}.") for field in allowed_fields):
            known = " or ".join(f"config.{field}" for field in allowed_fields)
            remedy = f"set {known}, or leave it out" if known else "leave it out"
            raise UserError(f"config.{name}: {what} cannot change with it any more; {remedy}")
    return experiment(stored)
