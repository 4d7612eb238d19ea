"""Adaptation methods: one file per paper, found by file name.

A file `methods/<name>.py` defines `METHOD`, a frozen dataclass that follows `base.Method`; a dotted name is a module of
somebody else's that defines one. Nothing else has to change when one is added.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

_NOT_METHODS = ("base", "parts")


def names() -> list[str]:
    """Returns the names of all methods of the package, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_METHODS)


def get(name: str) -> type[Any]:
    """Returns the method class of a name: a file of this package, or a dotted module such as "my_package.my_method".

    Raises:
      UserError: no such method (with the closest known one), a module that cannot be imported or has no METHOD.
    """
    if "." in name:
        return _outside(name)
    if name not in names():
        raise UserError(f"config.method.name: unknown method '{name}'{did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").METHOD


def check_domains(method: Any, names: Iterable[str], path: str) -> None:
    """Raises a UserError if a method says which training domains it reads (`check_domains`), and others are given."""
    if check := getattr(method, "check_domains", None):
        check(names, path)


def _outside(name: str) -> type[Any]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"config.method.name: cannot import the module '{name}' ({error}); install it, or put its folder on "
            "PYTHONPATH or beside the config file"
        ) from error
    if not hasattr(module, "METHOD"):
        raise UserError(f"config.method.name: expected the module '{name}' to define METHOD, its method's class")
    return module.METHOD
