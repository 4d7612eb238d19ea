"""The ResNet of DeepLab-v2 and its relatives, in the form of the published Caffe weights or of torchvision's.

Source: the ResNet-101 of AdaptSegNet, ADVENT and their relatives (AdaptSegNet, arXiv 1802.10349, section 5); ResNet-18
and -34 with their basic blocks are those of He et al. (arXiv 1512.03385) in torchvision's layout. Module names follow
the published checkpoints, `layer3.22.conv2` being `layer3_22/conv2`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry, Options, Remat, Trunk, collected, patterns, remat_field, rematted
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv
from uda_jax.networks.kernels import max_pool, relu
from uda_jax.schema import config_field

# Blocks per stage, by the name of the network.
BLOCKS = {
    "resnet101": (3, 4, 23, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet34": (3, 4, 6, 3),
    "resnet18": (2, 2, 2, 2),
    "resnet14": (1, 1, 1, 1),
}
# Those of basic blocks; the others have bottlenecks.
BASIC = ("resnet34", "resnet18")
# For layer-wise decay a stage is a layer.
LAYERS = ("((conv|bn)1|stem_\\d)/", "layer1_", "layer2_", "layer3_", "layer4_")
# Names of the maps, and of the parts whose activations may be recomputed.
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
EXPANSION = 4
# Stride and dilation of the stages, by the output stride.
GEOMETRIES = {
    4: ((1, 2, 1, 1), (1, 1, 2, 4)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}
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
    width: int = config_field(
        64, "Channels of the stem; stage s has width * 2^(s+1) channels, of basic blocks a quarter of it.", low=1
    )
    output_stride: int = config_field(
        8,
        "Pixels of the image per pixel of the last stage, which is dilated where it would have more; 4 keeps the "
        "stem's pool at stride 1.",
        choices=tuple(GEOMETRIES),
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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, around a shortcut.

    Attributes:
      planes: channels of both.
      stride: of the projection and of the first convolution, in both styles.
      dilation: of both convolutions, but of the first only where it does not stride.
      project, kernel_init, bn_mode, dtype, style: see `Bottleneck`; the first stage has no projection, since its
        channels are those of the stem.
    """

    planes: int
    stride: int
    dilation: int
    project: bool
    kernel_init: str
    bn_mode: str
    dtype: Any
    style: str = "torchvision"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H / stride, W / stride, planes]` for `x` `[B, H, W, C]`."""

        def conv(size, name, **options):
            init = INITIALISERS[self.kernel_init]
            return Conv(self.planes, size, kernel_init=init, dtype=self.dtype, name=name, **options)

        def norm(name):
            return BatchNorm(self.bn_mode, self.dtype, name=name)

        dilated = {"dilation": self.dilation, "padding": self.dilation}
        y = conv(3, "conv1", **(dilated if self.stride == 1 else {"stride": self.stride, "padding": 1}))(x)
        y = relu(norm("bn1")(y, train))
        y = norm("bn2")(conv(3, "conv2", **dilated)(y), train)
        if self.project and (self.stride != 1 or x.shape[-1] != self.planes):
            x = norm("downsample_1")(conv(1, "downsample_0", stride=self.stride)(x), train)
        return relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages, the last of which are dilated instead of strided as the output stride asks for.

    Attributes:
      blocks: blocks per stage.
      width: channels of the stem and planes of stage 1; the stages have 1, 2, 4 and 8 times as many planes.
      output_stride: pixels of the image per pixel of the last stage: 4, 8 (dilation 2 and 4), 16 or 32 (none).
      kernel_init: "normal" N(0, 0.01^2), as the references before they load weights, "he" (fan-in normal), which
        trains from scratch, or "uniform", PyTorch's default.
      bn_mode: see `BatchNorm.mode`.
      remat: which of `STAGES` recompute their activations in the backward pass instead of keeping them, block by block.
      dtype: type of the computation; parameters and statistics stay float32.
      style: "caffe" strides in a block's first 1x1 convolution, pools the stem in ceil mode and dilates a stage from
        its first block on. "torchvision", which its ImageNet weights need, strides in the 3x3 convolution, pools in
        floor mode, and the first block of a dilated stage keeps the dilation of the stage before. "v1c" is the latter
        with three 3x3 convolutions in place of the stem's one.
      basic: whether the blocks are `BasicBlock`s; otherwise they are `Bottleneck`s.
    """

    blocks: Sequence[int]
    width: int = 64
    output_stride: int = 8
    kernel_init: str = "normal"
    bn_mode: str = "batch"
    remat: Remat = ()
    dtype: Any = jnp.float32
    style: str = "caffe"
    basic: bool = False

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
          Maps by name, in the type of the computation: "unpooled" and "stem" `[B, h, w, width]` before and after the
          stem's max pool, "layer1" to "layer4", the ends of the stages, `[B, h, w, width * 2^(s+1)]` for stage s (of
          basic blocks a quarter as many channels), after the ReLU.

        Raises:
          UserError: an unknown name in `collect`.
        """
        init, caffe, recomputed = INITIALISERS[self.kernel_init], self.style == "caffe", rematted(self.remat, STAGES)

        def stem(module: nn.Module, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            del module  # Its parts become this module's as they are called.
            layers = V1C_STEM if self.style == "v1c" else (("conv1", "bn1", 1, 7, 2),)
            for conv, norm, share, size, stride in layers:
                options = {"stride": stride, "padding": size // 2, "kernel_init": init, "dtype": self.dtype}
                x = Conv(self.width // share, size, name=conv, **options)(x)
                x = relu(BatchNorm(self.bn_mode, self.dtype, name=norm)(x, train))
            return x, max_pool(x, 3, 1 if self.output_stride == 4 else 2, padding=1, ceil_mode=caffe)

        unpooled, x = (nn.remat(stem) if "stem" in recomputed else stem)(self, images)
        maps = {"unpooled": unpooled, "stem": x}
        strides, dilations = GEOMETRIES[self.output_stride]
        first_dilations = dilations if caffe else (1, *dilations[:-1])
        stages = zip(self.blocks, strides, dilations, first_dilations, strict=True)
        for stage, (count, stride, dilation, first_dilation) in enumerate(stages, 1):
            again = f"layer{stage}" in recomputed
            block_class = BasicBlock if self.basic else Bottleneck
            block_class = nn.remat(block_class, static_argnums=(2,)) if again else block_class
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


def build(name: str, options: ResNetOptions) -> ResNet:
    """Returns one of `BLOCKS`, named by the attribute that it is assigned to."""
    o = options
    return ResNet(
        BLOCKS[name],
        width=o.width,
        output_stride=o.output_stride,
        kernel_init=o.encoder_init,
        bn_mode=o.bn_mode,
        remat=o.remat,
        dtype=o.dtype,
        style=o.encoder_style,
        basic=name in BASIC,
    )


def width(options: ResNetOptions) -> int:
    """Returns the channels of the stem, in which further branches are counted."""
    return options.width


def defaults(name: str) -> dict[str, Any]:
    """Returns how one of `BLOCKS` differs from the options' defaults."""
    # The small one trains from scratch on a CPU; it has no published weights, hence the He start.
    if name == "resnet14":
        return {"width": 16, "encoder_init": "he"}
    return {"encoder_style": "torchvision"} if name in BASIC else {}


def segmenters(prefix: str, module: type[nn.Module], options: type[ResNetOptions]) -> dict[str, Entry]:
    """Returns the table NETWORKS of a segmenter `module(num_classes, trunk, options)` on each of the ResNets."""

    def make(trunk: Trunk, num_classes: int, options: ResNetOptions) -> nn.Module:
        return module(num_classes, trunk, options)

    layers = patterns(LAYERS, within="encoder/")
    trunks = {name: Trunk(functools.partial(build, name), STAGES[-1], STAGES[-2], width) for name in BLOCKS}
    return {
        f"{prefix}_{name}": Entry(functools.partial(make, trunk), options, defaults(name), layers)
        for name, trunk in trunks.items()
    }


ENCODERS = {
    name: Entry(functools.partial(build, name), ResNetOptions, defaults(name), patterns(LAYERS)) for name in BLOCKS
}
