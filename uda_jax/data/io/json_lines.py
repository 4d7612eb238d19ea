"""Tables of one JSON object per line, which grow while a run goes on and survive its being killed."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uda_jax.data.io import atomic


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of a table, without the torn line that a killed process leaves.

    Args:
      path: a file of UTF-8 text. Lines without an end, and those that are no JSON object, are left out.

    Raises:
      OSError: there is no such file, or it cannot be read.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows = (_row(line) for line in lines if line.endswith("\n"))
    return [row for row in rows if row is not None]


def append(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a table, which is made if needed; they are in the file when the call returns."""
    # Opened anew each time, so that the file is never half buffered and may be replaced between two calls.
    with open(path, "a", encoding="utf-8") as file:
        file.write(_text(rows))


def write(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a table in one move."""
    atomic.write(path, _text(rows))


def _text(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
