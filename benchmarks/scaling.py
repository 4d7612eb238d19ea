"""How the published settings should scale to 256 devices: predicted from their lowered programs, not measured.

    python -m benchmarks.scaling                  # writes benchmarks/results/scaling.json
    python -m benchmarks.scaling --table          # prints docs/scaling.md's table from it

Of each setting's last training stage, the step on one device is lowered for a GPU and counted; no accelerator, no data
and no weights are needed. Batches grow with the devices, so that each has the work of one. Every figure that is no
count is an assumption of `DEVICES` and `UTILISATION`.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from benchmarks.provenance import provenance
from uda_jax import config
from uda_jax.runs import plan, stages, states
from uda_jax.training import sharding

RESULTS = Path(__file__).parent / "results" / "scaling.json"
REFERENCES = (
    "source_only:gta5_cityscapes",
    "adaptsegnet:gta5_cityscapes",
    "advent:gta5_cityscapes",
    "intrada:gta5_cityscapes",
    "ass:gta5_cityscapes",
    "plca:gta5_cityscapes",
    "dacs:gta5_cityscapes",
    "corda:synthia_cityscapes",
    "dada:synthia_cityscapes",
    "gio_ada:synthia_cityscapes",
)
COUNTS = (8, 32, 256)


@dataclasses.dataclass(frozen=True)
class Device:
    """What vendors state of a device.

    Attributes:
      peak: FLOP/s of matrix units for float32 arrays: TF32 on a GPU, bfloat16 passes on a TPU.
      inside, outside: bytes per second and direction of each device, to those of its node and to all others.
      node: devices of a node.
      latency_inside, latency_outside: seconds that a small all-reduce takes; an assumption, vendors state none.
    """

    peak: float
    inside: float
    outside: float
    node: int
    latency_inside: float
    latency_outside: float


# H100 SXM: 494 TFLOP/s dense TF32, NVLink 900 GB/s in both directions, 400 Gbit/s of InfiniBand. TPU v4: 275 TFLOP/s
# bfloat16, 300 GB/s per chip, the same network for a whole pod.
DEVICES = {
    "H100": Device(494e12, 450e9, 50e9, 8, 15e-6, 40e-6),
    "TPU v4": Device(275e12, 150e9, 150e9, 4096, 10e-6, 10e-6),
}
# Of the peak, what such steps are taken to sustain.
UTILISATION = 0.35
# A batch norm sums twice forward and twice backward over all devices, and each waits for the one before.
SUMS_PER_NORM = 4


def count(reference: str) -> dict[str, Any]:
    """Returns the counts of a setting's last training stage, on one device with the batch of one."""
    recipe = stages.recipe(config.experiment(config.load(reference)), 19)
    stage = [stage for stage in recipe if stage.kind.TRAINS][-1]
    found, _ = plan.of_stage(stage, plan.batch_before_data(stage), sharding.abstract_mesh(1), "gpu")
    state = jax.tree_util.tree_leaves_with_path(states.abstract(stage, sharding.abstract_mesh(1)).model_state)
    norms = sum(jax.tree_util.keystr(path).endswith("['mean']") for path, _ in state)
    return {
        "reference": reference,
        "stage": stage.name,
        "batch": found.batch,
        "parameters": sum(found.parameters.values()),
        "operations": found.costs.operations,
        "accessed": found.costs.accessed,
        "intensity": found.costs.operations / found.costs.accessed,
        "gradient_bytes": found.gradient_bytes,
        "sums": SUMS_PER_NORM * norms * len(found.batch),
    }


def efficiency(entry: dict[str, Any], device: Device, devices: int) -> float:
    """Returns the predicted share of linear speed-up, where nothing is sent while something is computed.

    A ring sends 2 (n - 1) / n of the gradients from each device, over its slowest link; every sum of a batch norm takes
    the latency of a small all-reduce.
    """
    compute = entry["operations"] / (device.peak * UTILISATION)
    far = devices > device.node
    bandwidth, latency = (device.outside, device.latency_outside) if far else (device.inside, device.latency_inside)
    gradients = 2 * (devices - 1) / devices * entry["gradient_bytes"] / bandwidth
    return compute / (compute + gradients + entry["sums"] * latency)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    heads = ["setting", "images", "TFLOP", "GB touched", "FLOP per byte", "parameters", "MB of gradients", "sums"]
    heads += [f"{name} x{devices}" for name in DEVICES for devices in COUNTS]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        cells = [f"`{row['reference']}`", str(sum(shape[0] for shape in row["batch"].values()))]
        cells += [f"{row['operations'] / 1e12:.2f}", f"{row['accessed'] / 1e9:.0f}", f"{row['intensity']:.1f}"]
        cells += [f"{row['parameters'] / 1e6:.1f} M", f"{row['gradient_bytes'] / 1e6:.0f}", str(row["sums"])]
        cells += [f"{100 * row['efficiency'][name][str(n)]:.0f} %" for name in DEVICES for n in COUNTS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_efficiency(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns counts with what follows from them for every device."""
    found = {
        name: {str(devices): efficiency(entry, device, devices) for devices in COUNTS}
        for name, device in DEVICES.items()
    }
    return entry | {"efficiency": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", nargs="*", default=REFERENCES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the file instead")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())["rows"]))
        return
    rows = []
    for reference in options.references:
        rows.append(with_efficiency(count(reference)))
        devices = {name: dataclasses.asdict(device) for name, device in DEVICES.items()}
        head = {"predicted": True, "utilisation": UTILISATION, "devices": devices} | provenance("benchmarks.scaling")
        options.output.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")
        print(reference, flush=True)


if __name__ == "__main__":
    main()
