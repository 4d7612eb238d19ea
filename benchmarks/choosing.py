"""The tables of docs/choosing.md, from the stored result rows: which method for which camera.

    python -m benchmarks.choosing            prints them
    python -m benchmarks.choosing --write    puts them into docs/choosing.md, between its two marks

A gain is a row's headline minus that of source_only of the same benchmark and seed, in percentage points: the mean over
the seeds, and for how many of them it is above 0. Time is the mean seconds of a run on streets over those of
source_only. Nothing is measured here; `python -m benchmarks.adaptation` makes the rows.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uda_jax.cli.console import TAKE, summary_of
from uda_jax.data.io import atomic
from uda_jax.report import tables

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"
BEGIN, END = "<!-- choosing: python -m benchmarks.choosing --write -->", "<!-- end of choosing -->"
BENCHMARKS = ("streets", "camvid_day2dusk", "blobs", "digits")
BASELINE = "source_only"


class Way(NamedTuple):
    """One way to train.

    Attributes:
      name: as the table calls it.
      method: whose module says when to take it.
      depth: of which domains it needs depth.
      labels: how many target labels it sees.
      weights: whether it takes published weights to be what it is.
      labels_of: of its rows by benchmark; of digits a pair stands before it.
    """

    name: str
    method: str
    depth: str = ""
    labels: str = ""
    weights: bool = False
    labels_of: dict[str, str] = {}


def _both(label: str) -> dict[str, str]:
    return {"streets": label, "camvid_day2dusk": label}


WAYS = (
    Way("`source_only`", "source_only", labels_of=_both("source_only") | {"blobs": "source_only"}),
    Way("`dacs`", "dacs", labels_of=_both("dacs")),
    Way("`dacs_plca`", "dacs_plca", labels_of={"streets": "dacs_plca"}),
    Way("`adaptsegnet`", "adaptsegnet", labels_of=_both("adaptsegnet")),
    Way("`plca`", "plca", labels_of=_both("plca")),
    Way("`intrada`", "intrada", labels_of={"streets": "intrada"}),
    Way("`advent`", "advent", labels_of=_both("advent")),
    Way("`advent:streets,minent`", "advent", labels_of={"streets": "minent"}),
    Way("`advent_teacher`", "advent_teacher"),
    Way("`corda`", "corda", depth="both", labels_of={"streets": "corda"}),
    Way("`gio_ada`", "gio_ada", depth="source", labels_of={"streets": "gio_ada"}),
    Way("`dada`", "dada", depth="source", labels_of={"streets": "dada"}),
    Way("`ass`, 10 labels", "ass", labels="10", labels_of={"streets": "ass_10", "blobs": "ass_10"}),
    Way("`ass`, 50 labels", "ass", labels="50", labels_of={"streets": "ass", "blobs": "ass"}),
    Way("`source_only:streets,labelled`", "source_only", labels="50", labels_of={"streets": "labelled_only"}),
    Way("`source_only`, `,oracle`", "source_only", labels="all", labels_of=_both("oracle") | {"blobs": "oracle"}),
    Way("`adda` on digits", "adda", labels_of={"digits": "inter"}),
    Way("`cycada` on digits, then `adda`", "cycada", labels_of={"digits": "cycada"}),
    Way("`daformer`", "daformer", weights=True),
    Way("`hrda`", "hrda", weights=True),
    Way("`mic`", "mic", weights=True),
    Way("`vfm_uda`", "vfm_uda", weights=True),
    Way("`few_labels`, 50 labels", "few_labels", labels="50", weights=True),
    Way(
        "`self_supervised_depth`, then `corda`", "self_supervised_depth", labels_of={"streets": "corda/self_supervised"}
    ),
)

# What acts on one part of the gap alone: a line, its benchmark and the label of its row.
PARTS = (
    (
        "looks: source images redrawn in the target's colours (`gio_ada:streets,input_only`)",
        "streets",
        "gio_ada/input_only",
    ),
    ("layouts: outputs made alike (`gio_ada:streets,output_only`)", "streets", "gio_ada/output_only"),
    ("both (`gio_ada:streets`)", "streets", "gio_ada"),
)


def main() -> int:
    """Prints the tables, or writes them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put them into docs/choosing.md")
    options = parser.parse_args()
    text = markdown(stored())
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        atomic.write(PAGE, f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        print(text)
    return 0


def stored() -> list[dict[str, Any]]:
    """Returns the result rows of all benchmarks of the page."""
    return [row for name in BENCHMARKS for row in tables.read_rows(RESULTS / f"{name}.json")]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table of ways to train, and that of the gap's parts."""
    lines = ["| way | depth of | target labels | streets | CamVid dusk | blobs | digits | time | take it |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for way in WAYS:
        cells = [gain(rows, name, way.labels_of.get(name)) for name in BENCHMARKS[:3]]
        pairs = (
            [gain(rows, "digits", f"{pair}/{way.labels_of['digits']}") for pair in ("mnist_usps", "usps_mnist")]
            if ("digits" in way.labels_of)
            else []
        )
        take = summary_of(f"uda_jax.methods.{way.method}")[1].removeprefix(TAKE).rstrip(".")
        needs = (way.depth or "–", way.labels or "–")
        cells += [", ".join(pairs) or "–", time(rows, way.labels_of.get("streets")), take]
        lines.append(f"| {way.name}{' *' if way.weights else ''} | {' | '.join((*needs, *cells))} |")
    lines += ["", "\\* needs published weights; not trained here, so there is no figure.", ""]
    lines += ["| acts on | gain over source_only |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {text} | {gain(rows, name, label)} |" for text, name, label in PARTS])


def gain(rows: Sequence[dict[str, Any]], benchmark: str, label: str | None) -> str:
    """Returns a row's mean gain over source_only, and for how many seeds it is above; of source_only its figure."""
    own = _by_seed(rows, benchmark, label)
    if not own:
        return "–"
    family = label.rpartition("/")[0] if benchmark == "digits" else ""
    base = _by_seed(rows, benchmark, f"{family}/{BASELINE}" if family else BASELINE)
    if label == BASELINE:
        return f"{100 * statistics.fmean(own.values()):.1f}"
    gains = [100 * (own[seed] - base[seed]) for seed in sorted(own.keys() & base.keys())]
    above = sum(each > 0 for each in gains)
    return f"{statistics.fmean(gains):+.1f} ({above} of {len(gains)})"


def time(rows: Sequence[dict[str, Any]], label: str | None) -> str:
    """Returns the mean seconds of a row on streets over those of source_only."""
    seconds = lambda name: [row["seconds"] for row in _of(rows, "streets", name)]  # noqa: E731
    if label is None or not seconds(label):
        return "–"
    return f"{statistics.fmean(seconds(label)) / statistics.fmean(seconds(BASELINE)):.1f}x"


def _of(rows: Sequence[dict[str, Any]], benchmark: str, label: str | None) -> list[dict[str, Any]]:
    return [row for row in rows if (row["benchmark"], row["label"]) == (benchmark, label)]


def _by_seed(rows: Sequence[dict[str, Any]], benchmark: str, label: str | None) -> dict[int, float]:
    return {row["seed"]: tables.figure(row, tables.headline_column(row)) for row in _of(rows, benchmark, label)}


if __name__ == "__main__":
    sys.exit(main())
