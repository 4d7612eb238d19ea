"""Regression losses on depth maps (DADA, arXiv 1904.01886; CorDA, arXiv 2104.13613; GIO-Ada, arXiv 1812.05040)."""

import jax
import jax.numpy as jnp


@jax.named_scope("berhu")
def berhu(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    r"""Reverse Huber loss: absolute where the error is small, quadratic where it is large.

    With :math:`e = |q - z|` and :math:`c = 0.2 \max e` over all pixels that count in the batch, a pixel costs e where
    :math:`e \le c` and :math:`(e^2 + c^2) / 2c` elsewhere. No gradient passes through c.

    Args:
      prediction: maps `[B, H, W]` or `[B, H, W, 1]`, in the target's unit.
      target: maps of the same shape.
      mask: bool, of the same shape; the pixels that count (DADA: all, CorDA: those with a target above 1).

    Returns:
      A float32 scalar, the mean over the pixels that count; 0 with zero gradient where there is none, and where the
      prediction is perfect.

    Raises:
      ValueError: the shapes differ.
    """
    error = _absolute_error(prediction, target, mask)
    threshold = jax.lax.stop_gradient(0.2 * jnp.max(error))
    # Where every error is 0 so is the threshold, and the branch that is not taken must still be finite.
    quadratic = (jnp.square(error) + jnp.square(threshold)) / (2.0 * jnp.maximum(threshold, 1e-30))
    loss = jnp.where(error <= threshold, error, quadratic)
    return jnp.sum(loss) / jnp.maximum(jnp.sum(mask), 1)


@jax.named_scope("absolute_depth")
def absolute_depth(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute error over the pixels that count.

    Args:
      prediction: maps `[B, H, W]` or `[B, H, W, 1]`, in the target's unit.
      target: maps of the same shape.
      mask: bool, of the same shape; the pixels that count.

    Returns:
      A float32 scalar; 0 with zero gradient where no pixel counts.

    Raises:
      ValueError: the shapes differ.
    """
    return jnp.sum(_absolute_error(prediction, target, mask)) / jnp.maximum(jnp.sum(mask), 1)


def _absolute_error(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns |prediction - target| in float32, 0 with zero gradient outside the mask."""
    for name, array in (("target", target), ("mask", mask)):
        if array.shape != prediction.shape:
            raise ValueError(f"{name}: expected shape {prediction.shape} of the prediction, got {array.shape}")
    # Masking the inputs rather than the error keeps a NaN outside the mask out of the gradient.
    error = jnp.where(mask, prediction.astype(jnp.float32) - target.astype(jnp.float32), 0.0)
    # |error|, but with gradient 0 where it is 0; that of `jnp.abs` is 1 there.
    return error * jax.lax.stop_gradient(jnp.sign(error))
