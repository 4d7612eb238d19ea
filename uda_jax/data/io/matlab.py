"""Matrices out of MATLAB 5 files (`.mat` as `save` writes them up to and including -v7), checked byte for byte.

SciPy reads these files, too, but a single wrong bit in the header of one makes its reader crash the process.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from uda_jax.errors import UserError, printable

_HEADER = 128
# Kinds of data elements: numbers of these types, a matrix, a compressed element.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX = 14
_COMPRESSED = 15
# Classes of arrays that are full matrices of numbers: double, single, and integers of eight kinds.
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800


def read_matrix(source: Any, name: str, dimensions: int = 2) -> np.ndarray:
    """Reads one variable, a real matrix.

    Args:
      source: anything with `read_bytes()` whose `str()` names it.
      name: the variable.
      dimensions: how many it must have.

    Returns:
      `[rows, columns, ...]` in the type that is stored, which may be a smaller one than that of the variable.

    Raises:
      UserError: the file is missing, damaged or of another kind (such as the HDF5 files of `save -v7.3`), or holds no
        real matrix of this name.

    Source: MathWorks, "MAT-File Format", level 5.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({' '.join(str(error).split())}); copy it again") from None
    if not data.startswith(b"MATLAB 5.0"):
        found = printable(data[:10].decode("latin-1")) or "nothing"
        raise UserError(f"{source}: expected a MATLAB 5 file, got one that starts with '{found}'; copy it again")
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise UserError(f"{source}: damaged file (its header is cut off or wrong); copy it again")
    names = []
    try:
        for kind, content in _elements(memoryview(data)[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, content = next(_elements(memoryview(zlib.decompress(content)), order), (0, content))
            if kind == _MATRIX:
                parts = list(_elements(content, order))
                names.append(_name(parts))
                if names[-1] == name:
                    return _values(parts, order, dimensions)
    except (ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{source}: damaged file ({error}); copy it again") from None
    found = printable(", ".join(names)) or "none"
    raise UserError(f"{source}: expected a variable '{name}', got {found}; copy the original file again")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yields kind and content of each data element."""
    position = 0
    while position < len(data):
        if len(data) - position < 8:
            raise ValueError("the file ends within an element")
        kind, size = struct.unpack_from(f"{order}II", data, position)
        if kind >> 16:
            # Up to four bytes of content lie in the second half of the tag, and the size in the first.
            kind, size, start, end = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        else:
            start = position + 8
            # Only compressed elements are not filled up to eight bytes.
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > min(end, len(data)):
            raise ValueError(f"an element of {size} bytes is cut off")
        yield kind, data[start : start + size]
        position = end


def _name(parts: list[tuple[int, memoryview]]) -> str:
    """Returns the name of a matrix, whose elements are flags, sizes, name, and the values."""
    if len(parts) < 3:
        raise ValueError("a matrix without a name")
    return bytes(parts[2][1]).decode("latin-1")


def _values(parts: list[tuple[int, memoryview]], order: str, dimensions: int) -> np.ndarray:
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    size = tuple(np.frombuffer(parts[1][1], f"{order}i4").tolist())
    if flags & 0xFF not in _NUMERIC or flags & _COMPLEX or len(size) != dimensions or len(parts) != 4:
        raise ValueError(f"expected a real matrix with {dimensions} dimensions")
    kind, content = parts[3]
    if kind not in _NUMBERS:
        raise ValueError(f"values of an unknown type {kind}")
    values = np.frombuffer(content, order + _NUMBERS[kind])
    if len(values) != math.prod(size):
        raise ValueError(f"{len(values)} values for a matrix of {'x'.join(map(str, size))}")
    return values.reshape(size, order="F")
