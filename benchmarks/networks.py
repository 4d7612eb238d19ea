"""Time and memory of the networks on this CPU, beside PyTorch modules of the same shape.

    python -m benchmarks.networks
    python -m benchmarks.networks --networks deeplab_v2_resnet101,dtn --repeats 11 --output networks.json

Each row has two worker processes, one per library, with the same weights (where a published dialect can carry them)
and the same input; their outputs are compared before anything is timed. Both are warm, and they run one repeat each in
turns, first one library first, then the other, so that whatever else the machine does meets both. Forward is in
evaluation mode; forward+backward is in training mode (batch statistics, dropout) and ends with the gradient of the
parameters of the sum over outputs of their mean square.

Fair to both: both keep freed memory (`uda_jax.training.allocator`), use all cores and float32. PyTorch runs eagerly,
in its default layout, with ReLUs in place and without gradient records in the forward row.

A second table, of JAX alone, shows what bfloat16 and recomputed activations (remat) do to memory and time.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import network_tables
from benchmarks.network_sides import BACKWARD, PHASES, Case, JaxSide, TorchSide
from benchmarks.provenance import provenance, versions
from benchmarks.side_by_side import compared, spread, turns, workers

TOLERANCE = 1e-3
WITHOUT_TORCH = "benchmarks.networks: PyTorch is not installed; run: pip install 'uda_jax[bench]'"


# From small weights, the maps of VGG would vanish on their way, and differences with them.
HE = {"encoder_init": "he"}
MULTI_LEVEL = {"multi_level": True, "aspp_branches": 4}
CASES = (
    Case("deeplab_v2_resnet101", 256, 256, dialect="advent", shape=MULTI_LEVEL, options=HE),
    Case("deeplab_v2_resnet101", 256, 512, dialect="advent", shape=MULTI_LEVEL, options=HE),
    Case("deeplab_v2_resnet50", 256, 256, dialect="dacs", options=HE),
    Case("deeplab_v2_vgg16", 128, 256, dialect="vgg16", options=HE),
    Case("dada_resnet101", 256, 256, dialect="dada", options=HE),
    Case("corda_resnet101", 256, 256, dialect="corda", options={**HE, "initial_head": "aspp"}),
    Case("pixel_discriminator", 256, 512, channels=19, dialect="advent_discriminator"),
    Case("patch_discriminator", 256, 256, dialect="cyclegan_discriminator"),
    Case("translator", 128, 256, dialect="cyclegan_generator"),
    Case("lenet", 28, 28, batch=64, channels=1, classes=10),
    Case("dtn", 32, 32, batch=64, classes=10),
    # The network of the configs for streets.
    Case("deeplab_v2_resnet14", 96, 192, batch=4, dialect="dacs", shape={"width": 12}),
)
SWITCHES = {
    "float32": {},
    "remat": {"remat": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, remat": {"dtype": "bfloat16", "remat": True},
}


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, values: bool) -> float | None:
    """Returns the largest difference of two sides' outputs, relative to each output's largest absolute value.

    Args:
      found, expected: output name to `[B, h, w, C]`.
      values: whether values count; else only names and shapes do, and the result is None.

    Raises:
      ValueError: names or shapes that differ, or values by more than `TOLERANCE`.
    """
    shapes = [{name: output.shape for name, output in side.items()} for side in (found, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs differ in shape: JAX {shapes[0]}, PyTorch {shapes[1]}")
    if not values:
        return None
    errors = {name: float(np.abs(found[name] - x).max() / np.abs(x).max()) for name, x in expected.items()}
    for name, error in errors.items():
        # So written that NaN fails too.
        if not error <= TOLERANCE:
            raise ValueError(f"output '{name}' differs by {error:.1e} of its largest value (limit {TOLERANCE:g})")
    return max(errors.values())


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Returns the row of a case: facts, and per phase the times, their ratio and the peaks of both libraries."""
    with workers(case, JaxSide, TorchSide) as (jax_worker, torch_worker):
        facts = jax_worker.ask("facts")
        temporary = facts.pop("temporary_mib")
        if (parameters := torch_worker.ask("parameters")) != facts["parameters"]:
            raise ValueError(f"{label(case)}: {facts['parameters']} parameters in JAX, {parameters} in PyTorch")
        if case.dialect:
            torch_worker.ask("load", jax_worker.ask("weights"))
        error = compare(jax_worker.ask("outputs"), torch_worker.ask("outputs"), values=case.dialect is not None)
        row = {"label": label(case), **case._asdict(), **facts, "output_error": error}
        sides = {"jax": jax_worker, "torch": torch_worker}
        for phase in PHASES:
            row[phase] = compared(sides, phase, repeats) | {"jax_temporary_mib": temporary[phase]}
    return row


def measure_switches(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Returns one row per switch of memory or precision: forward+backward of JAX, beside that without a switch."""
    rows = []
    for name, switch in SWITCHES.items():
        with workers(case._replace(options={**case.options, **switch}), JaxSide) as (worker,):
            temporary = worker.ask("facts")["temporary_mib"][BACKWARD]
            times, foreign = turns({"jax": worker}, BACKWARD, repeats)
            row = {
                "label": f"{label(case)}, {name}",
                "temporary_mib": temporary,
                "peak_mib": worker.ask("peak"),
                "jax_ms": spread(times["jax"])._asdict(),
                "foreign_cores": foreign,
            }
        first = rows[0] if rows else row
        row["memory_ratio"] = temporary / first["temporary_mib"]
        row["time_ratio"] = row["jax_ms"]["middle"] / first["jax_ms"]["middle"]
        rows.append(row)
    return rows


def label(case: Case) -> str:
    """Returns a row's name, such as "dtn 64x32x32x3" (batch, height, width, channels)."""
    details = ", ".join(f"{name}={value}" for name, value in case.shape.items())
    size = f"{case.batch}x{case.height}x{case.width}x{case.channels}"
    return f"{case.network} {size}{f' ({details})' if details else ''}"


def _origin() -> dict[str, Any]:
    """Returns what the figures depend on, beside the code."""
    return provenance("benchmarks.networks") | {
        "versions": versions(),
        "gflop": "of one forward pass of the batch, by XLA's cost analysis of the program before its optimisation",
    }


def main() -> int:
    """Measures what is asked for; prints progress on stderr and the tables, and writes the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", help="only these, separated by commas; then the second table is left out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file to write, too")
    options = parser.parse_args()
    known = {case.network for case in CASES}
    chosen = set(options.networks.split(",")) if options.networks else known
    if unknown := chosen - known:
        parser.error(f"unknown networks {sorted(unknown)}; known: {', '.join(sorted(known))}")
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}")
    if importlib.util.find_spec("torch") is None:
        print(WITHOUT_TORCH, file=sys.stderr)
        return 2
    from uda_jax.data.io import atomic

    document = {**_origin(), "rows": [], "switches": []}

    def keep() -> None:
        if options.output:
            atomic.write(options.output, json.dumps(document, indent=1) + "\n")

    for case in (case for case in CASES if case.network in chosen):
        print(label(case), file=sys.stderr, flush=True)
        document["rows"].append(measure(case, options.repeats))
        keep()
    if not options.networks:
        print("switches of memory and precision", file=sys.stderr, flush=True)
        document["switches"] = measure_switches(CASES[0], min(options.repeats, 3))
        keep()
    print(f"{document['hardware']}, torch {document['versions']['torch']}, commit {document['commit']}")
    print(f"GFLOP: {document['gflop']}. Times: median [min, max] of {options.repeats}.\n")
    print(network_tables.table(document["rows"]))
    if document["switches"]:
        print(f"\n{network_tables.switch_table(document['switches'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
