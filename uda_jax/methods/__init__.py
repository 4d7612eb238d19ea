"""Adaptation methods: one file per paper, found by file name.

A file `methods/<name>.py` defines `METHOD`, a frozen dataclass that follows `base.Method`. Nothing else has
to change when one is added.
"""

import importlib
import pkgutil
from typing import Any

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

_NOT_METHODS = ("adversarial", "base", "parts", "self_training")


def names() -> list[str]:
    """Returns the names of all methods, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_METHODS)


def get(name: str) -> type[Any]:
    """Returns the method class of that name; raises UserError with the closest known name."""
    if name not in names():
        raise UserError(f"config.method.name: unknown method '{name}'{did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").METHOD
