"""Resizing as OpenCV does it, with which mmsegmentation and what builds on it train: two taps, without antialiasing.

Images are interpolated with weights of 11 bits, as for 8-bit images there; OpenCV's own vectors round some pixels by
one grey level otherwise.
"""

import numpy as np

Size = tuple[int, int]

_BITS = 11


def linear(array: np.ndarray, size: Size) -> np.ndarray:
    """Returns a map `[H, W, ...]` at a size (height, width): uint8 rounded as an image, other types as they are."""
    (rows, next_rows, down), (columns, next_columns, right) = (
        _taps(have, want) for have, want in zip(array.shape[:2], size, strict=True)
    )
    trailing = (1,) * (array.ndim - 2)
    down, right = down.reshape(-1, 1, *trailing), right.reshape(1, -1, *trailing)
    if array.dtype != np.uint8:
        across = array[:, columns] * (1 - right) + array[:, next_columns] * right
        return (across[rows] * (1 - down) + across[next_rows] * down).astype(array.dtype)
    one = 1 << _BITS
    down, right = (np.rint(weight * one).astype(np.int32) for weight in (down, right))
    across = array[:, columns] * (one - right) + array[:, next_columns] * right
    total = across[rows] * (one - down) + across[next_rows] * down
    return ((total + (1 << (2 * _BITS - 1))) >> (2 * _BITS)).astype(np.uint8)


def nearest(array: np.ndarray, size: Size) -> np.ndarray:
    """Returns a map `[H, W, ...]` at a size (height, width): pixel i is that at floor(i * old / new)."""
    rows, columns = (
        np.minimum(np.arange(want) * have // want, have - 1) for have, want in zip(array.shape[:2], size, strict=True)
    )
    return array[rows[:, None], columns]


def _taps(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two pixels that each pixel of an axis is read from, and the weight of the second."""
    position = np.maximum((np.arange(want) + 0.5) * (have / want) - 0.5, 0.0)
    first = np.minimum(np.floor(position).astype(np.int64), have - 1)
    return first, np.minimum(first + 1, have - 1), (position - first).astype(np.float32)
