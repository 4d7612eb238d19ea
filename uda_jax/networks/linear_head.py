"""A linear classifier on a foundation encoder: what its features hold without a decoder.

Source: the linear evaluation of DINOv3's released code (arXiv 2508.10104): batch norm, dropout of channels, one 1x1
convolution.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv
from uda_jax.networks.foundation import InputOptions, PatchSegmenter, build_encoder, segmenters
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class LinearHeadOptions(InputOptions):
    """Options of the linear head."""

    dropout: float = config_field(
        0.1,
        "Share of the channels that the head drops in training, in methods whose forwards draw.",
        low=0.0,
        high=0.9,
    )


class LinearSegmenter(PatchSegmenter):
    """`encoder`, `head_norm` and `head` on the last block's patches after the final norm."""

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        self.encoder = build_encoder(self.options)
        self.head_norm = BatchNorm()
        self.drop = nn.Dropout(self.options.dropout, broadcast_dims=(1, 2))
        init = initialisers.normal(0.01)
        self.head = Conv(self.num_classes, 1, use_bias=True, kernel_init=init, dtype=self.options.dtype)

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised with ImageNet's mean and deviation.
          train: whether batch norm runs in its training mode and, if there is an rng named "dropout", channels drop.
          mask: bool `[B, h, w]`, patches that the encoder does not see.

        Returns:
          float32 "logits" `[B, h, w, num_classes]` and "features" `[B, h, w, D]`, a map per patch.
        """
        features = self.encode(images, train, ("features",), mask)["features"]
        return {"logits": self.classify(features, train), "features": features}

    def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits `[B, h, w, num_classes]` for features `[B, h, w, D]`."""
        drops = train and self.has_rng("dropout")
        x = self.drop(self.head_norm(features, train), deterministic=not drops)
        return self.head(x).astype(jnp.float32)


NETWORKS = segmenters("linear", LinearSegmenter, LinearHeadOptions)
