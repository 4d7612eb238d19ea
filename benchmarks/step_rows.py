"""How `benchmarks.train_step` and `benchmarks.startup` measure, keep and go on with their rows."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import step_cases
from benchmarks.provenance import provenance, versions
from benchmarks.step_cases import Case

Row = Mapping[str, Any]


def origin(module: str) -> dict[str, Any]:
    """Returns what a row depends on, beside the case."""
    return provenance(module) | {"versions": versions()}


def missing(cases: Sequence[Case], stored: Sequence[Row], hardware: str) -> list[Case]:
    """Returns the cases without a row that was measured on this hardware."""
    done = {row["label"] for row in stored if row["hardware"] == hardware}
    return [case for case in cases if case.label not in done]


def merged(stored: Sequence[Row], row: Row) -> list[Row]:
    """Returns the rows with one more, in place of that of its label, in the order of methods and sizes."""
    order = list(step_cases.SETTINGS)
    rows = [other for other in stored if other["label"] != row["label"]] + [row]
    return sorted(rows, key=lambda each: (order.index(each["method"]), [int(n) for n in each["size"].split("x")]))


def run(
    module: str,
    description: str,
    measure: Callable[[Case, int], Row],
    table: Callable[[Sequence[Row]], str],
    *,
    sizes: str,
    repeats: int,
) -> int:
    """Reads the command line, measures the rows that are asked for and missing, and keeps each as soon as it is there.

    Args:
      module: that is run.
      description: of it.
      measure: of a case and the number of repeats.
      table: of rows, printed if asked for.
      sizes, repeats: where the command line does not tell.

    Returns:
      The exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    step_cases.add_options(parser, sizes)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path, help="JSON file to write, and to go on with")
    parser.add_argument("--again", action="store_true", help="measure rows that the output has, too")
    parser.add_argument("--table", action="store_true", help="print the table of all rows, measured now or before")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}")
    if importlib.util.find_spec("torch") is None:
        print(f"{module}: PyTorch is not installed; run: pip install 'uda_jax[bench]'", file=sys.stderr)
        return 2
    from uda_jax.data.io import atomic

    rows = json.loads(options.output.read_text()) if options.output and options.output.exists() else []
    cases, conditions = step_cases.cases(options.methods, options.sizes), origin(module)
    for case in cases if options.again else missing(cases, rows, conditions["hardware"]):
        print(case.label, file=sys.stderr, flush=True)
        facts = {"label": case.label, **case._asdict(), "size": case.size, "repeats": options.repeats}
        rows = merged(rows, facts | measure(case, options.repeats) | conditions)
        if options.output:
            atomic.write(options.output, json.dumps(rows, indent=1) + "\n")
    if options.table:
        print(table(rows))
    return 0
