"""Discriminators: networks that tell from a map which domain it comes from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.convolution import COMPUTE_DTYPES, FLOAT32, Conv
from uda_jax.sections import described


@dataclasses.dataclass(frozen=True)
class DiscriminatorOptions:
    """What `networks.build` accepts for "pixel_discriminator"."""

    width: int = described(64, "Channels of the first layer; the next three have 2, 4 and 8 times as many.", low=1)
    dtype: Any = described(
        FLOAT32, "Type of the computation; parameters and logits stay float32.", choices=COMPUTE_DTYPES
    )


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
        """Returns float32 logits `[B, H // 32, W // 32, 1]` for a map `[B, H, W, C]` of probabilities or entropies."""
        o = self.options
        for i in range(4):
            x = Conv(o.width * 2**i, 4, use_bias=True, stride=2, padding=1, dtype=o.dtype, name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(x, 0.2)
        x = Conv(1, 4, use_bias=True, stride=2, padding=1, dtype=o.dtype, name="classifier")(x)
        return x.astype(jnp.float32)
