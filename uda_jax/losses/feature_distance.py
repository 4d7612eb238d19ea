"""The distance between the features of a network and those of one that does not learn."""

import jax
import jax.numpy as jnp


@jax.named_scope("feature_distance")
def feature_distance(features: jax.Array, reference: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean Euclidean distance of features to those of a reference network (DAFormer, section 3.3).

    Args:
      features, reference: `[B, h, w, D]`; computed in float32.
      mask: bool `[B, h, w]`, the pixels that count; None = all.

    Returns:
      A float32 scalar; 0 with zero gradient where no pixel counts. The gradient at equal features is 0.
    """
    squares = jnp.sum(jnp.square(features.astype(jnp.float32) - reference.astype(jnp.float32)), axis=-1)
    mask = jnp.ones(squares.shape, bool) if mask is None else mask
    # The root has no finite gradient at 0.
    apart = mask & (squares > 0.0)
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)
    return jnp.sum(distances) / jnp.maximum(jnp.sum(mask), 1)
