"""DeepLab on VGG-16: the last two pools dropped, the layers behind them dilated, the heads those of DeepLab-v2.

Source: the VGG-16 variant in AdaptSegNet's released code (arXiv 1802.10349, section 5), which GIO-Ada's tables
(arXiv 1812.05040) are measured on too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.convolution import Conv
from uda_jax.networks.deeplab import DEPTH_ACTIVATIONS, DepthHeadOptions, HeadOptions, build_classifier
from uda_jax.networks.resnet import INITIALISERS, max_pool
from uda_jax.schema import config_field

# Convolutions, dilation and whether a pool follows, by stage; stage s has 2^(s-1) times the width, at most 8 times.
STAGES = ((2, 1, True), (2, 1, True), (3, 1, True), (3, 1, False), (3, 2, False))


@dataclasses.dataclass(frozen=True)
class VGG16Options(DepthHeadOptions, HeadOptions):
    """What `networks.build` accepts for "deeplab_v2_vgg16"."""

    encoder_init: str = config_field(
        "he",
        "Start of the encoder's kernels: 'he' (fan-in), which trains from scratch without batch norm on images of unit "
        "variance; 'uniform', PyTorch's default (the reference's for fc6 and fc7, the rest being loaded); or 'normal'.",
        choices=tuple(INITIALISERS),
    )
    width: int = config_field(
        64, "Channels of the first stage; the stages have 1, 2, 4, 8 and 8, fc6 and fc7 16 times.", low=1
    )


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, then two wide ones, each with bias and ReLU; no batch norm.

    Attributes:
      width: channels of the first stage.
      kernel_init: see `VGG16Options.encoder_init`.
      dtype: type of the computation; parameters stay float32.
    """

    width: int = 64
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns `[B, H // 8, W // 8, 16 * width]`, after the last ReLU, for normalised images `[B, H, W, 3]`."""

        def conv(x, factor, dilation, name):
            y = Conv(
                factor * self.width,
                3,
                use_bias=True,
                kernel_init=INITIALISERS[self.kernel_init],
                dilation=dilation,
                padding=dilation,
                dtype=self.dtype,
                name=name,
            )(x)
            return nn.relu(y)

        x = images
        for stage, (count, dilation, pooled) in enumerate(STAGES, 1):
            for i in range(count):
                x = conv(x, min(2 ** (stage - 1), 8), dilation, f"conv{stage}_{i + 1}")
            if pooled:
                x = max_pool(x, 2, 2)
        return conv(conv(x, 16, 4, "fc6"), 16, 4, "fc7")


class DeepLabVGG16(nn.Module):
    """The segmentation network: `encoder`, `head` and, as the options say, `depth_head` beside it.

    Attributes:
      num_classes: channels of the logits.
      options: the other choices.
    """

    num_classes: int
    options: VGG16Options = VGG16Options()

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.encoder = VGG16(o.width, o.encoder_init, o.dtype)
        self.head = build_classifier(self.num_classes, o)
        if o.depth_head:
            self.depth_head = build_classifier(1, o)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: accepted as every segmenter does; nothing in this network depends on it.

        Returns:
          float32 maps at an eighth of the image's size, rounded down: "logits" `[B, h, w, num_classes]`, "features"
          `[B, h, w, 16 * width]` (after the last ReLU) and, with a depth head, "depth" `[B, h, w, 1]`, in the unit of
          the target that trains it; in (0, 1) if it ends in a sigmoid.
        """
        del train
        features = self.encoder(images)
        outputs = {"logits": self.head(features), "features": features.astype(jnp.float32)}
        if self.options.depth_head:
            outputs["depth"] = DEPTH_ACTIVATIONS[self.options.depth_activation](self.depth_head(features))
        return outputs

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the classifier's logits `[B, h, w, num_classes]` for features `[B, h, w, 16 * width]`."""
        return self.head(features)
