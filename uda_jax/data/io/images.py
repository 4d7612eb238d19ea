"""Decoding image files with Pillow: exact values out, or one line that names the file.

A source is a path, or anything with `read_bytes()` whose `str()` names it, such as a file inside an archive
(`archives.File`). Pillow's `ImageFile.LOAD_TRUNCATED_IMAGES` stays False: half a picture is an error, never grey rows.

What Pillow would change without a word is refused or undone here: 16-bit colour, which it cuts to 8 bits, and grey
values of fewer than 8 bits, which it stretches. Pillow reads many formats, some by starting other programs (PostScript
by ghostscript): pictures are opened by `opened` alone, which knows the few that data sets have.
"""

import contextlib
import contextvars
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from uda_jax.data.io import jpeg, png
from uda_jax.data.io.files import cannot_read, read_file
from uda_jax.errors import UserError

# How the names of pictures end, everywhere; and of labels, which only PNG keeps exactly.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")
LABEL_ENDINGS = (".png",)
# Of arrays and of further pictures, which are not read.
UNREAD_ENDINGS = (".heic", ".heif", ".avif", ".jp2", ".tga", ".exr", ".npy", ".npz")
# Formats that are read, by their content, whatever the name ends with.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
# Formats of which one file may hold several pictures of equal rank. A camera's JPEG may hold smaller ones beside.
_PAGED = frozenset(("TIFF", "GIF", "WEBP", "PNG"))
# One of these is in a PNG that has an orientation.
_ORIENTED_PNG = (b"eXIf", b"Raw profile", b"adobe.xmp")
# What Pillow raises for damaged files: it depends on the format and on where the damage is.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError),
    *(struct.error, zlib.error),
)
# Whether pictures are proved only, see `proving`.
_PROVING: contextvars.ContextVar[bool] = contextvars.ContextVar("proving", default=False)
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")
_INDEX_MODES = ("L", "P")
_COUNT_MODES = ("L", "I;16", "I;16B", "I;16L", "I")


def read_image(source: Any) -> np.ndarray:
    """Reads a photograph.

    Args:
      source: a PNG, JPEG or other 8-bit image that Pillow knows; grey and palette images become RGB, an alpha
        channel is dropped. It is turned as its EXIF orientation says: people and tools draw labels on it as viewers
        show it.

    Returns:
      uint8 `[H, W, 3]`, RGB.

    Raises:
      UserError: the file is missing, cut off, not an image, holds several, is too large for Pillow, or has more than
        8 bits per channel.
    """
    return _read(source, _COLOUR_MODES, "an 8-bit colour or grey image", _rgb)


def read_label(source: Any) -> np.ndarray:
    """Reads a label map of stored ids: an 8-bit PNG with one channel, or a palette PNG, whose indices count.

    Returns:
      uint8 `[H, W]`, the ids as stored.

    Raises:
      UserError: as `read_image`, or the file has several channels or 16 bits, or is no PNG.
    """
    expected = "an 8-bit label map with one channel (grey or palette), one id per pixel"

    def ids(image: Image.Image, data: bytes) -> np.ndarray:
        if image.format != "PNG":
            raise UserError(f"{source}: expected a PNG, got {image.format}, which may change ids; save labels as PNG")
        if image.mode == "L" and png.bits_per_channel(data) != 8:
            raise UserError(
                f"{source}: expected {expected}, got {png.bits_per_channel(data)} bits per pixel; convert the file"
            )
        return np.array(image)

    return _read(source, _INDEX_MODES, expected, ids)


def read_painted(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """Reads a label map painted in colours. Rows and columns are those of the file, as for `read_label`.

    Returns:
      uint8 `[H, W, 3]`, RGB; and bool `[H, W]`, whether a pixel is transparent, so that it was not painted at all.

    Raises:
      UserError: as `read_image`.
    """

    def painted(image: Image.Image, data: bytes) -> np.ndarray:
        del data
        return np.array(image.convert("RGBA"))

    pixels = _read(source, _COLOUR_MODES, "an 8-bit label map painted in colours", painted)
    return pixels[..., :3], pixels[..., 3] == 0


def read_counts(source: Any, *, bits: tuple[int, ...] = (8, 16)) -> np.ndarray:
    """Reads stored counts at full depth: a PNG with one or three channels.

    Args:
      source: the file.
      bits: how many bits a channel may have. Of maps that were published with 16, a copy with 8 has lost most of its
        values and looks whole all the same.

    Returns:
      uint16 `[H, W]` or `[H, W, 3]` (red, green, blue).

    Raises:
      UserError: as `read_image`, or the file has a palette, an alpha channel, other bits, or is no PNG.
    """
    expected = f"a PNG of counts with one or three channels of {' or '.join(map(str, bits))} bits"

    def counts(image: Image.Image, data: bytes) -> np.ndarray:
        if png.bits_per_channel(data) not in bits:
            found = f"{png.bits_per_channel(data)} bits" if image.format == "PNG" else image.format
            raise UserError(f"{source}: expected {expected}, got {found}; copy the original file again")
        if image.mode == "RGB" and png.bits_per_channel(data) == 16:
            return png.read_rgb48(data)
        return np.array(image).astype(np.uint16)

    return _read(source, (*_COUNT_MODES, "RGB"), expected, counts)


def read_depth(source: Any, metres_per_count: float, *, bits: tuple[int, ...] = (8, 16)) -> np.ndarray:
    """Reads a depth map: a PNG of 16 (or 8) bits with one channel, or three equal ones, where 0 is "no value".

    Args:
      source: the file.
      metres_per_count: metres per stored unit, such as 0.01 for centimetres.
      bits: as in `read_counts`.

    Returns:
      float32 `[H, W]`, metres, 0 = invalid.

    Raises:
      UserError: as `read_image`, or the file has several channels that differ.
    """
    counts = read_counts(source, bits=bits)
    if counts.ndim == 3:
        if (counts != counts[..., :1]).any():
            raise UserError(
                f"{source}: expected a depth map with one channel of 8 or 16 bits, got three that differ; a picture of "
                "colours holds no depth"
            )
        counts = counts[..., 0]
    return (counts * np.float64(metres_per_count)).astype(np.float32)


def read_floats(source: Any) -> np.ndarray:
    """Reads what `png.write_floats` wrote.

    Returns:
      float32 `[H, W]`.

    Raises:
      UserError: as `read_image`, or the file does not have four channels.
    """
    return _read(source, ("RGBA",), "numbers in a PNG with four channels", _floats)


def damage(data: bytes) -> str | None:
    """Returns what is wrong with a PNG or JPEG although it may decode: lost ends, checksums, a decoder's warnings.

    The last bytes of a file may be missing although every pixel can be decoded; a copy that lost them lost them
    for a reason. None for files that are whole, and for other formats.
    """
    if jpeg.is_jpeg(data):
        with contextlib.suppress(jpeg.UnknownKindError):
            return jpeg.damage(data)
    if data.startswith(png.SIGNATURE) and not png.is_complete_png(data):
        return "its end, a part or a checksum is wrong"
    return None


@contextlib.contextmanager
def proving() -> Iterator[None]:
    """Within the block, `read_image` reads a JPEG as `damage` does and gives a picture of its size, or raises.

    That picture is black but for its first pixel, unless the file is of one colour all over. For whoever asks whether
    pictures can be read, and not for what they show: half the time of decoding them.
    """
    token = _PROVING.set(True)
    try:
        yield
    finally:
        _PROVING.reset(token)


def bytes_behind(data: bytes) -> int:
    """Returns how many bytes follow the end of a PNG or JPEG: some cameras put notes there. 0 for other formats."""
    if jpeg.is_jpeg(data):
        end = jpeg.end(data)
        # Another whole picture, such as a preview, is a part of the format.
        return 0 if jpeg.is_jpeg(data[end : end + 3]) else len(data) - end
    return len(data) - png.end(data) if data.startswith(png.SIGNATURE) else 0


def header(data: bytes) -> tuple[str, int | None]:
    """Returns Pillow's mode of an image and, for a PNG, its bits per channel.

    Raises:
      UnidentifiedImageError and others, as Pillow does.
    """
    with opened(data) as image:
        return image.mode, png.bits_per_channel(data)


def is_turned(data: bytes) -> bool:
    """Returns whether a picture's EXIF orientation asks for it to be turned or mirrored.

    Raises:
      UnidentifiedImageError and others, as Pillow does.
    """
    with opened(data) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)


def stored_size(source: Any, *, upright: bool = True) -> tuple[int, int]:
    """Returns (height, width) of a picture from its header alone: as `read_image` gives it, or as it is stored.

    Raises:
      UserError: as `read_image`.
    """

    return _guarded(source, _upright_size if upright else lambda image, data: image.size[::-1])


def opened(source: bytes | os.PathLike) -> Image.Image:
    """Opens a picture of one of `FORMATS`, which is decoded when it is used.

    Raises:
      UnidentifiedImageError and others, as Pillow does.
    """
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def _upright_size(image: Image.Image, data: bytes) -> tuple[int, int]:
    """Returns (height, width) of a picture once it is turned as its EXIF orientation says."""
    # Pillow decodes a PNG to look for an orientation behind its pixels.
    if image.format == "PNG" and not any(word in data for word in _ORIENTED_PNG):
        return image.size[::-1]
    swapped = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size if swapped else image.size[::-1]


def _rgb(image: Image.Image, data: bytes) -> np.ndarray:
    if _PROVING.get() and jpeg.is_jpeg(data):
        with contextlib.suppress(jpeg.UnknownKindError):
            reason, is_plain = jpeg.proved(data)
            if reason:
                raise _Refused(f"damaged: {reason}; copy it again")
            if not is_plain:
                stand_in = np.zeros((*_upright_size(image, data), 3), np.uint8)
                stand_in[0, 0] = 255
                return stand_in
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    # Converting what is RGB already would copy it once more.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _floats(image: Image.Image, data: bytes) -> np.ndarray:
    del data
    return np.array(image).view("<f4")[..., 0].astype(np.float32, copy=False)


class _Refused(Exception):
    """Why a sound file will not do."""


def _read(source: Any, modes: tuple[str, ...], expected: str, convert: Any) -> np.ndarray:
    """Returns `convert(image, data)` of a file whose Pillow mode must be one of `modes`."""

    def converted(image: Image.Image, data: bytes) -> np.ndarray:
        if image.mode not in modes:
            raise _Refused(f"expected {expected}, got Pillow mode {image.mode}; {_conversion(modes, image.mode)}")
        if image.format in _PAGED and (pages := getattr(image, "n_frames", 1)) > 1:
            raise _Refused(
                f"expected one picture, got {pages} in one file; write each into its own file, or read this one alone, "
                "as a video"
            )
        if convert is _rgb and png.bits_per_channel(data) == 16:
            raise _Refused(f"expected {expected}, got 16 bits per channel; convert the file")
        return convert(image, data)

    return _guarded(source, converted)


def _conversion(modes: tuple[str, ...], mode: str) -> str:
    """Says how to make a file of another Pillow mode one that is read."""
    if modes == _INDEX_MODES:
        painted = ", or list 'colours' in place of 'ids' in dataset.yaml if it is painted in colours"
        return f"save its ids as 8-bit grey{painted if mode.startswith('RGB') else ''}"
    return "save it with 8 bits per channel" if modes == _COLOUR_MODES else "convert the file"


def _no_picture(data: bytes) -> str:
    """Says what a file holds in place of a picture, and what to do."""
    start = data[:200].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "not the image but a pointer of Git LFS to it; run 'git lfs pull' where it was cloned"
    if start.startswith((b"<!doctype html", b"<html")):
        return "not an image but a web page, as failed downloads leave; download it again"
    return f"not an image that Pillow can read ({len(data)} bytes); replace or remove it"


def _guarded(source: Any, use: Any) -> Any:
    """Returns `use(image, data)` of a file; raises a UserError for whatever is wrong with it."""
    try:
        data = read_file(source) if isinstance(source, (str, os.PathLike)) else source.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; it was moved or removed after the data set was listed") from None
    except OSError as error:
        raise UserError(cannot_read(source, error)) from None
    try:
        with opened(data) as image:
            return use(image, data)
    except _Refused as reason:
        raise UserError(f"{source}: {reason}") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{source}: {_no_picture(data)}") from None
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UserError(f"{source}: larger than {limit} pixels, the most that is read; cut it into parts") from None
    except BROKEN as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: damaged image ({reason}); copy it again") from None
