"""The same trainings on one device, on eight, and on two processes of four, with the state replicated and split.

    python -m benchmarks.topology
    python -m benchmarks.topology --methods advent dacs --workdir runs/topology

For every method a packaged `:smoke` recipe that trains it runs for a few steps. The losses of every step of
all its stages are compared with those on one device, and so are the confusion counts (of depth the sums) that the last
state's scores are made of. The checkpoint that eight devices wrote, split, is restored on one device and on two
processes, and its scores are counted there. Devices are forced ones of the CPU: this shows that the programs agree, and
no speed.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.provenance import provenance
from benchmarks.topology_run import BATCH, COUNTS, SLOWER, SPLIT_FROM
from uda_jax.data.io import atomic
from uda_jax.runs.rendezvous import free_port
from uda_jax.training.logging import read_metrics

# Compiled without LLVM's optimisations and by the older code generator, as the tests are: it would take most of the
# time. All rows alike.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
)


# Seconds after which processes are given up.
PATIENCE = 1800


class Topology(NamedTuple):
    """Processes, and devices of each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


ONE = Topology(1, 1)
# The first one writes the checkpoints that the others restore.
TOPOLOGIES = (Topology(1, 8), ONE, Topology(2, 4))
BOTH = ("replicated", "fsdp")


def recipes() -> dict[str, str]:
    """Returns a packaged recipe on tiny frames for every method: of its name, or the shortest that trains it."""
    from uda_jax import config, methods
    from uda_jax.config import settings

    found: dict[str, tuple[bool, int, str]] = {}
    for reference in (name for name in settings.packaged() if name.partition(":")[2].split(",")[0] == "smoke"):
        experiment = config.experiment(config.load(reference))
        stages = [experiment.stages[name] for name in experiment.recipe] if experiment.stages else []
        trained = [stage for stage in stages if stage.kind["name"] == "train"]
        for name in {(stage.method or experiment.method)["name"] for stage in trained} or {experiment.method["name"]}:
            candidate = (reference != f"{name}:smoke", len(stages), reference)
            found[name] = min(found.get(name, candidate), candidate)
    return {name: found[name][2] for name in methods.names()}


def launch(topology: Topology, words: Sequence[str], log: Path) -> None:
    """Runs `benchmarks.topology_run` in all processes of a topology, again if they missed each other.

    On a busy machine one process may still compile when the other has waited for half a minute to connect, which is as
    long as Gloo waits. The second time what was compiled is cached.

    Raises:
      RuntimeError: one of the processes fails, or none ends.
    """
    for last in (False, True):
        ends = attempt(topology, words, log)
        if not any(ends.values()):
            return
        texts = {file: file.read_text()[-3000:] for file in ends}
        if last or not any("Gloo context initialization failed" in text for text in texts.values()):
            about = "\n".join(f"{file}: {ends[file]}\n{text}" for file, text in texts.items() if ends[file])
            raise RuntimeError(f"{topology}: {' '.join(words)} failed\n{about}")
        print(f"{topology}: the processes missed each other, once more", file=sys.stderr, flush=True)
        # A run goes on with what it finds, but what is half written tells nothing.
        for workdir in log.parent.glob(f"{log.name}-*"):
            shutil.rmtree(workdir, ignore_errors=True)


def attempt(topology: Topology, words: Sequence[str], log: Path) -> dict[Path, int]:
    """Returns how each process ended, by its log; when one fails the others are stopped."""
    environment = dict(os.environ)
    environment["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count={topology.devices}"
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "benchmarks.topology_run", *words]
    if topology.processes > 1:
        command += ["--coordinator", f"localhost:{free_port()}"]
        command += ["--processes", str(topology.processes), "--process"]
    processes = {}
    for k in range(topology.processes):
        file = log.with_name(f"{log.name}.{k}.log")
        own = [*command, str(k)] if topology.processes > 1 else command
        with file.open("w") as stream:
            processes[file] = subprocess.Popen(own, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    began = time.monotonic()
    while any(process.poll() is None for process in processes.values()):
        failed = any(process.poll() for process in processes.values())
        # A process that failed may wait for the others before it ends, and they for it.
        failed |= any("Gloo context initialization failed" in file.read_text() for file in processes)
        if failed or time.monotonic() - began > PATIENCE:
            time.sleep(5)
            for process in processes.values():
                process.kill()
        time.sleep(0.5)
    return {file: process.returncode for file, process in processes.items()}


def losses(workdir: Path) -> dict[str, list[float]]:
    """Returns stage/name -> the values of every loss of a run's stages, step by step."""
    found: dict[str, list[float]] = {}
    for file in sorted(workdir.glob("*/metrics.jsonl")):
        for row in read_metrics(file):
            for name, value in row.items():
                if name.startswith("loss/"):
                    found.setdefault(f"{file.parent.name}/{name}", []).append(value)
    return found


def difference(found: dict[str, list[float]], expected: dict[str, list[float]]) -> dict[str, Any]:
    """Returns the largest difference of two runs' losses, as a share of max(1, the loss), and where it is."""
    if {name: len(values) for name, values in found.items()} != {name: len(v) for name, v in expected.items()}:
        raise RuntimeError(f"other losses: {sorted(found)} against {sorted(expected)}")
    worst = {"difference": 0.0, "loss": None, "step": None}
    for name, values in found.items():
        a, b = np.array(values), np.array(expected[name])
        shares = np.abs(a - b) / np.maximum(1, np.abs(b))
        if shares.max() > worst["difference"]:
            worst = {"difference": float(shares.max()), "loss": name, "step": int(shares.argmax()) + 1}
    return worst


def moved(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Returns how many pixels two states count in other cells, of all; of depth, the largest relative difference."""
    other = total = 0
    depth = 0.0
    for split, sums in expected["totals"].items():
        for what, values in sums.items():
            a, b = np.array(found["totals"][split][what]), np.array(values)
            if what == "confusion":
                other, total = other + int(np.abs(a - b).sum()) // 2, total + int(b.sum())
            else:
                depth = max(depth, float((np.abs(a - b) / np.maximum(1, np.abs(b))).max()))
    return {"other_pixels": other, "pixels": total, "depth_difference": depth}


def measure(method: str, reference: str, folder: Path, steps: int) -> list[dict[str, Any]]:
    """Runs one method everywhere and returns its rows."""
    seconds = {}
    split = folder / f"{method}-{TOPOLOGIES[0]}-fsdp"
    for topology in TOPOLOGIES:
        began = time.monotonic()
        words = ["--reference", reference, "--steps", str(steps), "--workdir", str(folder / f"{method}-{topology}")]
        words += ["--sharding", *(BOTH if topology != ONE else BOTH[:1])]
        words += [] if topology == TOPOLOGIES[0] else ["--also", str(split)]
        launch(topology, words, folder / f"{method}-{topology}")
        seconds[topology] = time.monotonic() - began
    base, rows = folder / f"{method}-{ONE}-replicated", []
    expected = json.loads((base / COUNTS).read_text())
    for topology in (t for t in TOPOLOGIES if t != ONE):
        for kind in BOTH:
            workdir = folder / f"{method}-{topology}-{kind}"
            found = json.loads((workdir / COUNTS).read_text())
            about = {"method": method, "config": reference, "topology": str(topology), "sharding": kind}
            compared = difference(losses(workdir), losses(base)) | moved(found, expected)
            size = {"state_mb": found["bytes"] / 1e6, "device_mb": found["bytes_per_device"] / 1e6}
            rows.append(about | compared | size | {"seconds": round(seconds[topology], 1)})
    written = json.loads((split / COUNTS).read_text())
    restored = {
        str(topology): moved(json.loads((folder / f"{method}-{topology}-restored.json").read_text()), written)
        for topology in TOPOLOGIES[1:]
    }
    for row in rows:
        if (row["topology"], row["sharding"]) == (str(TOPOLOGIES[0]), "fsdp"):
            row["restored"] = restored
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| method | processes x devices | state | losses differ by | pixels elsewhere | MB of state on a device | "
        "restored elsewhere |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        pixels = (
            f"{row['other_pixels']} of {row['pixels']}" if row["pixels"] else f"depth {row['depth_difference']:.1e}"
        )
        restored = row.get("restored", {})
        words = ", ".join(f"{name}: {found['other_pixels']} pixels elsewhere" for name, found in restored.items())
        lines.append(
            f"| {row['method']} | {row['topology']} | {row['sharding']} | {row['difference']:.1e} | {pixels} | "
            f"{row['device_mb']:.2f} of {row['state_mb']:.2f} | {words} |"
        )
    return "\n".join(lines)


def kept(file: Path | None, methods: Sequence[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of other methods that a file holds from an earlier call with the same settings."""
    found = json.loads(file.read_text()) if file and file.exists() else {"rows": []}
    if any(found.get(name) != value for name, value in settings.items()):
        return []
    return [row for row in found["rows"] if row["method"] not in methods]


def main() -> int:
    """Runs method by method, with progress on stderr, and prints the table."""
    known = recipes()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=list(known), default=list(known), metavar="METHOD")
    parser.add_argument("--steps", type=int, default=10, help="of every stage that trains")
    parser.add_argument("--workdir", type=Path, help="where the runs are kept; by default they are deleted")
    parser.add_argument("--output", type=Path, help="JSON file to write, too; rows of others stay")
    options = parser.parse_args()
    folder = options.workdir or Path(tempfile.mkdtemp(prefix="topology-"))
    folder.mkdir(parents=True, exist_ok=True)
    origin = {**provenance("benchmarks.topology"), "date": datetime.date.today().isoformat()}
    settings = {"steps": options.steps, "batch": BATCH, "split_from": SPLIT_FROM, "learning_rates": SLOWER}
    settings |= {"xla_flags": FLAGS}
    rows, failed = kept(options.output, options.methods, settings), {}
    for method in options.methods:
        print(f"{method}: {known[method]}", file=sys.stderr, flush=True)
        try:
            found = measure(method, known[method], folder, options.steps)
            rows += [row | {"commit": origin["commit"]} for row in found]
            print(table(rows[-4:]), file=sys.stderr, flush=True)
            if options.output:
                rows.sort(key=lambda row: row["method"])
                atomic.write(options.output, json.dumps({**origin, **settings, "rows": rows}, indent=1) + "\n")
        except RuntimeError as error:
            failed[method] = str(error)
            print(error, file=sys.stderr, flush=True)
    if options.workdir is None:
        shutil.rmtree(folder)
    print(f"{origin['hardware']}, commit {origin['commit']}, {origin['date']}\n\n{table(rows)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
