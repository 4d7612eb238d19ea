"""Self-information of class probabilities: what ADVENT's losses, its discriminators and IntraDA's ranking read."""

import math

import jax
import jax.numpy as jnp


def self_information(probabilities: jax.Array) -> jax.Array:
    r"""Weighted self-information, :math:`-p \log_2(p + 10^{-30}) / \log_2 C` of every class.

    Summed over the classes it is the pixel's entropy in [0, 1]. ADVENT section 3.2, with the released code's scale.

    Args:
      probabilities: `[..., C]`, summing to 1 over the last axis; computed in float32, since 1e-30 vanishes in float16.

    Returns:
      float32 map `[..., C]` in [0, log2(e) / (e log2 C)]. Value and gradient are finite at p = 0 and p = 1.
    """
    p = probabilities.astype(jnp.float32)
    return -p * jnp.log2(p + 1e-30) / math.log2(p.shape[-1])
