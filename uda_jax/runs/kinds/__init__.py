"""Kinds of stages, found by file name.

A file `kinds/<name>.py` defines `KIND`, a subclass of `base.Kind`: the fields of its section, and what it does.
Nothing else has to change when one is added.
"""

import importlib
import pkgutil

from uda_jax.errors import UserError
from uda_jax.runs.kinds.base import Kind
from uda_jax.schema import did_you_mean


def names() -> list[str]:
    """Returns the names of all kinds, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def get(name: str, path: str) -> type[Kind]:
    """Returns the kind of that name; raises UserError, naming the section at `path`, with the closest known name."""
    if name not in names():
        raise UserError(f"{path}.name: unknown kind of stage '{name}'{did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").KIND
