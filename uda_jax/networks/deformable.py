"""Multi-scale deformable attention: every query reads a few points of its own in maps of several sizes.

Source: Deformable DETR (arXiv 2010.04159), in the form of VFM-UDA++'s released code (arXiv 2503.10685).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uda_jax.networks import initialisers
from uda_jax.networks.vit_blocks import Linear

Size = tuple[int, int]


class DeformableAttention(nn.Module):
    """Computed in float32, as in the reference.

    Attributes:
      heads: heads of the attention, each with points of its own.
      points: points per head and level.
      ratio: channels of the values over those of the queries.
    """

    heads: int
    points: int = 4
    ratio: float = 0.5

    @nn.compact
    def __call__(self, queries: jax.Array, places: np.ndarray, features: jax.Array, sizes: Sequence[Size]) -> jax.Array:
        """Attends.

        Args:
          queries: `[B, Q, D]`.
          places: of each query (x, y) in [0, 1], `[Q, 2]`.
          features: the maps' tokens, level after level, `[B, N, D]`.
          sizes: (rows, columns) of each level.

        Returns:
          float32 `[B, Q, D]`.
        """
        batch, count, width = queries.shape
        levels, heads, points = len(sizes), self.heads, self.points
        matrix = initialisers.xavier_uniform()
        channels = int(self.ratio * width)
        values = Linear(channels, jnp.float32, kernel_init=matrix, name="value_proj")(features)
        offsets = Linear(
            heads * levels * points * 2,
            jnp.float32,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(initial_offsets(heads, levels, points), dtype),
            name="sampling_offsets",
        )(queries)
        weights = Linear(
            heads * levels * points, jnp.float32, kernel_init=nn.initializers.zeros, name="attention_weights"
        )(queries)
        weights = jax.nn.softmax(weights.reshape(batch, count, heads, levels * points))
        weights = weights.reshape(batch, count, heads, levels, points)
        offsets = offsets.reshape(batch, count, heads, levels, points, 2)
        values = values.reshape(batch, -1, heads, channels // heads).transpose(0, 2, 1, 3)
        total, start = 0.0, 0
        for level, (rows, columns) in enumerate(sizes):
            part = jax.lax.slice_in_dim(values, start, start + rows * columns, axis=2)
            point = places[:, None, None] * np.array([columns, rows], np.float32) - 0.5 + offsets[:, :, :, level]
            total += sampled(part, point, weights[:, :, :, level], (rows, columns))
            start += rows * columns
        total = total.transpose(0, 2, 1, 3).reshape(batch, count, channels)
        return Linear(width, jnp.float32, kernel_init=matrix, name="output_proj")(total)


@functools.partial(jax.jit, static_argnums=3)
def sampled(values: jax.Array, places: jax.Array, weights: jax.Array, size: Size) -> jax.Array:
    """Returns the weighted sum of what a map holds at some points, zeros outside of it.

    One point of every query after the other, and in the backward pass read once more: what all points of all queries
    read would take as much memory as many maps.

    Args:
      values: the map's pixels, `[B, heads, rows * columns, C]`.
      places: points (x, y) in pixels, 0 the centre of the first, `[B, Q, heads, points, 2]`.
      weights: `[B, Q, heads, points]`.
      size: (rows, columns) of the map.

    Returns:
      `[B, heads, Q, C]`.
    """
    places, weights = (jnp.moveaxis(x, 3, 0).swapaxes(2, 3) for x in (places, weights))

    read = jax.checkpoint(functools.partial(_bilinear, size=size))

    def add(total: jax.Array, point: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + read(values, *point), None

    batch, heads, _, channels = values.shape
    zeros = jnp.zeros((batch, heads, places.shape[3], channels), values.dtype)
    return jax.lax.scan(add, zeros, (places, weights))[0]


def _bilinear(values: jax.Array, places: jax.Array, weights: jax.Array, size: Size) -> jax.Array:
    """Returns what a map `[B, heads, rows * columns, C]` holds at one point of each query `[B, heads, Q, 2]`."""
    rows, columns = size
    low = jnp.floor(places)
    blend = places - low
    low = low.astype(jnp.int32)
    total = 0.0
    for down in (0, 1):
        for right in (0, 1):
            x, y = low[..., 0] + right, low[..., 1] + down
            share = jnp.abs(1 - right - blend[..., 0]) * jnp.abs(1 - down - blend[..., 1])
            inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
            index = jnp.clip(y, 0, rows - 1) * columns + jnp.clip(x, 0, columns - 1)
            read = jnp.take_along_axis(values, index[..., None], axis=2)
            total += read * jnp.where(inside, share * weights, 0.0)[..., None]
    return total


def initial_offsets(heads: int, levels: int, points: int) -> np.ndarray:
    """Returns the first bias of the offsets `[heads * levels * points * 2]`.

    Heads look into different directions, on the square around their query, and their points 1, 2, ... steps far.
    """
    angles = 2.0 * math.pi * np.arange(heads) / heads
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    directions /= np.abs(directions).max(axis=-1, keepdims=True)
    steps = np.arange(1, points + 1)[:, None]
    grid = np.broadcast_to(directions[:, None, None] * steps, (heads, levels, points, 2))
    return grid.reshape(-1).astype(np.float32)


def centres(size: Size) -> np.ndarray:
    """Returns the centres (x, y) in [0, 1] of the cells of a grid, row after row, `[rows * columns, 2]`."""
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in size), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
