"""Workdirs: what a run keeps on disk, and whether another run may go on there.

A workdir holds config.json, label_space.json, one folder per stage (checkpoints/, metrics.jsonl, TensorBoard
events, finished.json ...), pictures/ and, once everything is done, result.json.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import atomic
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.training.layout import RunFiles

# Fields that may differ between runs that continue each other: they change what is logged, not what is learnt.
FREE_FIELDS = frozenset(
    (
        ("train", "log_every"),
        ("train", "workers"),
        ("train", "keep_latest"),
        ("train", "profile"),
        ("evaluation", "pictures"),
    )
)

# Room for what Orbax and the logs write beside the state's own bytes.
_SPARE_BYTES = 8_000_000


class Workdir(RunFiles):
    """The folder of a run: its files by name, see `RunFiles`, and what is written before the first stage."""

    def check(self, experiment: Experiment) -> None:
        """Raises a UserError if the workdir belongs to another experiment, naming a field that differs."""
        if not self.config.exists():
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"--workdir {self.path}: expected a folder, found a file")
            return
        if found := difference(config.to_plain(self.experiment()), config.to_plain(experiment)):
            field, old, new = found
            raise UserError(
                f"--workdir {self.path}: holds a run with {field} = {old!r}, asked for {new!r}; use the same config or "
                "another workdir"
            )

    def prepare(self, experiment: Experiment, space: label_spaces.LabelSpace) -> None:
        """Makes the workdir and writes what a later command needs to open it."""
        self.path.mkdir(parents=True, exist_ok=True)
        check_space(self.path, 0)
        atomic.write(self.label_space, json.dumps(space._asdict()))
        atomic.write(self.config, config.to_json(experiment))

    def experiment(self) -> Experiment:
        """Returns the experiment of the run; raises UserError if there is none or another version wrote it."""
        return config.from_json(self.config)

    def classes(self) -> label_spaces.LabelSpace:
        """Returns the label space of the run's classes."""
        stored = json.loads(self.label_space.read_text())
        colours = tuple(tuple(colour) for colour in stored["colours"])
        return label_spaces.LabelSpace(tuple(stored["names"]), colours, stored["ignore"])


def check_space(folder: Path, size: int) -> None:
    """Raises a UserError unless `size` more bytes fit; a checkpoint is complete before an older one goes."""
    free, needed = shutil.disk_usage(folder).free, size + _SPARE_BYTES
    if free < needed:
        raise UserError(
            f"{folder}: the disk is full: expected {needed / 1e6:.0f} MB for a checkpoint, found {free / 1e6:.0f} MB; "
            "free some space and rerun the same command"
        )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Returns the first field that two experiments, as plain values, may not differ in: its name and both values."""
    before, after = _flat(old), _flat(new)
    for field in sorted(set(before) | set(after)):
        if before.get(field) != after.get(field) and not _is_free(field):
            return ".".join(("config", *field)), before.get(field), after.get(field)
    return None


def _is_free(field: tuple[str, ...]) -> bool:
    """Whether a field of the experiment or of one of its stages is free."""
    return (field[2:] if field[0] == "stages" else field) in FREE_FIELDS


def _flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Returns {path of a leaf: leaf} of nested dicts."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {key: leaf for name, entry in value.items() for key, leaf in _flat(entry, (*path, name)).items()}
