"""The results tables: every row and seed of a benchmark, one run after the other, resumable.

    python -m benchmarks.adaptation streets
    python -m benchmarks.adaptation camvid_day2dusk --seeds 0 1 2
    python -m benchmarks.adaptation digits --rows mnist_usps/inter mnist_usps/intra

Each run is `uda train` in a folder of its own, so that running this again goes on where it stopped and passes
over what is done. After every run the rows so far go to benchmarks/results/<benchmark>.json, the file behind
the published table. CamVid is expected in data/camvid, MNIST and USPS in data/digits (see `uda datasets`).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from uda_jax import report
from uda_jax.report.files import write_atomically

RESULTS = Path(__file__).parent / "results"

# Rows of each pair of digit sets; digits:<pair> alone is the whole recipe, its row "intra".
DIGIT_ROWS = {"source_only": ",source_only", "inter": ",inter", "self_training": ",self_training", "intra": ""}

# Benchmark -> row -> config.
ROWS = {
    "streets": {
        "source_only": "source_only:streets",
        "oracle": "source_only:streets,oracle",
        "adaptsegnet": "adaptsegnet:streets",
        "minent": "advent:streets,minent",
        "advent": "advent:streets",
        "intrada": "intrada:streets",
        "labelled_only": "source_only:streets,labelled",
        "source_plus_labelled": "source_only:streets,both",
        "ass": "ass:streets",
        "ass_10": "ass:streets,10",
    },
    "camvid_day2dusk": {
        "source_only": "source_only:camvid_day2dusk",
        "oracle": "source_only:camvid_day2dusk,oracle",
        "advent": "advent:camvid_day2dusk",
    },
    "digits": {
        f"{pair}/{row}": f"digits:{pair}{variant}"
        for pair in ("mnist_usps", "usps_mnist")
        for row, variant in DIGIT_ROWS.items()
    },
}


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", choices=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"), help="folder of the runs")
    options = parser.parse_args()
    references = ROWS[options.benchmark]
    if unknown := set(options.rows or ()) - set(references):
        parser.error(f"unknown rows {sorted(unknown)}; known: {', '.join(references)}")
    target = RESULTS / f"{options.benchmark}.json"
    for seed in options.seeds:
        for label in options.rows or references:
            workdir = options.runs / options.benchmark / label / f"seed{seed}"
            words = ["train", "--config", references[label], "--workdir", str(workdir), f"--config.seed={seed}"]
            print("uda", *words, file=sys.stderr, flush=True)
            if status := subprocess.run([sys.executable, "-m", "uda_jax.cli", *words]).returncode:
                return status
            merge(target, json.loads((workdir / "result.json").read_text()))
    print(report.markdown(report.read_rows(target)))
    return 0


def merge(target: Path, rows: list[dict]) -> None:
    """Puts rows into a results file, in place of earlier ones of the same label and seed."""
    stored = json.loads(target.read_text()) if target.exists() else []
    replaced = {(row["label"], row["seed"]) for row in rows}
    kept = [row for row in stored if (row["label"], row["seed"]) not in replaced]
    rows = sorted(kept + rows, key=lambda row: (row["label"], row["seed"]))
    write_atomically(target, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
