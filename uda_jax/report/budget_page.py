"""The page of `uda budget`: the score over the number of labelled frames, seeds as one band, and its table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.report import curves, tables
from uda_jax.report.elements import Cell, Table, render


def page(found: Sequence[Mapping[str, Any]], column: str, chosen: Sequence[str], criterion: str, command: str) -> str:
    """Returns the page.

    Args:
      found: from `runs.budget.curve`; may be empty.
      column: the headline's name.
      chosen: the frames to label next.
      criterion: how they were chosen, such as "by entropy".
      command: that makes it.
    """
    titles = list(dict.fromkeys(each["title"] for each in found))
    seeds = sorted({seed for each in found for seed in each["values"]})
    counts = sorted({each["labels"] for each in found})
    scale = 1 if tables.points([1.0], column) == "1.000" else 100
    lines = []
    for number, title in enumerate(titles):
        at = {each["labels"]: each["values"] for each in found if each["title"] == title}
        if len(at) == 1 and 0 in at:  # Drawn across, to compare with.
            at = dict.fromkeys(counts, at[0])
        values = [[scale * at[count].get(seed, np.nan) for count in sorted(at)] for seed in seeds]
        lines.append(curves.Series(title, number, sorted(at), values))
    labels = {title: curves.stroke(number) for number, title in enumerate(titles)}
    chart = curves.chart(f"{tables.heading(column)} on the final split", lines, "labelled frames") if lines else ""
    return str(
        render(
            "budget.html",
            chart=chart,
            labels=labels,
            table=Table(["", *map(str, counts)], _rows(found, titles, counts, column)),
            chosen=chosen,
            criterion=criterion,
            command=command,
            seeds=len(seeds),
        )
    )


def markdown(found: Sequence[Mapping[str, Any]], column: str) -> str:
    """Returns the table in Markdown: a row for each line, a column for each number of labels."""
    titles = list(dict.fromkeys(each["title"] for each in found))
    counts = sorted({each["labels"] for each in found})
    head = [f"{tables.heading(column)}, labelled frames:", *map(str, counts)]
    cells = [[cell.text for cell in row] for row in _rows(found, titles, counts, column)]
    lines = [head, ["---", *["---:"] * len(counts)], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rows(
    found: Sequence[Mapping[str, Any]], titles: Sequence[str], counts: Sequence[int], column: str
) -> list[list[Cell]]:
    cells = {(each["title"], each["labels"]): list(each["values"].values()) for each in found}
    return [
        [Cell(title), *(Cell(tables.points(cells.get((title, count), ()), column)) for count in counts)]
        for title in titles
    ]
