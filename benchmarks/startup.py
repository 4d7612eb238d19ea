"""Seconds from nothing to the first training step of every method, with an empty and with a filled compilation cache.

    python -m benchmarks.startup --table
    python -m benchmarks.startup --methods advent,plca --repeats 3 --output startup.json

Every start has a fresh process. The first one of a repeat, "cold", compiles into an empty cache, and "warm" finds there
what it needs, as the second run of `uda train` on a machine does. PyTorch, which does not compile, starts beside them
with the same iteration. "total" is from the start of the process until its first step has ended; the other phases leave
out the interpreter's own start. Output as that of `benchmarks.train_step`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import step_rows, step_tables
from benchmarks.side_by_side import spread
from benchmarks.step_cases import Case

SIZES = "128x256"
# What `uda` sets, whose cache lies elsewhere.
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Returns {"seconds": kind of start -> phase -> spread over the repeats}."""
    found: dict[str, list[Mapping[str, float]]] = {"cold": [], "warm": [], "torch": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for kind in found:
                found[kind].append(start("torch" if kind == "torch" else "jax", case, Path(folder)))
    return {
        "seconds": {
            kind: {phase: spread([run[phase] for run in runs])._asdict() for phase in runs[0]}
            for kind, runs in found.items()
        }
    }


def start(library: str, case: Case, folder: Path) -> dict[str, float]:
    """Starts a process and returns the seconds of its phases.

    Args:
      library: "jax" or "torch".
      case: whose step it runs once.
      folder: of the compilation cache and the batch, which JAX leaves for PyTorch.
    """
    words = [sys.executable, "-m", "benchmarks.startup_run", library, json.dumps(case._asdict()), str(folder)]
    environment = os.environ | CACHE | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    began = time.time()
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"benchmarks.startup: {case.label} failed with {library}; its own message is above")
    phases = json.loads(done.stdout.splitlines()[-1])
    return phases | {"total": phases.pop("ended") - began}


def main() -> int:
    """Measures what is asked for and missing; prints progress on stderr and, if asked, the table."""
    description = __doc__.splitlines()[0]
    options = {"sizes": SIZES, "repeats": 1}
    return step_rows.run("benchmarks.startup", description, measure, step_tables.startup_table, **options)


if __name__ == "__main__":
    sys.exit(main())
