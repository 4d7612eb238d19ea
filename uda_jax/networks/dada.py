"""DADA's network: DeepLab-v2 whose features are gated by a depth branch, which predicts depth on the way.

Source: DADA (arXiv 1904.01886) with its released code.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import pyramid, resnet
from uda_jax.networks.base import Trunk
from uda_jax.networks.convolution import Conv
from uda_jax.networks.deeplab import HeadOptions, build_classifier
from uda_jax.networks.efficientnet import EfficientNetOptions
from uda_jax.networks.pyramid import NeckOptions
from uda_jax.networks.resnet import INITIALISERS, ResNetOptions


@dataclasses.dataclass(frozen=True)
class DADAOptions(HeadOptions, ResNetOptions):
    """What `networks.build` accepts for the DADA networks; `encoder_init` also starts the depth branch."""


@dataclasses.dataclass(frozen=True)
class DADAEfficientNetOptions(HeadOptions, NeckOptions, EfficientNetOptions):
    """What `networks.build` accepts for DADA's network on EfficientNet-Lite0."""


class DepthBranch(nn.Module):
    """Narrows the encoder's features to an encoding of depth, and widens that again to a gate for the features.

    Three convolutions (1x1, 3x3, 1x1) lead to the encoding. Depth is its mean over channels, without weights of its
    own; a fourth convolution (1x1) and a ReLU turn the encoding into the gate. All have a bias.

    Attributes:
      width: of the encoder's stem; the convolutions have 8, 8 and 2 times as many channels.
      kernel_init: see `ResNet.kernel_init`.
      dtype: type of the computation; parameters and depth stay float32.
    """

    width: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (gate `[B, H, W, C]`, float32 depth `[B, H, W, 1]`) for features `x` `[B, H, W, C]`."""

        def conv(features, size, name):
            init = INITIALISERS[self.kernel_init]
            options = {"use_bias": True, "kernel_init": init, "padding": size // 2, "dtype": self.dtype}
            return Conv(features, size, name=name, **options)

        encoding = nn.relu(conv(8 * self.width, 1, "enc4_1")(x))
        encoding = nn.relu(conv(8 * self.width, 3, "enc4_2")(encoding))
        # No ReLU here: depth may be negative, and the gate reads the encoding, not depth.
        encoding = conv(2 * self.width, 1, "enc4_3")(encoding)
        gate = nn.relu(conv(x.shape[-1], 1, "dec4")(encoding))
        return gate, encoding.astype(jnp.float32).mean(-1, keepdims=True)


class DADA(nn.Module):
    """The segmentation network: `encoder`, `depth_branch` on its last stage and `head` on the gated features.

    Segmentation needs the depth branch at test time too, since its gate multiplies the features.

    Attributes:
      num_classes: channels of the logits.
      trunk: the encoder, and which of its maps the branches read.
      options: the other choices.
    """

    num_classes: int
    trunk: Trunk
    options: DADAOptions = DADAOptions()

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.trunk.set_up(self)
        width = self.trunk.width(o)
        self.depth_branch = DepthBranch(width, o.encoder_init, o.dtype)
        self.head = build_classifier(self.num_classes, o)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images and predicts their depth.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.

        Returns:
          float32 maps at the network's own stride: "logits" `[B, h, w, num_classes]`, "features" `[B, h, w, D]` (the
          last stage after its ReLU times the gate: what the classifier reads) and "depth" `[B, h, w, 1]`, linear and
          without bounds, in the unit of the target that trains it (the paper's: inverse depth).
        """
        features = self.trunk.features(self, self.encoder(images, train), train)
        gate, depth = self.depth_branch(features)
        gated = features * gate
        return {"logits": self.head(gated), "features": gated.astype(jnp.float32), "depth": depth}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the classifier's logits `[B, h, w, num_classes]` for gated features `[B, h, w, D]`."""
        return self.head(features)

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as the encoder alone does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


NETWORKS = resnet.segmenters("dada", DADA, DADAOptions) | pyramid.light("dada", DADA, DADAEfficientNetOptions)
