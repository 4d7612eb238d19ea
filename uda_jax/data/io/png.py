"""PNG beyond what Pillow offers: 16-bit colour, numbers, checksums, and writing for containers that compress.

`write_png` exists for speed: it spares the compression that the container does anyway, and with it most of the time
that reading takes. `read_rgb48` is the one place that relies on Pillow's internals, the list `tile` of what to decode.
"""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_png(array: np.ndarray) -> bytes:
    """Encodes a map as a PNG without compressing it, for containers that compress their records.

    Written here because Pillow chooses the filters of the rows itself.

    Colours are stored as differences to their left neighbour, which is what makes them compressible: records of such
    PNGs come out as small as ordinary PNGs and are read several times as fast. Ids, one channel, repeat themselves; as
    they are they come out smaller, and are decoded in a fifth of the time.

    Args:
      array: uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`.
    """
    height, width, *channels = array.shape
    pixels = array.reshape(height, width, -1)
    if channels:
        pixels = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1]))
    row_filter = np.full((height, 1), 1 if channels else 0, np.uint8)
    rows = np.concatenate([row_filter, pixels.reshape(height, -1)], axis=1)
    colour_type = {(): 0, (3,): 2, (4,): 6}[tuple(channels)]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def write_floats(array: np.ndarray) -> bytes:
    """Encodes a float32 map `[H, W]` exactly: as a PNG whose four channels are the bytes of a number, lowest first.

    This is how TFDS stores float images.
    """
    return write_png(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(*array.shape, 4))


def bits_per_channel(data: bytes) -> int | None:
    """Returns the bits per channel of a PNG, or per pixel of one with a palette; None for other data."""
    return data[24] if data[:8] == SIGNATURE and len(data) > 24 else None


def read_rgb48(data: bytes) -> np.ndarray:
    """Decodes the three 16-bit channels of a PNG, of which Pillow by itself keeps the high bytes only.

    Returns:
      uint16 `[H, W, 3]`.

    Raises:
      OSError and others, as Pillow does for damaged files.
    """
    planes = []
    # The same bytes as big-endian and as little-endian numbers: their high bytes are our high and low ones.
    for raw_mode in ("RGB;16B", "RGB;16L"):
        with Image.open(io.BytesIO(data)) as image:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
            planes.append(np.array(image).astype(np.uint16))
    return planes[0] << 8 | planes[1]


def is_complete_png(data: bytes) -> bool:
    """Returns whether a PNG has its end, every checksum is right, and no part of an animation is missing."""
    position, kind = 8, b""
    announced, pictures, parts = 0, 0, 0
    for position, kind, content in _chunks(data):
        if struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))) != data[position - 4 : position]:
            return False
        if kind == b"acTL":
            announced = int.from_bytes(content[:4], "big")
        elif kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(content[:4], "big") != parts:
                return False
            parts, pictures = parts + 1, pictures + (kind == b"fcTL")
    return kind == b"IEND" and position <= len(data) and announced == pictures


def end(data: bytes) -> int:
    """Returns how many bytes of a PNG belong to its picture; all of them if its end is missing."""
    return next((position for position, kind, _ in _chunks(data) if kind == b"IEND"), len(data))


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yields (where the next one begins, kind, content) of each part of a PNG up to its end."""
    position, kind, view = 8, b"", memoryview(data)
    while position + 12 <= len(data) and kind != b"IEND":
        (size,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], view[position + 8 : position + 8 + size]
        position += 12 + size
        yield position, kind, content
