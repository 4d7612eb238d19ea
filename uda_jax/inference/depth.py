"""Errors of predicted depths, summed where the maps are: on the device."""

import jax
import jax.numpy as jnp

from uda_jax.training.metrics import DEPTH_SUMS

# Smaller predictions are raised to it, as in Monodepth2's evaluation: the errors hold logarithms and quotients.
MIN_DEPTH = 1e-3


def row_sums(prediction: jax.Array, depth: jax.Array) -> jax.Array:
    """Sums the errors over the valid pixels of each row of pixels.

    Whole frames are to be summed on the host in float64: float32 is exact enough for a row alone, and a row's sum does
    not depend on how the batch is split over devices.

    Args:
      prediction: metres `[B, h, w]`.
      depth: metres `[B, h, w]`, 0 = invalid.

    Returns:
      float32 `[B, h, S]`, the entries of `metrics.DEPTH_SUMS`.

    Raises:
      ValueError: the shapes differ.
    """
    if prediction.shape != depth.shape:
        raise ValueError(f"prediction and depth: expected one shape, got {prediction.shape} and {depth.shape}")
    valid = depth > 0
    true = jnp.where(valid, depth.astype(jnp.float32), 1.0)
    predicted = jnp.where(valid, jnp.maximum(prediction.astype(jnp.float32), MIN_DEPTH), 1.0)
    error, ratio = predicted - true, jnp.maximum(predicted / true, true / predicted)
    terms = {
        "count": jnp.ones_like(true),
        "abs_rel": jnp.abs(error) / true,
        "sq_rel": error**2 / true,
        "squares": error**2,
        "log_squares": (jnp.log(predicted) - jnp.log(true)) ** 2,
    }
    terms |= {f"delta{k}": (ratio < 1.25**k).astype(jnp.float32) for k in (1, 2, 3)}
    return jnp.stack([jnp.sum(jnp.where(valid, terms[name], 0.0), axis=2) for name in DEPTH_SUMS], axis=-1)


def median_scale(prediction: jax.Array, depth: jax.Array) -> jax.Array:
    """Returns by what to multiply depths of unknown scale, as those learnt from one camera's video are.

    Times this factor, `row_sums` gives the errors with median scaling, as Monodepth2's evaluation reports them.

    Args:
      prediction: in any unit `[B, h, w]`; raised to `MIN_DEPTH` like in `row_sums`.
      depth: metres `[B, h, w]`, 0 = invalid.

    Returns:
      float32 `[B]`, of each frame the median of the valid depths over that of the predictions at the same pixels; 1
      where no pixel is valid.

    Raises:
      ValueError: the shapes differ.
    """
    if prediction.shape != depth.shape:
        raise ValueError(f"prediction and depth: expected one shape, got {prediction.shape} and {depth.shape}")
    valid = depth > 0
    true, predicted = (
        jnp.nanmedian(jnp.where(valid, values.astype(jnp.float32), jnp.nan), axis=(1, 2))
        for values in (depth, jnp.maximum(prediction, MIN_DEPTH))
    )
    return jnp.where(jnp.any(valid, axis=(1, 2)), true / predicted, 1.0)
