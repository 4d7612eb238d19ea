"""The curves of the report page: logged losses and scores over the steps, seeds as one band."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.report import curves
from uda_jax.report.repeats import Repeats
from uda_jax.training.metrics import METRICS

MOST_LINES = 20  # after which colours and dashes come again


def section(repeats: Sequence[Repeats], colours: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns what `curves.html` shows of a benchmark, None where nothing was logged twice.

    Args:
      repeats: its runs.
      colours: their titles to the numbers of their colours.
    """
    charts: dict[tuple[str, str], list[curves.Series]] = {}
    logged = [each for each in repeats if any(run.metrics for run in each.runs)]
    for each in logged[:MOST_LINES]:
        for stage in dict.fromkeys(stage for run in each.runs for stage in run.metrics):
            rows = [run.metrics[stage] for run in each.runs if run.metrics.get(stage)]
            for name in filter(_is_curve, dict.fromkeys(key for logged in rows for row in logged for key in row)):
                charts.setdefault((stage, name), []).append(_series(each, name, rows, colours[each.title]))
    several = len({stage for stage, _ in charts}) > 1
    drawn = [
        curves.chart(_title(name) + (f" ({stage})" if several and stage else ""), lines)
        for (stage, name), lines in charts.items()
        if any(len(line.steps) > 1 for line in lines)  # a single point is in the table, and no curve
    ]
    drawn = [chart for chart in drawn if chart]
    if not drawn:
        return None
    labels = {each.title: (curves.stroke(colours[each.title]), len(each.runs)) for each in logged[:MOST_LINES]}
    return {"charts": drawn, "labels": labels, "left_out": max(0, len(logged) - MOST_LINES)}


def _series(repeats: Repeats, name: str, logged: Sequence[Sequence[Mapping[str, Any]]], colour: int) -> curves.Series:
    """One line: the values of each run at the steps of all of them, fractions in percent."""
    scale = 100 if _is_fraction(name) else 1
    found = [
        {row["step"]: float("nan") if row[name] is None else scale * row[name] for row in rows if name in row}
        for rows in logged
    ]
    found = [values for values in found if values]
    steps = sorted({step for values in found for step in values})
    values = np.array([[values.get(step, np.nan) for step in steps] for values in found], float)
    title = f"{repeats.title}, {len(found)} runs" if len(found) > 1 else repeats.title
    return curves.Series(title, colour, steps, values)


def _is_curve(key: str) -> bool:
    return key.startswith("loss/") or (key.startswith("evaluation/") and key.count("/") == 1)


def _is_fraction(key: str) -> bool:
    metric = METRICS.get(key.partition("/")[2]) if key.startswith("evaluation/") else None
    return metric is not None and metric.unit == "fraction"


def _title(key: str) -> str:
    metric = METRICS.get(key.partition("/")[2]) if key.startswith("evaluation/") else None
    unit = "" if metric is None else {"fraction": ", percent", "m": ", metres"}.get(metric.unit, "")
    return f"{key}{unit}"
