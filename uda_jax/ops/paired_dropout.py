"""Channels that two views of an image drop in turn.

Source: UniMatch V2 (arXiv 2410.10777) with its released code.
"""

import jax
import jax.numpy as jnp


def complementary_dropout(features: jax.Array, draws: jax.Array, kept: jax.Array) -> jax.Array:
    """Drops, in the first of two views of an image, the channels that the second keeps, and the other way round.

    Args:
      features: maps `[2 P, ..., D]`, P first views and then their second ones.
      draws: bool `[P, D]`, True where the first view keeps a channel.
      kept: bool `[P]`, pairs that are left as they are.

    Returns:
      `[2 P, ..., D]`, what is kept doubled.
    """
    first = jnp.where(draws, 2.0, 0.0)
    factors = jnp.where(kept[None, :, None], 1.0, jnp.stack([first, 2.0 - first]))
    factors = factors.reshape(features.shape[0], *(1,) * (features.ndim - 2), -1)
    return features * factors.astype(features.dtype)


def draw_complementary(key: jax.Array, pairs: int, channels: int) -> tuple[jax.Array, jax.Array]:
    """Returns random `draws` and `kept` of `complementary_dropout`: half of the pairs, rounded down, are kept."""
    draw_key, kept_key = jax.random.split(key)
    draws = jax.random.bernoulli(draw_key, 0.5, (pairs, channels))
    return draws, jax.random.permutation(kept_key, pairs) < pairs // 2
