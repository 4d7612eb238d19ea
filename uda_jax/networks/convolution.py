"""Convolutions with explicit PyTorch padding, in the form that trains fastest."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from uda_jax.networks.depthwise import shifted_products
from uda_jax.networks.initialisers import Initialiser, uniform_fan_in
from uda_jax.networks.kernels import (
    dilated_conv,
    element_products,
    interleaved_products,
    patch_products,
    phase_gradient,
    plain_conv,
    product_gradient,
    project,
)
from uda_jax.networks.parameters import parameter
from uda_jax.ops.platform import platform

FLOAT32 = jnp.dtype(jnp.float32)
# On the CPU, XLA's convolution of a whole image is much quicker with at most so many channels in and out.
FEW_CHANNELS = 16
COMPUTE_DTYPES = (FLOAT32, jnp.dtype(jnp.bfloat16))


class ConvParameters(nn.Module):
    """The `kernel` `[k, k, C, features]` and `bias` `[features]` of one convolution, without its computation.

    Attributes:
      features: output channels.
      size: kernel height and width k.
      use_bias: whether there is a bias; it starts as PyTorch's, U(-b, b) with b = 1 / sqrt(k * k * C).
      kernel_init: initialiser of the kernel; None takes the bias's distribution, PyTorch's default.
    """

    features: int
    size: int
    use_bias: bool = False
    kernel_init: Initialiser | None = None

    @nn.compact
    def __call__(self, in_features: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns (kernel, bias or None) in float32."""
        default = uniform_fan_in(self.size**2 * in_features)
        shape = (self.size, self.size, in_features, self.features)
        kernel = parameter(self, "kernel", self.kernel_init or default, shape)
        bias = parameter(self, "bias", default, (self.features,)) if self.use_bias else None
        return kernel, bias


class Conv(ConvParameters):
    """A convolution with `padding` pixels on each side (never "SAME", which pads otherwise at stride 2).

    Attributes (in addition to those of `ConvParameters`):
      stride, dilation, padding: as in PyTorch, equal in both directions.
      dtype: type of the computation and of the result.
    """

    stride: int = 1
    dilation: int = 1
    padding: int = 0
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, h, w, features]` for `x` `[B, H, W, C]`, h = floor((H + 2p - d(k-1) - 1) / stride) + 1."""
        kernel, bias = super().__call__(x.shape[-1])
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation, self.padding)
        return y if bias is None else y + bias.astype(self.dtype)


def small_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    few_channels: bool = False,
    **options: Any,
) -> jax.Array:
    """Computes a `flax.linen.Conv` as its field `conv_general_dilated`, on the CPU for small maps in a form of its own.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, l, C, D]`.
      strides, padding: of rows and columns, as Flax gives them.
      few_channels: whether the CPU's form serves, too, where the result is as large as the kernel, or larger.
      **options: the further arguments of `lax.conv_general_dilated`.
    """
    sides = (
        (n + sum(pad) - size) // step + 1
        for n, size, step, pad in zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    )
    smaller = any(side < size for side, size in zip(sides, kernel.shape[:2], strict=True))
    if platform() == "cpu" and (smaller or few_channels):
        return patch_products(x, kernel, strides, padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, padding: int = 0) -> jax.Array:
    """Returns the convolution `[B, h, w, D]` of `x` `[B, H, W, C]`, padded on every side, with `kernel` `[k, k, C, D]`.

    A 1x1 kernel becomes a matrix product. Larger ones are XLA's convolution, with a kernel gradient of our own where
    they are dilated, but on TPUs.
    """
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return project(x[:, ::stride, ::stride], kernel[0, 0])
    if kernel.shape[:2] == (3, 3) and stride == 1 and padding == dilation > 1:
        if platform() == "gpu":
            return dilated_conv(x, kernel, dilation, phase_gradient)
        if platform() == "cpu":
            return dilated_conv(x, kernel, dilation, product_gradient)
    return plain_conv(x, kernel, stride, dilation, padding)


def same_padding(sides: Sequence[int], size: int, stride: int = 1, dilation: int = 1) -> tuple[tuple[int, int], ...]:
    """Returns TensorFlow's "same" padding, before and after each side: the odd pixel of an uneven one comes after.

    Args:
      sides: height and width of the map.
      size, stride, dilation: of the convolution, whose result has ceil(side / stride) rows or columns.
    """
    totals = (max((-(-n // stride) - 1) * stride + dilation * (size - 1) + 1 - n, 0) for n in sides)
    return tuple((total // 2, total - total // 2) for total in totals)


def depthwise_convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Returns the convolution of every channel with a kernel of its own, padded as TensorFlow's "same".

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`.
      stride, dilation: equal in both directions.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    padding = same_padding(x.shape[1:3], kernel.shape[0], stride, dilation)
    if platform() == "cpu":
        return shifted_products(x, kernel, stride, dilation, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def transposed_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the transposed convolution of stride 2, padding 1 and output padding 1.

    Pixel i of a row adds `kernel[k]` times itself to pixel 2i + k - 1 of the result.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, C, D]`, PyTorch's (in, out, height, width) with its axes moved and nothing flipped.

    Returns:
      `[B, 2H, 2W, D]`.
    """
    if platform() == "cpu":
        return interleaved_products(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=[(1, 2)] * 2,
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def grouped_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the unpadded convolution of a map, on the CPU as a sum over groups of its channels.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, C, D]`.

    Returns:
      `[B, H - k + 1, W - k + 1, D]`.
    """
    if platform() != "cpu" or kernel.shape[3] > FEW_CHANNELS:
        return convolve(x, kernel)
    groups = [slice(start, start + FEW_CHANNELS) for start in range(0, x.shape[-1], FEW_CHANNELS)]
    return sum(convolve(x[..., group], kernel[:, :, group]) for group in groups)


def output_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the float32 convolution that ends a translator, in the form that is quicker for so many channels."""
    return narrow_convolve(x, kernel) if x.shape[-1] > FEW_CHANNELS else convolve(x, kernel).astype(jnp.float32)


def narrow_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the unpadded convolution of a map of many channels to few.

    On the CPU it is one matrix product for all kernel elements, then a sum of shifted results, which trains faster
    than XLA's convolution where D is as small as an image's 3 channels.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, C, D]`.

    Returns:
      `[B, H - k + 1, W - k + 1, D]`, added up in float32.
    """
    if platform() != "cpu":
        return convolve(x, kernel).astype(jnp.float32)
    height, width = (n - size + 1 for n, size in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    return sum(
        part[:, down : down + height, right : right + width].astype(jnp.float32)
        for down, row in enumerate(element_products(x, kernel))
        for right, part in enumerate(row)
    )
