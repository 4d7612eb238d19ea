"""DeepLab on VGG-16: the last two pools dropped, the layers behind them dilated, the heads those of DeepLab-v2.

Source: the VGG-16 variant in AdaptSegNet's released code (arXiv 1802.10349, section 5), which GIO-Ada's tables
(arXiv 1812.05040) are measured on too.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.base import Entry, Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.convolution import Conv
from uda_jax.networks.deeplab import DEPTH_ACTIVATIONS, DepthHeadOptions, HeadOptions, build_classifier
from uda_jax.networks.kernels import max_pool
from uda_jax.networks.resnet import INITIALISERS
from uda_jax.schema import config_field

# For layer-wise decay a stage is a layer.
LAYERS = (*(f"conv{stage}_" for stage in range(1, 6)), "fc6/", "fc7/")

# Convolutions, dilation and whether a pool follows, by stage; stage s has 2^(s-1) times the width, at most 8 times.
STAGES = ((2, 1, True), (2, 1, True), (3, 1, True), (3, 1, False), (3, 2, False))
# Names of the maps, and of the parts whose activations may be recomputed.
NAMES = (*(f"stage{stage}" for stage in range(1, len(STAGES) + 1)), "fc6", "fc7")


@dataclasses.dataclass(frozen=True)
class EncoderOptions(Options):
    """What `networks.build_encoder` accepts for "vgg16"."""

    encoder_init: str = config_field(
        "he",
        "Start of the encoder's kernels: 'he' (fan-in), which trains from scratch without batch norm on images of unit "
        "variance; 'uniform', PyTorch's default (the reference's for fc6 and fc7, the rest being loaded); or 'normal'.",
        choices=tuple(INITIALISERS),
    )
    width: int = config_field(
        64, "Channels of the first stage; the stages have 1, 2, 4, 8 and 8, fc6 and fc7 16 times.", low=1
    )
    remat: Remat = remat_field(NAMES)


@dataclasses.dataclass(frozen=True)
class VGG16Options(DepthHeadOptions, HeadOptions, EncoderOptions):
    """What `networks.build` accepts for "deeplab_v2_vgg16"."""


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, then two wide ones, each with bias and ReLU; no batch norm.

    Attributes:
      width: channels of the first stage.
      kernel_init: see `EncoderOptions.encoder_init`.
      remat: which of `NAMES` recompute their activations in the backward pass instead of keeping them.
      dtype: type of the computation; parameters stay float32.
    """

    width: int = 64
    kernel_init: str = "he"
    remat: Remat = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Encodes normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: accepted as every encoder does; nothing in this one depends on it.
          collect: names of the maps that are wanted; None = all.

        Returns:
          Maps by name, in the type of the computation and after their ReLU: "stage1" to "stage5", the ends of the
          stages before any pool, and "fc6" and "fc7" `[B, H // 8, W // 8, 16 * width]`.

        Raises:
          UserError: an unknown name in `collect`.
        """
        del train
        recomputed = rematted(self.remat, NAMES)

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

        def run(name, x, factor, dilation, names):
            def convs(module, x):
                del module  # The convolutions become this module's as they are called.
                for each in names:
                    x = conv(x, factor, dilation, each)
                return x

            return (nn.remat(convs) if name in recomputed else convs)(self, x)

        x, maps = images, {}
        for stage, (count, dilation, pooled) in enumerate(STAGES, 1):
            names = [f"conv{stage}_{i + 1}" for i in range(count)]
            maps[f"stage{stage}"] = x = run(f"stage{stage}", x, min(2 ** (stage - 1), 8), dilation, names)
            if pooled:
                x = max_pool(x, 2, 2)
        for name in ("fc6", "fc7"):
            maps[name] = x = run(name, x, 16, 4, [name])
        return collected(maps, collect, "vgg16")


def build_encoder(options: EncoderOptions) -> VGG16:
    """Returns a VGG-16, named by the attribute that it is assigned to."""
    return VGG16(options.width, options.encoder_init, options.remat, options.dtype)


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
        self.encoder = build_encoder(o)
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
        features = self.encoder(images, train)["fc7"]
        outputs = {"logits": self.head(features), "features": features.astype(jnp.float32)}
        if self.options.depth_head:
            outputs["depth"] = DEPTH_ACTIVATIONS[self.options.depth_activation](self.depth_head(features))
        return outputs

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the classifier's logits `[B, h, w, num_classes]` for features `[B, h, w, 16 * width]`."""
        return self.head(features)

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as `VGG16` does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


ENCODERS = {"vgg16": Entry(build_encoder, EncoderOptions, layers=patterns(LAYERS))}
NETWORKS = {"deeplab_v2_vgg16": Entry(DeepLabVGG16, VGG16Options, layers=patterns(LAYERS, within="encoder/"))}
