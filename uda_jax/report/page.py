"""The report page: one self-contained HTML file, and the rows behind it as JSON."""

import contextlib
import datetime
import json
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uda_jax.data.io import atomic, mirrors, places
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.report import curves, published_page, ranking_page, tables
from uda_jax.report.elements import Cell, Figure, Table
from uda_jax.report.elements import render as render_template
from uda_jax.report.runs import Run, collect
from uda_jax.report.tables import Group


def write(workdirs: Iterable[str | os.PathLike], output_html: str | os.PathLike) -> pathlib.Path:
    """Writes the report of some runs.

    Args:
      workdirs: run folders, local or in buckets. Where `runs/*` also matches an earlier report, its own two files are
        passed over.
      output_html: the page; the result rows go beside it, under the same name with `.json`.

    Returns:
      The path of the page.

    Raises:
      UserError: what `collect` raises, or a page that is not named `*.html`.
    """
    page = places.place(output_html)
    if page.suffix != ".html":
        raise UserError(f"{page}: expected a name that ends in .html for the report page")
    own = {_absolute(page), _absolute(page.with_suffix(".json"))}
    with contextlib.ExitStack() as stack:
        folders = [places.place(folder) for folder in workdirs]
        runs = collect(
            stack.enter_context(mirrors.opened(folder)) for folder in folders if _absolute(folder) not in own
        )
        html = render(runs)
    rows = [row for run in runs for row in run.rows]
    _save(page.with_suffix(".json"), json.dumps(rows, indent=2) + "\n")
    _save(page, html)
    return page


def _absolute(path: pathlib.Path) -> str:
    return str(path if places.is_bucket(path) else path.resolve())


def _save(path: pathlib.Path, text: str) -> None:
    """Writes a file whole, locally or in a bucket."""
    if places.is_bucket(path):
        BucketFolder(path.parent).write(path.name, text.encode())
    else:
        atomic.write(path, text)


def render(runs: Sequence[Run]) -> str:
    """Returns the page as HTML text."""
    groups = tables.groups([row for run in runs for row in run.rows])
    # Curves and pictures follow the order of the tables; unfinished runs come last. One colour per label, so that
    # the seeds of one method look alike.
    labels = list(dict.fromkeys([*(group.rows[0]["label"] for group in groups), *(run.label for run in runs)]))
    runs = sorted(
        runs, key=lambda run: (not run.finished, labels.index(run.label), run.rows[-1]["seed"] if run.rows else 0)
    )
    return render_template(
        "page.html",
        finished=sum(run.finished for run in runs),
        total=len(runs),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        unfinished=[(run.folder, _progress(run)) for run in runs if not run.finished],
        notes=[(run.folder, note) for run in runs for note in run.notes],
        benchmarks=[
            _benchmark(name, [group for group in groups if group.benchmark == name])
            for name in dict.fromkeys(group.benchmark for group in groups)
        ],
        curves=_curves(runs, {label: i for i, label in enumerate(labels)}),
        frames=_frames(runs),
        class_colours=_class_colours(runs),
        illustrations=[
            (run.title, [Figure(name, files) for name, files in run.illustrations.items()])
            for run in runs
            if run.illustrations
        ],
        rankings=ranking_page.section([(run.title, found) for run in runs for found in run.rankings]),
        provenance=_provenance(runs),
    )


def _progress(run: Run) -> str:
    """How far an unfinished run came."""
    if run.last_step is None:
        return "nothing logged yet"
    stage, step = run.last_step
    return f"last logged step {step}" + (f" of stage {stage}" if stage else "")


def _benchmark(name: str, groups: Sequence[Group]) -> dict[str, Any]:
    rows = [row for group in groups for row in group.rows]
    repeated = {group.label: tables.repeated_seeds(group) for group in groups}
    return {
        "name": name,
        "caption": tables.caption(rows),
        "repeated_seeds": "; ".join(
            f"{label}: seed {', '.join(map(str, seeds))}" for label, seeds in repeated.items() if seeds
        ),
        "notes": list(
            dict.fromkeys(f"{group.label}: {row['note']}" for group in groups for row in group.rows if row.get("note"))
        ),
        "results": _results_table(groups),
        "classes": _class_tables(groups),
        "published": published_page.section(name, groups),
    }


def _results_table(groups: Sequence[Group]) -> Table:
    columns = tables.columns(row for group in groups for row in group.rows)
    head = ["", *map(tables.heading, columns), "min – max", "each seed"]
    head += ["mean over all classes", "pixel accuracy", "gap recovered", "steps", "time per run"]
    return Table(head, [_results_row(group, groups, columns) for group in groups])


def _results_row(group: Group, groups: Sequence[Group], columns: Sequence[str]) -> list[Cell]:
    cells = [Cell(group.label)]
    for name in columns:
        winner = tables.is_best(group, groups) and name == group.column
        values = group.over_seeds(lambda row, name=name: tables.figure(row, name))
        cells.append(Cell(tables.points(values, name), winner))
    each = [tables.points([value], group.column) for value in group.headline]
    lowest, highest = (tables.points([bound(group.headline)], group.column) for bound in (min, max))
    gap = tables.gap_recovered(group, groups)
    texts = [
        f"{lowest} – {highest}" if len(group.rows) > 1 else "–",
        ", ".join(each),
        tables.points(group.over_seeds(tables.all_classes_mean)),
        tables.points(group.over_seeds(lambda row: row.get("pixel_accuracy"))),
        "–" if gap is None else f"{100 * gap:.0f} %",
        " / ".join(dict.fromkeys(str(row["steps"]) for row in group.rows)),
        str(datetime.timedelta(seconds=round(statistics.fmean(row["seconds"] for row in group.rows)))),
    ]
    return [*cells, *map(Cell, texts)]


def _class_tables(groups: Sequence[Group]) -> dict[str, Table]:
    """The tables of single classes by what they hold; Dice scores where that is the headline, too."""
    keys = {"IoU": "iou"}
    if any(group.column == "dice" for group in groups):
        keys = {"Dice": "dice"} | keys
    found = {measure: _class_table(groups, key) for measure, key in keys.items()}
    return {measure: table for measure, table in found.items() if table is not None}


def _class_table(groups: Sequence[Group], key: str) -> Table | None:
    names = list(dict.fromkeys(name for group in groups for row in group.rows for name in row.get(key, {})))
    if not names:
        return None
    means = {}
    for group in groups:
        for name in names:
            values = group.over_seeds(lambda row, name=name: row.get(key, {}).get(name))
            means[group.label, name] = statistics.fmean(values) if values else None
    contenders = [group.label for group in groups if group.kind != "oracle"]
    tops = {name: max((means[label, name] or 0.0 for label in contenders), default=None) for name in names}
    body = []
    for group in groups:
        cells = [Cell(group.label)]
        for name in names:
            value = means[group.label, name]
            winner = len(contenders) > 1 and bool(value) and value == tops[name] and group.label in contenders
            cells.append(Cell("–") if value is None else Cell(f"{100 * value:.1f}", winner, shade=value))
        body.append(cells)
    return Table(["", *names], body, "classes")


def _curves(runs: Sequence[Run], colours: Mapping[str, int]) -> dict[str, Any] | None:
    charts: dict[tuple[str, str], list[curves.Series]] = {}
    for run in runs:
        for stage, rows in run.metrics.items():
            for name in dict.fromkeys(key for row in rows for key in row if _is_curve(key)):
                points = [
                    (row["step"], float("nan") if row[name] is None else row[name]) for row in rows if name in row
                ]
                line = curves.Series(run.title, colours[run.label], *zip(*points, strict=True))
                charts.setdefault((stage, name), []).append(line)
    several = len({stage for stage, _ in charts}) > 1
    drawn = [
        curves.chart(f"{name} ({stage})" if several and stage else name, lines)
        for (stage, name), lines in charts.items()
        if any(len(line.steps) > 1 for line in lines)  # a single point is in the table, and no curve
    ]
    if not any(drawn):
        return None
    labels = dict.fromkeys(run.label for run in runs if run.metrics)
    return {"charts": drawn, "labels": {label: curves.stroke(colours[label]) for label in labels}}


def _is_curve(key: str) -> bool:
    return key.startswith("loss/") or (key.startswith("evaluation/") and key.count("/") == 1)


def _frames(runs: Sequence[Run]) -> dict[str, list[Figure]]:
    """The figures of each evaluation frame: its image and label, then what each run predicted."""
    frames = {}
    for frame in dict.fromkeys(name for run in runs for name in run.pictures):
        shown = [(run.title, run.pictures[frame]) for run in runs if frame in run.pictures]
        first = next((files for _, files in shown if "label" in files), shown[0][1])
        frames[frame] = [
            Figure("image" + (" and label" if "label" in first else ""), [first["image"], first.get("label")]),
            *(Figure(title, [files["prediction"], files.get("entropy")]) for title, files in shown),
        ]
    return frames


def _class_colours(runs: Sequence[Run]) -> dict[str, tuple[int, int, int]]:
    """The RGB colours of the classes, where the classes are those of a label space that has fixed ones."""
    known = {row.name: row.colour for row in label_spaces.TRAIN_CLASSES}
    seven = label_spaces.label_space("7")
    known |= dict(zip(seven.names, seven.colours, strict=True))
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row["iou"] if name in known)
    return {name: known[name] for name in names}


def _provenance(runs: Sequence[Run]) -> Table:
    head = ["run", "label", "seed", "commit", "hardware", "config", "overrides", "command"]
    body = []
    for run in runs:
        for row in run.rows:
            overrides = json.dumps(row["overrides"]) if row["overrides"] else "none"
            figures = (run.folder, row["label"], row["seed"], row["commit"][:10])
            texts = (row["hardware"], row["config"], overrides, row["command"])
            body.append([*(Cell(str(value)) for value in figures), *(Cell(value, code=True) for value in texts)])
    return Table(head, body, "sources")
