"""Attention of tokens to tokens, in the form that is fastest where it runs."""

import jax
import jax.numpy as jnp

from uda_jax.ops.platform import platform


def attention(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Returns softmax(q k^T / sqrt(size)) v of each head.

    On NVIDIA GPUs and in bfloat16 it is cuDNN's fused kernel, which never holds the whole matrix of weights; softmax is
    computed in float32 everywhere.

    Args:
      queries, keys, values: `[B, T, heads, size]`.

    Returns:
      `[B, T, heads, size]` of their type.
    """
    # A program that is only looked at, on a machine without a GPU, cannot ask cuDNN whether it is there.
    fused = platform() == jax.default_backend() == "gpu" and queries.dtype == jnp.bfloat16
    return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn" if fused else "xla")
