"""The section of the report page that sets the papers' rows beside ours."""

import statistics
from collections.abc import Sequence
from typing import Any

from uda_jax.report import published, tables
from uda_jax.report.elements import Cell, Table
from uda_jax.report.published import Published
from uda_jax.report.tables import Group


def section(benchmark: str, groups: Sequence[Group]) -> dict[str, Any] | None:
    """Returns what `published.html` shows of a benchmark, None where nothing was published.

    Our rows stand directly above the published rows of the same label; published rows that we have no
    counterpart of fold out below.

    Args:
      benchmark: the benchmark's name.
      groups: our groups of that benchmark, in the order of its other tables.
    """
    rows = published.find(benchmark)
    if not rows:
        return None
    labels = list(dict.fromkeys(group.rows[0]["label"] for group in groups))
    ours = set(labels)
    matching = [row for row in rows if not ours.isdisjoint(row.labels)]
    others = [row for row in rows if ours.isdisjoint(row.labels)]
    protocols = list(dict.fromkeys(name for row in rows for name in row.miou))
    marks = {part.partition(":")[0] for row in rows for part in row.mark.split("; ")}
    return {
        "matching": _beside_ours(matching, groups, labels, protocols),
        "matching_notes": _notes(matching),
        "others": _table(protocols, others, [_published_row(row, protocols, _classes(others)) for row in others]),
        "other_notes": _notes(others),
        "marks": {mark: meaning for mark, meaning in published.MARKS.items() if mark in marks},
    }


def _beside_ours(
    rows: Sequence[Published], groups: Sequence[Group], labels: Sequence[str], protocols: Sequence[str]
) -> Table:
    """The published rows by label, each below our groups of that label."""
    names, body = _classes(rows), []
    for label in labels:
        printed = [row for row in rows if label in row.labels]
        ours = [group for group in groups if printed and group.rows[0]["label"] == label]
        body += [_our_row(group, protocols, names) for group in ours]
        body += [_published_row(row, protocols, names) for row in printed]
    return _table(protocols, rows, body)


def _classes(rows: Sequence[Published]) -> list[str]:
    """The classes of the rows, in the order of the longest row."""
    return list(max((row.iou for row in rows), key=len, default=()))


def _table(protocols: Sequence[str], rows: Sequence[Published], body: Sequence[Sequence[Cell]]) -> Table:
    head = ["", "paper or config", "network", "mark", *map(tables.heading, protocols), *_classes(rows)]
    return Table(head, body, "classes published")


def _our_row(group: Group, protocols: Sequence[str], names: Sequence[str]) -> list[Cell]:
    means = (group.over_seeds(lambda row, name=name: row["miou"].get(name)) for name in protocols)
    values = (group.over_seeds(lambda row, name=name: row["iou"].get(name)) for name in names)
    classes = (100 * statistics.fmean(value) if value else None for value in values)
    configs = " / ".join(dict.fromkeys(row["config"] for row in group.rows))
    first = [Cell(f"{group.label}, ours", winner=True), Cell(configs), Cell("–"), Cell("–")]
    return [*first, *(Cell(tables.points(value)) for value in means), *map(_class_cell, classes)]


def _published_row(row: Published, protocols: Sequence[str], names: Sequence[str]) -> list[Cell]:
    first = map(Cell, (row.label, row.paper, row.network, row.mark))
    means = (Cell(row.figure(name)) for name in protocols)
    return [*first, *means, *(_class_cell(row.iou.get(name)) for name in names)]


def _class_cell(percent: float | None) -> Cell:
    return Cell("–") if percent is None else Cell(f"{percent:.1f}", shade=percent / 100)


def _notes(rows: Sequence[Published]) -> list[tuple[str, str]]:
    """The rows' remarks, each after the rows that share it."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            labels.setdefault(row.note, []).append(f"{row.label} ({row.network})")
    return [(", ".join(names), note) for note, names in labels.items()]
