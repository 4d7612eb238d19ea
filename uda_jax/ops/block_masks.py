"""Masks that hide square blocks of an image, which a network then has to tell from what is around them.

Source: MIC (arXiv 2212.01322), section 3.2, with its released code.
"""

import jax

from uda_jax.ops.resize import resize_nearest_legacy


def block_grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """Returns how many (rows, columns) of blocks an image of a size has: rounded, halves to the even number."""
    return tuple(max(1, round(side / block)) for side in size)


def block_mask(uniform: jax.Array, size: tuple[int, int], ratio: float) -> jax.Array:
    """Marks the pixels that stay.

    Args:
      uniform: a number from [0, 1) for each block `[B, rows, columns]`.
      size: (height, width) of the image in pixels, static.
      ratio: share of blocks that are hidden.

    Returns:
      bool `[B, *size]`, False in the blocks whose number is at most `ratio`.
    """
    return resize_nearest_legacy(uniform > ratio, size)
