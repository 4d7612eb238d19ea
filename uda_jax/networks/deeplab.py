"""DeepLab-v2 on a dilated ResNet: one or two classifiers of four parallel dilated convolutions.

Source: AdaptSegNet (arXiv 1802.10349) section 5, ADVENT (arXiv 1811.12833) section 4 and PLCA (arXiv 2011.00147), with
their released code; the depth head after GIO-Ada (arXiv 1812.05040), whose own layers are not known here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import resnet
from uda_jax.networks.base import Options, Trunk
from uda_jax.networks.convolution import ConvParameters
from uda_jax.networks.kernels import sum_of_dilated_convs
from uda_jax.networks.resnet import INITIALISERS, ResNetOptions
from uda_jax.schema import config_field

DILATIONS = (6, 12, 18, 24)

# What follows the last convolution of a depth head.
DEPTH_ACTIVATIONS = {"sigmoid": nn.sigmoid, "linear": lambda x: x}


@dataclasses.dataclass(frozen=True)
class HeadOptions(Options):
    """Options of the classifiers, whatever the encoder."""

    aspp_branches: int = config_field(
        4, "Branches summed by a classifier: 4 (ADVENT, PLCA) or 2 (AdaptSegNet, DACS, CorDA).", choices=(2, 4)
    )
    aspp_bias: bool = config_field(True, "Whether the classifiers' convolutions have a bias (PLCA: no).")
    head_init: str = config_field(
        "normal",
        "Start of the classifiers' kernels: 'normal' N(0, 0.01^2), 'he', or 'uniform', PyTorch's default (PLCA).",
        choices=tuple(INITIALISERS),
    )

    @property
    def unused(self) -> tuple[str, ...]:
        """Patterns of the branches that two-branch classifiers have, as in the checkpoints, and do not use."""
        return (r"head/branch_[23]/",) if self.aspp_branches == 2 else ()


@dataclasses.dataclass(frozen=True)
class DepthHeadOptions(Options):
    """Options of the depth head that a DeepLab network may have."""

    depth_head: bool = config_field(
        False, "Whether a second head reads the last stage and gives depth (GIO-Ada).", decided=True
    )
    depth_activation: str = config_field(
        "sigmoid",
        "How that head ends: in a sigmoid, for targets in [0, 1], or linear, for targets without bounds.",
        choices=tuple(DEPTH_ACTIVATIONS),
        decided=True,
    )


@dataclasses.dataclass(frozen=True)
class LevelOptions(DepthHeadOptions, HeadOptions):
    """Options of all heads that a DeepLab network may have, whatever the encoder."""

    multi_level: bool = config_field(
        False, "Whether a second classifier reads an earlier stage (ResNet: stage 3) and gives aux_logits."
    )


@dataclasses.dataclass(frozen=True)
class DeepLabOptions(LevelOptions, ResNetOptions):
    """What `networks.build` accepts for the DeepLab-v2 networks."""


class Classifier(nn.Module):
    """The sum of parallel 3x3 convolutions of dilation 6, 12, 18 and 24.

    All four always have parameters (`branch_0` to `branch_3`), as in the checkpoints; the first `branches` are used.

    Attributes:
      num_classes, branches, use_bias, kernel_init, dtype: see `HeadOptions`.
    """

    num_classes: int
    branches: int
    use_bias: bool
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, H, W, num_classes]` for `x` `[B, H, W, C]`."""
        init = INITIALISERS[self.kernel_init]
        parameters = [
            ConvParameters(self.num_classes, 3, self.use_bias, init, name=f"branch_{i}")(x.shape[-1])
            for i in range(len(DILATIONS))
        ]
        kernels, biases = zip(*parameters[: self.branches], strict=True)
        kernels = [kernel.astype(self.dtype) for kernel in kernels]
        logits = sum_of_dilated_convs(x.astype(self.dtype), kernels, DILATIONS[: self.branches])
        return logits + sum(biases) if self.use_bias else logits


def build_classifier(num_outputs: int, options: HeadOptions) -> Classifier:
    """Returns a classifier of `num_outputs` channels, named by the attribute that it is assigned to."""
    o = options
    return Classifier(num_outputs, o.aspp_branches, o.aspp_bias, o.head_init, o.dtype)


class DeepLabV2(nn.Module):
    """The segmentation network: `encoder`, `head` on its last stage and, as the options say, two more heads.

    Where the trunk has a neck, that lies between. `aux_head` reads an earlier stage (multi-level). `depth_head` reads
    what `head` reads: a classifier of one output that ends as `depth_activation` says, so that segmentation and depth
    share nothing but the encoder and its neck.

    Attributes:
      num_classes: channels of the logits.
      trunk: the encoder, and which of its maps the heads read.
      options: the other choices.
    """

    num_classes: int
    trunk: Trunk
    options: DeepLabOptions = DeepLabOptions()

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.trunk.set_up(self)
        self.head = build_classifier(self.num_classes, o)
        if o.multi_level:
            self.aux_head = build_classifier(self.num_classes, o)
        if o.depth_head:
            self.depth_head = build_classifier(1, o)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`.

        Returns:
          float32 maps at the network's own stride: "logits" `[B, h, w, num_classes]`, "features" `[B, h, w, D]` (the
          last stage, or the neck, after its ReLU), if multi-level "aux_logits" `[B, h, w, num_classes]` (at the stride
          of its stage), and with a depth head "depth" `[B, h, w, 1]`, in the unit of the target that trains it; in
          (0, 1) if it ends in a sigmoid.
        """
        maps = self.encoder(images, train)
        features = self.trunk.features(self, maps, train)
        outputs = {"logits": self.head(features), "features": features.astype(jnp.float32)}
        if self.options.multi_level:
            outputs["aux_logits"] = self.aux_head(maps[self.trunk.earlier])
        if self.options.depth_head:
            outputs["depth"] = DEPTH_ACTIVATIONS[self.options.depth_activation](self.depth_head(features))
        return outputs

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the main classifier's logits `[B, h, w, num_classes]` for features `[B, h, w, D]`."""
        return self.head(features)

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as the encoder alone does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


NETWORKS = resnet.segmenters("deeplab_v2", DeepLabV2, DeepLabOptions)
