"""UniMatch V2's network: a foundation encoder and the DPT head, which fuses four of its maps.

Source: UniMatch V2 (Yang et al., arXiv 2410.10777) with its released code; module names follow its checkpoints,
`scratch.refinenet2` being `head/refinenet2`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks.convolution import FLOAT32, Conv
from uda_jax.networks.foundation import InputOptions, PatchSegmenter, build_encoder, segmenters
from uda_jax.networks.upscaling import PatchUpscale
from uda_jax.ops.resize import resize_bilinear
from uda_jax.schema import config_field

# By the number of blocks: those whose maps are read. Of other numbers, the ends of four equal parts.
LEVELS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
# By the encoder's width: channels of the four maps, and of the fused ones.
CHANNELS = {384: ((48, 96, 192, 384), 64), 768: ((96, 192, 384, 768), 128)}
LARGE = ((256, 512, 1024, 1024), 256)


@dataclasses.dataclass(frozen=True)
class DPTHeadOptions(InputOptions):
    """Options of the DPT head."""

    levels: tuple[int, int, int, int] | None = config_field(
        None,
        "Blocks whose maps are read, from shallow to deep; None = those of its code for 12, 24 and 40 blocks, "
        "otherwise the ends of four equal parts.",
        low=0,
    )
    channels: tuple[int, int, int, int] = config_field(LARGE[0], "Channels of these maps in the head.", low=1)
    fused: int = config_field(LARGE[1], "Channels of the fused maps.", low=1)

    @property
    def unused(self) -> tuple[str, ...]:
        """Patterns of a unit that the published head has and does not use: nothing is deeper than the deepest map."""
        return (r"head/refinenet4/resConfUnit1/",)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map like `x` `[B, H, W, C]`."""
        y = x
        for name in ("conv1", "conv2"):
            y = Conv(x.shape[-1], 3, padding=1, use_bias=True, dtype=self.dtype, name=name)(nn.relu(y))
        return x + y


class Fusion(nn.Module):
    """Adds a map to what is deeper, and enlarges the sum; the deepest has nothing to be added to.

    All have both units, as in the checkpoints.
    """

    dtype: Any

    @nn.compact
    def __call__(self, skip: jax.Array, deeper: jax.Array | None, size: tuple[int, int]) -> jax.Array:
        """Returns `[B, *size, C]` for maps `[B, H, W, C]`."""
        through = Residual(self.dtype, name="resConfUnit1")(skip)
        x = skip if deeper is None else deeper + through
        x = Residual(self.dtype, name="resConfUnit2")(x)
        x = resize_bilinear(x, size, align_corners=True).astype(self.dtype)
        return Conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="out_conv")(x)


class DPTHead(nn.Module):
    """Four maps of one size become a pyramid, whose levels are fused from the deepest on.

    Attributes:
      channels, fused, dtype: see `DPTHeadOptions`.
    """

    channels: tuple[int, int, int, int]
    fused: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Returns what the classifier reads, `[B, 8h, 8w, fused]`, for four maps `[B, h, w, D]`."""
        options, levels = {"use_bias": True, "dtype": self.dtype}, []
        for i, (x, channels) in enumerate(zip(maps, self.channels, strict=True)):
            x = Conv(channels, 1, name=f"projects_{i}", **options)(x)
            if i < 2:
                x = PatchUpscale(channels, (4, 2)[i], name=f"resize_layers_{i}", **options)(x)
            elif i == 3:
                x = Conv(channels, 3, stride=2, padding=1, name="resize_layers_3", **options)(x)
            levels.append(Conv(self.fused, 3, padding=1, dtype=self.dtype, name=f"layer{i + 1}_rn")(x))
        x = None
        for i in (3, 2, 1, 0):
            size = levels[i - 1].shape[1:3] if i else tuple(2 * side for side in levels[0].shape[1:3])
            x = Fusion(self.dtype, name=f"refinenet{i + 1}")(levels[i], x, size)
        return nn.relu(Conv(self.fused, 3, padding=1, name="output_conv_0", **options)(x))


class DPTSegmenter(PatchSegmenter):
    """`encoder`, `head`, which reads four blocks' patches after the final norm, and `classifier`.

    Its maps are interpolated with aligned corners.
    """

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.encoder = build_encoder(o)
        self.head = DPTHead(o.channels, o.fused, o.dtype)
        self.classifier = Conv(self.num_classes, 1, use_bias=True, dtype=o.dtype)

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised with ImageNet's mean and deviation.
          train: accepted as every segmenter does; nothing in this network depends on it.
          mask: bool `[B, h, w]`, True where the encoder sees its mask token in place of a patch.

        Returns:
          float32 "logits" `[B, 8h, 8w, num_classes]` and "features", the map that the classifier reads,
          `[B, 8h, 8w, fused]`, of h x w patches.
        """
        names = [f"normed{level}" for level in levels_of(self.options)]
        maps = self.encode(images, train, names, mask)
        features = self.head([maps[name] for name in names])
        return {"logits": self.classify(features), "features": features.astype(jnp.float32)}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns logits `[B, 8h, 8w, num_classes]` for features `[B, 8h, 8w, fused]`."""
        return self.classifier(features).astype(jnp.float32)


def levels_of(options: Any) -> tuple[int, ...]:
    """Returns the blocks whose maps the head reads; raises a UserError for one that the encoder does not have."""
    depth = options.depth
    levels = options.levels or LEVELS.get(depth) or tuple(max(0, (i + 1) * depth // 4 - 1) for i in range(4))
    if beyond := [level for level in levels if level >= depth]:
        raise UserError(f"network.dpt.levels: expected blocks below depth = {depth}, got {beyond[0]}")
    return levels


def defaults(width: int, depth: int) -> dict[str, Any]:
    """Returns the head's channels for an encoder."""
    del depth
    return dict(zip(("channels", "fused"), CHANNELS.get(width, LARGE), strict=True))


NETWORKS = segmenters("dpt", DPTSegmenter, DPTHeadOptions, defaults)
