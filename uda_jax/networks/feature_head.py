"""The projection of a network's features to those of another one, which never learns.

Source: VFM-UDA++ (arXiv 2503.10685) with its released code; module names follow its checkpoints, `feat_project.3` being
`project_3`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks.convolution import FLOAT32, Conv
from uda_jax.networks.vit_blocks import layer_norm

EPSILON = 1e-6


class FeatureHead(nn.Module):
    """A 1x1 convolution to four times the channels, a norm over the channels, GELU, a 1x1 convolution.

    Attributes:
      features: channels of the other network's features.
      dtype: type of the computation.
    """

    features: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 `[B, h, w, features]` for features `[B, h, w, D]`."""
        x = Conv(4 * x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="project_0")(x)
        x = nn.gelu(layer_norm(EPSILON, "project_1")(x), approximate=False)
        return Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="project_3")(x).astype(jnp.float32)
