"""The Mix Transformer, the encoder of SegFormer and DAFormer: four stages of attention at strides 4, 8, 16 and 32.

Each stage embeds overlapping patches, runs blocks of attention, whose keys and values are read off a map of lower
resolution, and of a feed-forward layer with a depthwise convolution, which stands in for positional embeddings.

Source: SegFormer (arXiv 2105.15203), section 3.1, in the form of DAFormer (arXiv 2111.14887). Module names follow the
published checkpoints, `block3.22.attn.kv` being `block3_22/attn/kv`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks import initialisers
from uda_jax.networks.base import Entry, Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.convolution import convolve, depthwise_convolve
from uda_jax.networks.parameters import parameter
from uda_jax.schema import config_field

# Channels of the first stage, which are also those of every head of attention, and blocks per stage.
SIZES = {
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}
# Heads of attention by stage, each of `width` channels; side of the squares of pixels that one key stands for.
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
STAGES = ("stage1", "stage2", "stage3", "stage4")
# For layer-wise decay a stage is a layer.
LAYERS = tuple(f"(patch_embed{stage}/|block{stage}_|norm{stage}/)" for stage in range(1, 5))
# Smaller images leave the first stage without a key.
SMALLEST = 29
EXPANSION = 4
# Of the norms in blocks and at the ends of stages; those behind convolutions have PyTorch's.
EPSILON, CONVOLUTION_EPSILON = 1e-6, 1e-5
# PyTorch cuts this normal distribution off at -2 and 2, a hundred deviations away.
LINEAR_INIT = initialisers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class MiTOptions(Options):
    """What `networks.build_encoder` accepts for the Mix Transformers."""

    width: int = config_field(64, "Channels of the first stage and of each head; the others have 2, 5, 8 times.", low=1)
    blocks: tuple[int, int, int, int] = config_field((3, 6, 40, 3), "Blocks of attention by stage.", low=1)
    drop_path: float = config_field(
        0.1,
        "Probability that an image skips a branch of the last block in training; it grows linearly from 0 at the first "
        "one.",
        low=0.0,
        high=0.9,
    )
    remat: Remat = remat_field(STAGES)


class Convolution(nn.Module):
    """A convolution with bias that starts N(0, 2 / outputs of an input number), its bias at 0.

    Attributes:
      features: output channels.
      size, stride, padding: as in PyTorch; with `depthwise`, size 3, stride 1 and padding 1.
      dtype: type of the computation.
      depthwise: whether each channel has a kernel of its own.
    """

    features: int
    size: int
    stride: int
    padding: int
    dtype: Any
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, h, w, features]` for `x` `[B, H, W, C]`."""
        into, outputs = (1, 1) if self.depthwise else (x.shape[-1], self.features)
        init = initialisers.normal(math.sqrt(2 / (self.size**2 * outputs)))
        kernel = parameter(self, "kernel", init, (self.size, self.size, into, self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.depthwise:
            return depthwise_convolve(x, kernel) + bias
        if self.size == self.stride and not self.padding:
            return _patch_products(x, kernel) + bias
        return convolve(x, kernel, self.stride, padding=self.padding) + bias


def _patch_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns a convolution whose stride is its size as one matrix product; what is left over at the end is unread."""
    size, features = kernel.shape[0], kernel.shape[-1]
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    patches = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)
    return patches @ kernel.reshape(-1, features)


def _norm(epsilon: float, dtype: Any, name: str) -> nn.LayerNorm:
    # The difference of two large means, Flax's default variance, would lose digits.
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class PatchEmbedding(nn.Module):
    """A strided convolution over overlapping patches, and a norm.

    Attributes:
      features: output channels.
      size, stride: of the convolution, which is padded by half its size.
      dtype: type of the computation.
    """

    features: int
    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, ceil(H / stride), ceil(W / stride), features]` for `x` `[B, H, W, C]`."""
        x = Convolution(self.features, self.size, self.stride, self.size // 2, self.dtype, name="proj")(x)
        return _norm(CONVOLUTION_EPSILON, self.dtype, "norm")(x)


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values stand for squares of pixels.

    Attributes:
      heads: their number.
      reduction: side of those squares in pixels.
      dtype: type of the computation; the softmax is float32.
    """

    heads: int
    reduction: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H, W, C]` for `x` `[B, H, W, C]`."""
        shape, channels = x.shape, x.shape[-1]
        linear = functools.partial(nn.Dense, kernel_init=LINEAR_INIT, dtype=self.dtype)
        # Channels are head by head, and of keys and values the keys come first.
        split = (shape[0], -1, self.heads, channels // self.heads)
        queries = linear(channels, name="q")(x).reshape(split)
        if self.reduction > 1:
            x = Convolution(channels, self.reduction, self.reduction, 0, self.dtype, name="sr")(x)
            x = _norm(CONVOLUTION_EPSILON, self.dtype, "norm")(x)
        keys, values = (half.reshape(split) for half in jnp.split(linear(2 * channels, name="kv")(x), 2, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) * split[-1] ** -0.5
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        return linear(channels, name="proj")(jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(shape))


class MixFFN(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution and an exact GELU between them.

    Attributes:
      dtype: type of the computation.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, H, W, C]` for `x` `[B, H, W, C]`."""
        channels = x.shape[-1]
        hidden = EXPANSION * channels
        y = nn.Dense(hidden, kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc1")(x)
        y = Convolution(hidden, 3, 1, 1, self.dtype, depthwise=True, name="dwconv")(y)
        y = jax.nn.gelu(y, approximate=False)
        return nn.Dense(channels, kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc2")(y)


class Block(nn.Module):
    """Attention and a feed-forward layer, each on normalised maps and added to them.

    Attributes:
      heads, reduction, dtype: see `Attention`.
      drop: probability that an image skips a branch; what is kept is scaled up by as much.
    """

    heads: int
    reduction: int
    dtype: Any
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, dropping: bool) -> jax.Array:
        """Returns `[B, H, W, C]` for `x` `[B, H, W, C]`."""

        def kept(y: jax.Array) -> jax.Array:
            return nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not dropping)(y)

        attention = Attention(self.heads, self.reduction, self.dtype, name="attn")
        x = x + kept(attention(_norm(EPSILON, self.dtype, "norm1")(x)))
        return x + kept(MixFFN(self.dtype, name="mlp")(_norm(EPSILON, self.dtype, "norm2")(x)))


class MixTransformer(nn.Module):
    """The four stages; each ends in a norm, whose result is its map and the next stage's input.

    Attributes:
      options: sizes and types, see `MiTOptions`.
    """

    options: MiTOptions = MiTOptions()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Encodes normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with, H and W at least 29.
          train: whether images may skip branches; they do if there is an rng named "dropout".
          collect: names of the maps that are wanted; None = all.

        Returns:
          Maps by name, in the type of the computation: "stage1" to "stage4", `[B, h, w, width * n]` with n = 1, 2, 5
          and 8, at strides 4, 8, 16 and 32, all rounded up.

        Raises:
          UserError: an unknown name in `collect`, or images that are too small.
        """
        o, x, maps, index = self.options, images, {}, 0
        if min(images.shape[1:3]) < SMALLEST:
            height, width = images.shape[1:3]
            raise UserError(
                f"mit: expected images of at least {SMALLEST}x{SMALLEST} pixels, got {height}x{width}; take larger ones"
            )
        dropping, recomputed = train and self.has_rng("dropout"), rematted(o.remat, STAGES)
        last = max(sum(o.blocks) - 1, 1)
        for stage, (count, heads, reduction) in enumerate(zip(o.blocks, HEADS, REDUCTIONS, strict=True), 1):
            block_class = nn.remat(Block, static_argnums=(2,)) if f"stage{stage}" in recomputed else Block
            patches = (7, 4) if stage == 1 else (3, 2)
            x = PatchEmbedding(o.width * heads, *patches, o.dtype, name=f"patch_embed{stage}")(x)
            for block in range(count):
                drop = o.drop_path * index / last
                x = block_class(heads, reduction, o.dtype, drop, name=f"block{stage}_{block}")(x, dropping)
                index += 1
            maps[f"stage{stage}"] = x = _norm(EPSILON, o.dtype, f"norm{stage}")(x)
        return collected(maps, collect, "mit")


def defaults(name: str) -> dict[str, Any]:
    """Returns how one of `SIZES` differs from the options' defaults."""
    return dict(zip(("width", "blocks"), SIZES[name], strict=True))


ENCODERS = {name: Entry(MixTransformer, MiTOptions, defaults(name), patterns(LAYERS)) for name in SIZES}
