"""One start of `benchmarks.startup`: a process that imports, builds a step, runs it once and prints the seconds."""

import json
import sys
import time
from pathlib import Path

from benchmarks.step_cases import Case

BATCH = "batch.npz"


def jax_phases(case: Case, folder: Path) -> dict[str, float]:
    """Returns the seconds of each phase of the library's start, and leaves the batch in the folder."""
    began = time.perf_counter()
    from uda_jax.cli.environment import prepare_jax

    prepare_jax()
    import numpy as np

    from benchmarks.jax_steps import JaxStep

    imported = time.perf_counter()
    step = JaxStep(case.reference, case.words, {} if case.own else case.sizes, case.stage)
    step.initialise()
    initialised = time.perf_counter()
    step()
    step.synchronise()
    ended, now = time.perf_counter(), time.time()
    arrays = {f"{domain}/{name}": array for domain, maps in step.batch.items() for name, array in maps.items()}
    np.savez(folder / BATCH, classes=step.method.num_classes, **arrays)
    return {
        "import": imported - began,
        "initialise": initialised - imported - step.compile_seconds,
        "compile": step.compile_seconds,
        "first_step": ended - initialised,
        "ended": now,
    }


def torch_phases(case: Case, folder: Path) -> dict[str, float]:
    """Returns the seconds of each phase of PyTorch's start on the batch that lies in the folder."""
    began = time.perf_counter()
    import numpy as np
    import torch

    from benchmarks.side_by_side import cores
    from benchmarks.torch_steps import TorchStep

    torch.set_num_threads(cores())
    imported = time.perf_counter()
    batch: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / BATCH) as arrays:
        for key in set(arrays.files) - {"classes"}:
            domain, _, name = key.partition("/")
            batch.setdefault(domain, {})[name] = arrays[key]
        step = TorchStep(case.method, batch, int(arrays["classes"]))
    initialised = time.perf_counter()
    step()
    step.synchronise()
    ended, now = time.perf_counter(), time.time()
    return {
        "import": imported - began,
        "initialise": initialised - imported,
        "first_step": ended - initialised,
        "ended": now,
    }


def main() -> None:
    """Prints the phases of the library that the command line names as JSON."""
    library, case, folder = sys.argv[1:]
    phases = {"jax": jax_phases, "torch": torch_phases}[library]
    print(json.dumps(phases(Case(**json.loads(case)), Path(folder))))


if __name__ == "__main__":
    main()
