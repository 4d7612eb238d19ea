"""The image translator: a residual network that renders an image in the style of another domain.

Source: the generator of CycleGAN (arXiv 1703.10593), which GIO-Ada (arXiv 1812.05040) is given here as its transform
network, whose own layers are not known here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from uda_jax.errors import UserError
from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry, Options
from uda_jax.networks.batch_norm import EPSILON
from uda_jax.networks.convolution import FLOAT32, grouped_convolve, output_convolve, transposed_convolve
from uda_jax.networks.parameters import parameter
from uda_jax.schema import config_field

# The start of all kernels of the CycleGAN networks; their biases start at zero, as Flax's do.
NORMAL = initialisers.normal(0.02)

# Two layers of stride 2, and at least two rows at their scale, for a border of one to be reflected.
MULTIPLE, SMALLEST = 4, 8


@dataclasses.dataclass(frozen=True)
class TranslatorOptions(Options):
    """What `networks.build` accepts for "translator" and, with 4 blocks by default, for "refiner"."""

    width: int = config_field(64, "Channels of the first layer; a translator's blocks have four times as many.", low=1)
    blocks: int = config_field(9, "Residual blocks, a translator's at a quarter of the image's size.", low=1)
    remat: bool = config_field(False, "Whether blocks recompute their activations in the backward pass to save memory.")
    grey: bool = config_field(
        False, "Whether it sees the mean of the image's channels, and draws one in place of three equal ones."
    )


class TransposedConv(nn.Module):
    """A 3x3 transposed convolution of stride 2 that doubles height and width (PyTorch: padding 1, output padding 1).

    Attributes:
      features: output channels.
      dtype: type of the computation and of the result.
    """

    features: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, 2H, 2W, features]` for `x` `[B, H, W, C]`; `kernel` is `[3, 3, C, features]`."""
        kernel = parameter(self, "kernel", NORMAL, (3, 3, x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        return transposed_convolve(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class ImageConv(nn.Module):
    """The first or the last convolution, at the image's size and without padding.

    Attributes:
      features: output channels.
      size: kernel height and width.
      convolve: how it is computed, a function of map and kernel; the result has its type.
      dtype: type of the computation.
    """

    features: int
    size: int
    convolve: Callable[[jax.Array, jax.Array], jax.Array]
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H - size + 1, W - size + 1, features]` for `x` `[B, H, W, C]`."""
        kernel = parameter(self, "kernel", NORMAL, (self.size, self.size, x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        y = self.convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(y.dtype)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions on reflected borders, each with instance norm, beside the identity.

    Attributes:
      dtype: type of the computation and of the result.
    """

    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map of the shape of `x` `[B, H, W, C]`; no ReLU follows the sum."""
        y = nn.relu(instance_norm(_conv(x.shape[-1], 3, "conv1", self.dtype)(reflect(x, 1))))
        return x + instance_norm(_conv(x.shape[-1], 3, "conv2", self.dtype)(reflect(y, 1)))


class Translator(nn.Module):
    """Two layers of stride 2, residual blocks and two transposed convolutions, ending in a tanh image.

    Every convolution but the last is followed by instance norm. Kernels start at N(0, 0.02^2), biases at zero.

    Source: CycleGAN's residual generator, GIO-Ada's transform network G_img.

    Attributes:
      options: width, number of blocks, memory and type.
    """

    options: TranslatorOptions = TranslatorOptions()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Translates images.

        Args:
          x: `[B, H, W, C]`, RGB in [-1, 1] and whatever channels the translation depends on, such as depth and one-hot
            labels. H and W are multiples of 4.

        Returns:
          float32 RGB images `[B, H, W, 3]` in [-1, 1].

        Raises:
          UserError: a height or width that is not a multiple of 4, or less than 8.
        """
        _check_size(x)
        o = self.options
        x = seen(x, o)
        x = nn.relu(instance_norm(ImageConv(o.width, 7, grouped_convolve, o.dtype, name="conv1")(reflect(x, 3))))
        for i in (1, 2):
            x = nn.relu(instance_norm(_conv(2**i * o.width, 3, f"down_{i}", o.dtype, strides=2, padding=1)(x)))
        block_class = nn.remat(ResidualBlock) if o.remat else ResidualBlock
        for i in range(o.blocks):
            x = block_class(o.dtype, name=f"block_{i}")(x)
        for i in (1, 2):
            x = nn.relu(instance_norm(TransposedConv(4 // 2**i * o.width, o.dtype, name=f"up_{i}")(x)))
        drawn = ImageConv(1 if o.grey else 3, 7, output_convolve, o.dtype, name="output")(reflect(x, 3))
        return as_image(jnp.tanh(drawn))


def seen(x: jax.Array, options: TranslatorOptions) -> jax.Array:
    """Returns what a translator sees of `[B, H, W, C]`: in grey, the mean of the first three channels, and the rest."""
    if not options.grey:
        return x
    return jnp.concatenate([jnp.mean(x[..., :3], axis=-1, keepdims=True), x[..., 3:]], axis=-1)


def as_image(drawn: jax.Array) -> jax.Array:
    """Returns an image of three channels `[B, H, W, 3]`, equal ones for a drawn map of one."""
    return jnp.broadcast_to(drawn, (*drawn.shape[:3], 3))


def _conv(features: int, size: int, name: str, dtype: Any, **options: Any) -> nn.Conv:
    options = {"padding": 0, **options}
    return nn.Conv(features, (size, size), kernel_init=NORMAL, dtype=dtype, name=name, **options)


def _check_size(x: jax.Array) -> None:
    height, width = x.shape[1:3]
    if height % MULTIPLE or width % MULTIPLE or min(height, width) < SMALLEST:
        raise UserError(
            f"network.translator: expected images whose height and width are multiples of {MULTIPLE}, at least "
            f"{SMALLEST}, got {height}x{width}; change the size or the crop of the data"
        )


def reflect(x: jax.Array, border: int) -> jax.Array:
    """Returns `x` `[B, H, W, C]` with `border` more pixels on each side, mirrored about the outermost ones."""
    return jnp.pad(x, [(0, 0), (border, border), (border, border), (0, 0)], mode="reflect")


def instance_norm(x: jax.Array) -> jax.Array:
    """Returns `x` `[B, H, W, C]` with each channel of each image normalised by its own mean and biased variance.

    There is no scale, no shift and nothing stored, so training and evaluation agree. Statistics are float32; the
    result has the type of `x`.
    """
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, (1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(y), (1, 2), keepdims=True)
    return (y * lax.rsqrt(variance + EPSILON)).astype(x.dtype)


# Channels come from the images, so that the number of classes plays no part.
NETWORKS = {"translator": Entry(lambda _, options: Translator(options), TranslatorOptions)}
