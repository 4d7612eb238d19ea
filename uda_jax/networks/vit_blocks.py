"""The blocks of a vision transformer: attention and MLP, each behind a norm, each scaled.

Source: DINOv2 (arXiv 2304.07193) and DINOv3 (arXiv 2508.10104) with their released code.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.encoder_adapters import LOW_RANK
from uda_jax.networks.initialisers import Initialiser
from uda_jax.networks.parameters import parameter
from uda_jax.networks.positions import rotate
from uda_jax.ops.attention import attention

# The published networks start from their weights. Where they do not, matrices and tokens are drawn from N(0, 0.02^2).
DRAWN = initialisers.normal(0.02)


def hidden_width(width: int, ratio: int) -> int:
    """Returns the hidden channels of SwiGLU: two thirds of `ratio` times the width, up to a multiple of 8."""
    return -(-(2 * ratio * width // 3) // 8) * 8


class Linear(nn.Module):
    """A linear layer `x @ kernel + bias`.

    Attributes:
      features: output channels.
      dtype: type of the computation and of the result.
      keyless: whether the middle third of the bias, that of the keys, counts as 0 whatever it is.
      kernel_init, bias_init: where the parameters start.
      rank: of a product of two matrices that is added to the kernel, and starts as 0; 0 = none.
      parts: equal parts of the output, each of which has such a product of its own.
    """

    features: int
    dtype: Any
    keyless: bool = False
    kernel_init: Initialiser = DRAWN
    bias_init: Initialiser = nn.initializers.zeros
    rank: int = 0
    parts: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[..., features]` for `x` `[..., C]`."""
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", self.bias_init, (self.features,))
        if self.keyless:
            third = jnp.arange(self.features) // (self.features // 3)
            bias = jnp.where(third == 1, 0.0, bias)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
        return y + self._low_rank(x) if self.rank else y

    def _low_rank(self, x: jax.Array) -> jax.Array:
        shapes = (self.parts, x.shape[-1], self.rank), (self.parts, self.rank, self.features // self.parts)
        starts = DRAWN, nn.initializers.zeros
        into, out = (
            parameter(self, name, start, shape).astype(self.dtype)
            for name, start, shape in zip(LOW_RANK, starts, shapes, strict=True)
        )
        inner = jnp.einsum("...i,pir->...pr", x.astype(self.dtype), into)
        return jnp.einsum("...pr,pro->...po", inner, out).reshape(*x.shape[:-1], self.features)


class Attention(nn.Module):
    """Attention of all tokens to all tokens.

    Attributes:
      heads: see `ViTOptions`.
      keyless: whether keys have no bias.
      dtype: type of the computation.
      rank: of what is added to each of the four matrices, see `Linear`.
    """

    heads: int
    keyless: bool
    dtype: Any
    rank: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`; `rotation` as `rotate` takes it, or None."""
        batch, tokens, width = x.shape
        qkv = Linear(3 * width, self.dtype, self.keyless, rank=self.rank, parts=3, name="qkv")(x)
        queries, keys, values = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        mixed = attention(queries, keys, values).reshape(batch, tokens, width)
        return Linear(width, self.dtype, rank=self.rank, name="proj")(mixed)


class Mlp(nn.Module):
    """Two linear layers with GELU between them, or SwiGLU: w3(silu(w1 x) * w2 x).

    Attributes:
      kind: one of `MLPS`.
      ratio: of the hidden channels to the width; SwiGLU has two thirds of that.
      dtype: type of the computation.
      rank: of what is added to each matrix, see `Linear`.
    """

    kind: str
    ratio: int
    dtype: Any
    rank: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`."""
        width, linear = x.shape[-1], functools.partial(Linear, dtype=self.dtype, rank=self.rank)
        if self.kind == "gelu":
            hidden = nn.gelu(linear(self.ratio * width, name="fc1")(x), approximate=False)
            return linear(width, name="fc2")(hidden)
        hidden = hidden_width(width, self.ratio)
        gate = nn.silu(linear(hidden, name="w1")(x))
        return linear(width, name="w3")(gate * linear(hidden, name="w2")(x))


class Scale(nn.Module):
    """LayerScale: `gamma` `[D]` times what a branch adds; it starts at `start`."""

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `[B, T, D]` scaled, in float32."""
        gamma = parameter(self, "gamma", nn.initializers.constant(self.start), (x.shape[-1],))
        return x.astype(jnp.float32) * gamma


class Block(nn.Module):
    """t <- t + gamma_1 Attention(LN(t)); t <- t + gamma_2 MLP(LN(t)).

    The sum stays float32, whatever the branches compute in.

    Attributes:
      heads, keyless: of the attention.
      mlp, ratio: of the MLP.
      epsilon: of the norms.
      scale: start of LayerScale.
      dtype: type of the branches.
      rank: of what is added to each matrix of the branches, see `Linear`.
    """

    heads: int
    keyless: bool
    mlp: str
    ratio: int
    epsilon: float
    scale: float
    dtype: Any
    rank: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`, both float32."""
        added = Attention(self.heads, self.keyless, self.dtype, self.rank, name="attn")(
            layer_norm(self.epsilon, "norm1")(x), rotation
        )
        x = x + Scale(self.scale, name="ls1")(added)
        added = Mlp(self.mlp, self.ratio, self.dtype, self.rank, name="mlp")(layer_norm(self.epsilon, "norm2")(x))
        return x + Scale(self.scale, name="ls2")(added)


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Returns a layer norm over the channels, whose statistics and result are float32."""
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)
