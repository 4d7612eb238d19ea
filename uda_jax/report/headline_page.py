"""The head of the report page: what each row reached, and how far that is from training on the source alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax.report import tables
from uda_jax.report.curves import Stroke
from uda_jax.report.tables import Group
from uda_jax.training.metrics import METRICS

BASELINE = "source_only"
# Rows that saw labels of the target, which adaptation does without.
_LABELLED = ("labelled_only", "source_plus_labelled", "oracle")


def section(benchmark: str, groups: Sequence[Group], colours: Mapping[str, Stroke]) -> dict[str, Any]:
    """Returns what `headline.html` shows of a benchmark.

    Args:
      benchmark: its name.
      groups: its rows in the order of the tables.
      colours: label to the look of its bar.
    """
    highest = {
        column: max(group.mean for group in groups if group.column == column)
        for column in dict.fromkeys(group.column for group in groups)
    }
    return {
        "name": benchmark,
        "columns": ", ".join(f"{tables.heading(column)}{_unit(column)}" for column in highest),
        "rows": [_row(group, groups, highest[group.column], colours) for group in groups],
        "worse": [group.label for group in groups if (found := baseline(group, groups)) and _change(group, found) < 0],
        "has_baseline": any(group.kind == BASELINE for group in groups),
    }


def baseline(group: Group, others: Sequence[Group]) -> Group | None:
    """Returns the row of source_only that a row is compared with; None for source_only itself, and where none is.

    It has the same benchmark, family, headline and selection, and of several settings of it the same number of steps.
    """
    found = [other for other in others if other.kind == BASELINE and tables.comparable(group, other)]
    if group.kind == BASELINE:
        return None
    if len(found) > 1:
        found = [other for other in found if other.rows[0]["steps"] == group.rows[0]["steps"]]
    return found[0] if len(found) == 1 else None


def paired(group: Group, other: Group) -> list[float]:
    """Returns how much better a row is than another for each seed that both have; negative is worse."""
    theirs = {row["seed"]: tables.figure(row, other.column) for row in other.rows}
    sign = 1 if group.higher_is_better else -1
    return [
        sign * (tables.figure(row, group.column) - theirs[row["seed"]]) for row in group.rows if row["seed"] in theirs
    ]


def _row(group: Group, groups: Sequence[Group], highest: float, colours: Mapping[str, Stroke]) -> dict[str, Any]:
    found = baseline(group, groups)
    shown = {
        "label": group.label,
        "colour": colours[group.label].colour,
        "figure": tables.points(group.headline, group.column),
        "share": group.mean / highest if highest > 0 else 0.0,
        "mark": found.mean / highest if found and highest > 0 else None,
        "seeds": len({row["seed"] for row in group.rows}),
        "difference": "–",
        "verdict": "",
        "words": "the baseline" if group.kind == BASELINE else "nothing to compare with",
    }
    if found is None:
        return shown
    change, by_seed = _change(group, found), paired(group, found)
    shown["difference"] = _signed(group.mean - found.mean, group.column)
    shown["verdict"] = "worse" if change < 0 else "better" if change > 0 else ""
    shown["words"] = "worse" if change < 0 else "better" if change > 0 else "the same"
    lower = sum(value < 0 for value in by_seed)
    if len(by_seed) > 1 and 0 < lower < len(by_seed):
        shown["words"] += f", worse in {lower} of {len(by_seed)} seeds"
    if group.kind in _LABELLED:
        shown["words"] += "; saw target labels"
    return shown


def _change(group: Group, other: Group) -> float:
    """How much better the mean of a row is than that of another; negative is worse."""
    return (group.mean - other.mean) * (1 if group.higher_is_better else -1)


def _signed(difference: float, column: str) -> str:
    text = tables.points([abs(difference)], column)
    return f"{'−' if difference < 0 else '+'}{text}"


def _unit(column: str) -> str:
    """What follows a heading: fractions are printed in percent, errors have a unit of their own or none."""
    return ", percent" if column not in METRICS or METRICS[column].unit == "fraction" else ", lower is better"
