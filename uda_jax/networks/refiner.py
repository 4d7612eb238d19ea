"""The refiner: a residual network that changes an image without ever making it smaller.

Source: SimGAN (arXiv 1612.07828), whose refiner keeps the content of a simulated image by seeing all of it at its own
resolution. The start of its kernels is not known; He's is taken, with which features keep their size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry
from uda_jax.networks.convolution import FLOAT32
from uda_jax.networks.translators import TranslatorOptions, as_image, seen


class RefinerBlock(nn.Module):
    """Two 3x3 convolutions beside the identity; a ReLU follows the first, another the sum.

    Attributes:
      dtype: type of the computation and of the result.
    """

    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map of the shape of `x` `[B, H, W, C]`."""
        y = nn.relu(_conv(x.shape[-1], 3, "conv1", self.dtype)(x))
        return nn.relu(x + _conv(x.shape[-1], 3, "conv2", self.dtype)(y))


class Refiner(nn.Module):
    """A 3x3 convolution, residual blocks and a 1x1 convolution at the image's size, ending in a tanh image.

    There is no normalisation, so that an image need not have the contrast of others.

    Attributes:
      options: width of all layers but the last, number of blocks, memory and type.
    """

    options: TranslatorOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Redraws images.

        Args:
          x: `[B, H, W, C]`, RGB in [-1, 1] and whatever channels the result depends on, such as depth and one-hot
            labels; of any size.

        Returns:
          float32 RGB images `[B, H, W, 3]` in [-1, 1].
        """
        o = self.options
        x = nn.relu(_conv(o.width, 3, "conv1", o.dtype)(seen(x, o)))
        block_class = nn.remat(RefinerBlock) if o.remat else RefinerBlock
        for i in range(o.blocks):
            x = block_class(o.dtype, name=f"block_{i}")(x)
        drawn = _conv(1 if o.grey else 3, 1, "output", o.dtype)(x)
        return as_image(jnp.tanh(drawn.astype(jnp.float32)))


def _conv(features: int, size: int, name: str, dtype: Any) -> nn.Conv:
    start = initialisers.he_normal()
    return nn.Conv(features, (size, size), padding=size // 2, kernel_init=start, dtype=dtype, name=name)


NETWORKS = {"refiner": Entry(lambda _, options: Refiner(options), TranslatorOptions, {"blocks": 4})}
