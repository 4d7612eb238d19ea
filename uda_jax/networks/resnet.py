"""The dilated ResNet of DeepLab-v2, in the form of the published Caffe weights or of torchvision's.

Source: the ResNet-101 of AdaptSegNet, ADVENT and their relatives (AdaptSegNet, arXiv 1802.10349, section 5). Module
names follow the published checkpoints, `layer3.22.conv2` being `layer3_22/conv2`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry, Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv
from uda_jax.networks.kernels import max_pool, relu
from uda_jax.schema import config_field

# Bottlenecks per stage, by the name of the network.
BLOCKS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet14": (1, 1, 1, 1)}
# For layer-wise decay a stage is a layer.
LAYERS = ("((conv|bn)1|stem_\\d)/", "layer1_", "layer2_", "layer3_", "layer4_")
# Names of the maps, and of the parts whose activations may be recomputed.
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
EXPANSION = 4
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
# Both styles have the same parameters, so weights of the wrong one load without an error and only accuracy suffers.
STYLES = ("caffe", "torchvision", "v1c")
# The convolutions of its stem: their names and their norms', the share of the width, kernel and stride.
V1C_STEM = (("stem_0", "stem_1", 2, 3, 2), ("stem_3", "stem_4", 2, 3, 1), ("stem_6", "stem_7", 1, 3, 1))
INITIALISERS = {
    "normal": initialisers.normal(0.01),
    "he": initialisers.he_normal(),
    # U(-b, b) with b = 1 / sqrt(fan_in), PyTorch's default.
    "uniform": initialisers.uniform(),
}


@dataclasses.dataclass(frozen=True)
class ResNetOptions(Options):
    """Options of the ResNet encoder, whatever the heads."""

    encoder_init: str = config_field(
        "normal",
        "Start of the encoder's kernels: 'normal' N(0, 0.01^2), as the references before they load weights, 'he' "
        "(fan-in), which trains from scratch, or 'uniform', PyTorch's default.",
        choices=tuple(INITIALISERS),
    )
    encoder_style: str = config_field(
        "caffe",
        "Structure that the encoder's weights were trained with: the references' ('caffe'), torchvision's, or "
        "mmsegmentation's with a stem of three convolutions ('v1c').",
        choices=STYLES,
    )
    bn_mode: str = config_field(
        "batch",
        "In training, batch norm uses and tracks the batch's statistics, or the stored ones.",
        choices=("batch", "frozen"),
    )
    width: int = config_field(64, "Channels of the stem; stage s has width * 2^(s+1) channels.", low=1)
    output_stride: int = config_field(
        8, "Pixels of the image per pixel of the logits; 4 keeps the stem's pool at stride 1.", choices=(4, 8)
    )
    remat: Remat = remat_field(STAGES)


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
        y = relu(norm("bn1")(y, train))
        y = conv(self.planes, 3, "conv2", stride=second, dilation=self.dilation, padding=self.dilation)(y)
        y = relu(norm("bn2")(y, train))
        y = conv(EXPANSION * self.planes, 1, "conv3")(y)
        y = norm("bn3")(y, train)
        if self.project:
            x = conv(EXPANSION * self.planes, 1, "downsample_0", stride=self.stride)(x)
            x = norm("downsample_1")(x, train)
        return relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages; stages 3 and 4 are dilated (2, 4) instead of strided.

    Attributes:
      blocks: bottlenecks per stage.
      width: channels of the stem and planes of stage 1; the stages have 1, 2, 4 and 8 times as many planes.
      pool_stride: stride of the stem's max pool: 2 makes an output stride of 8, 1 of 4.
      kernel_init: "normal" N(0, 0.01^2), as the references before they load weights, "he" (fan-in normal), which
        trains from scratch, or "uniform", PyTorch's default.
      bn_mode: see `BatchNorm.mode`.
      remat: which of `STAGES` recompute their activations in the backward pass instead of keeping them, block by block.
      dtype: type of the computation; parameters and statistics stay float32.
      style: "caffe" strides in a block's first 1x1 convolution, pools the stem in ceil mode and dilates a stage from
        its first block on. "torchvision", which its ImageNet weights need, strides in the 3x3 convolution, pools in
        floor mode, and the first block of a dilated stage keeps the dilation of the stage before. "v1c" is the latter
        with three 3x3 convolutions in place of the stem's one.
    """

    blocks: Sequence[int]
    width: int = 64
    pool_stride: int = 2
    kernel_init: str = "normal"
    bn_mode: str = "batch"
    remat: Remat = ()
    dtype: Any = jnp.float32
    style: str = "caffe"

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
          Maps by name, in the type of the computation: "stem" `[B, h, w, width]` after its max pool, "layer1" to
          "layer4", the ends of the stages, `[B, h, w, width * 2^(s+1)]` for stage s, after the ReLU.

        Raises:
          UserError: an unknown name in `collect`.
        """
        init, caffe, recomputed = INITIALISERS[self.kernel_init], self.style == "caffe", rematted(self.remat, STAGES)

        def stem(module: nn.Module, x: jax.Array) -> jax.Array:
            del module  # Its parts become this module's as they are called.
            layers = V1C_STEM if self.style == "v1c" else (("conv1", "bn1", 1, 7, 2),)
            for conv, norm, share, size, stride in layers:
                options = {"stride": stride, "padding": size // 2, "kernel_init": init, "dtype": self.dtype}
                x = Conv(self.width // share, size, name=conv, **options)(x)
                x = relu(BatchNorm(self.bn_mode, self.dtype, name=norm)(x, train))
            return max_pool(x, 3, self.pool_stride, padding=1, ceil_mode=caffe)

        maps = {"stem": (x := (nn.remat(stem) if "stem" in recomputed else stem)(self, images))}
        first_dilations = DILATIONS if caffe else (1, *DILATIONS[:-1])
        stages = zip(self.blocks, STRIDES, DILATIONS, first_dilations, strict=True)
        for stage, (count, stride, dilation, first_dilation) in enumerate(stages, 1):
            again = f"layer{stage}" in recomputed
            block_class = nn.remat(Bottleneck, static_argnums=(2,)) if again else Bottleneck
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
        return collected(maps, collect, "resnet")


def build(blocks: tuple[int, ...], options: ResNetOptions) -> ResNet:
    """Returns a ResNet of `blocks` bottlenecks per stage, named by the attribute that it is assigned to."""
    o = options
    return ResNet(
        blocks,
        width=o.width,
        pool_stride=o.output_stride // 4,
        kernel_init=o.encoder_init,
        bn_mode=o.bn_mode,
        remat=o.remat,
        dtype=o.dtype,
        style=o.encoder_style,
    )


def defaults(name: str) -> dict[str, Any]:
    """Returns how one of `BLOCKS` differs from the options' defaults."""
    # The small one trains from scratch on a CPU; it has no published weights, hence the He start.
    return {"width": 16, "encoder_init": "he"} if name == "resnet14" else {}


def segmenters(prefix: str, module: type[nn.Module], options: type[ResNetOptions]) -> dict[str, Entry]:
    """Returns the table NETWORKS of a segmenter `module(num_classes, blocks, options)` on each of the ResNets."""

    def make(blocks: tuple[int, ...], num_classes: int, options: ResNetOptions) -> nn.Module:
        return module(num_classes, blocks, options)

    layers = patterns(LAYERS, within="encoder/")
    return {
        f"{prefix}_{name}": Entry(functools.partial(make, blocks), options, defaults(name), layers)
        for name, blocks in BLOCKS.items()
    }


ENCODERS = {
    name: Entry(functools.partial(build, blocks), ResNetOptions, defaults(name), patterns(LAYERS))
    for name, blocks in BLOCKS.items()
}
