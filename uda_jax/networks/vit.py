"""The vision transformer of DINOv2 and DINOv3: tokens of square patches, pre-normed blocks, maps of every block.

Source: DINOv2 (arXiv 2304.07193) and DINOv3 (arXiv 2508.10104) with their released code. Module names follow the
published checkpoints, `blocks.3.attn.qkv` being `blocks_3/attn/qkv`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks import initialisers
from uda_jax.networks.base import Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.convolution import ConvParameters
from uda_jax.networks.initialisers import Initialiser
from uda_jax.networks.parameters import parameter
from uda_jax.networks.positions import resize_table, rotary_table, rotate
from uda_jax.ops.attention import attention
from uda_jax.schema import config_field

# Names of the blocks' maps; no published network has more.
BLOCKS = tuple(f"block{i}" for i in range(40))
# For layer-wise decay every block is a layer; the final norm goes with the stem, as in VFM-UDA's code.
STEM = "(patch_embed/|pos_embed|cls_token|register_tokens|mask_token|norm/)"
LAYERS = (STEM, *(f"blocks_{i}/" for i in range(len(BLOCKS))))
# The published networks start from their weights. Where they do not, matrices and tokens are drawn from N(0, 0.02^2).
DRAWN = initialisers.normal(0.02)
MLPS = ("gelu", "swiglu")


@dataclasses.dataclass(frozen=True)
class ViTOptions(Options):
    """Options of the vision transformers."""

    width: int = config_field(384, "Channels of a token.", low=1)
    depth: int = config_field(12, "Blocks.", low=1, high=len(BLOCKS))
    heads: int = config_field(6, "Heads of the attention, which share the channels evenly.", low=1)
    mlp: str = config_field(
        "gelu", "What follows the attention: a layer of 4 times the channels with GELU, or SwiGLU.", choices=MLPS
    )
    remat: Remat = remat_field(BLOCKS)

    def check(self, path: str) -> None:
        """Raises a UserError for sizes that do not fit together."""
        if self.width % (4 * self.heads):
            raise UserError(
                f"{path}.heads: expected heads of a multiple of 4 channels each, got {self.heads} for a width of "
                f"{self.width}"
            )
        absent = [name for name in rematted(self.remat, BLOCKS[self.depth :]) if name in self.remat]
        if absent and isinstance(self.remat, (tuple, list)):
            raise UserError(f"{path}.remat: expected blocks below depth = {self.depth}, got '{absent[0]}'")


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
    """

    features: int
    dtype: Any
    keyless: bool = False
    kernel_init: Initialiser = DRAWN
    bias_init: Initialiser = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[..., features]` for `x` `[..., C]`."""
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", self.bias_init, (self.features,))
        if self.keyless:
            third = jnp.arange(self.features) // (self.features // 3)
            bias = jnp.where(third == 1, 0.0, bias)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class Attention(nn.Module):
    """Attention of all tokens to all tokens.

    Attributes:
      heads: see `ViTOptions`.
      keyless: whether keys have no bias.
      dtype: type of the computation.
    """

    heads: int
    keyless: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`; `rotation` as `rotate` takes it, or None."""
        batch, tokens, width = x.shape
        qkv = Linear(3 * width, self.dtype, self.keyless, name="qkv")(x)
        queries, keys, values = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        mixed = attention(queries, keys, values).reshape(batch, tokens, width)
        return Linear(width, self.dtype, name="proj")(mixed)


class Mlp(nn.Module):
    """Two linear layers with GELU between them, or SwiGLU: w3(silu(w1 x) * w2 x).

    Attributes:
      kind: one of `MLPS`.
      ratio: of the hidden channels to the width; SwiGLU has two thirds of that.
      dtype: type of the computation.
    """

    kind: str
    ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`."""
        width = x.shape[-1]
        if self.kind == "gelu":
            hidden = nn.gelu(Linear(self.ratio * width, self.dtype, name="fc1")(x), approximate=False)
            return Linear(width, self.dtype, name="fc2")(hidden)
        hidden = hidden_width(width, self.ratio)
        gate = nn.silu(Linear(hidden, self.dtype, name="w1")(x))
        return Linear(width, self.dtype, name="w3")(gate * Linear(hidden, self.dtype, name="w2")(x))


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
    """

    heads: int
    keyless: bool
    mlp: str
    ratio: int
    epsilon: float
    scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Returns `[B, T, D]` for tokens `[B, T, D]`, both float32."""
        added = Attention(self.heads, self.keyless, self.dtype, name="attn")(
            layer_norm(self.epsilon, "norm1")(x), rotation
        )
        x = x + Scale(self.scale, name="ls1")(added)
        added = Mlp(self.mlp, self.ratio, self.dtype, name="mlp")(layer_norm(self.epsilon, "norm2")(x))
        return x + Scale(self.scale, name="ls2")(added)


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Returns a layer norm over the channels, whose statistics and result are float32."""
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its size, as the matrix product that it is.

    Attributes:
      width: channels of a token.
      patch: sides of a patch in pixels.
      dtype: type of the computation.
    """

    width: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 tokens `[B, H / patch, W / patch, width]` for images `[B, H, W, C]`."""
        kernel, bias = ConvParameters(self.width, self.patch, use_bias=True, kernel_init=DRAWN, name="proj")(
            images.shape[-1]
        )
        batch, height, width, channels = images.shape
        patches = images.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(*patches.shape[:2], width // self.patch, -1)
        kernel = kernel.reshape(-1, self.width)
        return (patches.astype(self.dtype) @ kernel.astype(self.dtype)).astype(jnp.float32) + bias


class VisionTransformer(nn.Module):
    """The encoder; `dinov2.build` and `dinov3.build` say what differs between the two.

    Attributes:
      family: its name in messages.
      patch, width, depth, heads, mlp, ratio, epsilon, scale, keyless: see `Block` and `PatchEmbedding`.
      registers: further tokens after the class token, which have no place.
      table: sides of the table of positions; 0 = rotary positions instead.
      maskable: whether there is a `mask_token` that can stand for patches.
      remat: which of `BLOCKS` recompute their activations in the backward pass instead of keeping them.
      dtype: type of the computation; parameters, the sum of the blocks, norms and softmax stay float32.
    """

    family: str
    patch: int
    width: int
    depth: int
    heads: int
    mlp: str
    ratio: int
    epsilon: float
    scale: float
    keyless: bool = False
    registers: int = 0
    table: int = 0
    maskable: bool = True
    remat: Remat = ()
    dtype: Any = jnp.float32

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        again, options = rematted(self.remat, BLOCKS), (self.mlp, self.ratio, self.epsilon, self.scale, self.dtype)
        self.patch_embed = PatchEmbedding(self.width, self.patch, self.dtype)
        self.cls_token = parameter(self, "cls_token", DRAWN, (1, 1, self.width))
        if self.registers:
            self.register_tokens = parameter(self, "register_tokens", DRAWN, (1, self.registers, self.width))
        if self.table:
            self.pos_embed = parameter(self, "pos_embed", DRAWN, (1, 1 + self.table**2, self.width))
        if self.maskable:
            self.mask_token = parameter(self, "mask_token", nn.initializers.zeros, (1, self.width))
        self.blocks = [
            (nn.remat(Block) if name in again else Block)(self.heads, self.keyless, *options)
            for name in BLOCKS[: self.depth]
        ]
        self.norm = layer_norm(self.epsilon)

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return 1 + self.registers

    def grid(self, images: jax.Array) -> tuple[int, int]:
        """Returns rows and columns of tokens; raises a UserError for images that are no whole number of patches."""
        if any(side % self.patch for side in images.shape[1:3]):
            height, width = images.shape[1:3]
            raise UserError(
                f"{self.family}: expected images whose sides are multiples of {self.patch} pixels, its patch, got "
                f"{height}x{width}; crop or resize them"
            )
        return images.shape[1] // self.patch, images.shape[2] // self.patch

    def embed(
        self, images: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Returns the tokens before the first block, float32 `[B, T, D]`, and the rotation that all blocks take."""
        grid = self.grid(images)
        patches = self.patch_embed(images)
        if mask is not None:
            patches = jnp.where(mask[..., None], self.mask_token, patches)
        first, rotation = self.cls_token, None
        if self.table:
            first = first + self.pos_embed[:, :1]
            places = self.pos_embed[0, 1:].reshape(self.table, self.table, -1)
            patches = patches + resize_table(places, grid, antialias=self.registers > 0)
        else:
            rotation = rotary_table(grid, self.width // self.heads)
        prefix = [first, self.register_tokens] if self.registers else [first]
        prefix = [jnp.broadcast_to(part, (len(images), *part.shape[1:])) for part in prefix]
        return jnp.concatenate([*prefix, patches.reshape(len(images), -1, self.width)], axis=1), rotation

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        collect: Sequence[str] | None = None,
        mask: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes normalised images.

        Args:
          images: `[B, H, W, 3]`, normalised with ImageNet's mean and deviation; the patch divides both sides.
          train: accepted as every encoder does; nothing in this one depends on it.
          collect: names of the maps that are wanted; None = all.
          mask: bool `[B, h, w]`, True where the `mask_token` stands for the patch; None = nowhere.

        Returns:
          Maps by name, float32 `[B, h, w, D]` with h = H / patch: "block0" to the last block as they are, "normed0" to
          the last after the final norm, "features", which is the last of these, and of the normed tokens without a
          place "class_token" `[B, 1, 1, D]` and, if there are any, "registers" `[B, 1, n, D]`.

        Raises:
          UserError: sides that the patch does not divide, or an unknown name in `collect`.
        """
        del train
        grid = self.grid(images)
        tokens, rotation = self.embed(images, mask)
        outputs = []
        for block in self.blocks:
            outputs.append(tokens := block(tokens, rotation))

        def patches(x: jax.Array) -> jax.Array:
            return x[:, self.prefix :].reshape(len(images), *grid, -1)

        maps = {}
        for i, output in enumerate(outputs):
            maps |= {f"block{i}": lambda x=output: patches(x), f"normed{i}": lambda x=output: patches(self.norm(x))}
        maps["features"] = lambda: patches(self.norm(tokens))
        maps["class_token"] = lambda: self.norm(tokens)[:, None, :1]
        if self.registers:
            maps["registers"] = lambda: self.norm(tokens)[:, None, 1 : self.prefix]
        return {name: map() for name, map in collected(maps, collect, self.family).items()}


def layers(within: str = "") -> tuple[str, ...]:
    """Returns `Entry.layers` of a vision transformer, inside the module `within`."""
    return patterns(LAYERS, within)
