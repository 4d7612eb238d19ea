"""EfficientNet-Lite0: inverted bottlenecks of plain convolutions, small enough for a CPU.

Source: MobileNetV2 (arXiv 1801.04381) for the block and EfficientNet (arXiv 1905.11946) for the sizes; the Lite form,
released with TensorFlow's models, has neither squeeze-and-excitation nor swish, and ReLU6 instead. Module names follow
the published PyTorch files, `_blocks.3._expand_conv` being `blocks_3/expand_conv`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.base import Entry, Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv, ConvParameters, depthwise_convolve, same_padding
from uda_jax.networks.kernels import relu6
from uda_jax.networks.resnet import INITIALISERS
from uda_jax.schema import config_field


class _Stage(NamedTuple):
    blocks: int
    channels: int
    size: int  # of the depthwise kernel
    stride: int


STAGES = (
    _Stage(1, 16, 3, 1),
    _Stage(2, 24, 3, 2),
    _Stage(2, 40, 5, 2),
    _Stage(3, 80, 3, 2),
    _Stage(3, 112, 5, 1),
    _Stage(4, 192, 5, 2),
    _Stage(1, 320, 3, 1),
)
# Names of the maps, and of the parts whose activations may be recomputed.
NAMES = ("stem", *(f"stage{stage}" for stage in range(1, len(STAGES) + 1)))
EXPANSION = 6  # but 1 in the first stage
WIDTH = 32  # channels of the published stem
EPSILON = 1e-3
_FIRST = [sum(stage.blocks for stage in STAGES[:i]) for i in range(len(STAGES))]
# For layer-wise decay a stage is a layer.
LAYERS = (
    "(conv_stem|bn0)/",
    *(
        "|".join(f"blocks_{block}/" for block in range(first, first + stage.blocks))
        for first, stage in zip(_FIRST, STAGES, strict=True)
    ),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetOptions(Options):
    """What `networks.build_encoder` accepts for "efficientnet_lite0"."""

    encoder_init: str = config_field(
        "he", "Start of the encoder's kernels: 'he' (fan-in), 'uniform' or 'normal'.", choices=tuple(INITIALISERS)
    )
    bn_mode: str = config_field(
        "batch",
        "In training, the encoder's batch norm uses and tracks the batch's statistics, or the stored ones ('frozen').",
        choices=("batch", "frozen"),
    )
    width: int = config_field(WIDTH, "Channels of the stem; all other widths are in proportion.", low=1)
    output_stride: int = config_field(
        32,
        "Pixels of the image per pixel of the last stage, which is dilated where it would have more.",
        choices=(8, 16, 32),
    )
    remat: Remat = remat_field(NAMES)


class InvertedBottleneck(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, and a 1x1 convolution to few, which ends without ReLU.

    Attributes:
      channels: of the result.
      expansion: how many times as many the depthwise convolution has as the input; at 1 the first convolution is left
        out.
      size, stride, dilation: of the depthwise convolution, padded as TensorFlow's "same".
      kernel_init, bn_mode, dtype: see `EfficientNetLite`.
    """

    channels: int
    expansion: int
    size: int
    stride: int
    dilation: int
    kernel_init: str
    bn_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, ceil(H / stride), ceil(W / stride), channels]` for `x` `[B, H, W, C]`."""
        init, y = INITIALISERS[self.kernel_init], x

        def norm(name):
            return BatchNorm(self.bn_mode, self.dtype, EPSILON, name=name)

        if self.expansion > 1:
            wide = self.expansion * x.shape[-1]
            y = Conv(wide, 1, kernel_init=init, dtype=self.dtype, name="expand_conv")(y)
            y = relu6(norm("bn0")(y, train))
        # One input channel per kernel.
        kernel, _ = ConvParameters(y.shape[-1], self.size, kernel_init=init, name="depthwise_conv")(1)
        y = depthwise_convolve(y, kernel.astype(self.dtype), self.stride, self.dilation)
        y = relu6(norm("bn1")(y, train))
        y = Conv(self.channels, 1, kernel_init=init, dtype=self.dtype, name="project_conv")(y)
        y = norm("bn2")(y, train)
        return x + y if y.shape == x.shape else y


class EfficientNetLite(nn.Module):
    """Stem and seven stages of inverted bottlenecks, the last of which are dilated as the output stride asks for.

    Attributes:
      width: channels of the stem; those of the stages are in proportion to the published ones.
      output_stride: pixels of the image per pixel of the last stage: 32, as published, 16 or 8.
      kernel_init: see `EfficientNetOptions.encoder_init`.
      bn_mode: see `BatchNorm.mode`.
      remat: which of `NAMES` recompute their activations in the backward pass instead of keeping them, block by block.
      dtype: type of the computation; parameters and statistics stay float32.
    """

    width: int = WIDTH
    output_stride: int = 32
    kernel_init: str = "he"
    bn_mode: str = "batch"
    remat: Remat = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Encodes normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.
          collect: names of the maps that are wanted; None = all.

        Returns:
          Maps by name, in the type of the computation: "stem" `[B, H / 2, W / 2, 32]` after its ReLU6, "stage1" to
          "stage7", the ends of the stages, without ReLU, of 16, 24, 40, 80, 112, 192 and 320 channels at strides 2, 4,
          8, 16, 16, 32 and 32, or the output stride where that is less.

        Raises:
          UserError: an unknown name in `collect`.
        """
        init, recomputed = INITIALISERS[self.kernel_init], rematted(self.remat, NAMES)

        def stem(module: nn.Module, x: jax.Array) -> jax.Array:
            del module  # Its parts become this module's as they are called.
            x = jnp.pad(x, ((0, 0), *same_padding(x.shape[1:3], 3, 2), (0, 0)))
            x = Conv(self.width, 3, stride=2, kernel_init=init, dtype=self.dtype, name="conv_stem")(x)
            return relu6(BatchNorm(self.bn_mode, self.dtype, EPSILON, name="bn0")(x, train))

        maps = {"stem": (x := (nn.remat(stem) if "stem" in recomputed else stem)(self, images))}
        reached, dilation = 2, 1
        for name, first, stage in zip(NAMES[1:], _FIRST, STAGES, strict=True):
            strides = stage.stride if reached * stage.stride <= self.output_stride else 1
            block_class = InvertedBottleneck
            if name in recomputed:
                block_class = nn.remat(InvertedBottleneck, static_argnums=(2,))
            for block in range(stage.blocks):
                x = block_class(
                    channels=max(round(stage.channels * self.width / WIDTH), 1),
                    expansion=1 if name == NAMES[1] else EXPANSION,
                    size=stage.size,
                    stride=strides if block == 0 else 1,
                    dilation=dilation,
                    kernel_init=self.kernel_init,
                    bn_mode=self.bn_mode,
                    dtype=self.dtype,
                    name=f"blocks_{first + block}",
                )(x, train)
                if block == 0:
                    # What has lost its stride is read at the old distances; what follows reads at those that it made.
                    reached, dilation = reached * strides, dilation * stage.stride // strides
            maps[name] = x
        return collected(maps, collect, "efficientnet")


def build(options: EfficientNetOptions) -> EfficientNetLite:
    """Returns an EfficientNet-Lite0, named by the attribute that it is assigned to."""
    o = options
    return EfficientNetLite(o.width, o.output_stride, o.encoder_init, o.bn_mode, o.remat, o.dtype)


ENCODERS = {"efficientnet_lite0": Entry(build, EfficientNetOptions, layers=patterns(LAYERS))}
