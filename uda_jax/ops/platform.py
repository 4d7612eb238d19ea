"""Which platform a program is made for: some operations take the form that is fastest there.

That is the one that runs it, unless a program is only to be looked at: `made_for("gpu")` on a machine without a GPU
traces what a GPU would get.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

# By the names of `jax.default_backend()`, those of `lowering_platforms`.
LOWERING = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}

_MADE_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu": what operations that are traced now choose their form by."""
    return _MADE_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def made_for(name: str) -> Iterator[None]:
    """Within the block, operations that are traced take the form of a platform, one of `LOWERING`.

    Raises:
      ValueError: an unknown platform.
    """
    if name not in LOWERING:
        raise ValueError(f"platform: expected one of {', '.join(LOWERING)}, got {name!r}")
    token = _MADE_FOR.set(name)
    try:
        yield
    finally:
        _MADE_FOR.reset(token)
