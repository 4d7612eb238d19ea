"""Confusion matrices on the report page: one per table row, its seeds added up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.report import confusion
from uda_jax.report.confusion import Confusion
from uda_jax.report.runs import Run
from uda_jax.report.tables import Group

MOST_MATRICES = 12
_MOST_CLASSES = 40  # a larger matrix is not read
_MIXED = 5  # pairs of classes that are named


def section(groups: Sequence[Group], runs: Sequence[Run]) -> dict[str, Any] | None:
    """Returns what `confusion.html` shows of a benchmark, None where no run has stored a matrix.

    Args:
      groups: the rows of a benchmark.
      runs: the runs whose rows they are.
    """
    stored = {id(row): matrix for run in runs for row in run.rows if (matrix := run.matrix(row)) is not None}
    matrices = {
        group.label: confusion.added(stored[id(row)] for row in group.rows if id(row) in stored) for group in groups
    }
    found = {label: matrix for label, matrix in matrices.items() if matrix is not None}
    if not found:
        return None
    return {
        "shown": [_shown(label, matrix) for label, matrix in list(found.items())[:MOST_MATRICES]],
        "left_out": max(0, len(found) - MOST_MATRICES),
        "missing": [label for label, matrix in matrices.items() if matrix is None],
    }


def _shown(label: str, matrix: Confusion) -> dict[str, Any]:
    labelled = matrix.counts.sum(axis=1)
    shares = matrix.counts / np.maximum(labelled, 1)[:, None]
    rows = [
        {"name": name, "cells": [_cell(share) for share in row], "pixels": f"{int(count):,}"}
        for name, row, count in zip(matrix.classes, shares.tolist(), labelled, strict=True)
        if count
    ]
    return {
        "label": label,
        "classes": matrix.classes,
        "rows": rows if len(matrix.classes) <= _MOST_CLASSES else [],
        "mixed": _most_mixed(matrix, shares),
    }


def _cell(share: float) -> Mapping[str, Any]:
    """Percent without decimals, and nothing for what would round to 0."""
    percent = round(100 * share)
    return {"text": str(percent) if percent else "", "shade": round(share, 2)}


def _most_mixed(matrix: Confusion, shares: np.ndarray) -> list[str]:
    """The pairs that cost most pixels: "12 % of sidewalk as road", by number of pixels."""
    wrong = matrix.counts * (1 - np.eye(len(matrix.classes), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MIXED]
    pairs = [divmod(int(place), len(matrix.classes)) for place in order if wrong.flat[place]]
    names = matrix.classes
    return [f"{100 * shares[true, taken]:.0f} % of {names[true]} as {names[taken]}" for true, taken in pairs]
