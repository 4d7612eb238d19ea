"""Segmenters on a feature pyramid: a strided encoder whose maps of several sizes are added up to one for the heads.

Source: feature pyramid networks (arXiv 1612.03144) for the top-down sum; the heads are those of DeepLab-v2, so that
whatever a method asks of a segmenter is there. Beside dilation it costs little: only the first stages see large maps.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from uda_jax import ops
from uda_jax.networks import efficientnet, resnet
from uda_jax.networks.base import Entry, Options, Trunk, patterns
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv
from uda_jax.networks.deeplab import DeepLabV2, LevelOptions
from uda_jax.networks.efficientnet import EfficientNetOptions
from uda_jax.networks.kernels import relu
from uda_jax.networks.resnet import INITIALISERS, ResNetOptions
from uda_jax.schema import config_field

# Pixels of the image per pixel of the maps that the neck reads, and those maps' names.
EFFICIENTNET_LEVELS = {4: "stage2", 8: "stage3", 16: "stage5", 32: "stage7"}
RESNET_LEVELS = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}


@dataclasses.dataclass(frozen=True)
class NeckOptions(Options):
    """Options of what joins an encoder's maps, whatever the encoder and the heads."""

    neck_width: int = config_field(128, "Channels of the map that the heads read.", low=8)
    neck_stride: int = config_field(
        8, "Pixels of the image per pixel of that map, and so of the logits.", choices=(4, 8)
    )


@dataclasses.dataclass(frozen=True)
class PyramidResNetOptions(NeckOptions, LevelOptions, ResNetOptions):
    """What `networks.build` accepts for a pyramid on a ResNet."""


@dataclasses.dataclass(frozen=True)
class PyramidEfficientNetOptions(NeckOptions, LevelOptions, EfficientNetOptions):
    """What `networks.build` accepts for a pyramid on EfficientNet-Lite0."""


class Neck(nn.Module):
    """Adds an encoder's maps up, from the smallest to the largest, and smooths the sum.

    Each map goes through a 1x1 convolution (`lateral_*`), the smaller ones are then interpolated; a 3x3 convolution
    (`smooth`) ends it. All have batch norm and ReLU. Their batch norms start without statistics worth keeping, so in
    training they always use the batch's.

    Attributes:
      levels: names of the encoder's maps, the largest first.
      width: channels of the result.
      dtype: type of the computation; parameters and statistics stay float32.
    """

    levels: Sequence[str]
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """Returns `[B, h, w, width]`, of the size of the largest map `[B, h, w, D]`."""

        def layer(x, size, name):
            init = INITIALISERS["he"]
            x = Conv(self.width, size, padding=size // 2, kernel_init=init, dtype=self.dtype, name=name)(x)
            return relu(BatchNorm(dtype=self.dtype, name=f"{name}_bn")(x, train))

        total = None
        for level in reversed(self.levels):
            lateral = layer(maps[level], 1, f"lateral_{level}")
            if total is not None:
                total = ops.resize_bilinear(total, lateral.shape[1:3], align_corners=False).astype(self.dtype)
            total = lateral if total is None else lateral + total
        return layer(total, 3, "smooth")


def _neck(levels: Mapping[int, str], options: NeckOptions) -> Neck:
    """Returns the neck on those of an encoder's levels that are no larger than its result."""
    names = tuple(name for stride, name in levels.items() if stride >= options.neck_stride)
    return Neck(names, options.neck_width, options.dtype)


def _width(options: NeckOptions) -> int:
    """Returns the unit of further branches' channels: they have up to eight times as many."""
    return options.neck_width // 8


def _trunk(encoder: Any, levels: Mapping[int, str]) -> Trunk:
    neck = functools.partial(_neck, levels)
    return Trunk(encoder, last=levels[32], earlier=levels[16], width=_width, neck=neck)


def _make(module: type[nn.Module], trunk: Trunk, num_classes: int, options: NeckOptions) -> nn.Module:
    return module(num_classes, trunk, options)


def light(prefix: str, module: type[nn.Module], options: type[EfficientNetOptions]) -> dict[str, Entry]:
    """Returns the table NETWORKS of a segmenter `module(num_classes, trunk, options)` on EfficientNet-Lite0."""
    trunk = _trunk(efficientnet.build, EFFICIENTNET_LEVELS)
    layers = patterns(efficientnet.LAYERS, within="encoder/")
    return {f"{prefix}_efficientnet_lite0": Entry(functools.partial(_make, module, trunk), options, layers=layers)}


def _on_resnets() -> dict[str, Entry]:
    layers, found = patterns(resnet.LAYERS, within="encoder/"), {}
    for name in resnet.BLOCKS:
        trunk = _trunk(functools.partial(resnet.build, name), RESNET_LEVELS)
        own = {"encoder_style": "torchvision", "output_stride": 32} | resnet.defaults(name)
        found[f"pyramid_{name}"] = Entry(functools.partial(_make, DeepLabV2, trunk), PyramidResNetOptions, own, layers)
    return found


NETWORKS = light("pyramid", DeepLabV2, PyramidEfficientNetOptions) | _on_resnets()
