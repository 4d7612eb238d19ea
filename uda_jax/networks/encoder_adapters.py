"""What learns inside a foundation encoder whose own blocks are frozen: low-rank parts of matrices, or tokens.

Source: SoMA (Yun et al., CVPR 2025) and Rein (Wei et al., CVPR 2024), with SoMA's released code.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.parameters import parameter
from uda_jax.schema import Named, config_field

# Of tokens, of the first low-rank parts and of Rein's layers, where no weights are at hand.
DRAWN = initialisers.normal(0.02)
# The parameters of a low-rank part beside the "kernel" that it is added to; and, in the encoder, the tokens' module.
LOW_RANK = ("low_rank_in", "low_rank_out")
TOKENS = "adapters"


@dataclasses.dataclass(frozen=True)
class Adapters(Named):
    """Section: what learns in the encoder in place of all of it. Its name adds fields to this one."""

    name: str = config_field(
        "none",
        "none: the whole encoder learns; soma: low-rank parts of the matrices of its later blocks, made of their "
        "smallest singular values, and these layers' biases; rein: tokens that every block's patches look at. With "
        "either the rest is frozen, and is in memory once for student and teacher.",
        choices=("none", "soma", "rein"),
    )

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of the adapters."""
        return tuple(_KINDS)

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns an adapter's own fields."""
        return _KINDS[name], {}

    def low_rank(self, block: int, depth: int) -> int:
        """Returns the rank of what is added to the matrices of one of an encoder's blocks; 0 = nothing."""
        return self.rank if self.name == "soma" and block >= self.first_of(depth) else 0

    def first_of(self, depth: int) -> int:
        """Returns the first block with low-rank parts."""
        return depth // 3 if self.first_block is None else self.first_block

    def learns(self, path: str, depth: int) -> bool:
        """Whether a parameter of a segmenter, such as "encoder/blocks_3/attn/qkv/bias", learns."""
        if self.name == "none" or not path.startswith("encoder/"):
            return True
        if self.name == "rein":
            return path.startswith(f"encoder/{TOKENS}/")
        found = re.match(r"encoder/blocks_(\d+)/(attn|mlp)/\w+/(\w+)$", path)
        return bool(found) and int(found[1]) >= self.first_of(depth) and found[3] != "kernel"


@dataclasses.dataclass(frozen=True)
class NoFields:
    """The fields of "none" alone."""


@dataclasses.dataclass(frozen=True)
class SomaFields:
    """The fields of "soma" alone: W = W_r + A B, of which W_r is frozen."""

    rank: int = config_field(16, "Singular values of each matrix that learn, the smallest ones.", low=1)
    first_block: int | None = config_field(
        None, "First block whose matrices learn; None = after a third of them, as block 8 of DINOv2-L's 24.", low=0
    )


@dataclasses.dataclass(frozen=True)
class ReinFields:
    """The fields of "rein" alone."""

    tokens: int = config_field(100, "Tokens of every block, the first of which takes the weight that is left.", low=2)
    rank: int = config_field(16, "Rank of a block's matrix of tokens.", low=1)


_KINDS = {"none": NoFields, "soma": SomaFields, "rein": ReinFields}


class Tokens(nn.Module):
    """Rein: x + s MLP_f(softmax(x T^T / sqrt(D)) MLP_t(T) + x), T the tokens of a block and s a number that learns.

    Tokens are the product of two matrices of low rank; the first one of a block only takes a share of the softmax. The
    two layers MLP_t and MLP_f are those of all blocks. That all start from N(0, 0.02^2) is a choice.

    Attributes:
      depth: blocks.
      tokens, rank: see `ReinFields`.
      dtype: type of the computation.
    """

    depth: int
    tokens: int
    rank: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, block: int) -> jax.Array:
        """Returns float32 patches `[B, N, D]` for those that a block has made, `[B, N, D]`."""
        width = x.shape[-1]
        left = parameter(self, "tokens_in", DRAWN, (self.depth, self.tokens, self.rank))
        right = parameter(self, "tokens_out", DRAWN, (self.depth, self.rank, width))
        scale = parameter(self, "scale", nn.initializers.constant(0.001), ())
        options = {"dtype": self.dtype, "kernel_init": DRAWN}
        tokens, seen = (left[block] @ right[block]).astype(self.dtype), x.astype(self.dtype)
        similarity = (seen @ tokens.T).astype(jnp.float32) / jnp.sqrt(width)
        shares = jax.nn.softmax(similarity)[..., 1:].astype(self.dtype)
        found = shares @ nn.Dense(width, name="token_mlp", **options)(tokens[1:])
        added = nn.Dense(width, name="feature_mlp", **options)(found + seen)
        return x + scale * added.astype(jnp.float32)


def smallest_singular(kernel: jax.Array, rank: int, parts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits a matrix W into W_r + A B, of which A B are the triples of its smallest singular values.

    Args:
      kernel: `[C_in, C_out]`.
      rank: how many; at most as many as there are.
      parts: matrices side by side that are split each for itself, such as those of queries, keys and values.

    Returns:
      W_r `[C_in, C_out]`, A `[parts, C_in, rank]` and B `[parts, rank, C_out / parts]`.
    """
    split = kernel.reshape(len(kernel), parts, -1).transpose(1, 0, 2)
    left, values, right = jnp.linalg.svd(split, full_matrices=False)
    roots = jnp.sqrt(values[:, -rank:])
    into, out = left[:, :, -rank:] * roots[:, None], roots[:, :, None] * right[:, -rank:]
    return kernel - product(into, out), into, out


def product(into: jax.Array, out: jax.Array) -> jax.Array:
    """Returns A B `[C_in, C_out]` for A `[parts, C_in, rank]` and B `[parts, rank, C_out / parts]`."""
    added = jnp.einsum("pir,pro->ipo", into, out, precision="highest")
    return added.reshape(into.shape[1], -1)
