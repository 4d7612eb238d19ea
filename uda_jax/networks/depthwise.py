"""Depthwise convolutions: one small kernel for each channel."""

import jax
import jax.numpy as jnp
from jax import lax

from uda_jax.ops.platform import platform


def depthwise_convolve(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Returns the "same"-padded convolution of stride 1 of each channel with a kernel of its own.

    On the CPU it is a sum of shifted products, one fused loop, where XLA's grouped convolution has a naive one.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, 1, C]`.
      dilation: also the padding on every side.

    Returns:
      `[B, H, W, C]` in the type of `x`.
    """
    if platform() != "cpu":
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=[(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    return sum(
        padded[:, row * dilation :, column * dilation :][:, :height, :width] * kernel[row, column, 0]
        for row in range(3)
        for column in range(3)
    )
