"""VFM-UDA's network: a foundation encoder at 1.1 times the crop's size and a light head of a few layers.

Source: VFM-UDA (Englert et al., arXiv 2406.09896) with its released code; module names follow its checkpoints,
`upscale.3` being `head/upscale_3`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.convolution import FLOAT32, Conv
from uda_jax.networks.foundation import InputOptions, PatchSegmenter, build_encoder, segmenters
from uda_jax.networks.upscaling import PatchUpscale
from uda_jax.networks.vit_blocks import layer_norm

EPSILON = 1e-6
CLASSIFIER_INIT = initialisers.normal(0.1)


@dataclasses.dataclass(frozen=True)
class LightHeadOptions(InputOptions):
    """Options of the light head."""


class LightHead(nn.Module):
    """Two transposed convolutions, a 3x3 convolution and a classifier, with norms over the channels between them.

    Attributes:
      num_classes: channels of the logits.
      dtype: type of the computation.
    """

    num_classes: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, 4h, 4w, num_classes]` for features `[B, h, w, D]`."""
        half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
        x = PatchUpscale(half, 2, dtype=self.dtype, name="upscale_0")(x)
        x = nn.gelu(layer_norm(EPSILON, "upscale_1")(x), approximate=False)
        x = PatchUpscale(quarter, 2, dtype=self.dtype, name="upscale_3")(x)
        x = layer_norm(EPSILON, "upscale_4")(x)
        x = Conv(quarter, 3, padding=1, dtype=self.dtype, name="upscale_5")(x)
        x = layer_norm(EPSILON, "upscale_6")(x)
        out = Conv(self.num_classes, 1, kernel_init=CLASSIFIER_INIT, dtype=self.dtype, name="out")
        return out(x).astype(jnp.float32)


class LightSegmenter(PatchSegmenter):
    """`encoder` and `head`, which reads the last block's patches after the final norm."""

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        self.encoder = build_encoder(self.options)
        self.head = LightHead(self.num_classes, self.options.dtype)

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised with ImageNet's mean and deviation.
          train: accepted as every segmenter does; nothing in this network depends on it.
          mask: bool `[B, h, w]`, True where the encoder sees its mask token in place of a patch.

        Returns:
          float32 "logits" `[B, 4h, 4w, num_classes]` and "features" `[B, h, w, D]`, a map per patch.
        """
        features = self.encode(images, train, ("features",), mask)["features"]
        return {"logits": self.head(features), "features": features}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns logits `[B, 4h, 4w, num_classes]` for features `[B, h, w, D]`."""
        return self.head(features)


NETWORKS = segmenters("light", LightSegmenter, LightHeadOptions, lambda width, depth: {"input_scale": 1.1})
