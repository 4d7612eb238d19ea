"""What a figure depends on, beside the code: kept with every result file."""

import os
import sys
from typing import Any


def provenance(module: str) -> dict[str, Any]:
    """Returns the hardware, the cores, the commit and the command of a benchmark that is run as `python -m module`."""
    from uda_jax.runs import results

    return {
        "hardware": results.hardware(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": results.commit(),
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
    }
