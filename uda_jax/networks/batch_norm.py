"""Batch normalisation with PyTorch's running statistics, which the published checkpoints rely on."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# Weight of the newest batch in the running statistics (PyTorch's convention; Flax counts the old ones' weight, 0.9).
MOMENTUM = 0.1
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, then scales and shifts it.

    It differs from `flax.linen.BatchNorm` in one number: the running variance takes the unbiased variance of the
    batch (divided by n - 1), as PyTorch's does, while the batch itself is normalised with the biased one. The two
    differ visibly on small maps. Statistics are float32 whatever `dtype` is. Under `jit` with the batch sharded over
    devices they are those of the global batch.

    Parameters `scale` and `bias` `[C]`; `batch_stats` `mean` and `var` `[C]`.

    Attributes:
      mode: "batch" normalises with the batch's own statistics in training and updates the running ones; "frozen" uses
        the stored ones in training too. Both use the stored ones in evaluation.
      dtype: type of the result.
    """

    mode: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the normalised `x`, `[..., C]`; updates `batch_stats` if `train` and the mode is "batch"."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        if train and self.mode == "batch":
            mean, var = batch_statistics(x)
            if not self.is_initializing():
                count = x.size // channels
                # One value per channel has no unbiased variance: PyTorch refuses it, here the biased one (0) is kept.
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += MOMENTUM * (mean - running_mean.value)
                running_var.value += MOMENTUM * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (scale * jax.lax.rsqrt(var + EPSILON)) + bias).astype(self.dtype)


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance of each channel of `x` `[..., C]`, both `[C]`.

    The variance is the mean of squared deviations: the difference of two large means (E[x^2] - E[x]^2) would lose all
    digits, and may turn negative, where the mean is large beside the deviation.
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.mean(jnp.square(x - mean), axes)
