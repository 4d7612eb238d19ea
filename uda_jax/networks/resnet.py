"""The dilated ResNet of DeepLab-v2, in the form of the published Caffe weights or of torchvision's.

Source: the ResNet-101 of AdaptSegNet, ADVENT and their relatives (AdaptSegNet, arXiv 1802.10349, section 5). Module
names follow the published checkpoints, `layer3.22.conv2` being `layer3_22/conv2`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv

EXPANSION = 4
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
# Both styles have the same parameters, so weights of the wrong one load without an error and only accuracy suffers.
STYLES = ("caffe", "torchvision")
INITIALISERS = {
    "normal": nn.initializers.normal(0.01),
    "he": nn.initializers.he_normal(),
    # U(-b, b) with b = 1 / sqrt(fan_in), PyTorch's default.
    "uniform": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with batch norm, around a shortcut.

    Attributes:
      planes: channels of the first two convolutions; the third has four times as many.
      stride: of the projection and of the first convolution (style "caffe") or the second ("torchvision").
      dilation: of the 3x3 convolution.
      project: whether the shortcut is a 1x1 convolution with batch norm (the first block of every stage).
      kernel_init, bn_mode, dtype, style: see `ResNet`.
    """

    planes: int
    stride: int
    dilation: int
    project: bool
    kernel_init: str
    bn_mode: str
    dtype: Any
    style: str = "caffe"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H / stride, W / stride, 4 * planes]` for `x` `[B, H, W, C]`."""

        def conv(features, size, name, **options):
            init = INITIALISERS[self.kernel_init]
            return Conv(features, size, kernel_init=init, dtype=self.dtype, name=name, **options)

        def norm(name):
            return BatchNorm(self.bn_mode, self.dtype, name=name)

        first, second = (self.stride, 1) if self.style == "caffe" else (1, self.stride)
        y = conv(self.planes, 1, "conv1", stride=first)(x)
        y = nn.relu(norm("bn1")(y, train))
        y = conv(self.planes, 3, "conv2", stride=second, dilation=self.dilation, padding=self.dilation)(y)
        y = nn.relu(norm("bn2")(y, train))
        y = conv(EXPANSION * self.planes, 1, "conv3")(y)
        y = norm("bn3")(y, train)
        if self.project:
            x = conv(EXPANSION * self.planes, 1, "downsample_0", stride=self.stride)(x)
            x = norm("downsample_1")(x, train)
        return residual_relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages; stages 3 and 4 are dilated (2, 4) instead of strided.

    Attributes:
      blocks: bottlenecks per stage.
      width: channels of the stem and planes of stage 1; the stages have 1, 2, 4 and 8 times as many planes.
      pool_stride: stride of the stem's max pool: 2 makes an output stride of 8, 1 of 4.
      kernel_init: "normal" N(0, 0.01^2), as the references before they load weights, "he" (fan-in normal), which
        trains from scratch, or "uniform", PyTorch's default.
      bn_mode: see `BatchNorm.mode`.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      dtype: type of the computation; parameters and statistics stay float32.
      style: "caffe" strides in a block's first 1x1 convolution, pools the stem in ceil mode and dilates a stage from
        its first block on. "torchvision", which its ImageNet weights need, strides in the 3x3 convolution, pools in
        floor mode, and the first block of a dilated stage keeps the dilation of the stage before.
    """

    blocks: Sequence[int]
    width: int = 64
    pool_stride: int = 2
    kernel_init: str = "normal"
    bn_mode: str = "batch"
    remat: bool = False
    dtype: Any = jnp.float32
    style: str = "caffe"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Returns the maps "stem", "layer1" ... "layer4" for normalised images `[B, H, W, 3]`."""
        init = INITIALISERS[self.kernel_init]
        x = Conv(self.width, 7, stride=2, padding=3, kernel_init=init, dtype=self.dtype, name="conv1")(images)
        x = nn.relu(BatchNorm(self.bn_mode, self.dtype, name="bn1")(x, train))
        caffe = self.style == "caffe"
        maps = {"stem": (x := max_pool(x, 3, self.pool_stride, padding=1, ceil_mode=caffe))}
        block_class = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        first_dilations = DILATIONS if caffe else (1, *DILATIONS[:-1])
        stages = zip(self.blocks, STRIDES, DILATIONS, first_dilations, strict=True)
        for stage, (count, stride, dilation, first_dilation) in enumerate(stages, 1):
            for block in range(count):
                x = block_class(
                    planes=self.width * 2 ** (stage - 1),
                    stride=stride if block == 0 else 1,
                    dilation=first_dilation if block == 0 else dilation,
                    project=block == 0,
                    kernel_init=self.kernel_init,
                    bn_mode=self.bn_mode,
                    dtype=self.dtype,
                    style=self.style,
                    name=f"layer{stage}_{block}",
                )(x, train)
            maps[f"layer{stage}"] = x
        return maps


def max_pool(x: jax.Array, size: int, stride: int, *, padding: int = 0, ceil_mode: bool = False) -> jax.Array:
    """Returns the max pool of `x` `[B, H, W, C]` with windows of `size` x `size`, in PyTorch's geometry.

    The output has floor((n + 2 * padding - size) / stride) + 1 rows or columns, in ceil mode the quotient rounded up:
    then the high side is padded as far as the last window reaches. `padding` + `stride` <= `size`, so that no window
    lies in the padding alone. Padding is minus infinity, so it never wins.
    """
    # As a maximum of shifted maps: on the CPU the gradient of a pooling window takes ten times as long.
    for axis in (1, 2):
        n = x.shape[axis]
        free = n + 2 * padding - size
        last = (-(-free // stride) if ceil_mode else free // stride) * stride
        pads = [(0, 0)] * 4
        pads[axis] = (padding, max(last + size - n - padding, 0))
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        parts = (lax.slice_in_dim(padded, i, i + last + 1, stride, axis) for i in range(size))
        x = functools.reduce(jnp.maximum, parts)
    return x


def residual_relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0) of the sum that ends a block, with a gradient of 0 at 0, as `nn.relu`.

    XLA's CPU backend fuses `maximum` into every reader, so that each block's sum would be computed anew from the sums
    of all blocks before it. A selection has two large operands and is computed once. NaN stays NaN.
    """
    return jnp.where(x <= 0, 0, x)
