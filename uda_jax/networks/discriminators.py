"""Discriminators: networks that tell from a map or a vector which domain it comes from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks.base import Entry, Options
from uda_jax.networks.convolution import Conv, small_conv
from uda_jax.networks.initialisers import uniform_fan_in
from uda_jax.networks.translators import NORMAL, instance_norm
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class DiscriminatorOptions(Options):
    """What `networks.build` accepts for "pixel_discriminator" and "patch_discriminator"."""

    width: int = config_field(64, "Channels of the first layer; the next three have 2, 4 and 8 times as many.", low=1)


@dataclasses.dataclass(frozen=True)
class SemanticDiscriminatorOptions(Options):
    """What `networks.build` accepts for "semantic_discriminator"."""

    hidden: int = config_field(1024, "Units of each of the two hidden layers.", low=1)


@dataclasses.dataclass(frozen=True)
class ScoreDiscriminatorOptions(Options):
    """What `networks.build` accepts for "score_discriminator"."""

    hidden: int = config_field(500, "Units of each of the two hidden layers.", low=1)


class PixelDiscriminator(nn.Module):
    """Five 4x4 convolutions of stride 2 with LeakyReLU 0.2 between them; no normalisation, no sigmoid.

    Source: AdaptSegNet (arXiv 1802.10349) section 5, without the final up-sampling, as in the released code of
    AdaptSegNet and ADVENT. Kernels and biases start at PyTorch's default.

    Attributes:
      options: width and type.
    """

    options: DiscriminatorOptions = DiscriminatorOptions()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, H // 32, W // 32, 1]` for a map `[B, H, W, C]` of probabilities or entropies.

        Raises:
          UserError: a height or width below 32, which leaves no logit.
        """
        _check_size(x, "pixel_discriminator", 32)
        o = self.options
        for i in range(4):
            x = Conv(o.width * 2**i, 4, use_bias=True, stride=2, padding=1, dtype=o.dtype, name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(x, 0.2)
        x = Conv(1, 4, use_bias=True, stride=2, padding=1, dtype=o.dtype, name="classifier")(x)
        return x.astype(jnp.float32)


class PatchDiscriminator(nn.Module):
    """Five 4x4 convolutions, the first three of stride 2: each logit classifies a patch of 70x70 pixels.

    LeakyReLU 0.2 follows all but the last convolution, instance norm precedes it in the second to the fourth; no
    sigmoid. Kernels start at N(0, 0.02^2), biases at zero.

    Source: CycleGAN's discriminator (arXiv 1703.10593), GIO-Ada's D_img.

    Attributes:
      options: width and type.
    """

    options: DiscriminatorOptions = DiscriminatorOptions()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, H // 8 - 2, W // 8 - 2, 1]` for RGB images `[B, H, W, 3]` in [-1, 1].

        Raises:
          UserError: a height or width below 24, which leaves no logit.
        """
        _check_size(images, "patch_discriminator", 24)
        o = self.options

        def conv(features, stride, name):
            options = {"kernel_init": NORMAL, "dtype": o.dtype, "conv_general_dilated": small_conv}
            return nn.Conv(features, (4, 4), stride, 1, name=name, **options)

        x = nn.leaky_relu(conv(o.width, 2, "conv1")(images), 0.2)
        for i, stride in ((2, 2), (3, 2), (4, 1)):
            x = nn.leaky_relu(instance_norm(conv(o.width * 2 ** (i - 1), stride, f"conv{i}")(x)), 0.2)
        return conv(1, 1, "classifier")(x).astype(jnp.float32)


class SemanticDiscriminator(nn.Module):
    """Three dense layers with LeakyReLU 0.2 between them, which classify the mean feature of a class in an image.

    Output k < K stands for (source, class k), output K + k for (target, class k). Kernels and biases start at
    PyTorch's default.

    Source: ASS (arXiv 2004.00794), its semantic-level adaptation module; the widths are not published.

    Attributes:
      num_classes: K.
      options: hidden units and type.
    """

    num_classes: int
    options: SemanticDiscriminatorOptions = SemanticDiscriminatorOptions()

    @nn.compact
    def __call__(self, means: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, K, 2K]` for class means `[B, K, D]`; in general `[..., 2K]` for `[..., D]`."""
        o = self.options
        x = nn.leaky_relu(_dense(o.hidden, "fc1", means, o.dtype), 0.2)
        x = nn.leaky_relu(_dense(o.hidden, "fc2", x, o.dtype), 0.2)
        return _dense(2 * self.num_classes, "fc3", x, o.dtype).astype(jnp.float32)


class ScoreDiscriminator(nn.Module):
    """Three dense layers with ReLU between them, which classify the class scores of a pixel.

    The two outputs are the logits of the two domains. Kernels and biases start at PyTorch's default.

    Source: the digit experiments of CyCADA (arXiv 1711.03213) in its released code.

    Attributes:
      options: hidden units and type.
    """

    options: ScoreDiscriminatorOptions = ScoreDiscriminatorOptions()

    @nn.compact
    def __call__(self, scores: jax.Array) -> jax.Array:
        """Returns float32 logits `[B, H, W, 2]` for class scores `[B, H, W, C]`; in general `[..., 2]`."""
        o = self.options
        x = nn.relu(_dense(o.hidden, "fc1", scores, o.dtype))
        x = nn.relu(_dense(o.hidden, "fc2", x, o.dtype))
        return _dense(2, "fc3", x, o.dtype).astype(jnp.float32)


def _dense(features: int, name: str, x: jax.Array, dtype: Any) -> jax.Array:
    """Applies a dense layer of the calling module, started at PyTorch's default."""
    init = uniform_fan_in(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, dtype=dtype, name=name)(x)


def _check_size(x: jax.Array, name: str, smallest: int) -> None:
    height, width = x.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"network.{name}: expected maps of at least {smallest}x{smallest} pixels, got {height}x{width}; "
            "enlarge the size or the crop of the data"
        )


# All but one read their input channels from the map that they are given, so that the number of classes plays no part.
NETWORKS = {
    "pixel_discriminator": Entry(lambda _, options: PixelDiscriminator(options), DiscriminatorOptions),
    "patch_discriminator": Entry(lambda _, options: PatchDiscriminator(options), DiscriminatorOptions),
    "score_discriminator": Entry(lambda _, options: ScoreDiscriminator(options), ScoreDiscriminatorOptions),
    "semantic_discriminator": Entry(SemanticDiscriminator, SemanticDiscriminatorOptions),
}
