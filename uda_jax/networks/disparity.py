"""Networks of self-supervised depth: disparity at several scales from one image, and the motion between two.

Source: Monodepth2 (Godard et al., ICCV 2019, arXiv 1806.01260), on any encoder that hands out a map at each stride
from 2 to 32. CorDA's depth comes from such networks.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import efficientnet, resnet
from uda_jax.networks.base import Entry, Options, patterns
from uda_jax.networks.convolution import FLOAT32, Conv
from uda_jax.networks.efficientnet import EfficientNetOptions
from uda_jax.networks.kernels import relu
from uda_jax.networks.resnet import ResNetOptions
from uda_jax.schema import config_field

# An encoder's maps at strides 2, 4, 8, 16 and 32.
RESNET_LEVELS = ("unpooled", *resnet.STAGES[1:])
EFFICIENTNET_LEVELS = ("stage1", "stage2", "stage3", "stage5", "stage7")
# Scales that disparity is predicted at, each half as large as the one before; the first is the image's.
SCALES = 4
# So slowly does the predicted motion move away from none.
MOTION_UNIT = 0.01


@dataclasses.dataclass(frozen=True)
class DisparityOptions(Options):
    """Options of the decoder, whatever the encoder."""

    decoder_width: int = config_field(
        16, "Channels of the decoder at the image's size; it has twice as many at each halving, up to 16 times.", low=1
    )
    # Far from a pixel's place the views have no slope that leads there, and a short run does not find the way.
    initial_disparity: float = config_field(
        0.5,
        "Disparity from 0 to 1 around which all that is predicted starts; 0.5 is Monodepth2's.",
        low=0.001,
        high=0.999,
    )


@dataclasses.dataclass(frozen=True)
class MotionOptions(Options):
    """Options of what predicts the motion, whatever the encoder."""

    motion_width: int = config_field(256, "Channels of the convolutions behind the encoder.", low=1)


@dataclasses.dataclass(frozen=True)
class DisparityResNetOptions(DisparityOptions, ResNetOptions):
    """What `networks.build` accepts for disparity from a ResNet."""


@dataclasses.dataclass(frozen=True)
class DisparityEfficientNetOptions(DisparityOptions, EfficientNetOptions):
    """What `networks.build` accepts for disparity from EfficientNet-Lite0."""


@dataclasses.dataclass(frozen=True)
class MotionResNetOptions(MotionOptions, ResNetOptions):
    """What `networks.build` accepts for the motion from a ResNet."""


@dataclasses.dataclass(frozen=True)
class MotionEfficientNetOptions(MotionOptions, EfficientNetOptions):
    """What `networks.build` accepts for the motion from EfficientNet-Lite0."""


class ReflectedConv(nn.Module):
    """A 3x3 convolution with bias of a map that is reflected at its border.

    Attributes:
      features: output channels.
      dtype: type of the computation.
    """

    features: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H, W, features]` for `x` `[B, H, W, C]`."""
        # A side of one pixel has nothing to reflect.
        for axis in (1, 2):
            pads = [(int(each == axis),) * 2 for each in range(4)]
            x = jnp.pad(x, pads, mode="reflect" if x.shape[axis] > 1 else "edge")
        return Conv(self.features, 3, use_bias=True, dtype=self.dtype, name="conv")(x)


class DisparityDecoder(nn.Module):
    """From the smallest map up: enlarged, joined with the encoder's next larger map, and read at the last scales.

    Attributes:
      width: channels at the image's size.
      dtype: type of the computation.
      initial: disparity around which all starts.
    """

    width: int
    dtype: Any = FLOAT32
    initial: float = 0.5

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns float32 "disparity_<s>" `[B, ceil(H / 2^s), ceil(W / 2^s), 1]` in [0, 1] for s = 0, 1, 2, 3.

        Args:
          maps: the encoder's, at strides 2 to 32.
          size: the image's height and width.
        """
        x, found = maps[-1], {}
        for i in reversed(range(len(maps))):
            features = self.width * 2**i
            x = nn.elu(ReflectedConv(features, self.dtype, name=f"up_{i}_0")(x))
            beside = maps[i - 1] if i else None
            x = _doubled(x, beside.shape[1:3] if i else size)
            x = jnp.concatenate([x, beside.astype(x.dtype)], axis=-1) if i else x
            x = nn.elu(ReflectedConv(features, self.dtype, name=f"up_{i}_1")(x))
            if i < SCALES:
                logits = ReflectedConv(1, self.dtype, name=f"disparity_{i}")(x)
                start = math.log(self.initial / (1.0 - self.initial))
                found[f"disparity_{i}"] = nn.sigmoid(logits.astype(jnp.float32) + start)
        return found


class Disparity(nn.Module):
    """`encoder` and `decoder`: disparity of one image.

    Attributes:
      make_encoder: function of the options that returns the encoder.
      levels: names of its maps at strides 2 to 32.
      options: those of the encoder and the decoder.
    """

    make_encoder: Callable[[Any], nn.Module]
    levels: Sequence[str]
    options: DisparityOptions

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        self.encoder = self.make_encoder(self.options)
        o = self.options
        self.decoder = DisparityDecoder(o.decoder_width, o.dtype, o.initial_disparity)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Predicts the disparity of normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.

        Returns:
          As `DisparityDecoder`: 0 = as far away as can be, 1 = as near; see `ops.depth_from_disparity`.
        """
        maps = self.encoder(images, train, self.levels)
        return self.decoder([maps[name] for name in self.levels], images.shape[1:3])

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as the encoder alone does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


class MotionDecoder(nn.Module):
    """Four convolutions, and the mean over the map.

    Attributes:
      width: channels of the first three.
      dtype: type of the computation.
    """

    width: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 `[B, 6]` for a map `[B, h, w, C]`."""
        for i, size in enumerate((1, 3, 3)):
            options = {"use_bias": True, "padding": size // 2, "dtype": self.dtype}
            x = relu(Conv(self.width, size, name=f"conv{i + 1}", **options)(x))
        x = Conv(6, 1, use_bias=True, dtype=self.dtype, name="motion")(x)
        return MOTION_UNIT * jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class Motion(nn.Module):
    """`encoder` and `decoder`: how the camera moves between two images.

    Attributes:
      make_encoder: function of the options that returns the encoder.
      last: name of its last map.
      options: those of the encoder and the decoder.
    """

    make_encoder: Callable[[Any], nn.Module]
    last: str
    options: MotionOptions

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        self.encoder = self.make_encoder(self.options)
        self.decoder = MotionDecoder(self.options.motion_width, self.options.dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Predicts the motion from the first of two normalised images to the second, in their order in time.

        Args:
          images: both, `[B, H, W, 6]`.
          train: see `Disparity`.

        Returns:
          float32 "axis_angle" and "translation" `[B, 3]`, as `ops.rigid_motion` takes them.
        """
        motion = self.decoder(self.encoder(images, train, (self.last,))[self.last])
        return {"axis_angle": motion[:, :3], "translation": motion[:, 3:]}


def _doubled(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns a map with each pixel four times, less a last row or column that the next larger map does not have."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]


def _disparity(encoder: Callable, levels: Sequence[str], num_classes: int, options: DisparityOptions) -> Disparity:
    del num_classes  # It knows none.
    return Disparity(encoder, levels, options)


def _motion(encoder: Callable, last: str, num_classes: int, options: MotionOptions) -> Motion:
    del num_classes
    return Motion(encoder, last, options)


def _entries(
    name: str, encoder: Callable, levels: Sequence[str], options: tuple[type, type], defaults: Mapping, layers: Sequence
) -> dict[str, Entry]:
    """Returns the table NETWORKS of both networks on one encoder."""
    layers = patterns(layers, within="encoder/")
    return {
        f"disparity_{name}": Entry(functools.partial(_disparity, encoder, levels), options[0], defaults, layers),
        f"motion_{name}": Entry(functools.partial(_motion, encoder, levels[-1]), options[1], defaults, layers),
    }


_RESNETS = {
    # Not dilated: the decoder has the larger maps.
    name: {"encoder_style": "torchvision", "output_stride": 32} | resnet.defaults(name)
    for name in resnet.BLOCKS
}
NETWORKS = _entries(
    "efficientnet_lite0",
    efficientnet.build,
    EFFICIENTNET_LEVELS,
    (DisparityEfficientNetOptions, MotionEfficientNetOptions),
    {},
    efficientnet.LAYERS,
)
for _name, _defaults in _RESNETS.items():
    NETWORKS |= _entries(
        _name,
        functools.partial(resnet.build, _name),
        RESNET_LEVELS,
        (DisparityResNetOptions, MotionResNetOptions),
        _defaults,
        resnet.LAYERS,
    )
