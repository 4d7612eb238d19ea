"""ViT-Adapter: maps of four sizes from a vision transformer, whose tokens and a small convolutional pyramid interact.

Source: ViT-Adapter (arXiv 2205.08534) in the form of VFM-UDA++ (arXiv 2503.10685) with its released code; module names
follow its checkpoints, `interactions.3.extra_extractors.1` being `interactions_3/extra_extractors_1`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.networks.convolution import FLOAT32, Conv, depthwise_convolve
from uda_jax.networks.deformable import DeformableAttention, Size, centres
from uda_jax.networks.kernels import max_pool, relu
from uda_jax.networks.parameters import parameter
from uda_jax.networks.upscaling import PatchUpscale
from uda_jax.networks.vit_blocks import Linear, layer_norm
from uda_jax.ops.resize import resize_bilinear

EPSILON = 1e-5
# Weight of the newest batch in the running statistics.
MOMENTUM = 0.01
# Channels of the first convolutions.
INNER = 64
INTERACTIONS = 4
# The image's sides over those of the deepest map.
STRIDE = 32


class SpatialPrior(nn.Module):
    """Convolutions that give maps of `width` channels at strides 4, 8, 16 and 32.

    Attributes:
      width: channels of the maps.
      dtype: type of the computation.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Returns the four maps, the finest first, for images `[B, H, W, 3]`."""

        def layer(x: jax.Array, features: int, stride: int, conv: str, norm: str) -> jax.Array:
            x = Conv(features, 3, stride=stride, padding=1, dtype=self.dtype, name=conv)(x)
            return relu(BatchNorm(dtype=self.dtype, momentum=MOMENTUM, name=norm)(x, train))

        x = layer(images, INNER, 2, "stem_0", "stem_1")
        x = layer(x, INNER, 1, "stem_3", "stem_4")
        x = layer(x, INNER, 1, "stem_6", "stem_7")
        maps = [max_pool(x, 3, 2, padding=1, first_of_equals=True)]
        for level, factor in ((2, 2), (3, 4), (4, 4)):
            maps.append(layer(maps[-1], factor * INNER, 2, f"conv{level}_0", f"conv{level}_1"))
        project = lambda i: Conv(self.width, 1, use_bias=True, dtype=self.dtype, name=f"fc{i}")  # noqa: E731
        return [project(i)(x).astype(jnp.float32) for i, x in enumerate(maps, 1)]


class ConvolutionalMlp(nn.Module):
    """A linear layer to a quarter of the channels, a depthwise convolution of each level, GELU, a linear layer back."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, sizes: Sequence[Size]) -> jax.Array:
        """Returns `[B, N, D]` for the tokens of several levels `[B, N, D]`."""
        batch, _, width = x.shape
        hidden = Linear(width // 4, self.dtype, name="fc1")(x)
        fan_in = initialisers.uniform_fan_in(9)
        kernel = parameter(self, "dwconv_kernel", fan_in, (3, 3, 1, width // 4)).astype(self.dtype)
        bias = parameter(self, "dwconv_bias", fan_in, (width // 4,)).astype(self.dtype)
        levels = []
        for part, size in zip(split(hidden, sizes), sizes, strict=True):
            level = depthwise_convolve(part.reshape(batch, *size, -1), kernel) + bias
            levels.append(level.reshape(batch, size[0] * size[1], -1))
        hidden = nn.gelu(jnp.concatenate(levels, axis=1), approximate=False)
        return Linear(width, self.dtype, name="fc2")(hidden)


class Extractor(nn.Module):
    """The pyramid reads the transformer's tokens: c + MSDA(LN(c), LN(x)), then c + MLP(LN(c)).

    Attributes:
      heads: of the deformable attention.
      dtype: type of the MLP.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, pyramid: jax.Array, tokens: jax.Array, sizes: Sequence[Size], grid: Size) -> jax.Array:
        """Returns the pyramid's tokens `[B, N, D]`; the transformer's are `[B, h * w, D]`."""
        places = np.concatenate([centres(size) for size in sizes])
        queries, features = layer_norm(EPSILON, "query_norm")(pyramid), layer_norm(EPSILON, "feat_norm")(tokens)
        pyramid = pyramid + DeformableAttention(self.heads, name="attn")(queries, places, features, [grid])
        added = ConvolutionalMlp(self.dtype, name="ffn")(layer_norm(EPSILON, "ffn_norm")(pyramid), sizes)
        return pyramid + added.astype(jnp.float32)


class Injector(nn.Module):
    """The transformer's tokens read the pyramid: x + gamma MSDA(LN(x), LN(c)), with a gamma that starts at 0.

    Attributes:
      heads: of the deformable attention.
    """

    heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array, pyramid: jax.Array, sizes: Sequence[Size], grid: Size) -> jax.Array:
        """Returns the transformer's tokens `[B, h * w, D]`; the pyramid's are `[B, N, D]`."""
        gamma = parameter(self, "gamma", nn.initializers.zeros, (tokens.shape[-1],))
        queries, features = layer_norm(EPSILON, "query_norm")(tokens), layer_norm(EPSILON, "feat_norm")(pyramid)
        return tokens + gamma * DeformableAttention(self.heads, name="attn")(queries, centres(grid), features, sizes)


class Interaction(nn.Module):
    """An injector, a group of the transformer's blocks, and one extractor or, in the last one, three.

    Attributes:
      heads: of the deformable attention.
      last: whether it is the last one.
      dtype: type of the MLPs.
    """

    heads: int
    last: bool
    dtype: Any

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        self.injector = Injector(self.heads)
        self.extractor = Extractor(self.heads, self.dtype)
        self.extra_extractors = [Extractor(self.heads, self.dtype) for _ in range(2 if self.last else 0)]

    def __call__(
        self,
        tokens: jax.Array,
        pyramid: jax.Array,
        blocks: Callable[[jax.Array], jax.Array],
        sizes: Sequence[Size],
        grid: Size,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the tokens of the transformer, whose first ones have no place, and of the pyramid."""
        prefix = tokens.shape[1] - grid[0] * grid[1]
        injected = self.injector(tokens[:, prefix:], pyramid, sizes, grid)
        tokens = blocks(jnp.concatenate([tokens[:, :prefix], injected], axis=1))
        for extractor in (self.extractor, *self.extra_extractors):
            pyramid = extractor(pyramid, tokens[:, prefix:], sizes, grid)
        return tokens, pyramid


class Adapter(nn.Module):
    """What stands beside the transformer.

    Attributes:
      width: channels of the transformer's tokens.
      dtype: type of convolutions and MLPs; the deformable attention, norms and sums stay float32.
    """

    width: int
    dtype: Any = FLOAT32

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        heads = max(1, self.width // 64)
        self.level_embed = parameter(self, "level_embed", initialisers.normal(1.0), (3, self.width))
        self.spm = SpatialPrior(self.width, self.dtype)
        self.interactions = [Interaction(heads, i == INTERACTIONS - 1, self.dtype) for i in range(INTERACTIONS)]
        self.up = PatchUpscale(self.width, 2, use_bias=True, dtype=self.dtype)
        self.norms = [BatchNorm(momentum=MOMENTUM) for _ in range(4)]

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        groups: Sequence[Callable[[jax.Array], jax.Array]],
        grid: Size,
        train: bool,
    ) -> list[jax.Array]:
        """Runs the transformer's blocks between the interactions.

        Args:
          images: normalised, `[B, H, W, 3]`, sides multiples of 32.
          tokens: the transformer's before its first block, `[B, T, D]`.
          groups: its blocks as four functions of the tokens.
          grid: rows and columns of its patches.
          train: whether batch norm runs in its training mode.

        Returns:
          Four float32 maps `[B, h, w, D]` at strides 4, 8, 16 and 32.
        """
        finest, *deeper = self.spm(images, train)
        sizes = [x.shape[1:3] for x in deeper]
        flat = [x.reshape(len(x), -1, self.width) + self.level_embed[i] for i, x in enumerate(deeper)]
        pyramid, outputs = jnp.concatenate(flat, axis=1), []
        for interaction, blocks in zip(self.interactions, groups, strict=True):
            tokens, pyramid = interaction(tokens, pyramid, blocks, sizes, grid)
            patches = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
            outputs.append(patches.reshape(len(images), *grid, self.width))
        deeper = [x.reshape(len(x), *size, self.width) for x, size in zip(split(pyramid, sizes), sizes, strict=True)]
        finest = self.up(deeper[0]).astype(jnp.float32) + finest
        levels = zip(self.norms, (finest, *deeper), outputs, strict=True)
        return [
            norm(level + resize_bilinear(output, level.shape[1:3], align_corners=False), train)
            for norm, level, output in levels
        ]


def split(tokens: jax.Array, sizes: Sequence[Size]) -> list[jax.Array]:
    """Returns the tokens of each level, `[B, rows * columns, C]`, of all of them one after the other, `[B, N, C]`."""
    ends = [0]
    for rows, columns in sizes:
        ends.append(ends[-1] + rows * columns)
    return [jax.lax.slice_in_dim(tokens, a, b, axis=1) for a, b in zip(ends[:-1], ends[1:], strict=True)]
