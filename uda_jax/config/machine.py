"""What machine a config is for, where its network depends on that: one with an accelerator or one without."""

import contextlib
import contextvars
from collections.abc import Iterator

_assumed: contextvars.ContextVar[bool | None] = contextvars.ContextVar("assumed", default=None)


def accelerated() -> bool:
    """Returns whether the machine that a config is read for has a GPU or TPU: what is assumed, or what JAX finds here.

    JAX then starts its devices, unless something is assumed. One that another process holds counts as there.
    """
    if (assumption := _assumed.get()) is not None:
        return assumption
    import jax

    try:
        return jax.default_backend() != "cpu"
    except RuntimeError:
        return True


@contextlib.contextmanager
def assumed(accelerator: bool) -> Iterator[None]:
    """Has configs that are read within the block choose for a machine with an accelerator, or for one without."""
    token = _assumed.set(accelerator)
    try:
        yield
    finally:
        _assumed.reset(token)
