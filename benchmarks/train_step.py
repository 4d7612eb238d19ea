"""Time and memory of a training iteration of every method on this CPU, beside the same work in plain PyTorch.

    python -m benchmarks.train_step --table
    python -m benchmarks.train_step --methods advent,dacs --sizes 128x256 --repeats 11 --output train_step.json

Each row has two worker processes, one per library, on the same random batch: the library's packaged setting of the
method, compiled ahead, and `benchmarks.torch_steps`, whose losses and updates are the library's
(tests/benchmarks/test_torch_steps.py). Both are warm, and they run one repeat each in turns, first one library first,
then the other, so that whatever else the machine does meets both. Frames are one per domain, networks and heads those
of the papers; digits have batches of their own.

Fair to both: both keep freed memory (`uda_jax.training.allocator`), use all cores and float32. PyTorch runs eagerly, in
its default layout, with ReLUs in place and fused optimisers.

With an output, rows that are in it from this hardware are not measured again, so that a run that was interrupted goes
on; `--again` measures them anew.
"""

import sys
from typing import Any

from benchmarks import step_rows, step_tables
from benchmarks.side_by_side import compared, workers
from benchmarks.step_cases import DEFAULT_SIZES, Case
from benchmarks.step_sides import STEP, JaxStepSide, TorchStepSide

REPEATS = 7


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Returns the figures of a case: facts, times of both libraries, their ratio, and peaks.

    Raises:
      ValueError: the two sides have different numbers of parameters.
    """
    with workers(case, JaxStepSide, TorchStepSide) as (jax_worker, torch_worker):
        facts = jax_worker.ask("facts")
        if (parameters := torch_worker.ask("prepare", *jax_worker.ask("batch"))) != facts["parameters"]:
            raise ValueError(f"{case.label}: {facts['parameters']} parameters in JAX, {parameters} in PyTorch")
        found = facts | compared({"jax": jax_worker, "torch": torch_worker}, STEP, repeats)
    rates = {
        f"{side}_images_per_second": 1000 * case.frames / found[f"{side}_ms"]["middle"] for side in ("jax", "torch")
    }
    return found | rates


def main() -> int:
    """Measures what is asked for and missing; prints progress on stderr and, if asked, the table."""
    description = __doc__.splitlines()[0]
    options = {"sizes": DEFAULT_SIZES, "repeats": REPEATS}
    return step_rows.run("benchmarks.train_step", description, measure, step_tables.table, **options)


if __name__ == "__main__":
    sys.exit(main())
