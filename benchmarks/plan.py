"""What the published settings take on 1, 8 and 32 devices, as `uda plan` tells it; no data and no weights are needed.

    python -m benchmarks.plan                          # writes benchmarks/results/plan.json
    python -m benchmarks.plan --table                  # prints docs/scaling.md's table from it
    python -m benchmarks.plan advent:folder plca:folder --devices 1 --output /tmp/folder.json

Each row is a process of its own, since the devices of a CPU are chosen when jax starts. Batches hold as many images per
device as the setting has on one. Rows that are in the file already are kept; delete it to begin anew.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.provenance import provenance
from uda_jax import config

RESULTS = Path(__file__).parent / "results" / "plan.json"
REFERENCES = ("advent:gta5_cityscapes", "plca:gta5_cityscapes", "corda:synthia_cityscapes")
DEVICES = (1, 8, 32)


def row(reference: str, devices: int) -> dict:
    """Returns the plan of a setting on so many devices, and how long it took to make."""
    experiment = config.experiment(config.load(reference))
    words = [f"--config.train.batch_size={devices * experiment.train.batch_size}"] if devices > 1 else []
    command = ["plan", reference, *words, "--devices", str(devices), "--platform", "cpu"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "uda_jax", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    about = {"reference": reference, "devices": devices, "command": " ".join(["uda", *command])}
    return about | {"seconds": round(time.monotonic() - began)} | found


def table(rows: list[dict]) -> str:
    """Returns the rows as Markdown, stages that train one below the other."""
    heads = ["setting", "devices", "images", "TFLOP per step", "GB per device", "state", "GB given per step"]
    heads += ["GB of a checkpoint", "seconds"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for entry in sorted(rows, key=lambda entry: (entry["reference"], entry["devices"])):
        for stage in entry["stages"]:
            cells = [f"`{entry['reference']}`", str(entry["devices"])]
            cells += [str(sum(shape[0] for shape in stage["batch"].values())), f"{stage['operations'] / 1e12:.2f}"]
            cells += [f"{stage['memory']['peak'] / 1e9:.2f}", f"{stage['device_state_bytes'] / 1e9:.2f}"]
            cells += [f"{sum(stage['communication'].values()) / 1e9:.3f}", f"{stage['checkpoint_bytes'] / 1e9:.2f}"]
            lines.append(f"| {' | '.join([*cells, str(entry['seconds'])])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", nargs="*", default=REFERENCES)
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the file instead")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())["rows"]))
        return
    stored = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    there = {(entry["reference"], entry["devices"]) for entry in stored["rows"]}
    for devices in options.devices:
        for reference in options.references:
            if (reference, devices) in there:
                continue
            stored["rows"].append(row(reference, devices))
            stored |= provenance("benchmarks.plan")
            options.output.write_text(json.dumps(stored, indent=1) + "\n")
            print(line(stored["rows"][-1]), flush=True)


def line(entry: dict) -> str:
    """Returns the most telling figures of a row."""
    stages = entry["stages"]
    peak = max(stage["memory"]["peak"] for stage in stages) / 1e9
    operations = max(stage["operations"] for stage in stages) / 1e12
    sent = max(sum(stage["communication"].values()) for stage in stages) / 1e9
    name = f"{entry['reference']} x{entry['devices']}"
    return f"{name}: {peak:.2f} GB, {operations:.2f} TFLOP, {sent:.3f} GB given, {entry['seconds']} s"


if __name__ == "__main__":
    main()
