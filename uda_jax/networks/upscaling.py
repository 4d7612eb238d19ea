"""Transposed convolutions whose stride is their size: every pixel becomes a patch of its own."""

from typing import Any

import jax
from flax import linen as nn

from uda_jax.networks.convolution import FLOAT32, ConvParameters


class PatchUpscale(ConvParameters):
    """The transposed convolution as the one matrix product that it is.

    Attributes (in addition to those of `ConvParameters`, whose `size` is the sides of the patch that a pixel becomes):
      dtype: type of the computation and of the result.
    """

    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, size * H, size * W, features]` for `x` `[B, H, W, C]`."""
        kernel, bias = super().__call__(x.shape[-1])
        batch, height, width, channels = x.shape
        matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, -1).astype(self.dtype)
        parts = (x.reshape(-1, channels).astype(self.dtype) @ matrix).reshape(
            batch, height, width, self.size, self.size, self.features
        )
        y = parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, self.size * height, self.size * width, self.features)
        return y if bias is None else y + bias.astype(self.dtype)
