"""DAFormer's network: a head that fuses all four stages of a Mix Transformer, with context around each pixel.

Source: DAFormer (arXiv 2111.14887), section 3.2, with its released code, and the plain fusion that it compares with.
Module names follow the published checkpoints.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax import ops
from uda_jax.networks import initialisers, mit
from uda_jax.networks.base import Entry, patterns
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import Conv, convolve, depthwise_convolve
from uda_jax.networks.kernels import relu
from uda_jax.networks.mit import MiTOptions, MixTransformer
from uda_jax.networks.parameters import parameter
from uda_jax.schema import config_field

DILATIONS = (1, 6, 12, 18)


@dataclasses.dataclass(frozen=True)
class DAFormerOptions(MiTOptions):
    """What `networks.build` accepts for the DAFormer networks."""

    head_width: int = config_field(256, "Channels of each stage in the head, and of their fusion.", low=1)
    fusion: str = config_field(
        "context",
        "How the head fuses the stages: by separable convolutions of dilation 1, 6, 12 and 18 ('context', DAFormer) "
        "or by a 1x1 convolution ('linear').",
        choices=("context", "linear"),
    )
    dropout: float = config_field(
        0.1, "Probability that a channel is dropped before the classifier in training.", low=0.0, high=0.9
    )


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm and ReLU.

    Attributes:
      features: output channels.
      size: of the kernel; the border is padded such that maps keep their size.
      dtype: type of the computation.
      dilation: of a depthwise convolution; 0 is a plain one.
    """

    features: int
    size: int
    dtype: Any
    dilation: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H, W, features]` for `x` `[B, H, W, C]`."""
        # He et al.'s distribution by outputs, of which PyTorch counts those of all channels in a depthwise one, too.
        init = initialisers.normal(math.sqrt(2 / (self.size**2 * self.features)))
        if self.dilation:
            x = DepthwiseConv(self.dilation, init, self.dtype, name="conv")(x)
        else:
            padding = self.size // 2
            x = Conv(self.features, self.size, kernel_init=init, padding=padding, dtype=self.dtype, name="conv")(x)
        return relu(BatchNorm(dtype=self.dtype, name="bn")(x, train))


class DepthwiseConv(nn.Module):
    """A depthwise 3x3 convolution without bias, see `depthwise_convolve`.

    Attributes:
      dilation: of the kernel.
      kernel_init: initialiser of the kernel.
      dtype: type of the computation.
    """

    dilation: int
    kernel_init: initialisers.Initialiser
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H, W, C]` for `x` `[B, H, W, C]`."""
        kernel = parameter(self, "kernel", self.kernel_init, (3, 3, 1, x.shape[-1]))
        return depthwise_convolve(x.astype(self.dtype), kernel.astype(self.dtype), dilation=self.dilation)


class SeparableConvNorm(nn.Module):
    """A dilated depthwise convolution and a 1x1 convolution, each with batch norm and ReLU.

    Attributes:
      features: output channels.
      dilation: of the depthwise convolution.
      dtype: type of the computation.
    """

    features: int
    dilation: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H, W, features]` for `x` `[B, H, W, C]`."""
        x = ConvNorm(x.shape[-1], 3, self.dtype, self.dilation, name="depthwise_conv")(x, train)
        return ConvNorm(self.features, 1, self.dtype, name="pointwise_conv")(x, train)


class ContextFusion(nn.Module):
    """Parallel views of the stacked stages, of growing dilation, and a 3x3 convolution of them all.

    Attributes:
      features: output channels, of each view, too.
      dtype: type of the computation.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `[B, H, W, features]` for `x` `[B, H, W, C]`."""
        views = []
        for i, dilation in enumerate(DILATIONS):
            name = f"aspp_modules_{i}"
            if dilation == 1:
                view = ConvNorm(self.features, 1, self.dtype, name=name)
            else:
                view = SeparableConvNorm(self.features, dilation, self.dtype, name=name)
            views.append(view(x, train))
        return ConvNorm(self.features, 3, self.dtype, name="bottleneck")(jnp.concatenate(views, axis=-1), train)


class Head(nn.Module):
    """Each stage through a linear layer, enlarged to the first one's size, all of them fused and classified.

    Attributes:
      num_outputs: channels of the result.
      width: channels of each stage and of their fusion.
      fusion: "context" or "linear", see `DAFormerOptions`.
      dropout: probability that a channel is dropped before the classifier.
      dtype: type of the computation.
    """

    num_outputs: int
    width: int
    fusion: str
    dropout: float
    dtype: Any

    def setup(self):
        """Names the parts after the published checkpoints."""
        if self.fusion == "context":
            self.fuse_layer = ContextFusion(self.width, self.dtype)
        else:
            self.fuse_layer = ConvNorm(self.width, 1, self.dtype)
        self.embed_layers = [Embedding(self.width, self.dtype) for _ in mit.STAGES]
        self.channel_dropout = nn.Dropout(self.dropout, broadcast_dims=(1, 2))
        self.conv_seg = Classifier(self.num_outputs, self.dtype)

    def __call__(self, maps: Mapping[str, jax.Array], train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Returns float32 logits `[B, h, w, num_outputs]` and what they are read off, `[B, h, w, width]`.

        Args:
          maps: of the encoder's stages by name, in their order.
          train: whether batch norm is in its training mode; channels are dropped if there is an rng named "dropout".
        """
        embedded = [layer(x) for layer, x in zip(self.embed_layers, maps.values(), strict=True)]
        size = embedded[0].shape[1:3]
        enlarged = [ops.resize_bilinear(x, size, align_corners=False).astype(self.dtype) for x in embedded]
        fused = self.fuse_layer(jnp.concatenate(enlarged, axis=-1), train)
        kept = self.channel_dropout(fused, deterministic=not (train and self.has_rng("dropout")))
        return self.classify(kept), fused

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, h, w, num_outputs]` for fused features `[B, h, w, width]`."""
        return self.conv_seg(features)


class Classifier(nn.Module):
    """A 1x1 convolution that starts N(0, 0.01^2), its bias at 0.

    Attributes:
      num_outputs: channels of the result.
      dtype: type of the computation.
    """

    num_outputs: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 `[B, H, W, num_outputs]` for `x` `[B, H, W, C]`."""
        shape = (1, 1, x.shape[-1], self.num_outputs)
        kernel = parameter(self, "kernel", initialisers.normal(0.01), shape)
        bias = parameter(self, "bias", nn.initializers.zeros, (self.num_outputs,))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32) + bias


class Embedding(nn.Module):
    """A linear layer on each pixel that starts as PyTorch's do.

    Attributes:
      features: output channels.
      dtype: type of the computation.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H, W, features]` for `x` `[B, H, W, C]`."""
        bias_init = initialisers.uniform_fan_in(x.shape[-1])
        options = {"kernel_init": initialisers.uniform(), "bias_init": bias_init, "dtype": self.dtype}
        return nn.Dense(self.features, name="proj", **options)(x)


class DAFormer(nn.Module):
    """The segmentation network: `encoder`, and `head` on all of its stages.

    Attributes:
      num_classes: channels of the logits.
      options: the other choices.
    """

    num_classes: int
    options: DAFormerOptions = DAFormerOptions()

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        self.encoder = MixTransformer(o)
        self.head = build_head(self.num_classes, o)

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`, and with
            `rngs={"dropout": key}` unless nothing is to be dropped, as in a teacher.

        Returns:
          float32 maps: "logits" `[B, h, w, num_classes]` and "features" `[B, h, w, head_width]`, the fused stages, at
          stride 4, and "encoder_features" `[B, h, w, 8 * width]`, the last stage, at stride 32.
        """
        maps = self.encoder(images, train)
        logits, fused = self.head(maps, train)
        named = {"features": fused, "encoder_features": maps["stage4"]}
        return {"logits": logits} | {name: x.astype(jnp.float32) for name, x in named.items()}

    def classify(self, features: jax.Array) -> jax.Array:
        """Returns the classifier's logits `[B, h, w, num_classes]` for fused features `[B, h, w, head_width]`."""
        return self.head.classify(features)

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as `MixTransformer` does; apply with `method="encode"`."""
        return self.encoder(images, train, collect)


def build_head(num_outputs: int, options: DAFormerOptions, fusion: str | None = None) -> Head:
    """Returns a head, named by the attribute that it is assigned to; `fusion` replaces that of the options."""
    o = options
    return Head(num_outputs, o.head_width, fusion or o.fusion, o.dropout, o.dtype)


def segmenters(prefix: str, module: Any, options: type[DAFormerOptions]) -> dict[str, Entry]:
    """Returns the table NETWORKS of a segmenter `module(num_classes, options)` on each of the Mix Transformers."""
    layers = patterns(mit.LAYERS, within="encoder/")
    return {f"{prefix}_{name}": Entry(module, options, mit.defaults(name), layers) for name in mit.SIZES}


NETWORKS = segmenters("daformer", DAFormer, DAFormerOptions)
