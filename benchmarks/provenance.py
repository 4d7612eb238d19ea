"""What a figure depends on, beside the code: kept with every result file."""

import importlib.metadata
import os
import platform
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


def versions() -> dict[str, str]:
    """Returns those of Python and of what both sides of a comparison with PyTorch are made of."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "torch", "numpy")}
    return {"python": platform.python_version(), **found}
