"""One row of `benchmarks.accelerator`: a training iteration of one library, compiled beside others and timed alone.

    python -m benchmarks.accelerator_row --row advent/jax/bf16 --turn /tmp/turn --output row.json [--tiny]

Rows that are started together compile at the same time, holding a shared lock on the file `--turn`; one after the other
times its steps under an exclusive one, which nobody gets before all have compiled.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.step_cases import SETTINGS

BLOCKS, STEPS, TRACED = 5, 4, 3
KERNELS = 12

# Domain -> frames, height, width, as published; PLCA's batch of a device is two pairs, here it is one.
SIZES = {
    "advent": {"source": (1, 720, 1280), "target": (1, 512, 1024)},
    "dacs": {"source": (2, 512, 512), "target": (2, 512, 512)},
    "corda": {"source": (2, 512, 512), "target": (2, 512, 512)},
    "plca": {"source": (1, 730, 730), "target": (1, 730, 730)},
}


class Row(NamedTuple):
    """What is timed.

    Attributes:
      method: its name.
      library: "jax", or "torch" with "torch_compiled".
      precision: fp32, tf32 or bf16; PyTorch's bf16 is autocast, its maps laid out channels-last.
      flags: of XLA, for this row alone.
    """

    method: str
    library: str
    precision: str
    flags: str = ""

    @property
    def name(self) -> str:
        """As in the results."""
        return "/".join([self.method, self.library, self.precision, *(["flags"] if self.flags else [])])


# Without the merging of products that share an operand, whose operands it has to lay side by side first, and with
# cuBLAS alone to try for products, so that there is less to compile.
FLAGS = "--xla_gpu_dot_merger_threshold_mb=0 --xla_gpu_enable_triton_gemm=false"
ROWS = (
    Row("advent", "jax", "bf16"),
    Row("advent", "torch", "bf16"),
    Row("advent", "jax", "tf32"),
    Row("advent", "torch", "tf32"),
    Row("advent", "jax", "bf16", FLAGS),
    Row("advent", "torch_compiled", "bf16"),
    Row("dacs", "jax", "bf16"),
    Row("dacs", "torch", "bf16"),
    Row("plca", "jax", "bf16"),
    Row("plca", "torch", "bf16"),
    Row("corda", "jax", "bf16"),
    Row("corda", "torch", "bf16"),
    Row("advent", "jax", "fp32"),
    Row("advent", "torch", "fp32"),
)


@contextlib.contextmanager
def turn(file: Path, kind: int) -> Iterator[None]:
    """Holds a lock on a file: fcntl.LOCK_SH beside others, fcntl.LOCK_EX alone."""
    with file.open("a") as opened:
        fcntl.flock(opened, kind)
        yield


def sizes(method: str, tiny: bool) -> dict[str, tuple[int, int, int]]:
    """Returns domain -> frames, height, width."""
    return {name: (n, h // 16 * 2, w // 16 * 2) if tiny else (n, h, w) for name, (n, h, w) in SIZES[method].items()}


def setting(row: Row, tiny: bool) -> tuple[str, list[str], dict[str, tuple[int, int, int]]]:
    """Returns the reference, the overrides and the sizes of a row's setting."""
    published = SETTINGS[row.method]
    words = [*published.overrides, f"--config.train.precision={row.precision}"]
    words += ["--config.method.segmenter.width=8"] if tiny else []
    return published.reference, words, sizes(row.method, tiny)


class Jax:
    """The library's step."""

    def __init__(self, row: Row, tiny: bool):
        import jax

        from benchmarks.jax_steps import JaxStep

        self._jax = jax
        self.step = JaxStep(*setting(row, tiny))
        began = time.monotonic()
        self.step.initialise()
        self.seconds = {"compile": self.step.compile_seconds, "initialise": time.monotonic() - began}

    def facts(self) -> dict[str, Any]:
        """Returns what is known of the step and its memory, in bytes."""
        stats = self._jax.devices()[0].memory_stats() or {}
        costs = self.step.costs
        return {
            "version": self._jax.__version__,
            "operations": costs.operations,
            "planned_bytes": costs.memory.peak,
            "peak_bytes": stats.get("peak_bytes_in_use"),
        }

    def trace(self) -> dict[str, Any]:
        """Returns the GPU's milliseconds per step, how many kernels it starts, and the longest; nothing on a CPU."""
        with tempfile.TemporaryDirectory() as folder:
            with self._jax.profiler.trace(folder):
                for _ in range(TRACED):
                    self.step()
                self.step.synchronise()
            file = next(Path(folder).rglob("*.xplane.pb"))
            planes = self._jax.profiler.ProfileData.from_file(str(file)).planes
            lines = [line for plane in planes if "GPU" in plane.name for line in plane.lines if "Stream" in line.name]
            nanoseconds, count = collections.Counter(), 0
            for event in (event for line in lines for event in line.events):
                nanoseconds[event.name] += event.duration_ns
                count += 1
        if not count:
            return {}
        longest = {name[:120]: value / 1e6 / TRACED for name, value in nanoseconds.most_common(KERNELS)}
        return {"busy_ms": nanoseconds.total() / 1e6 / TRACED, "kernels": count / TRACED, "longest_ms": longest}


class Torch:
    """The same iteration in PyTorch."""

    def __init__(self, row: Row, tiny: bool):
        import torch

        from benchmarks.jax_steps import random_batch, stage_and_batch
        from benchmarks.torch_steps import TorchStep

        stage, shapes = stage_and_batch(*setting(row, tiny))
        self._torch, compiled = torch, row.library == "torch_compiled"
        self.step = TorchStep(
            row.method,
            random_batch(shapes, classes=stage.method.num_classes),
            stage.method.num_classes,
            device="cuda" if torch.cuda.is_available() else "cpu",
            precision=row.precision,
            channels_last=row.precision == "bf16",
            compiled=compiled,
            network_options={"width": 8} if tiny else None,
        )
        self.seconds = {}

    def facts(self) -> dict[str, Any]:
        """Returns what is known of the step's memory, in bytes."""
        return {"version": self._torch.__version__, "peak_bytes": self.step.peak_bytes()}

    def trace(self) -> dict[str, Any]:
        """Returns nothing: only the library's own step is looked into."""
        return {}


def measure(row: Row, tiny: bool, lock: Path) -> dict[str, Any]:
    """Returns the figures of a row."""
    with turn(lock, fcntl.LOCK_SH):
        side = (Jax if row.library == "jax" else Torch)(row, tiny)
        began = time.monotonic()
        side.step()
        side.step.synchronise()
        side.seconds["first_step"] = time.monotonic() - began
        side.step()
        side.step.synchronise()
    blocks, steps = (2, 1) if tiny else (BLOCKS, STEPS)
    with turn(lock, fcntl.LOCK_EX):
        milliseconds = []
        for block in range(blocks + 1):
            began = time.perf_counter()
            for _ in range(steps):
                side.step()
            side.step.synchronise()
            # The first block warms up.
            milliseconds += [1000 * (time.perf_counter() - began) / steps] if block else []
        facts = side.facts() | side.trace()
    frames = sum(count for count, _, _ in sizes(row.method, tiny).values())
    median = statistics.median(milliseconds)
    found = {"row": row.name, "sizes": sizes(row.method, tiny), "flags": row.flags, "seconds": side.seconds}
    found |= {"ms": milliseconds, "median_ms": median, "images_per_second": 1000 * frames / median, **facts}
    return found | {"precision": row.precision}


def main() -> int:
    """Measures one row and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", choices=[row.name for row in ROWS], required=True)
    parser.add_argument("--turn", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    row = next(row for row in ROWS if row.name == options.row)
    options.output.write_text(json.dumps(measure(row, options.tiny, options.turn)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
