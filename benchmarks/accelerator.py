"""What one GPU does, in at most eight minutes: steps beside PyTorch's, the association loss, the tests, a training run.

    python -m benchmarks.accelerator --output accelerator.json
    python -m benchmarks.accelerator --budget 240 --parts rows tests        # less time, and only these
    python -m benchmarks.accelerator --tiny --output tiny.json              # all of it on a CPU, at tiny sizes

Parts, in this order: `rows`, the steps of `benchmarks.accelerator_row`, of which a few compile side by side and are
then timed one after the other; `association`, the cycle association as whole matrices and tile by tile; `tests` of
losses, ops and networks, and golden vectors; `train`, a run of 200 steps on prepared frames of random pixels, with the
share of its time that it waited for them. Where time runs short, a part is ended or left out, and the results say so.

The library is read from where this runs; the extras `bench` and `test` are needed, and no data.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.accelerator_row import ROWS, Row
from benchmarks.provenance import provenance

TESTS = ("tests/networks", "tests/losses", "tests/ops", "tests/golden")
# Dense peaks that the vendor states of Hopper GPUs, in FLOP/s: float32 without matrix units, TF32, bfloat16.
PEAKS = {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12}
PEAK_NAMES = ("H100", "H200")
# Seconds that a part needs at least, and those that are left for what follows it.
LEAST = {"rows": 60, "association": 15, "tests": 25, "train": 60}
# Frames of the training run: random pixels are the hardest to decode.
FRAMES, SIZE = 64, (720, 1280)
STEPS, WORKERS = 200, 8


def device() -> str:
    """Returns the name of the GPU and of its driver, or "CPU"."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "CPU"


def environment(**more: str) -> dict[str, str]:
    """Returns that of a worker, which has no cache of compiled programs but the library's own."""
    return {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | more


def last_line(file: Path) -> str:
    """Returns the last line of a worker's messages."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "ended without a word"


def rows(options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    """Runs the rows, `--parallel` at once, and returns name -> figures, or why there are none."""
    chosen = [row for row in ROWS if not options.rows or row.name in options.rows]
    found = {row.name: {"skipped": "no time was left to begin it"} for row in chosen}
    # Batch by batch: the first rows are timed before the last ones compile, so that what is there stays.
    for first in range(0, len(chosen), options.parallel):
        if left(deadline) > LEAST["rows"] or first == 0:
            batch = chosen[first : first + options.parallel]
            found |= row_batch(batch, options, folder, folder / f"turn{first}", deadline)
    return found


def row_batch(
    batch: Sequence[Row], options: argparse.Namespace, folder: Path, turn: Path, deadline: float
) -> dict[str, Any]:
    """Runs some rows that compile side by side."""
    running, found = {}, {}
    for row in batch:
        stem = folder / row.name.replace("/", "_")
        flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), "" if options.tiny else row.flags]))
        more = {"XLA_FLAGS": flags} | ({"JAX_PLATFORMS": "cpu"} if row.library != "jax" else {})
        words = [
            "--row",
            row.name,
            "--turn",
            str(turn),
            "--output",
            f"{stem}.json",
            *(["--tiny"] if options.tiny else []),
        ]
        with open(f"{stem}.log", "w") as log:
            running[row.name] = (
                stem,
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.accelerator_row", *words],
                    stdout=log,
                    stderr=log,
                    env=environment(**more),
                ),
            )
    while running and left(deadline) > 0:
        for name, (stem, process) in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode == 0:
                    found[name] = with_utilisation(json.loads(Path(f"{stem}.json").read_text()), options.device)
                else:
                    found[name] = {"failed": last_line(Path(f"{stem}.log"))}
                print(name, summary(found[name]), flush=True)
        time.sleep(0.2)
    for name, (stem, process) in running.items():
        process.kill()
        process.wait()
        found[name] = {"skipped": "its time was over", "last_words": last_line(Path(f"{stem}.log"))}
    return found


def with_utilisation(figures: dict[str, Any], device: str) -> dict[str, Any]:
    """Returns a row's figures with the share of the device's peak, where both are known."""
    if not figures.get("operations") or not any(name in device for name in PEAK_NAMES):
        return figures
    rate = figures["operations"] / (figures["median_ms"] / 1000)
    return figures | {"utilisation": rate / PEAKS[figures["precision"]]}


def left(deadline: float) -> float:
    """Returns the seconds until then, on the monotonic clock."""
    return deadline - time.monotonic()


def summary(figures: dict[str, Any]) -> str:
    """Returns the most telling figures of a row in one line."""
    if "median_ms" not in figures:
        return str(figures)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in figures["seconds"].items())
    share = f", {figures['utilisation']:.1%} of peak" if "utilisation" in figures else ""
    held = f", {figures['peak_bytes'] / 2**30:.1f} GiB" if figures.get("peak_bytes") else ""
    return f"{figures['median_ms']:.1f} ms{held}{share}; {seconds}"


def association(options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    """Times the cycle association in both forms."""
    grid = "12x12" if options.tiny else "92x92"
    words = ["--grids", grid, "--time", grid, "--repeats", "10", "--output", str(folder / "association.json")]
    more = {} if options.tiny else {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"}
    ended = run([sys.executable, "-m", "benchmarks.association", *words], folder, deadline, more)
    return ended or json.loads((folder / "association.json").read_text())


def tests(options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    """Runs the tests and counts how they ended; those that had no time are not among them."""
    chosen = ["tests/ops/test_classmix.py"] if options.tiny else TESTS
    processes = "1" if options.tiny else str(max(2, (os.cpu_count() or 2) - 2))
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-n", processes, *chosen]
    ended = run(command, folder, deadline)
    text = (folder / "worker.log").read_text(errors="replace")
    counts = {word: len(re.findall(rf"^\[gw\d+\].* {word} ", text, re.MULTILINE)) for word in ("PASSED", "FAILED")}
    return {**counts, "failed": re.findall(r"^FAILED (\S+)", text, re.MULTILINE), "ended": ended}


def train(options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, Any]:
    """Trains AdvEnt on prepared frames, and returns what its log tells of speed and of waiting for data."""
    import numpy as np
    from PIL import Image

    count, size = (8, (32, 64)) if options.tiny else (FRAMES, SIZE)
    generator, root = np.random.default_rng(0), folder / "frames"
    for kind, high in (("images", 256), ("labels", 3)):
        (root / "train" / kind).mkdir(parents=True)
        for i in range(count):
            drawn = generator.integers(0, high, (*size, 3) if kind == "images" else size, np.uint8)
            Image.fromarray(drawn).save(root / "train" / kind / f"{i:03}.png", compress_level=1)
    (root / "dataset.yaml").write_text("classes: [ground, wall, thing]\n")
    words = ["folder", "--root", str(root), "--out", str(folder / "prepared"), "--split", "train"]
    words += ["--size", f"{size[1]}x{size[0]}"]
    if ended := run([sys.executable, "-m", "uda_jax", "prepare", *words], folder, deadline):
        return {"preparing": ended}
    steps = 4 if options.tiny else STEPS
    changes = [f"train.steps={steps}", "train.precision=bf16", f"train.workers={WORKERS}", "train.batch_size=1"]
    changes += [
        "train.accumulation=1",
        "method.schedule.warmup=0",
        f"train.log_every={steps // 4}",
        f"train.checkpoint_every={steps}",
    ]
    frames = (f"root={folder / 'prepared'}", "split=train", f"size={size[0]},{size[1]}")
    changes += [f"data.{domain}.{field}" for domain in ("source", "target") for field in frames]
    changes += [f"evaluation.final.{field}" for field in (*frames, "count=2")]
    words = ["--config", "advent:folder", "--workdir", str(folder / "run"), *(f"--config.{word}" for word in changes)]
    words += ["--config.method.segmenter.width=8"] if options.tiny else []
    ended = run([sys.executable, "-m", "uda_jax", "train", *words], folder, deadline)
    logs = (folder / "run").rglob("metrics.jsonl")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {"steps": steps, "workers": WORKERS, "log": lines, "ended": ended}


def run(
    command: Sequence[str], folder: Path, deadline: float, more: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str] | None:
    """Runs a worker to its end or to that of its time; returns None if it went well, else why not."""
    log = folder / "worker.log"
    with log.open("w") as opened:
        process = subprocess.Popen(command, stdout=opened, stderr=opened, env=environment(**more))
        try:
            status = process.wait(max(left(deadline), 1))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return {"skipped": "its time was over"}
    return None if status == 0 else {"failed": last_line(log)}


PARTS: dict[str, Callable] = {"rows": rows, "association": association, "tests": tests, "train": train}


def main() -> int:
    """Runs the parts that there is time for and writes one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=470, help="seconds for everything")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="only these")
    parser.add_argument("--parallel", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="rows at once")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    # Whatever names the hardware may take the GPU's memory, too.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    options.device, end = device(), time.monotonic() + options.budget
    found = provenance("benchmarks.accelerator") | {"device": options.device, "tiny": options.tiny}
    with tempfile.TemporaryDirectory() as name:
        for i, part in enumerate(options.parts):
            deadline = end - sum(LEAST[later] for later in options.parts[i + 1 :])
            if left(deadline) < LEAST[part]:
                found[part] = {"skipped": f"{left(end):.0f} s were left"}
            else:
                folder = Path(name) / part
                folder.mkdir()
                began = time.monotonic()
                found[part] = PARTS[part](options, folder, deadline)
                found[part]["seconds"] = round(time.monotonic() - began, 1)
            print(part, "skipped" if "skipped" in found[part] else f"{found[part]['seconds']} s", flush=True)
            options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
