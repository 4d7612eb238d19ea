"""The tables of `benchmarks.train_step` and `benchmarks.startup`, alone or as one.

python -m benchmarks.step_tables train_step.json startup.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import Spread

Rows = Sequence[Mapping[str, Any]]

STEP_HEADS = ("JAX, ms", "PyTorch, ms", "JAX / PyTorch", "images/s, JAX", "images/s, PyTorch", "peak MiB, JAX")
STEP_HEADS += ("peak MiB, PyTorch", "foreign load, cores")
# Phases of a start, in their order, and what a process without any has.
PHASES = ("import", "initialise", "compile", "first_step", "total")
STARTS = {"cold": "cold", "warm": "warm", "torch": "PyTorch"}


def table(rows: Rows) -> str:
    """Returns a Markdown table of the steps."""
    return _markdown(STEP_HEADS, [(row["label"], step_cells(row)) for row in rows])


def startup_table(rows: Rows) -> str:
    """Returns a Markdown table of the starts in seconds, with a line for each kind."""
    heads = ("start", *(phase.replace("_", " ") + ", s" for phase in PHASES))
    lines = []
    for row in rows:
        for kind, name in STARTS.items():
            found = row["seconds"][kind]
            cells = [_range(found[phase], 1) if phase in found else "" for phase in PHASES]
            lines.append((row["label"], [name, *cells]))
    return _markdown(heads, lines)


def joint_table(rows: Rows, starts: Rows) -> str:
    """Returns a Markdown table of the steps, with what the start of each takes where that was measured."""
    by_label = {row["label"]: row["seconds"] for row in starts}
    heads = ("compile, s", "again, s", "until the first step has ended, s", "again, s", "PyTorch, s")
    lines = []
    for row in rows:
        found, cells = by_label.get(row["label"]), [""] * len(heads)
        if found:
            columns = [(kind, phase) for phase in ("compile", "total") for kind in ("cold", "warm")]
            cells = [f"{found[kind][phase]['middle']:.1f}" for kind, phase in (*columns, ("torch", "total"))]
        lines.append((row["label"], [*step_cells(row), *cells]))
    return _markdown((*STEP_HEADS, *heads), lines)


def step_cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a step's row, those of `STEP_HEADS`."""
    digits = 0 if min(row["jax_ms"]["middle"], row["torch_ms"]["middle"]) >= 100 else 1
    times = [_range(row[f"{side}_ms"], digits) for side in ("jax", "torch")]
    rates = [f"{row[f'{side}_images_per_second']:.2f}" for side in ("jax", "torch")]
    peaks = [f"{row[f'{side}_peak_mib']:.0f}" for side in ("jax", "torch")]
    return [*times, _range(row["ratio"], 2), *rates, *peaks, f"{row['foreign_cores']:.2f}"]


def _markdown(heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    rows = [["method, frames", *heads], ["---", *["---:"] * len(heads)], *([label, *cells] for label, cells in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _range(figures: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{figures[name]:.{digits}f}" for name in Spread._fields)
    return middle if low == high else f"{middle} [{low}, {high}]"


def main() -> None:
    """Prints the joint table of two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", type=Path, help="what benchmarks.train_step wrote")
    parser.add_argument("starts", type=Path, help="what benchmarks.startup wrote")
    options = parser.parse_args()
    print(joint_table(*(json.loads(path.read_text()) for path in (options.steps, options.starts))))


if __name__ == "__main__":
    main()
