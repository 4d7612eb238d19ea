"""Workdirs: what a run keeps on disk, and whether another run may go on there.

A workdir holds config.json, label_space.json, data.json, one folder per stage (checkpoints/, metrics.jsonl, TensorBoard
events, finished.json ...), pictures/, confusion.json and, once everything is done, result.json.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import atomic, mirrors
from uda_jax.data.labels import label_spaces
from uda_jax.errors import DiskFull, UserError
from uda_jax.training.layout import RunFiles

# Fields that may differ between runs that continue each other: they change what is logged, or where arrays lie and how
# long, not what is learnt.
FREE_FIELDS = frozenset(
    (
        ("train", "log_every"),
        ("train", "workers"),
        ("train", "keep_latest"),
        ("train", "profile"),
        ("train", "sharding"),
        ("train", "split_from"),
        ("method", "segmenter", "remat"),
        ("evaluation", "pictures"),
    )
)
# Fields of `evaluation` that decide which checkpoint is the best, and so belong to the training; and those that do
# where the best one is what the run reports.
_CHOOSING_FIELDS = ("dev", "headline", "selection", "best_by")
_REPORTING_FIELDS = ("final", "protocol", "inference")

# What a run is called by, which no stage depends on.
_NAMES = ("label", "benchmark")
# Sections of the run that a stage may have of its own.
_INHERITED = ("method", "data", "train")

# Room for what Orbax and the logs write beside the state's own bytes.
_SPARE_BYTES = 8_000_000


class Identity(NamedTuple):
    """What tells one run from another.

    Attributes:
      experiment: its config as a plain dict.
      classes: the names of its classes, in the order of the label values.
    """

    experiment: dict[str, Any]
    classes: tuple[str, ...]


class Workdir(RunFiles):
    """The folder of a run: its files by name, see `RunFiles`, and what is written before the first stage."""

    def check(self, experiment: Experiment, classes: Sequence[str]) -> None:
        """Raises a UserError if the workdir belongs to a run of another experiment or of other classes.

        Args:
          experiment: what is asked for. How a run is scored may change until it has a result.
          classes: the names of the data's classes, in the order of the label values.
        """
        check_path(self.path, "--workdir")
        if not self.config.exists():
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"--workdir {self.path}: expected a folder, found a file")
            return
        old, new = config.to_plain(self.experiment()), config.to_plain(experiment)
        if found := difference(old, new, scoring_may_change=not self.result.exists()):
            field, before, after = found
            raise UserError(
                f"--workdir {self.path}: holds a run with {field} = {before!r}, asked for {after!r}; use the same "
                "config or another workdir"
            )
        self.check_classes(classes)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises a UserError if the workdir belongs to a run of other classes."""
        # Without the file, the checkpoints tell.
        if self.label_space.exists() and (found := list(self.classes().names)) != list(classes):
            raise UserError(
                f"--workdir {self.path}: holds a run with classes {found}, asked for {list(classes)}; use another "
                "workdir, or give the data the run's classes"
            )

    def check_data(self, fingerprints: Mapping[str, Any]) -> None:
        """Raises a UserError if the run was trained on other frames.

        Args:
          fingerprints: from `fingerprints.of_domains`.
        """
        old = self.fingerprints()
        for path, new in fingerprints.items():
            if (found := old.get(path, new)) != new:
                before = found.get("frames") if isinstance(found, dict) else "no"
                raise UserError(
                    f"--workdir {self.path}: holds a run that was trained on other files of {path}, {before} frames "
                    f"then and {new['frames']} now; put them back, or use another workdir"
                )

    def fingerprints(self) -> dict[str, Any]:
        """Returns those of the run's training frames, as far as they are known."""
        if not self.data.exists():
            return {}
        remedy = "delete it and rerun the same command, which writes it again"
        found = read_json(self.data, remedy)
        if not isinstance(found, dict):
            raise UserError(f"{self.data}: expected the frames of domains, found other things; {remedy}")
        return found

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keeps a second training out of the workdir, which is made; the lock of a process that died is gone.

        What is written into the mirror of a bucket's folder gets there while the lock is held.
        """
        return mirrors.locked(self.path, "--workdir", "uda train")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Lets a process write where another holds the lock; what it wrote into its own mirror gets into the bucket."""
        yield
        mirrors.share(self.path)

    def prepare(
        self, experiment: Experiment, space: label_spaces.LabelSpace, fingerprints: Mapping[str, Any] | None = None
    ) -> None:
        """Makes the workdir and writes what a later command needs to open it."""
        self.path.mkdir(parents=True, exist_ok=True)
        check_space(self.path, 0)
        if fingerprints is not None:
            atomic.write(self.data, json.dumps({**self.fingerprints(), **fingerprints}, indent=1) + "\n")
        atomic.write(self.label_space, json.dumps(space._asdict()))
        atomic.write(self.config, config.to_json(experiment))

    def experiment(self) -> Experiment:
        """Returns the experiment of the run; raises UserError if there is none or another version wrote it."""
        return config.from_json(self.config)

    def classes(self) -> label_spaces.LabelSpace:
        """Returns the label space of the run's classes; raises UserError if its file is damaged."""
        remedy = "delete it and rerun the same 'uda train', which writes it again"
        stored = read_json(self.label_space, remedy)
        try:
            colours = tuple(tuple(map(int, colour)) for colour in stored["colours"])
            space = label_spaces.LabelSpace(tuple(map(str, stored["names"])), colours, int(stored["ignore"]))
        except (KeyError, TypeError, ValueError):
            space = None
        if space is None or len(space.names) != len(space.colours) or any(len(c) != 3 for c in space.colours):
            raise UserError(f"{self.label_space}: expected names, colours and ignore, found other things; {remedy}")
        return space

    def identity(self) -> Identity:
        """Returns what tells the run from others."""
        return Identity(config.to_plain(self.experiment()), self.classes().names)


def read_json(file: Path, remedy: str) -> Any:
    """Returns what a JSON file of a run holds; raises a UserError if it is not there, cut or damaged.

    Args:
      file: the file.
      remedy: what to do about it, for the message.
    """
    try:
        return json.loads(file.read_text())
    except PermissionError as error:
        raise UserError(f"{file}: may not be read ({error.strerror}); get the right to read it") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as JSON ({reason}), it may be cut; {remedy}") from None


def check_path(path: Path, option: str) -> None:
    """Raises a UserError for a path below which no arrays can be stored: TensorStore reads a backslash as a slash."""
    text = str(Path(path).resolve())
    if "\\" in text or not text.isprintable():
        raise UserError(
            f"{option} {path}: expected a path without backslashes and control characters, below which checkpoints "
            "can be stored; name another folder"
        )


def check_space(folder: Path, size: int) -> None:
    """Raises a UserError unless `size` more bytes fit; a checkpoint is complete before an older one goes."""
    free, needed = shutil.disk_usage(folder).free, size + _SPARE_BYTES
    if free < needed:
        raise DiskFull(
            f"{folder}: the disk is full: expected {needed / 1e6:.0f} MB for a checkpoint, found {free / 1e6:.0f} MB; "
            "free some space and rerun the same command"
        )


def difference(
    old: Mapping[str, Any], new: Mapping[str, Any], *, scoring_may_change: bool = False, stage: str | None = None
) -> tuple[str, Any, Any] | None:
    """Returns the first field that two experiments may not differ in: its name and both values; None if there is none.

    Args:
      old, new: experiments as plain values.
      scoring_may_change: whether fields of `evaluation` may differ that do not decide which checkpoint is the best.
      stage: the only stage that is looked at, by what it depends on: its own settings, inherited ones included, and
        those of the whole run, but neither the run's name nor stages that follow; None = all fields.
    """
    before, after = (flat(plain if stage is None else _of_stage(plain, stage)) for plain in (old, new))
    chosen = {plain.get(("evaluation", "selection"), "last") for plain in (before, after)} != {"last"}
    choosing = (*_CHOOSING_FIELDS, *(_REPORTING_FIELDS if chosen else ()))
    # Of runs of before these fields, there is none.
    if any(plain.get(("evaluation", "best_by")) for plain in (before, after)):
        choosing = (*choosing, "criteria_frames")
    for field in sorted(set(before) | set(after)):
        if scoring_may_change and field[0] == "evaluation" and field[1] not in choosing:
            continue
        if before.get(field) != after.get(field) and not _is_free(field):
            return ".".join(("config", *field)), before.get(field), after.get(field)
    return None


def longer(old: Mapping[str, Any], new: Mapping[str, Any], *, stage: str | None = None) -> bool:
    """Returns whether an experiment is another one with a longer last stage, and the horizon of its rate, alone.

    Args:
      old, new: experiments as plain values.
      stage: the only stage that is looked at, as in `difference`; it has to be the last one.
    """
    path = steps_field(new)
    if path is None or path != steps_field(old) or stage not in (None, (new.get("recipe") or [stage])[-1]):
        return False
    before, after = flat(old), flat(new)
    if not before.get(path, 0) < after.get(path, 0):
        return False
    # That of a whole recipe may be an earlier stage's, too.
    horizon = path if path[0] == "train" and new.get("recipe") else (*path[:-2], "method", "schedule", "horizon")
    same = {key: after[key] for key in (path, horizon) if key in before and key in after}
    return difference(_nested(before | same), _nested(after), scoring_may_change=True, stage=stage) is None


def steps_field(experiment: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the path of the length of the last stage; None if it is also that of an earlier one."""
    recipe = experiment.get("recipe") or ()
    sections = [experiment["stages"][name] for name in recipe]
    if sections and sections[-1].get("train"):
        return "stages", recipe[-1], "train", "steps"
    earlier = [section for section in sections[:-1] if section["kind"]["name"] == "train" and not section.get("train")]
    return None if earlier else ("train", "steps")


def _of_stage(experiment: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Returns the fields of an experiment that one of its stages depends on."""
    plain = {name: value for name, value in experiment.items() if name not in _NAMES}
    recipe = plain.get("recipe") or ()
    if stage in recipe:
        section = plain["stages"][stage]
        # A stage that does not train reads frames, and networks of those before it.
        needed = _INHERITED if section["kind"]["name"] == "train" else ("data",)
        replaced = [name for name in _INHERITED if section.get(name) or name not in needed]
        plain = {name: value for name, value in plain.items() if name not in replaced}
        plain |= {"recipe": list(recipe[: recipe.index(stage) + 1]), "stages": {stage: section}}
    return plain


def _is_free(field: tuple[str, ...]) -> bool:
    """Whether a field of the experiment or of one of its stages is free."""
    return (field[2:] if field[0] == "stages" else field) in FREE_FIELDS


def _nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Returns nested dicts from {path of a leaf: leaf}."""
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        functools.reduce(lambda node, name: node.setdefault(name, {}), path[:-1], found)[path[-1]] = leaf
    return found


def flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Returns {path of a leaf: leaf} of nested dicts."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {key: leaf for name, entry in value.items() for key, leaf in flat(entry, (*path, name)).items()}
