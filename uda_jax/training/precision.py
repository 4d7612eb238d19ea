"""Names of the compute precisions, and what each means for products of float32 on every backend."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# What JAX calls the precision of float32 products. Left to itself it takes TF32 on NVIDIA GPUs and one pass in bfloat16
# on TPUs, which is no float32; the CPU computes in float32 whatever it is told.
_PRODUCTS = {"fp32": "float32", "tf32": "tensorfloat32", "bf16": "default"}
PRECISIONS = tuple(_PRODUCTS)

# The sentence of the fields that choose one.
PRECISION_TEXT = (
    "Compute type of the networks, masters stay float32: 'fp32' true float32 products on every backend, 'tf32' faster "
    "ones of 10-bit mantissas on GPUs (three bfloat16 passes on TPUs, float32 on CPUs), 'bf16' bfloat16 convolutions."
)

F = TypeVar("F", bound=Callable)


def compute_dtype(precision: str) -> jnp.dtype:
    """Returns the dtype of convolutions for a precision; masters, statistics, softmax and losses stay float32.

    Raises:
      ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    return jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)


def at_precision(method: Any, function: F) -> F:
    """Returns a function whose products are traced at the precision of a method, whatever the caller's is.

    Products that ask for more, such as those of an interpolation, keep what they ask for.

    Args:
      method: gives `precision`, one of `PRECISIONS`. One that has none, such as an ensemble, whose members have their
        own, leaves the function as it is.
      function: of the method, to be compiled.
    """
    products = _PRODUCTS.get(getattr(method, "precision", None))
    if products is None:
        return function

    @functools.wraps(function)
    def traced(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision(products):
            return function(*arguments, **options)

    return traced
