"""Reading run folders: result rows, logged metrics, saved pictures and rankings."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from uda_jax.data.io import mirrors, places
from uda_jax.data.io.files import require_file
from uda_jax.errors import UserError, os_error_line
from uda_jax.report.pictures import saved_frames
from uda_jax.report.ranking_page import Ranking, read_ranking
from uda_jax.report.tables import read_rows
from uda_jax.training.layout import RunFiles, StageFiles
from uda_jax.training.logging import read_metrics


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
      notes: why some of its files were left out, in one line each.
    """

    folder: pathlib.Path
    rows: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, list[dict[str, Any]]]
    pictures: Mapping[str, Mapping[str, pathlib.Path]]
    rankings: tuple[Ranking, ...] = ()
    illustrations: Mapping[str, list[pathlib.Path]] = dataclasses.field(default_factory=dict)
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
    def last_step(self) -> tuple[str, int] | None:
        """The stage and step logged last, or None where nothing was logged."""
        logged = [(stage, rows[-1]["step"]) for stage, rows in self.metrics.items() if rows]
        return logged[-1] if logged else None


def collect(workdirs: Iterable[str | os.PathLike]) -> list[Run]:
    """Reads run folders, finished or not.

    Args:
      workdirs: folders that `uda train` wrote; of those in buckets, open mirrors.

    Returns:
      One Run per folder, in the order given.

    Raises:
      UserError: a folder that is no run, or no folder at all. Files that cannot be read are noted instead.
    """
    runs = [_read(places.local(folder, "report.collect")) for folder in workdirs]
    if not runs:
        raise UserError("report: expected at least one run folder, got none; give folders that 'uda train' wrote")
    return runs


def _read(folder: pathlib.Path) -> Run:
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a run folder, got {'a file' if folder.exists() else 'nothing'}; check the path"
        )
    files = RunFiles(folder)
    stages = files.stages()
    # Files that programs write may have no stages.
    logs = [stage.metrics for stage in (StageFiles(folder), *stages) if stage.metrics.exists()]
    if not logs and not files.result.exists() and not files.config.exists():
        marks = ", ".join(path.name for path in (files.result, StageFiles(folder).metrics, files.config))
        raise UserError(f"{folder}: no run (it has none of {marks}); give folders that 'uda train' wrote")
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
    rankings = tuple(ranking for ranking in rankings if ranking is not None)
    mirrors.fetch(files.pictures)
    shown = (metrics, saved_frames(files.pictures), rankings, illustrations)
    return Run(mirrors.address(folder), rows, *shown, tuple(mirrors.named(folder, note) for note in notes))


def _noted(read: Callable[[], Any], default: Any, notes: list[str]) -> Any:
    """Returns what `read` does; if a file cannot be read, the default, and adds why to the notes."""
    try:
        return read()
    except UserError as error:
        notes.append(str(error))
    except OSError as error:
        notes.append(os_error_line(error))
    return default


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
