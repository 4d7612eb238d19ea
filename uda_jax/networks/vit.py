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
from uda_jax.networks.base import Options, Remat, collected, patterns, remat_field, rematted
from uda_jax.networks.convolution import ConvParameters
from uda_jax.networks.encoder_adapters import TOKENS, Adapters, Tokens
from uda_jax.networks.parameters import parameter
from uda_jax.networks.positions import resize_table, rotary_table
from uda_jax.networks.vit_blocks import DRAWN, Block, layer_norm
from uda_jax.schema import config_field

# Names of the blocks' maps; no published network has more.
BLOCKS = tuple(f"block{i}" for i in range(40))
# For layer-wise decay every block is a layer; the final norm goes with the stem, as in VFM-UDA's code.
STEM = "(patch_embed/|pos_embed|cls_token|register_tokens|mask_token|norm/)"
LAYERS = (STEM, *(f"blocks_{i}/" for i in range(len(BLOCKS))))
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
      adapters: what learns in place of the encoder.
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
    adapters: Adapters = Adapters()
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
        ranks = [self.adapters.low_rank(i, self.depth) for i in range(self.depth)]
        self.blocks = [
            (nn.remat(Block) if name in again else Block)(self.heads, self.keyless, *options, rank)
            for name, rank in zip(BLOCKS, ranks, strict=False)
        ]
        if self.adapters.name == "rein":
            # Named by hand: the attribute of that name is the section.
            self.tokens = Tokens(self.depth, self.adapters.tokens, self.adapters.rank, self.dtype, name=TOKENS)
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

    def block(self, i: int, tokens: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Returns the tokens `[B, T, D]` after one of the blocks, of those before it."""
        tokens = self.blocks[i](tokens, rotation)
        if self.adapters.name != "rein":
            return tokens
        patches = self.tokens(tokens[:, self.prefix :], i)
        return jnp.concatenate([tokens[:, : self.prefix], patches], axis=1)

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
        for i in range(self.depth):
            outputs.append(tokens := self.block(i, tokens, rotation))

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
