"""JPEG beyond what Pillow tells: whether the compressed data is sound, where the picture ends, and writing it quickly.

Pillow drops the warnings of its decoder, which fills what it cannot read with grey and goes on; simplejpeg hands them
out.
"""

import re
from typing import Any

import numpy as np
import simplejpeg

# A marker proper: in compressed data, FF 00 is a value, and FF D0 to FF D7 only divide it.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_START, _END, _SCAN, _TABLES = 0xD8, 0xD9, 0xDA, 0xDB


def is_jpeg(data: bytes) -> bool:
    """Returns whether a file begins as a JPEG does."""
    return data[:3] == b"\xff\xd8\xff"


def encode(picture: np.ndarray, quality: int = 90) -> bytes:
    """Returns the bytes of a JPEG file of a picture uint8 RGB `[H, W, 3]`, its colours at half the resolution."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


class UnknownKindError(ValueError):
    """A JPEG of a rare kind, which Pillow may read all the same."""


def damage(data: bytes) -> str | None:
    """Returns what is wrong with a JPEG, see `proved`; None if it is sound."""
    return proved(data)[0]


def proved(data: bytes) -> tuple[str | None, bool]:
    """Reads all of a JPEG's compressed data.

    A changed bit often decodes to another sound picture: what no decoder can see is not found here either. Only
    an eighth of the size is made of it, in half the time that the whole picture takes.

    Returns:
      What its decoder warns of, None if it is sound; and whether that small picture is all of one shade.

    Raises:
      UnknownKindError: this decoder does not read it.
    """
    if _has_zero_table(data):
        return "a table of quantisation holds zeros, which erase the picture", False
    options: dict[str, Any] = {"min_height": 1, "min_width": 1, "fastdct": True}
    try:
        colours = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        options["colorspace"] = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
        picture = simplejpeg.decode_jpeg(data, strict=True, **options)
    except (ValueError, KeyError) as warning:
        try:
            simplejpeg.decode_jpeg(data, strict=False, **options)
        except (ValueError, KeyError):
            raise UnknownKindError(str(warning)) from None
        return str(warning), False
    return None, bool((picture == picture[0, 0]).all())


def _has_zero_table(data: bytes) -> bool:
    """Returns whether a quantisation table has a zero, which the format forbids and decoders take as it is."""
    position = 2
    while match := _MARKER.search(data, position):
        code, start = match[1][0], match.end()
        size = int.from_bytes(data[start : start + 2], "big")
        if code in (_SCAN, _END):
            return False
        if code == _TABLES:
            at = start + 2
            while at < min(start + size, len(data)):
                step = 1 + (data[at] >> 4 != 0)
                values = data[at + 1 : at + 1 + 64 * step]
                if any(not any(values[k : k + step]) for k in range(0, len(values), step)):
                    return True
                at += 1 + 64 * step
        position = start if code == _START else start + max(size, 2)
    return False


def end(data: bytes) -> int:
    """Returns how many bytes of a JPEG belong to its first picture; all of them if its end is not found."""
    position = 2
    while match := _MARKER.search(data, position):
        code = match[1][0]
        if code == _END:
            return match.end()
        position = match.end()
        if code != _SCAN and 0xC0 <= code and code != _START:
            # A segment says how long it is; what it holds, such as a preview, may look like markers.
            position += int.from_bytes(data[position : position + 2], "big")
    return len(data)
