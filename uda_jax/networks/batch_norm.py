"""Batch normalisation with PyTorch's running statistics, which the published checkpoints rely on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.parameters import parameter

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
      epsilon: added to the variance; PyTorch's default.
      momentum: weight of the newest batch in the running statistics.
    """

    mode: str = "batch"
    dtype: Any = jnp.float32
    epsilon: float = EPSILON
    momentum: float = MOMENTUM

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the normalised `x`, `[..., C]`; updates `batch_stats` if `train` and the mode is "batch"."""
        channels = x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (channels,))
        bias = parameter(self, "bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train and self.mode == "batch":
            y, mean, var = normalise(x, scale, bias, self.dtype, self.epsilon)
            if not self.is_initializing():
                count = x.size // channels
                # One value per channel has no unbiased variance: PyTorch refuses it, here the biased one (0) is kept.
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
            return y
        mean, var = running_mean.value, running_var.value
        return _scaled(x.astype(jnp.float32) - mean, var, scale, bias, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype, epsilon: float = EPSILON
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel of a batch with its own statistics, then scales and shifts it.

    Its gradient is the closed form of Ioffe and Szegedy (2015), which needs two sums over the batch and keeps `x` alone
    for them; that of the statistics' own sums would need four, and further maps of the size of `x`. Forward-mode
    differentiation is not available, and the statistics are constants to whoever differentiates.

    Args:
      x: `[..., C]`.
      scale, bias: `[C]`, float32.
      dtype: of the first result.
      epsilon: added to the variance.

    Returns:
      The map, in its type, and the float32 mean and biased variance of each channel `[C]`.
    """
    return _normalise_forward(x, scale, bias, dtype, epsilon)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple]:
    """Returns the results of `normalise`, and what its gradient needs."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x.astype(jnp.float32), axes)
    centred = x.astype(jnp.float32) - mean
    # The difference of two large means (E[x^2] - E[x]^2) would lose all digits where the mean is large beside the
    # deviation, and may turn negative.
    var = jnp.mean(jnp.square(centred), axes)
    return (_scaled(centred, var, scale, bias, epsilon).astype(dtype), mean, var), (x, scale, mean, var)


def _scaled(centred: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return centred * (scale * jax.lax.rsqrt(var + epsilon)) + bias


def _normalise_backward(
    dtype: jnp.dtype, epsilon: float, saved: tuple, cotangents: tuple
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del dtype
    x, scale, mean, var = saved
    cotangent, axes, count = cotangents[0].astype(jnp.float32), tuple(range(x.ndim - 1)), x.size // var.size
    inverse, kept = jax.lax.rsqrt(var + epsilon), x.astype(jnp.float32)
    to_bias = jnp.sum(cotangent, axes)
    # Here and below `x` and its mean are scaled one by one: of their difference, which the forward pass makes, XLA's
    # CPU backend would keep a copy beside `x`.
    to_scale = jnp.sum(cotangent * (kept * inverse - mean * inverse), axes)
    of_x = -scale * jnp.square(inverse) * to_scale / count
    gradient = (scale * inverse) * (cotangent - to_bias / count) + (of_x * kept - of_x * mean)
    return gradient.astype(x.dtype), to_scale, to_bias


normalise.defvjp(_normalise_forward, _normalise_backward)
