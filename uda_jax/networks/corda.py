"""CorDA's network: segmentation and depth from one encoder, each refined by the features of the other.

Source: CorDA (arXiv 2104.13613) with its released code. The exchange between the tasks is the spatial attention of
PAD-Net (arXiv 1805.04409).
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
from uda_jax.networks.resnet import INITIALISERS, Bottleneck, ResNetOptions
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class TaskOptions(HeadOptions):
    """Options of CorDA's branches and heads, whatever the encoder.

    The encoder's `encoder_init` also starts the task features and their correlation; `head_init` and `aspp_bias` hold
    for the 1x1 predictions too. `bn_mode` is the encoder's: the task features' batch norms start without statistics
    worth keeping, so in training they always use the batch's.
    """

    initial_head: str = config_field(
        "aspp",
        "What makes aux_logits: a dilated classifier on the encoder ('aspp', the published GTA5 form) or a 1x1 "
        "convolution on the segmentation features ('linear', the SYNTHIA form).",
        choices=("aspp", "linear"),
    )
    structure: str = config_field(
        "correlated",
        "correlated: the paper's; uncorrelated: its ablation without attention, whose tasks exchange nothing and "
        "predict once; multi_task: that of two classifiers on the encoder, one of classes and one of both domains' "
        "depth.",
        choices=("correlated", "uncorrelated", "multi_task"),
    )
    aspp_branches: int = config_field(
        2, "Branches summed by a classifier: 2, as in the released code, or 4.", choices=(2, 4)
    )


@dataclasses.dataclass(frozen=True)
class CorDAOptions(TaskOptions, ResNetOptions):
    """What `networks.build` accepts for the CorDA networks."""


@dataclasses.dataclass(frozen=True)
class CorDAEfficientNetOptions(TaskOptions, NeckOptions, EfficientNetOptions):
    """What `networks.build` accepts for CorDA's network on EfficientNet-Lite0."""


class TaskFeatures(nn.Module):
    """Two bottlenecks that narrow the encoder's features to those of one task.

    Attributes:
      planes: see `Bottleneck`; the result has four times as many channels.
      kernel_init, dtype: see `ResNet`.
    """

    planes: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H, W, 4 * planes]` for `x` `[B, H, W, C]`."""
        for i in range(2):
            x = Bottleneck(
                self.planes,
                stride=1,
                dilation=1,
                project=i == 0,
                kernel_init=self.kernel_init,
                bn_mode="batch",
                dtype=self.dtype,
                name=f"block_{i}",
            )(x, train)
        return x


class SpatialAttention(nn.Module):
    """What one task gives to another: sigmoid(A * x) (B * x), A (`attention`) and B (`projection`) 3x3 convolutions.

    Attributes:
      kernel_init, dtype: see `ResNet`.
    """

    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a map like `x` `[B, H, W, C]`."""
        options = {"kernel_init": INITIALISERS[self.kernel_init], "padding": 1, "dtype": self.dtype}
        gate = nn.sigmoid(Conv(x.shape[-1], 3, name="attention", **options)(x))
        return gate * Conv(x.shape[-1], 3, name="projection", **options)(x)


class Correlation(nn.Module):
    """Adds to the features of each task what attention takes from the other's; both read the features as they come.

    Attributes:
      kernel_init, dtype: see `ResNet`.
    """

    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, segmentation: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the refined (segmentation, depth) features, all `[B, H, W, C]`."""
        to_segmentation = SpatialAttention(self.kernel_init, self.dtype, name="depth_to_segmentation")(depth)
        to_depth = SpatialAttention(self.kernel_init, self.dtype, name="segmentation_to_depth")(segmentation)
        return segmentation + to_segmentation, depth + to_depth


class CorDA(nn.Module):
    """The multi-task network: `encoder`, `segmentation_features`, `depth_features`, `correlation` and six heads.

    `aux_head`, `aux_depth_head` and `aux_source_depth_head` predict before the correlation, `head`, `depth_head` and
    `source_depth_head` after it. Each domain has depth heads of its own, on the same depth features: `source_*` learn
    from source pixels, the others from target pixels, and their disagreement tells how far the domains are apart.

    Attributes:
      num_classes: channels of the logits.
      trunk: the encoder, and which of its maps the branches read.
      options: the other choices.
    """

    num_classes: int
    trunk: Trunk
    options: CorDAOptions = CorDAOptions()

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.trunk.set_up(self)
        self.head = build_classifier(self.num_classes, o)
        self.depth_head = build_classifier(1, o)
        if o.structure == "multi_task":
            return
        width = self.trunk.width(o)
        self.segmentation_features = TaskFeatures(width, o.encoder_init, o.dtype)
        self.depth_features = TaskFeatures(width, o.encoder_init, o.dtype)
        self.source_depth_head = build_classifier(1, o)
        if o.structure == "uncorrelated":
            return
        aspp = o.initial_head == "aspp"
        self.aux_head = build_classifier(self.num_classes, o) if aspp else _linear(self.num_classes, o)
        self.aux_depth_head = _linear(1, o)
        self.aux_source_depth_head = _linear(1, o)
        self.correlation = Correlation(o.encoder_init, o.dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images and predicts their depth, before and after the correlation of the tasks.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.

        Returns:
          float32 maps at the network's own stride: "logits" and "aux_logits" `[B, h, w, num_classes]`; "features"
          `[B, h, w, 4 * width]` (the segmentation features after the correlation: what the final classifier reads);
          "depth", "source_depth", "aux_depth" and "aux_source_depth" `[B, h, w, 1]`, linear and without bounds, in the
          unit of the targets that train them (the paper's: inverse depth). "aux_*" are those before the correlation.
          Without correlation there are none of these, and of "multi_task" no "source_depth" either.
        """
        structure, outputs = self.options.structure, {}
        segmentation = depth = encoded = self.trunk.features(self, self.encoder(images, train), train)
        if structure != "multi_task":
            segmentation, depth = self.segmentation_features(encoded, train), self.depth_features(encoded, train)
        if structure == "correlated":
            outputs |= {
                "aux_logits": self.aux_head(encoded if self.options.initial_head == "aspp" else segmentation),
                "aux_depth": self.aux_depth_head(depth),
                "aux_source_depth": self.aux_source_depth_head(depth),
            }
            segmentation, depth = self.correlation(segmentation, depth)
        if structure != "multi_task":
            outputs["source_depth"] = self.source_depth_head(depth)
        outputs |= {"logits": self.head(segmentation), "features": segmentation, "depth": self.depth_head(depth)}
        return {name: value.astype(jnp.float32) for name, value in outputs.items()}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the final logits `[B, h, w, num_classes]` for refined segmentation features `[B, h, w, D]`."""
        return self.head(features)

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as the encoder alone does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


def _linear(num_outputs: int, options: CorDAOptions) -> Conv:
    """Returns a 1x1 convolution as a head, named by the attribute that it is assigned to."""
    o = options
    return Conv(num_outputs, 1, use_bias=o.aspp_bias, kernel_init=INITIALISERS[o.head_init], dtype=o.dtype)


NETWORKS = resnet.segmenters("corda", CorDA, CorDAOptions) | pyramid.light("corda", CorDA, CorDAEfficientNetOptions)
