"""Parameters that are looked up where they exist, instead of drawn once more to compare shapes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from uda_jax.networks.initialisers import Initialiser


def parameter(module: nn.Module, name: str, initialiser: Initialiser, shape: Sequence[int]) -> jax.Array:
    """Returns a float32 parameter of a module, which is drawn if there is none yet.

    `Module.param` traces the initialiser on every call, for the shape of what it would draw; with some hundred
    parameters that takes a good part of the time until a training step is traced. Here shapes are compared as such.

    Args:
      module: whose parameter it is, within its `setup` or `__call__`.
      name: of the parameter.
      initialiser: draws it.
      shape: of the parameter.

    Raises:
      flax.errors.ScopeParamShapeError: there is one of another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, initialiser, shape, jnp.float32)
    value = module.get_variable("params", name)
    if value.shape != tuple(shape):
        raise errors.ScopeParamShapeError(name, "/" + "/".join(module.path), value.shape, tuple(shape))
    return value
