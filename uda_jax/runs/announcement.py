"""What `uda train` says of a run: its head before the first step, its end, and what may be done next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uda_jax.config import Experiment
from uda_jax.data.io import mirrors, places
from uda_jax.errors import UserError, printable
from uda_jax.report import tables
from uda_jax.runs.stages import Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import RunFiles
from uda_jax.training.metrics import METRICS

# The row that others are compared with, and what has to be equal for that.
BASELINE = "source_only"
_COMPARED = ("benchmark", "split", "protocol", "headline")
_WIDTH = 80
# What is said of a run that has its result.
FINISHED = "this run is finished, and nothing is trained; with larger train.steps it goes on"


def header(experiment: Experiment, recipe: Sequence[Stage], workdir: Workdir) -> list[str]:
    """Returns the first lines of a run: its names, and where it lies; what a step takes is told once it is compiled."""
    sections = [getattr(stage.method, "segmenter", None) for stage in recipe if stage.kind.TRAINS]
    networks = dict.fromkeys(f"segmenter {section.name}" for section in sections if section is not None)
    method = ", ".join([f"method {experiment.method['name']}", *networks])
    lines = [f"{experiment.label} on {experiment.benchmark}: {method}, seed {experiment.seed}"]
    if len(recipe) > 1:
        lines.append(f"  stages         {', '.join(stage.name for stage in recipe)}")
    return [*lines, mirrors.named(workdir.path, f"  workdir        {workdir.path}")]


def start_line(stage: str, step: int) -> str:
    """Returns the line before the first step of a stage, or before the first one after `step`."""
    begins = f"goes on after step {step}" if step else "begins"
    return f"stage {stage}: {begins}; compiling what scores and what draws, then the first step follows"


def dev_score(headline: str, value: float) -> str:
    """Returns what the progress line says of a score on dev."""
    return f"dev {score(headline, value)}"


def score(headline: str, value: float) -> str:
    """Returns a figure with its name, as in "mIoU 15.20"."""
    return f"{_name(headline)} {_number(headline, value)}"


def result_line(row: Mapping[str, Any]) -> str:
    """Returns the line that ends a run, for each of its rows."""
    column = tables.headline_column(row)
    measure = column if "headline" in row or column == "accuracy" else "mIoU"
    chosen = ""
    if "selection" in row:
        how = f"by {row['selected_by']}" if "selected_by" in row else f"on labels of {row['selected_on']}"
        chosen = f", step {row['selected_step']} chosen {how}"
    length = f"{row['steps']} steps{chosen}, {row['seconds']:.0f} s"
    return f"{row['label']}: {measure} {_number(column, tables.figure(row, column))} on {row['split']} after {length}"


def ending(rows: Sequence[Mapping[str, Any]], workdir: Path) -> list[str]:
    """Returns what is said at the end of a run.

    Args:
      rows: its result rows.
      workdir: as the user gave it.

    Returns:
      Of each row its line, the IoU of each class, and the difference to `BASELINE` if a run of it lies beside; then the
      commands that look at the run and use it.
    """
    lines, others = [], [] if places.is_bucket(workdir) else _beside(workdir)
    for row in rows:
        lines += [result_line(row), *_classes(row), *_difference(row, others)]
    folder = shlex.quote(str(workdir))
    return [
        *lines,
        f"next: uda report {folder} --output {shlex.quote(f'{workdir}.html')}",
        f"      uda predict --workdir {folder} --input FOLDER --output LABELS",
    ]


def _classes(row: Mapping[str, Any]) -> list[str]:
    """Returns the IoU of every class in percent, or its Dice score where that counts, as many as fit in a line."""
    key = "dice" if row.get("headline") == "dice" else "iou"
    cells = [f"{printable(name)} {'–' if value is None else f'{100 * value:.1f}'}" for name, value in row[key].items()]
    if not cells:
        return []
    lines = ["  Dice" if key == "dice" else "  IoU"]
    for cell in cells:
        if len(lines[-1]) + 2 + len(cell) > _WIDTH:
            lines.append("     ")
        lines[-1] += f"  {cell}"
    return lines


def _beside(workdir: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the rows of the baseline in the folders beside a run, each behind its folder's name."""
    found = []
    for folder in sorted(workdir.absolute().parent.glob("*/")):
        try:
            rows = tables.read_rows(RunFiles(folder).result) if RunFiles(folder).result.is_file() else []
        except UserError:
            rows = []  # Whatever lies there is not this run's to complain of.
        found += [(folder.name, row) for row in rows if _is_baseline(row)]
    return found


def _difference(row: Mapping[str, Any], others: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Returns how a row's headline differs from that of a baseline on the same data, at best of the same seed."""
    # Of the baseline of all rows and that of a row's family, as "pretrained/source_only", the nearer one counts.
    families = [(name, other, other["label"].removesuffix(BASELINE)) for name, other in others]
    same = [
        (len(family), other["seed"] == row["seed"], name, other)
        for name, other, family in families
        if row["label"].startswith(family) and all(row.get(key) == other.get(key) for key in _COMPARED)
    ]
    if _is_baseline(row) or not same:
        return []
    *_, name, other = max(same, key=lambda found: found[:2])
    column = tables.headline_column(row)
    ours, theirs = tables.figure(row, column), tables.figure(other, column)
    seeds = "" if other["seed"] == row["seed"] else f", which has seed {other['seed']} and not {row['seed']}"
    sign = "+" if ours >= theirs else "-"
    told = f"{sign}{_number(column, abs(ours - theirs))} against {_number(column, theirs)}"
    return [f"  {told} of {BASELINE} ({name}{seeds})"]


def _is_baseline(row: Mapping[str, Any]) -> bool:
    return row["label"].rpartition("/")[2] == BASELINE


def _name(headline: str) -> str:
    return "mIoU" if headline == "miou" else headline


def _number(column: str, value: float) -> str:
    """Returns a figure as tables print it: fractions, which all mean IoUs are, in percent."""
    return f"{100 * value:.2f}" if METRICS.get(column, METRICS["miou"]).unit == "fraction" else f"{value:.4f}"
