"""The section of the report page that sets the papers' rows beside ours."""

import statistics
from collections.abc import Sequence

from uda_jax.report import published, tables
from uda_jax.report.markup import cell, table, text
from uda_jax.report.published import Published
from uda_jax.report.tables import Group


def section(benchmark: str, groups: Sequence[Group]) -> str:
    """Returns what was published on a benchmark as HTML, "" where nothing was.

    Our rows stand directly above the published rows of the same label; published rows that we have no
    counterpart of fold out below.

    Args:
      benchmark: the benchmark's name.
      groups: our groups of that benchmark, in the order of its other tables.
    """
    rows = published.find(benchmark)
    if not rows:
        return ""
    labels = list(dict.fromkeys(group.rows[0]["label"] for group in groups))
    matching = [row for row in rows if row.label in labels]
    others = [row for row in rows if row.label not in labels]
    protocols = list(dict.fromkeys(name for row in rows for name in row.miou))
    parts = ["<h3>As published</h3>"]
    if matching:
        names = _classes(matching)
        body = []
        for label in labels:
            printed = [row for row in matching if row.label == label]
            ours = [group for group in groups if printed and group.rows[0]["label"] == label]
            body += [_our_row(group, protocols, names) for group in ours]
            body += [_published_row(row, protocols, names) for row in printed]
        parts += [_table(protocols, names, body), _notes(matching)]
    if others:
        names = _classes(others)
        body = [_published_row(row, protocols, names) for row in others]
        summary = f"<summary>{len(others)} published rows without a run of ours</summary>"
        parts.append(f"<details>{summary}{_table(protocols, names, body)}{_notes(others)}</details>")
    return "".join([*parts, _legend(rows)])


def _classes(rows: Sequence[Published]) -> list[str]:
    """The classes of the rows, in the order of the longest row."""
    longest = max((row.iou for row in rows), key=len)
    return list(longest)


def _table(protocols: Sequence[str], names: Sequence[str], body: Sequence[str]) -> str:
    return table(["", "paper or config", "network", "mark", *map(tables.heading, protocols), *names], body, "classes")


def _our_row(group: Group, protocols: Sequence[str], names: Sequence[str]) -> str:
    means = (group.over_seeds(lambda row, name=name: row["miou"].get(name)) for name in protocols)
    values = (group.over_seeds(lambda row, name=name: row["iou"].get(name)) for name in names)
    classes = (100 * statistics.fmean(value) if value else None for value in values)
    configs = " / ".join(dict.fromkeys(row["config"] for row in group.rows))
    first = [cell(f"{group.label}, ours", winner=True), cell(configs), cell("–"), cell("–")]
    return _row([*first, *(cell(tables.points(value)) for value in means), *map(_class_cell, classes)])


def _published_row(row: Published, protocols: Sequence[str], names: Sequence[str]) -> str:
    first = map(cell, (row.label, row.paper, row.network, row.mark))
    means = (cell(row.figure(name)) for name in protocols)
    return _row([*first, *means, *(_class_cell(row.iou.get(name)) for name in names)])


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _class_cell(percent: float | None) -> str:
    return cell("–") if percent is None else cell(f"{percent:.1f}", shade=percent / 100)


def _notes(rows: Sequence[Published]) -> str:
    """The rows' remarks; rows that share one are named together."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            labels.setdefault(row.note, []).append(f"{row.label} ({row.network})")
    remarks = (f"<li>{text(', '.join(names))}: {text(note)}</li>" for note, names in labels.items())
    return f'<ul class="soft">{"".join(remarks)}</ul>' if labels else ""


def _legend(rows: Sequence[Published]) -> str:
    used = {part.partition(":")[0] for row in rows for part in row.mark.split("; ")}
    marks = "; ".join(f"<b>{text(mark)}</b>: {text(said)}" for mark, said in published.MARKS.items() if mark in used)
    return (
        '<p class="soft">Percent; published runs may differ from ours in network, steps and initial weights. '
        f"What the marks say: {marks}.</p>"
    )
