"""The report page: one self-contained HTML file, and the rows behind it as JSON."""

import datetime
import json
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from uda_jax.data.io import atomic
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.report import comparison, curves, ranking, style, tables
from uda_jax.report.markup import cell, code_cell, figure, table, text
from uda_jax.report.runs import Run, collect
from uda_jax.report.tables import Group


def write(workdirs: Iterable[str | os.PathLike], output_html: str | os.PathLike) -> pathlib.Path:
    """Writes the report of some runs.

    Args:
      workdirs: run folders. Where `runs/*` also matches an earlier report, its own two files are passed over.
      output_html: the page; the result rows go beside it, under the same name with `.json`.

    Returns:
      The path of the page.

    Raises:
      UserError: what `collect` raises, or a page that is not named `*.html`.
    """
    page = pathlib.Path(output_html)
    if page.suffix != ".html":
        raise UserError(f"{page}: expected a name that ends in .html for the report page")
    own = {page.resolve(), page.with_suffix(".json").resolve()}
    runs = collect(folder for folder in workdirs if pathlib.Path(folder).resolve() not in own)
    rows = [row for run in runs for row in run.rows]
    atomic.write(page.with_suffix(".json"), json.dumps(rows, indent=2) + "\n")
    atomic.write(page, render(runs))
    return page


def render(runs: Sequence[Run]) -> str:
    """Returns the page as HTML text."""
    groups = tables.groups([row for run in runs for row in run.rows])
    # Curves and pictures follow the order of the tables; unfinished runs come last. One colour per label, so that
    # the seeds of one method look alike.
    labels = list(dict.fromkeys([*(group.rows[0]["label"] for group in groups), *(run.label for run in runs)]))
    runs = sorted(
        runs, key=lambda run: (not run.finished, labels.index(run.label), run.rows[-1]["seed"] if run.rows else 0)
    )
    colours = {label: i for i, label in enumerate(labels)}
    finished = sum(run.finished for run in runs)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = [
        "<h1>Domain adaptation report</h1>",
        f'<p class="soft">{finished} of {len(runs)} runs finished &middot; written {now} by uda_jax</p>',
        _unfinished([run for run in runs if not run.finished]),
        *(
            _benchmark(name, [g for g in groups if g.benchmark == name])
            for name in dict.fromkeys(g.benchmark for g in groups)
        ),
        _curves(runs, colours),
        _pictures(runs),
        _illustrations(runs),
        ranking.section([(run.title, found) for run in runs for found in run.rankings]),
        _provenance(runs),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>uda_jax report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style.CSS}</style></head><body><main>\n" + "\n".join(sections) + "\n</main></body></html>\n"
    )


def _unfinished(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    items = []
    for run in runs:
        stage, step = run.last_step or ("", None)
        progress = (
            "nothing logged yet"
            if step is None
            else f"last logged step {step}" + (f" of stage {text(stage)}" if stage else "")
        )
        items.append(f"<li><code>{text(run.folder)}</code>: {progress}</li>")
    return f'<div class="notice"><b>Unfinished runs</b>, in the curves but in no table:<ul>{"".join(items)}</ul></div>'


def _benchmark(name: str, groups: Sequence[Group]) -> str:
    rows = [row for group in groups for row in group.rows]
    repeated = [
        f"{text(group.label)}: seed {', '.join(map(str, seeds))}"
        for group in groups
        if (seeds := tables.repeated_seeds(group))
    ]
    warning = (
        f'<p class="notice">The same seed more than once, so the spread says little: {"; ".join(repeated)}.</p>'
        if repeated
        else ""
    )
    notes = dict.fromkeys(f"{group.label}: {row['note']}" for group in groups for row in group.rows if row.get("note"))
    return "".join(
        [
            f"<h2>{text(name)}</h2>",
            f'<p class="soft">{text(tables.caption(rows))}. Mean over seeds ± sample standard deviation, in '
            "percentage points; the best row but for the oracle is bold.</p>",
            warning,
            *(f'<p class="soft">{text(note)}</p>' for note in notes),
            _results_table(groups),
            _class_table(groups),
            comparison.section(name, groups),
        ]
    )


def _results_table(groups: Sequence[Group]) -> str:
    protocols = tables.protocols(row for group in groups for row in group.rows)
    head = ["", *map(tables.heading, protocols), "min – max", "each seed"]
    head += ["mean over all classes", "pixel accuracy", "gap recovered", "steps", "time per run"]
    body = []
    for group in groups:
        cells = [f"<td>{text(group.label)}</td>"]
        for name in protocols:
            winner = tables.is_best(group, groups) and name == group.rows[0]["protocol"]
            cells.append(cell(tables.points(group.over_seeds(lambda row, name=name: row["miou"].get(name))), winner))
        cells.append(
            cell(f"{100 * min(group.headline):.1f} – {100 * max(group.headline):.1f}" if len(group.rows) > 1 else "–")
        )
        cells.append(cell(", ".join(f"{100 * value:.1f}" for value in group.headline)))
        cells.append(cell(tables.points(group.over_seeds(tables.all_classes_mean))))
        cells.append(cell(tables.points(group.over_seeds(lambda row: row.get("pixel_accuracy")))))
        gap = tables.gap_recovered(group, groups)
        cells.append(cell("–" if gap is None else f"{100 * gap:.0f} %"))
        cells.append(cell(" / ".join(dict.fromkeys(str(row["steps"]) for row in group.rows))))
        cells.append(
            cell(str(datetime.timedelta(seconds=round(statistics.fmean(row["seconds"] for row in group.rows)))))
        )
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = (
        "The headline figure averages the classes that are labelled in the evaluation split; the mean over all "
        "classes also counts, with 0, those that are only predicted. "
        "Gap recovered: (row - source_only) / (oracle - source_only)."
    )
    return table(head, body) + f'<p class="soft">{note}</p>'


def _class_table(groups: Sequence[Group]) -> str:
    names = list(dict.fromkeys(name for group in groups for row in group.rows for name in row["iou"]))
    if not names:
        return ""
    means = {}
    for group in groups:
        for name in names:
            values = group.over_seeds(lambda row, name=name: row["iou"].get(name))
            means[group.label, name] = statistics.fmean(values) if values else None
    contenders = [group.label for group in groups if group.kind != "oracle"]
    tops = {name: max((means[label, name] or 0.0 for label in contenders), default=None) for name in names}
    body = []
    for group in groups:
        cells = [f"<td>{text(group.label)}</td>"]
        for name in names:
            value = means[group.label, name]
            winner = len(contenders) > 1 and bool(value) and value == tops[name] and group.label in contenders
            cells.append(cell("–") if value is None else cell(f"{100 * value:.1f}", winner, shade=value))
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = "<h3>IoU of each class</h3>"
    return title + table(["", *names], body, "classes") + '<p class="soft">–: neither labelled nor predicted.</p>'


def _curves(runs: Sequence[Run], colours: Mapping[str, int]) -> str:
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
        return ""
    shown = dict.fromkeys(run.label for run in runs if run.metrics)
    key = "".join(
        f'<span><svg viewBox="0 0 24 8"><path {curves.stroke(colours[label])} d="M1 4H23"/></svg>{text(label)}</span>'
        for label in shown
    )
    explanation = '<p class="soft">One line per run, smoothed; the logged values are faint behind it.</p>'
    return f'<h2>Curves</h2>{explanation}<div class="key">{key}</div><div class="charts">{"".join(drawn)}</div>'


def _is_curve(key: str) -> bool:
    return key.startswith("loss/") or (key.startswith("evaluation/") and key.count("/") == 1)


def _pictures(runs: Sequence[Run]) -> str:
    frames = dict.fromkeys(name for run in runs for name in run.pictures)
    if not frames:
        return ""
    parts = [
        "<h2>Evaluation frames</h2>",
        '<p class="soft">Prediction and its entropy (dark: sure, light: unsure); black is unlabelled.</p>',
    ]
    parts.append(_class_key(runs))
    for frame in frames:
        shown = [run for run in runs if frame in run.pictures]
        first = next((run.pictures[frame] for run in shown if "label" in run.pictures[frame]), shown[0].pictures[frame])
        figures = [figure("image" + (" and label" if "label" in first else ""), [first["image"], first.get("label")])]
        figures += [
            figure(run.title, [run.pictures[frame]["prediction"], run.pictures[frame].get("entropy")]) for run in shown
        ]
        parts.append(f'<h3>{text(frame)}</h3><div class="frame">{"".join(figures)}</div>')
    return "".join(parts)


def _illustrations(runs: Sequence[Run]) -> str:
    parts = ["<h2>Training batches</h2>", '<p class="soft">What a method made of its last batch.</p>']
    for run in (run for run in runs if run.illustrations):
        figures = "".join(figure(name, files) for name, files in run.illustrations.items())
        parts.append(f'<h3>{text(run.title)}</h3><div class="frame">{figures}</div>')
    return "".join(parts) if len(parts) > 2 else ""


def _class_key(runs: Sequence[Run]) -> str:
    """The colours of the classes, where the classes are those of a label space that has fixed ones."""
    known = {row.name: row.colour for row in label_spaces.TRAIN_CLASSES}
    seven = label_spaces.label_space("7")
    known |= dict(zip(seven.names, seven.colours, strict=True))
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row["iou"] if name in known)
    chips = (f'<span><i style="background:rgb{tuple(known[name])}"></i>{text(name)}</span>' for name in names)
    return f'<div class="key">{"".join(chips)}</div>'


def _provenance(runs: Sequence[Run]) -> str:
    head = ["run", "label", "seed", "commit", "hardware", "config", "overrides", "command"]
    body = []
    for run in runs:
        for row in run.rows:
            overrides = json.dumps(row["overrides"]) if row["overrides"] else "none"
            figures = "".join(cell(str(value)) for value in (run.folder, row["label"], row["seed"], row["commit"][:10]))
            texts = (row["hardware"], row["config"], overrides, row["command"])
            body.append(f"<tr>{figures}{''.join(map(code_cell, texts))}</tr>")
    if not body:
        return ""
    summary = f"<summary>{len(body)} result rows</summary>"
    return f"<h2>Where the figures come from</h2><details>{summary}{table(head, body, 'sources')}</details>"
