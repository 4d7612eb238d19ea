"""The Caffe-style dilated ResNet of DeepLab-v2: stride in the first 1x1 convolution, ceil-mode stem pool.

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
INITIALIZERS = {"normal": nn.initializers.normal(0.01), "he": nn.initializers.he_normal()}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with batch norm, around a shortcut.

    Attributes:
      planes: channels of the first two convolutions; the third has four times as many.
      stride: of the first convolution and of the projection.
      dilation: of the 3x3 convolution.
      project: whether the shortcut is a 1x1 convolution with batch norm (the first block of every stage).
      kernel_init, bn_mode, dtype: see `ResNet`.
    """

    planes: int
    stride: int
    dilation: int
    project: bool
    kernel_init: str
    bn_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H / stride, W / stride, 4 * planes]` for `x` `[B, H, W, C]`."""

        def conv(features, size, name, **options):
            init = INITIALIZERS[self.kernel_init]
            return Conv(features, size, kernel_init=init, dtype=self.dtype, name=name, **options)

        def norm(name):
            return BatchNorm(self.bn_mode, self.dtype, name=name)

        y = conv(self.planes, 1, "conv1", stride=self.stride)(x)
        y = nn.relu(norm("bn1")(y, train))
        y = conv(self.planes, 3, "conv2", dilation=self.dilation, padding=self.dilation)(y)
        y = nn.relu(norm("bn2")(y, train))
        y = conv(EXPANSION * self.planes, 1, "conv3")(y)
        y = norm("bn3")(y, train)
        if self.project:
            x = conv(EXPANSION * self.planes, 1, "downsample_0", stride=self.stride)(x)
            x = norm("downsample_1")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages; stages 3 and 4 are dilated (2, 4) instead of strided.

    Attributes:
      blocks: bottlenecks per stage.
      width: channels of the stem and planes of stage 1; the stages have 1, 2, 4 and 8 times as many planes.
      pool_stride: stride of the stem's max pool: 2 makes an output stride of 8, 1 of 4.
      kernel_init: "normal" N(0, 0.01^2), as the references before they load weights, or "he" (fan-in normal), which
        trains from scratch.
      bn_mode: see `BatchNorm.mode`.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      dtype: type of the computation; parameters and statistics stay float32.
    """

    blocks: Sequence[int]
    width: int = 64
    pool_stride: int = 2
    kernel_init: str = "normal"
    bn_mode: str = "batch"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Returns the maps "stem", "layer1" ... "layer4" for normalised images `[B, H, W, 3]`."""
        init = INITIALIZERS[self.kernel_init]
        x = Conv(self.width, 7, stride=2, padding=3, kernel_init=init, dtype=self.dtype, name="conv1")(images)
        x = nn.relu(BatchNorm(self.bn_mode, self.dtype, name="bn1")(x, train))
        maps = {"stem": (x := max_pool_ceil(x, self.pool_stride))}
        block_class = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        for stage, (count, stride, dilation) in enumerate(zip(self.blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True), 1):
            for block in range(count):
                x = block_class(
                    planes=self.width * 2 ** (stage - 1),
                    stride=stride if block == 0 else 1,
                    dilation=dilation,
                    project=block == 0,
                    kernel_init=self.kernel_init,
                    bn_mode=self.bn_mode,
                    dtype=self.dtype,
                    name=f"layer{stage}_{block}",
                )(x, train)
            maps[f"layer{stage}"] = x
        return maps


def max_pool_ceil(x: jax.Array, stride: int) -> jax.Array:
    """Returns the 3x3 max pool of `x` `[B, H, W, C]` with padding 1 and PyTorch's ceil mode.

    The output has ceil((n - 1) / stride) + 1 rows or columns: the last window may begin on the last one of the input
    and the high side is padded as far as it reaches. Padding is minus infinity, so it never wins.
    """
    # As a maximum of shifted maps: on the CPU the gradient of a pooling window takes ten times as long.
    for axis in (1, 2):
        n = x.shape[axis]
        last = -(-(n - 1) // stride) * stride
        pads = [(0, 0)] * 4
        pads[axis] = (1, last + 2 - n)
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        parts = (lax.slice_in_dim(padded, i, i + last + 1, stride, axis) for i in range(3))
        x = functools.reduce(jnp.maximum, parts)
    return x
