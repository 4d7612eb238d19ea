"""The report page: one self-contained HTML file, and the rows behind it as JSON."""

import base64
import contextlib
import datetime
import hashlib
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from uda_jax.data.io import atomic, mirrors, places
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.errors import UserError
from uda_jax.report import (
    classes_page,
    config_page,
    confusion_page,
    curves,
    curves_page,
    frames_page,
    headline_page,
    published_page,
    ranking_page,
    repeats,
    tables,
)
from uda_jax.report.elements import Cell, Table
from uda_jax.report.elements import render as render_template
from uda_jax.report.repeats import Repeats
from uda_jax.report.runs import Run, gather
from uda_jax.report.tables import Group

# Columns that are left out where no row has them.
_OPTIONAL = ("min – max", "gap recovered")


def write(
    workdirs: Iterable[str | os.PathLike],
    output_html: str | os.PathLike,
    tell: Callable[[str], None] = lambda line: None,
) -> pathlib.Path:
    """Writes the report of some runs.

    Args:
      workdirs: run folders, local or in buckets. What else `runs/*` matches is passed over with a note on the page, an
        earlier report of the same name without one.
      output_html: the page; the result rows go beside it, under the same name with `.json`.
      tell: called with a line for each path that is passed over, and for each file of a run that cannot be read.

    Returns:
      The path of the page.

    Raises:
      UserError: what `gather` raises, or a page that is not named `*.html`.
    """
    page = places.place(output_html)
    if page.suffix != ".html":
        raise UserError(f"{page}: expected a name that ends in .html for the report page")
    own = {_absolute(page), _absolute(page.with_suffix(".json"))}
    with contextlib.ExitStack() as stack:
        folders = [places.place(folder) for folder in workdirs]
        runs, passed_over = gather(
            stack.enter_context(mirrors.opened(folder)) for folder in folders if _absolute(folder) not in own
        )
        html = render(runs, passed_over)
    for line in passed_over:
        tell(f"note: passed over: {line}")
    for note in (note for run in runs for note in run.notes):
        tell(f"note: left out: {note}")
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


def render(runs: Sequence[Run], passed_over: Sequence[str] = ()) -> str:
    """Returns the page as HTML text.

    Args:
      runs: what it shows.
      passed_over: what was no run, in one line each.
    """
    groups = tables.groups([row for run in runs for row in run.rows])
    found = repeats.gather(runs, groups)
    # One colour per label, in the order of the tables.
    names = list(dict.fromkeys([*(group.label for group in groups), *(each.title for each in found)]))
    colours = {name: i for i, name in enumerate(names)}
    looks = {name: curves.stroke(i) for name, i in colours.items()}
    benchmarks = {
        name: [group for group in groups if group.benchmark == name]
        for name in dict.fromkeys(group.benchmark for group in groups)
    }
    script = render_template("page.js")
    illustrations, illustrations_left_out = frames_page.illustrations(found)
    rankings = [(each.title, ranking) for each in found for ranking in each.runs[0].rankings]
    parts = repeats.by_benchmark(found)
    return render_template(
        "page.html",
        script=script,
        # No other script runs, whatever a text of a run holds, and nothing is fetched.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        finished=sum(run.finished for run in runs),
        total=len(runs),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        unfinished=[(run.folder, _progress(run)) for run in runs if not run.finished],
        notes=[(run.folder, note) for run in runs for note in run.notes],
        passed_over=passed_over,
        headlines=[headline_page.section(name, members, looks) for name, members in benchmarks.items()],
        benchmarks=[_benchmark(name, members, runs, looks) for name, members in benchmarks.items()],
        curves=_sections(parts, lambda members: curves_page.section(members, colours)),
        frames=_sections(parts, lambda members: frames_page.section(members, frames_page.MOST_PICTURES // len(parts))),
        configs=_sections(parts, config_page.section),
        illustrations=illustrations,
        most_illustrated=frames_page.MOST_ILLUSTRATED,
        illustrations_left_out=illustrations_left_out,
        rankings=ranking_page.section(rankings[: ranking_page.MOST_RANKINGS]),
        rankings_left_out=max(0, sum(len(run.rankings) for run in runs) - ranking_page.MOST_RANKINGS),
        provenance=_provenance([run for each in found for run in each.runs]),
    )


def _sections(parts: Mapping[str, Sequence[Repeats]], section: Callable[[Sequence[Repeats]], Any]) -> dict[str, Any]:
    """What a part of the page shows of each benchmark, those left out that have nothing to show."""
    shown = {name: section(members) for name, members in parts.items()}
    return {name: content for name, content in shown.items() if content}


def _progress(run: Run) -> str:
    """How far an unfinished run came."""
    if run.last_step is None:
        return "nothing logged yet"
    stage, step = run.last_step
    return f"last logged step {step}" + (f" of stage {stage}" if stage else "")


def _benchmark(name: str, groups: Sequence[Group], runs: Sequence[Run], looks: Mapping[str, Any]) -> dict[str, Any]:
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
        "classes": classes_page.class_tables(groups),
        "bars": classes_page.class_bars(groups, looks),
        "confusion": confusion_page.section(groups, runs),
        "published": published_page.section(name, groups),
    }


def _results_table(groups: Sequence[Group]) -> Table:
    columns = tables.columns(row for group in groups for row in group.rows)
    head = ["", *map(tables.heading, columns), "min – max", "each seed"]
    head += ["mean over all classes", "pixel accuracy", "gap recovered", "steps", "time per run"]
    body = [_results_row(group, groups, columns) for group in groups]
    # Of single seeds there is no range, and without an oracle no gap.
    told = [any(row[i].text != "–" for row in body) or head[i] not in _OPTIONAL for i in range(len(head))]
    return Table(list(itertools.compress(head, told)), [list(itertools.compress(row, told)) for row in body])


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
        "–" if gap is None else f"{100 * gap:.0f} %".replace("-", "−"),
        " / ".join(dict.fromkeys(str(row["steps"]) for row in group.rows)),
        str(datetime.timedelta(seconds=round(statistics.fmean(row["seconds"] for row in group.rows)))),
    ]
    return [*cells, *map(Cell, texts)]


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
