"""Resizing with PyTorch's coordinate rules, which the reference implementations train and test with."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, int], *, align_corners: bool) -> jax.Array:
    """Interpolates maps bilinearly, without antialiasing.

    Along one axis output i reads the input at i (n_in - 1) / (n_out - 1) when corners are aligned, otherwise at
    max((i + 0.5) n_in / n_out - 0.5, 0), and blends the two neighbours linearly (`torch.nn.functional.interpolate`).

    Args:
      x: maps `[B, H, W, C]`, any float dtype.
      size: output height and width `(h, w)`, static.
      align_corners: whether the corner pixels' centres coincide. The DeepLab-v2 references use True.

    Returns:
      float32 maps `[B, h, w, C]`; `x` itself, as float32, where the size does not change.
    """
    x = x.astype(jnp.float32)
    # Two small matrices instead of a gather of four neighbours: the gradient is two more products rather than a
    # scatter, and the batch stays sharded. Height first is the faster order for the forward pass. The precision is
    # pinned because accelerators would otherwise multiply float32 in bfloat16 or TF32.
    if x.shape[1] != size[0]:
        rows = _matrix(x.shape[1], size[0], align_corners)
        x = jnp.einsum("yh,bhwc->bywc", rows, x, precision=jax.lax.Precision.HIGHEST)
    if x.shape[2] != size[1]:
        columns = _matrix(x.shape[2], size[1], align_corners)
        x = jnp.einsum("xw,bywc->byxc", columns, x, precision=jax.lax.Precision.HIGHEST)
    return x


def resize_nearest_legacy(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Samples maps at floor(i n_in / n_out), computed in float32 as PyTorch's "nearest" does.

    Not the rule of Pillow and of `jax.image.resize`, which take the pixel at floor((i + 0.5) n_in / n_out). Where
    i n_in / n_out is a whole number, float32 rounding decides which pixel is read, so the dtype is part of the rule.

    Args:
      labels: maps `[B, H, W]`, any dtype; trailing axes are carried along.
      size: output height and width `(h, w)`, static.

    Returns:
      Maps `[B, h, w]` of the same dtype.
    """
    rows, columns = (_nearest_indices(n_in, n_out) for n_in, n_out in zip(labels.shape[1:3], size, strict=True))
    return labels[:, rows[:, None], columns[None, :]]


def _matrix(n_in: int, n_out: int, align_corners: bool) -> np.ndarray | jax.Array:
    known = isinstance(n_in, int) and isinstance(n_out, int)
    return (_interpolation_matrix if known else _traced_matrix)(n_in, n_out, align_corners)


def _interpolation_matrix(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
    """Returns the float32 `[n_out, n_in]` matrix whose rows hold the two weights of each output."""
    if align_corners:
        # A single output reads position 0.
        position = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    else:
        position = np.maximum((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0.0)
    # The last position may exceed the last index by a rounding error.
    low = np.minimum(np.floor(position).astype(np.int64), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    blend = position - low
    matrix = np.zeros((n_out, n_in))
    # Added, not assigned: low and high are the same pixel at the far border.
    np.add.at(matrix, (np.arange(n_out), low), 1.0 - blend)
    np.add.at(matrix, (np.arange(n_out), high), blend)
    return matrix.astype(np.float32)


def _traced_matrix(n_in: int, n_out: int, align_corners: bool) -> jax.Array:
    """Computes `_interpolation_matrix` within a program for any size, whose lengths are not known while it is traced.

    In whole numbers up to the blend, so that no rounding error moves an output to another pixel.
    """
    index = jnp.arange(n_out)
    if align_corners:
        numerator, denominator = index * (n_in - 1), jnp.maximum(n_out - 1, 1)
    else:
        numerator, denominator = jnp.maximum((2 * index + 1) * n_in - n_out, 0), 2 * n_out
    low = jnp.minimum(numerator // denominator, n_in - 1)[:, None]
    blend = ((numerator % denominator) / denominator).astype(jnp.float32)[:, None]
    column = jnp.arange(n_in)
    high = jnp.minimum(low + 1, n_in - 1)
    return jnp.where(column == low, 1.0 - blend, 0.0) + jnp.where(column == high, blend, 0.0)


def _nearest_indices(n_in: int, n_out: int) -> np.ndarray:
    scale = np.float32(n_in) / np.float32(n_out)
    return np.minimum((np.arange(n_out, dtype=np.float32) * scale).astype(np.int64), n_in - 1)
