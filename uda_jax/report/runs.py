"""Reading run folders: result rows, logged metrics, configs, confusion matrices, saved pictures and rankings."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from uda_jax.data.io import mirrors, places
from uda_jax.data.io.files import read_file, require_file
from uda_jax.errors import UserError, os_error_line
from uda_jax.report import confusion
from uda_jax.report.confusion import Confusion
from uda_jax.report.pictures import saved_frames
from uda_jax.report.ranking_page import Ranking, read_ranking
from uda_jax.report.tables import read_rows
from uda_jax.training.layout import RunFiles, StageFiles
from uda_jax.training.logging import read_metrics

Colour = tuple[int, int, int]

# The name of a single final split in a run's confusion matrices.
_SINGLE = "final"
# Objects within objects of a config; what is deeper no training wrote.
_DEEPEST = 40


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
      folder: where it lies, which may be an address in a bucket.
      rows: its result rows; empty for an unfinished run.
      metrics: stage name to the rows of its metrics.jsonl, stages in the order in which they were logged.
      pictures: frame name to {"image" | "label" | "prediction" | "entropy": file}.
      rankings: what its stages ranked, by stage folder.
      illustrations: "stage: name" of what the method made of a training batch to the files of its images.
      config: its experiment as plain values; empty where the file is missing.
      colours: class name to its RGB colour in the pictures; empty where the file is missing, as of early versions.
      confusion: name of the final split to its confusion matrix; empty for runs of early versions.
      notes: why some of its files were left out, in one line each.
    """

    folder: pathlib.Path
    rows: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, list[dict[str, Any]]]
    pictures: Mapping[str, Mapping[str, pathlib.Path]]
    rankings: tuple[Ranking, ...] = ()
    illustrations: Mapping[str, list[pathlib.Path]] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    colours: Mapping[str, Colour] = dataclasses.field(default_factory=dict)
    confusion: Mapping[str, Confusion] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run wrote its result."""
        return bool(self.rows)

    @property
    def label(self) -> str:
        """The label of its last row, or the folder's name."""
        return self.rows[-1]["label"] if self.rows else self.folder.name

    @property
    def title(self) -> str:
        """The run in a few words: "advent, seed 0", or the folder's name."""
        return f"{self.label}, seed {self.rows[-1]['seed']}" if self.rows else self.folder.name

    @property
    def seed(self) -> int:
        """Its seed, as far as it is known, else 0."""
        seed = self.rows[-1]["seed"] if self.rows else self.config.get("seed")
        return seed if isinstance(seed, int) else 0

    def matrix(self, row: Mapping[str, Any]) -> Confusion | None:
        """Returns the confusion matrix behind one of its rows; None where there is none, as for all splits together."""
        return self.confusion.get(row.get("domain", _SINGLE))

    @property
    def last_step(self) -> tuple[str, int] | None:
        """The stage and step logged last, or None where nothing was logged."""
        logged = [(stage, rows[-1]["step"]) for stage, rows in self.metrics.items() if rows]
        return logged[-1] if logged else None


class Gathered(NamedTuple):
    """What lies in some folders.

    Attributes:
      runs: one Run per run folder, in the order given.
      passed_over: why the others are no runs, in one line each.
    """

    runs: list[Run]
    passed_over: list[str]


def gather(workdirs: Iterable[str | os.PathLike]) -> Gathered:
    """Reads run folders, finished or not, and passes over what else lies among them, as `runs/*` may hold.

    Args:
      workdirs: folders that `uda train` wrote, and other files and folders; of those in buckets, open mirrors.

    Raises:
      UserError: a path where nothing is, or no run at all. Files of a run that cannot be read are noted instead.
    """
    found = Gathered([], [])
    for folder in workdirs:
        folder = places.local(folder, "report.collect")
        if not folder.exists():
            raise UserError(f"{folder}: expected a run folder, got nothing; check the path")
        if reason := _no_run(folder):
            found.passed_over.append(mirrors.named(folder, reason))
        else:
            found.runs.append(_read(folder))
    if not found.runs:
        cure = "give folders that 'uda train' wrote"
        if found.passed_over:
            raise UserError(f"{found.passed_over[0]}; {cure}")
        raise UserError(f"report: expected at least one run folder, got none; {cure}")
    return found


def collect(workdirs: Iterable[str | os.PathLike]) -> list[Run]:
    """Returns the runs that `gather` finds; arguments and errors are its."""
    return gather(workdirs).runs


def _no_run(folder: pathlib.Path) -> str | None:
    """Returns why a path is no run folder, None if it is one."""
    if not folder.is_dir():
        return f"{folder}: a file, no run folder"
    files = RunFiles(folder)
    # Files that programs write may have no stages.
    marks = (files.result, StageFiles(folder).metrics, files.config)
    if any(mark.exists() for mark in marks) or any(stage.metrics.exists() for stage in files.stages()):
        return None
    below = sorted(path for path in folder.iterdir() if path.is_dir() and RunFiles(path).config.exists())
    many = f", but runs are in it, as {folder}/*" if below else ""
    return f"{folder}: no run (it has none of {', '.join(path.name for path in marks)}){many}"


def _read(folder: pathlib.Path) -> Run:
    files = RunFiles(folder)
    stages = files.stages()
    logs = [stage.metrics for stage in (StageFiles(folder), *stages) if stage.metrics.exists()]
    notes: list[str] = []
    metrics: dict[str, list[dict[str, Any]]] = {}
    # A stage's file was last written when the stage ended, which is the order of the stages.
    for path in sorted(logs, key=lambda path: path.stat().st_mtime_ns):
        stage = "" if path.parent == folder else path.parent.name
        for row in _noted(lambda path=path: _metrics(path, notes), [], notes):
            metrics.setdefault(row.get("stage") or stage, []).append(row)
    rows = tuple(_noted(lambda: read_rows(files.result), (), notes)) if files.result.exists() else ()
    found = [stage.ranking for stage in stages if stage.ranking.exists()]
    rankings = [_noted(lambda path=path: read_ranking(path), None, notes) for path in found]
    illustrations: dict[str, list[pathlib.Path]] = {}
    for stage in stages:
        mirrors.fetch(stage.illustrations)
        for path in sorted(stage.illustrations.glob("*/*.png")):
            illustrations.setdefault(f"{stage.path.name}: {path.parent.name}", []).append(path)
    mirrors.fetch(files.pictures)
    pictures = saved_frames(files.pictures)
    return Run(
        mirrors.address(folder),
        rows,
        metrics,
        pictures,
        tuple(ranking for ranking in rankings if ranking is not None),
        illustrations,
        config=_noted(lambda: _config(files.config), {}, notes) if files.config.exists() else {},
        colours=_noted(lambda: _colours(files.label_space), {}, notes) if files.label_space.exists() else {},
        confusion=_noted(lambda: confusion.read(files.confusion), {}, notes) if files.confusion.exists() else {},
        notes=tuple(mirrors.named(folder, note) for note in notes),
    )


def _noted(read: Callable[[], Any], default: Any, notes: list[str]) -> Any:
    """Returns what `read` does; if a file cannot be read, the default, and adds why to the notes."""
    try:
        return read()
    except UserError as error:
        notes.append(str(error))
    except OSError as error:
        notes.append(os_error_line(error))
    return default


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(read_file(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}), it may be cut; 'uda train' writes it again") from None


def _config(path: pathlib.Path) -> dict[str, Any]:
    found = _json(path)
    level, depth = [found], 0
    while level and depth <= _DEEPEST:
        level = [inner for value in level for inner in _inside(value)]
        depth += 1
    if not isinstance(found, dict) or level:
        raise UserError(f"{path}: expected an object of fields, {_DEEPEST} deep at most; 'uda train' writes it again")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _colours(path: pathlib.Path) -> dict[str, Colour]:
    """Returns the classes of a run with the colours that its pictures have."""
    found = _json(path)
    names, colours = (found.get(key) if isinstance(found, dict) else None for key in ("names", "colours"))
    sound = isinstance(names, list) and isinstance(colours, list) and len(names) == len(colours)
    if not sound or not all(map(_is_colour, colours)) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: expected as many names as colours of three numbers 0 to 255; 'uda train' writes it again"
        )
    return {name: tuple(colour) for name, colour in zip(names, colours, strict=True)}


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part < 256 for part in value)


def _metrics(path: pathlib.Path, notes: list[str]) -> list[dict[str, Any]]:
    """Reads the rows of a log and leaves out, with a note, what no training has logged."""
    require_file(path)
    sound, odd = [], 0
    for row in read_metrics(path):
        kept = {key: value for key, value in row.items() if key == "stage" or value is None or _is_number(value)}
        usable = "step" in kept and isinstance(row.get("stage", ""), str)
        odd += kept != row or not usable
        sound += [kept] if usable else []
    if odd:
        notes.append(f"{path}: {odd} rows hold other things than metrics, which are left out")
    return sound


def _is_number(value: Any) -> bool:
    """Whether a logged value can be drawn; infinities, as numbers that are none, leave gaps."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (value != value or abs(value) < 1e15)
