"""VFM-UDA++'s network: a foundation encoder with ViT-Adapter, and a head that fuses its pyramid.

Source: VFM-UDA++ (Englert and Dubbelman, arXiv 2503.10685) with its released code; module names follow its checkpoints,
`upscale.up_conv1` being `head/up_conv1`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks.adapter import INTERACTIONS, MOMENTUM, STRIDE, Adapter
from uda_jax.networks.base import Options
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import FLOAT32, Conv
from uda_jax.networks.foundation import InputOptions, build_encoder, fitting, patch_of, segmenters
from uda_jax.networks.kernels import relu
from uda_jax.networks.light_head import CLASSIFIER_INIT
from uda_jax.networks.upscaling import PatchUpscale
from uda_jax.ops.block_masks import block_grid
from uda_jax.ops.resize import resize_bilinear, resize_nearest_legacy

# Sides, in pixels of the resized image, of the blocks that its training hides.
MASKED_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class PyramidHeadOptions(InputOptions):
    """Options of the pyramid head."""


class PyramidHead(nn.Module):
    """From the deepest map on: enlarged, added to the next one, smoothed.

    Attributes:
      dtype: type of the computation.
    """

    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Returns what the classifier reads, `[B, h, w, D / 8]`, for four maps of D channels, the finest first."""
        *finer, x = maps
        width, options = x.shape[-1], {"use_bias": True, "dtype": self.dtype}
        for i, level in enumerate(reversed(finer), 1):
            features = width // 2**i
            x = PatchUpscale(features, 2, name=f"up_conv{i}", **options)(x)
            x = x + Conv(features, 1, name=f"reduce_conv{i}", **options)(level)
            x = Conv(features, 3, padding=1, name=f"smooth_conv{i}", **options)(x)
            x = relu(BatchNorm(dtype=self.dtype, momentum=MOMENTUM, name=f"norm{i}")(x, train))
        return Conv(width // 8, 3, padding=1, name="smooth_conv4", **options)(x)


class PyramidSegmenter(nn.Module):
    """`encoder`, `adapter` between its blocks, `head` and `classifier`.

    Attributes:
      num_classes: channels of the logits.
      options: those of the encoder and the head.
    """

    num_classes: int
    options: Options

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        if o.depth % INTERACTIONS:
            raise UserError(f"network.pyramid.depth: expected a multiple of {INTERACTIONS} blocks, got {o.depth}")
        self.encoder = build_encoder(o, maskable=False)
        self.adapter = Adapter(o.width, o.dtype)
        self.head = PyramidHead(o.dtype)
        self.classifier = Conv(self.num_classes, 1, kernel_init=CLASSIFIER_INIT, dtype=o.dtype)

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised with ImageNet's mean and deviation; they are resized to sides that both the
            patch and 32 divide.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.

        Returns:
          float32 "logits" `[B, h, w, num_classes]` and "features", the map that the classifier reads,
          `[B, h, w, D / 8]`, at a quarter of the resized images, and "deepest" `[B, h / 8, w / 8, D]`, the adapter's
          last map.
        """
        maps = self.pyramid(images, train, mask)
        features = self.head(maps, train)
        return {"logits": self.classify(features), "features": features.astype(jnp.float32), "deepest": maps[-1]}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns logits `[B, h, w, num_classes]` for features `[B, h, w, D / 8]`."""
        return self.classifier(features).astype(jnp.float32)

    def mask_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the blocks of 64 pixels that a `mask` has, for images of a size."""
        return block_grid(self._sides(size), MASKED_BLOCK)

    def _sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the sides of resized images of a size."""
        return fitting(size, math.lcm(patch_of(self.options), STRIDE), self.options.input_scale)

    def pyramid(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None) -> list[jax.Array]:
        """Returns the adapter's four maps `[B, h, w, D]`, the finest first, for arguments as the forward takes them."""
        images = resize_bilinear(images, self._sides(images.shape[1:3]), align_corners=False)
        if mask is not None:
            images = jnp.where(resize_nearest_legacy(mask, images.shape[1:3])[..., None], 0.0, images)
        tokens, rotation = self.encoder.embed(images)
        size = self.options.depth // INTERACTIONS

        def group(first: int, tokens: jax.Array) -> jax.Array:
            for i in range(first, first + size):
                tokens = self.encoder.block(i, tokens, rotation)
            return tokens

        groups = [lambda tokens, first=i * size: group(first, tokens) for i in range(INTERACTIONS)]
        return self.adapter(images, tokens, groups, self.encoder.grid(images), train)


NETWORKS = segmenters("pyramid", PyramidSegmenter, PyramidHeadOptions, lambda width, depth: {"input_scale": 1.1})
