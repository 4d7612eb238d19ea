"""Confusion matrices in run folders: how many pixels of each class were predicted as which, by final split."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.io.files import read_file
from uda_jax.errors import UserError

_CURE = "delete it; the report then shows the run without a confusion matrix"
_MOST_CLASSES = 256  # labels are stored in 8 bits
_MOST_PIXELS = 2**53


class Confusion(NamedTuple):
    """The confusion matrix of one split.

    Attributes:
      classes: the names of the C classes.
      counts: int64 `[C, C]`, pixels; rows are labels, columns predictions, in the order of `classes`.
    """

    classes: tuple[str, ...]
    counts: np.ndarray


def to_json(matrices: Mapping[str, Confusion]) -> str:
    """Returns the text of a run's file; `matrices` maps names of splits to theirs."""
    found = {
        name: {"classes": list(matrix.classes), "counts": matrix.counts.tolist()} for name, matrix in matrices.items()
    }
    return json.dumps(found, separators=(",", ":")) + "\n"


def read(path: str | os.PathLike) -> dict[str, Confusion]:
    """Reads a run's file: the confusion matrices by name of the split.

    Raises:
      UserError: no such file, no JSON, or a split without unique names of classes and a square of counts.
    """
    try:
        found = json.loads(read_file(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_CURE}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object of splits, got {type(found).__name__}; {_CURE}")
    return {name: _checked(matrix, f"{path}: split '{name}'") for name, matrix in found.items()}


def added(matrices: Iterable[Confusion]) -> Confusion | None:
    """Returns the sum of the matrices that have the classes of the first one; None without any."""
    total = None
    for matrix in matrices:
        if total is None:
            total = matrix
        elif matrix.classes == total.classes:
            total = Confusion(total.classes, total.counts + matrix.counts)
    return total


def _checked(matrix: Any, where: str) -> Confusion:
    matrix = matrix if isinstance(matrix, dict) else {}
    classes, counts = matrix.get("classes"), matrix.get("counts")
    if (
        not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
        or not 0 < len(set(classes)) == len(classes) <= _MOST_CLASSES
    ):
        raise UserError(f"{where}: key 'classes': expected 1 to {_MOST_CLASSES} names that differ; {_CURE}")
    if (
        not isinstance(counts, list)
        or len(counts) != len(classes)
        or not all(isinstance(row, list) and len(row) == len(classes) for row in counts)
        or not all(type(value) is int and 0 <= value < _MOST_PIXELS for row in counts for value in row)
    ):
        size = len(classes)
        raise UserError(f"{where}: key 'counts': expected {size} rows of {size} numbers of pixels; {_CURE}")
    return Confusion(tuple(classes), np.array(counts, np.int64))
