"""The figures of single classes on the report page: tables, and bars beside each other."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax.report.curves import Stroke
from uda_jax.report.elements import Cell, Table
from uda_jax.report.headline_page import BASELINE
from uda_jax.report.tables import Group

MOST_BARS = 10  # rows in the bars of a class, as many as there are colours


def class_tables(groups: Sequence[Group]) -> dict[str, Table]:
    """Returns the tables of single classes by what they hold; Dice scores where that is the headline, too."""
    found = {measure: _class_table(groups, key) for measure, key in _measures(groups).items()}
    return {measure: table for measure, table in found.items() if table is not None}


def class_bars(groups: Sequence[Group], colours: Mapping[str, Stroke]) -> dict[str, Any] | None:
    """Returns what `bars.html` shows: for each class the first rows' figures as bars; None without any class.

    Args:
      groups: the rows of a benchmark.
      colours: label to the look of its bars.
    """
    measure, key = next(iter(_measures(groups).items()))
    shown = [group for group in groups if _names([group], key)][:MOST_BARS]
    if not shown:
        return None
    baselines = [group for group in shown if group.kind == BASELINE]
    classes = {}
    for name in _names(shown, key):
        values = {group.label: _values(group, key, name) for group in shown}
        if not any(values.values()):
            continue
        mark = values[baselines[0].label] if len(baselines) == 1 else None
        classes[name] = {
            "mark": statistics.fmean(mark) if mark else None,
            "bars": [
                {
                    "label": label,
                    "colour": colours[label].colour,
                    "value": statistics.fmean(found) if found else None,
                    "low": min(found, default=0.0),
                    "high": max(found, default=0.0),
                }
                for label, found in values.items()
            ],
        }
    key_of = {group.label: colours[group.label].colour for group in shown}
    return {
        "measure": measure,
        "classes": classes,
        "key": key_of,
        "has_baseline": len(baselines) == 1,
        "left_out": len(groups) - len(shown),
    }


def _measures(groups: Sequence[Group]) -> dict[str, str]:
    dice = {"Dice": "dice"} if any(group.column == "dice" for group in groups) else {}
    return dice | {"IoU": "iou"}


def _names(groups: Sequence[Group], key: str) -> list[str]:
    return list(dict.fromkeys(name for group in groups for row in group.rows for name in row.get(key, {})))


def _values(group: Group, key: str, name: str) -> list[float]:
    return group.over_seeds(lambda row: row.get(key, {}).get(name))


def _class_table(groups: Sequence[Group], key: str) -> Table | None:
    names = _names(groups, key)
    if not names:
        return None
    means = {}
    for group in groups:
        for name in names:
            values = _values(group, key, name)
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
