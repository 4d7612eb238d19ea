"""Pillow's resizing of 8-bit images, to the bit, within a program: what `data.pipeline.transforms` does outside."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Pillow counts the weights of a filter in units of 2**-22.
_BITS = 22
_CUBIC = -0.5


def _bilinear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((_CUBIC + 2.0) * x - (_CUBIC + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * _CUBIC if x < 2.0 else 0.0


# Name -> the filter, and how far it reaches in pixels of the smaller image.
_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}


def resize_as_pillow(images: jax.Array, size: tuple[int, int], rule: str) -> jax.Array:
    """Resizes images as `PIL.Image.resize` does, columns first, with its rounding to 8 bits after each axis.

    Args:
      images: uint8 `[B, H, W, C]`; height and width are static.
      size: height and width of the result.
      rule: "bilinear" or "bicubic"; both are antialiased when shrinking.

    Returns:
      uint8 `[B, *size, C]`.
    """
    if images.shape[2] != size[1]:
        images = _along(images, "xw,bhwc->bhxc", _weights(images.shape[2], size[1], rule))
    if images.shape[1] != size[0]:
        images = _along(images, "yh,bhwc->bywc", _weights(images.shape[1], size[0], rule))
    return images


def _along(images: jax.Array, product: str, weights: np.ndarray) -> jax.Array:
    """Returns the weighted sums along one axis, as uint8. Whole numbers, so that every backend gets the same."""
    sums = jnp.einsum(product, weights, images.astype(jnp.int32)) + 2 ** (_BITS - 1)
    return jnp.clip(jnp.right_shift(sums, _BITS), 0, 255).astype(jnp.uint8)


def _weights(n_in: int, n_out: int, rule: str) -> np.ndarray:
    """Returns the int32 `[n_out, n_in]` matrix of a filter's weights."""
    kernel, reach = _FILTERS[rule]
    step = n_in / n_out
    wider = max(step, 1.0)
    matrix = np.zeros((n_out, n_in), np.int32)
    for i in range(n_out):
        centre = (i + 0.5) * step
        first = max(int(centre - reach * wider + 0.5), 0)
        end = min(int(centre + reach * wider + 0.5), n_in)
        row = [kernel((j - centre + 0.5) / wider) for j in range(first, end)]
        # Added up in order, as Pillow does: NumPy's sum rounds otherwise.
        total = sum(row)
        matrix[i, first:end] = [math.trunc(math.copysign(0.5, w) + w / total * 2**_BITS) for w in row]
    return matrix
