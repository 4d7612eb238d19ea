"""Decoding of image files with Pillow: exact values out, or one line that names the file.

Pillow's `ImageFile.LOAD_TRUNCATED_IMAGES` stays False: half a picture is an error, never grey rows.
"""

import os

import numpy as np
from PIL import Image

from uda_jax.errors import UserError

_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")
_INDEX_MODES = ("L", "P")
_COUNT_MODES = ("L", "I;16", "I;16B", "I;16L", "I")


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads a photograph.

    Args:
      path: a PNG, JPEG or other 8-bit image that Pillow knows; grey and palette images become RGB, an alpha
        channel is dropped. Rows and columns are those of the file: EXIF orientation is not applied, since
        labels do not carry it.

    Returns:
      uint8 `[H, W, 3]`, RGB.

    Raises:
      UserError: the file is missing, cut off, not an image, or has more than 8 bits per channel.
    """
    return _read(path, _COLOUR_MODES, "an 8-bit colour or grey image", convert="RGB")


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Reads a label map of stored ids: an 8-bit PNG with one channel, or a palette PNG, whose indices count.

    Returns:
      uint8 `[H, W]`, the ids as stored.

    Raises:
      UserError: as `read_image`, or the file has several channels or 16 bits.
    """
    return _read(path, _INDEX_MODES, "an 8-bit label map with one channel (grey or palette), one id per pixel")


def read_depth(path: str | os.PathLike, metres_per_count: float) -> np.ndarray:
    """Reads a depth map: a 16-bit (or 8-bit) PNG with one channel, where 0 is "no value".

    Args:
      path: the file.
      metres_per_count: metres per stored unit, such as 0.01 for centimetres.

    Returns:
      float32 `[H, W]`, metres, 0 = invalid.

    Raises:
      UserError: as `read_image`, or the file has several channels.
    """
    counts = _read(path, _COUNT_MODES, "a depth map with one channel of 8 or 16 bits")
    return (counts * np.float64(metres_per_count)).astype(np.float32)


def _read(path: str | os.PathLike, modes: tuple[str, ...], expected: str, convert: str | None = None) -> np.ndarray:
    """Returns the decoded array of a file whose Pillow mode must be one of `modes`."""
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise UserError(f"{path}: expected {expected}, got Pillow mode {image.mode}; convert the file")
            return np.array(image.convert(convert) if convert else image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it was moved or removed after the data set was listed") from None
    except Image.UnidentifiedImageError:
        size = os.path.getsize(path)
        raise UserError(f"{path}: not an image that Pillow can read ({size} bytes); replace or remove it") from None
    # What Pillow raises for damaged files depends on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: damaged image ({error}); copy it again") from None
