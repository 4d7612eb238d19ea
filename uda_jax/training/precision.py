"""Names of the compute precisions."""

import jax.numpy as jnp

PRECISIONS = ("fp32", "bf16")


def compute_dtype(precision: str) -> jnp.dtype:
    """Returns the dtype of convolutions for "fp32" or "bf16"; masters, statistics, softmax and losses stay float32.

    Raises:
      ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    return jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)
