"""TensorBoard event files, written without TensorFlow and without protocol-buffer bindings.

An event file is a sequence of TFRecords (length, CRC of the length, payload, CRC of the payload), each
holding one `Event` message. Only the few fields that scalars and images need are encoded, by hand:

    Event       wall_time = 1 (double), step = 2 (varint), file_version = 3 (string), summary = 5, session_log = 7
    Summary     value = 1 (repeated)
    Value       tag = 1 (string), simple_value = 2 (float), image = 4
    Image       height = 1, width = 2, colorspace = 3 (3 = RGB), encoded_image_string = 4
    SessionLog  status = 1 (1 = START)
"""

import io
import itertools
import os
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

_FILES_OF_THIS_PROCESS = itertools.count()


class EventWriter:
    """Appends scalars and images to one new event file.

    Args:
      folder: where the file goes; made if absent. TensorBoard merges all event files of a folder.
      clock: returns seconds since the epoch, for the events' wall time.
    """

    def __init__(self, folder: str | os.PathLike, clock: Callable[[], float] = time.time):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in name order, so the time comes first. The counter tells
        # apart two writers that one process opens within a second.
        name = f"{int(clock()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_FILES_OF_THIS_PROCESS)}"
        self._clock = clock
        self._file = open(folder / f"events.out.tfevents.{name}", "wb")
        self._append(_bytes_field(3, b"brain.Event:2"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one scalar per tag; NaN and infinities are kept, TensorBoard marks them."""
        self._summary(step, [(tag, _float_field(2, value)) for tag, value in values.items()])

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes one image, uint8 RGB `[H, W, 3]`, per tag."""
        self._summary(step, [(tag, _bytes_field(4, _image(image))) for tag, image in images.items()])

    def restart(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier files of the folder hold at `step` and beyond."""
        self._append(_varint_field(2, step) + _bytes_field(7, _varint_field(1, 1)))

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file; a second call does nothing."""
        self._file.close()

    def _summary(self, step: int, tagged: list[tuple[str, bytes]]) -> None:
        summary = b"".join(_bytes_field(1, _bytes_field(1, tag.encode()) + value) for tag, value in tagged)
        self._append(_varint_field(2, step) + _bytes_field(5, summary))

    def _append(self, event: bytes) -> None:
        event = _key(1, 1) + struct.pack("<d", self._clock()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _image(image: np.ndarray) -> bytes:
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    height, width = image.shape[:2]
    sizes = _varint_field(1, height) + _varint_field(2, width) + _varint_field(3, 3)
    return sizes + _bytes_field(4, png.getvalue())


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, 0) + _varint(number)


def _float_field(field: int, value: float) -> bytes:
    # struct refuses what overflows a float32; NumPy makes it an infinity, which TensorBoard can show.
    with np.errstate(over="ignore"):
        return _key(field, 5) + np.float32(value).astype("<f4").tobytes()


def _bytes_field(field: int, payload: bytes) -> bytes:
    return _key(field, 2) + _varint(len(payload)) + payload


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the Castagnoli polynomial, bits reversed
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C of `data`, masked as TFRecord asks: rotated right by 15 bits, plus a constant."""
    table, crc = _CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
