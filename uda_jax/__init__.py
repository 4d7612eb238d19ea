"""uda_jax: domain-adaptive semantic segmentation in JAX.

Subpackages are imported on first use, so that `import uda_jax` is quick and touches no device.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBPACKAGES = (
    "data",
    "inference",
    "losses",
    "methods",
    "networks",
    "ops",
    "report",
    "runs",
    "training",
    "weights",
)

# Functions by where they are defined.
_FUNCTIONS = {"load": "uda_jax.runs.deployment"}

__all__ = ["__version__", *_FUNCTIONS, *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"uda_jax.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'uda_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
