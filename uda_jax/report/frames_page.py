"""The pictures on the report page: one row per evaluation frame, and what methods made of training batches."""

from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax.data.labels import label_spaces
from uda_jax.report.elements import Figure
from uda_jax.report.repeats import Repeats
from uda_jax.report.runs import Colour, Run

# Pictures of frames on one page, which keep it below a few megabytes; and the widths, in pixels, that so many may have.
MOST_PICTURES = 240
_WIDTHS = ((60, 960), (120, 640), (MOST_PICTURES, 360))
# Above this number of runs each config shows its first seed alone.
_MANY_RUNS = 24
MOST_ILLUSTRATED = 12
_WIDTH = 360


def section(repeats: Sequence[Repeats], most: int = MOST_PICTURES) -> dict[str, Any] | None:
    """Returns what `frames.html` shows of a benchmark: a part for each set of classes, which has a legend of its own.

    Args:
      repeats: its runs.
      most: pictures that it may have.
    """
    every = [(run, _title(each, run)) for each in repeats for run in each.runs if run.pictures]
    runs = every
    if len(runs) > _MANY_RUNS:
        runs = [(run, _title(each, run)) for each in repeats for run in each.runs[:1] if run.pictures]
    runs = runs[: max(1, most // 2 - 1)]
    # Colours tell pictures of one name apart where runs have other classes.
    parts: dict[tuple, list[tuple[Run, str]]] = {}
    for run, title in runs:
        parts.setdefault(tuple(class_colours(run).items()), []).append((run, title))
    count = max(1, most // (2 * len(runs) + 2 * len(parts))) if runs else 0
    shown = []
    for colours, members in parts.items():
        names = list(dict.fromkeys(name for run, _ in members for name in run.pictures))
        # The first frames of all splits alike, as they come in the order of their names.
        chosen = [names[i * len(names) // min(count, len(names))] for i in range(min(count, len(names)))]
        width = _width(2 * len(chosen) * (len(members) + 1) * len(parts))
        shown.append(
            {
                "classes": dict(colours),
                "runs": [title for _, title in members] if len(parts) > 1 else [],
                "frames": {name: _figures(name, members, width) for name in chosen},
                "frames_left_out": len(names) - len(chosen),
            }
        )
    return {"parts": shown, "runs_left_out": len(every) - len(runs)} if shown else None


def illustrations(repeats: Sequence[Repeats]) -> tuple[dict[str, list[Figure]], int]:
    """Returns pictures of training batches by "stage: name", of the first seed of each row; and how many runs lack."""
    every = [[run for run in each.runs if run.illustrations] for each in repeats]
    shown = [(each, runs[0]) for each, runs in zip(repeats, every, strict=True) if runs][:MOST_ILLUSTRATED]
    found: dict[str, list[Figure]] = {}
    for each, run in shown:
        for name, files in run.illustrations.items():
            found.setdefault(name, []).append(Figure(_title(each, run), files, _WIDTH))
    return found, sum(map(len, every)) - len(shown)


def class_colours(run: Run) -> Mapping[str, Colour]:
    """Returns the RGB colours of a run's classes: its own, or for runs of early versions those of known names."""
    if run.colours:
        return run.colours
    known = {row.name: row.colour for row in label_spaces.TRAIN_CLASSES}
    seven = label_spaces.label_space("7")
    known |= dict(zip(seven.names, seven.colours, strict=True))
    return {name: known[name] for row in run.rows for name in row["iou"] if name in known}


def _title(repeats: Repeats, run: Run) -> str:
    return f"{repeats.title}, seed {run.seed}" if run.finished or run.config else repeats.title


def _width(count: int) -> int:
    return next((width for most, width in _WIDTHS if count <= most), _WIDTHS[-1][1])


def _figures(frame: str, members: Sequence[tuple[Run, str]], width: int) -> list[Figure]:
    """The frame's image and label, then what each run predicted."""
    shown = [(title, run.pictures[frame]) for run, title in members if frame in run.pictures]
    first = next((files for _, files in shown if "label" in files), shown[0][1])
    title = "image" + (" and label" if "label" in first else "")
    return [
        Figure(title, [first["image"], first.get("label")], width, frame),
        *(Figure(title, [files["prediction"], files.get("entropy")], width) for title, files in shown),
    ]
