"""Where the tokens of vision transformers lie: resized tables of positions, and rotary positions.

Source: DINOv2 (arXiv 2304.07193), its variant with registers (arXiv 2309.16588) and DINOv3 (arXiv 2508.10104), as their
released code computes them.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Added to the grid's sides before the scale is taken, in the models without registers.
OFFSET = 0.1
# Of the cubic kernel of PyTorch's interpolation.
SHARPNESS = -0.75
ROTARY_BASE = 100.0


def resize_table(table: jax.Array, grid: tuple[int, int], *, antialias: bool) -> jax.Array:
    """Returns a table of positions interpolated to another grid, in float32.

    Args:
      table: `[M, M, D]`.
      grid: rows and columns of tokens; those of the table return it as it is.
      antialias: the rule of the models with registers, a cubic of sharpness -0.5 that is wider where the grid is
        smaller; otherwise PyTorch's cubic without antialiasing, whose scale (n + 0.1) / M shifts every sample a little.

    Returns:
      `[*grid, D]`.
    """
    table = table.astype(jnp.float32)
    if table.shape[:2] == grid:
        return table
    if antialias:
        return jax.image.resize(table, (*grid, table.shape[-1]), "cubic", antialias=True)
    rows, columns = (_cubic_matrix(n_in, n_out) for n_in, n_out in zip(table.shape[:2], grid, strict=True))
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, table, precision=jax.lax.Precision.HIGHEST)


def _cubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Returns the float32 `[n_out, n_in]` matrix whose rows hold the four weights of each output."""
    # Keys' kernel within one pixel and between one and two.
    near = lambda x: ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1  # noqa: E731
    far = lambda x: SHARPNESS * (((x - 5) * x + 8) * x - 4)  # noqa: E731
    position = (np.arange(n_out) + 0.5) / ((n_out + OFFSET) / n_in) - 0.5
    low = np.floor(position).astype(np.int64)
    blend = position - low
    matrix = np.zeros((n_out, n_in))
    for shift, weight in ((-1, far(blend + 1)), (0, near(blend)), (1, near(1 - blend)), (2, far(2 - blend))):
        # Added, not assigned: beyond the border every weight goes to the border's own pixel.
        np.add.at(matrix, (np.arange(n_out), np.clip(low + shift, 0, n_in - 1)), weight)
    return matrix.astype(np.float32)


def rotary_table(grid: tuple[int, int], size: int) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of the angles that the tokens of a grid are turned by.

    A token's angles are 2 pi (y / p_k, x / p_k), its place in [-1, 1] along each axis over the periods of
    `rotary_periods`, and these once more.

    Args:
      grid: rows and columns of tokens.
      size: channels of an attention head, a multiple of 4.

    Returns:
      Two float32 `[rows * columns, size]`.
    """
    places = (2.0 * (np.arange(n) + 0.5) / n - 1.0 for n in grid)
    y, x = np.meshgrid(*places, indexing="ij")
    angles = 2.0 * np.pi * np.stack([y, x], axis=-1)[..., None] / rotary_periods(size)
    angles = np.tile(angles.reshape(-1, size // 2), 2)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotary_periods(size: int) -> np.ndarray:
    """Returns the periods 100^(4k / size), k = 0 .. size / 4 - 1, of a head of so many channels."""
    return ROTARY_BASE ** (4.0 * np.arange(size // 4) / size)


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the last tokens of queries or keys by their angles; those before them, which have no place, stay.

    Args:
      x: `[B, T, heads, size]`.
      table: from `rotary_table`, for the last of the T tokens.

    Returns:
      `[B, T, heads, size]` of the same type; the turn itself is computed in float32.
    """
    cosine, sine = (part[:, None] for part in table)
    prefix = x.shape[1] - cosine.shape[0]
    patches = x[:, prefix:].astype(jnp.float32)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([x[:, :prefix], turned.astype(x.dtype)], axis=1)
