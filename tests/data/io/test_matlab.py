"""MATLAB 5 files: written here element by element, and damaged in every way."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import vectors

from uda_jax.data.io.archives import Bytes, File
from uda_jax.data.io.matlab import read_matrix
from uda_jax.errors import UserError

GOLDEN = vectors.load("datasets/format_fixtures.npz")
STORED = Path(__file__).parents[1] / "datasets/format_fixtures" / "corda" / "CityScapes" / "depth" / "train" / "aachen"
MATRIX = np.array([[1.5, -2.0, 3.0], [0.0, 5.0, 1e300]])


def element(order, kind, content, small=False):
    if small:
        return struct.pack(f"{order}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(name, values, order="<", kind=9, flags=6, size=None):
    values = np.asarray(values)
    content = element(order, 6, struct.pack(f"{order}II", flags, 0))
    content += element(order, 5, struct.pack(f"{order}{len(size or values.shape)}i", *(size or values.shape)))
    content += element(order, 1, name.encode(), small=len(name) <= 4)
    content += element(order, kind, values.astype(values.dtype.newbyteorder(order)).tobytes("F"))
    return element(order, 14, content)


def compressed(whole, order="<"):
    packed = zlib.compress(whole)
    return struct.pack(f"{order}II", 15, len(packed)) + packed


def matlab(*elements, order="<"):
    mark = {"<": b"\0\1IM", ">": b"\1\0MI"}[order]
    return b"MATLAB 5.0 MAT-file".ljust(124) + mark + b"".join(elements)


def read(data, name="depth_map"):
    return read_matrix(Bytes("a.mat", data), name)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pack", [lambda whole, order: whole, compressed], ids=["plain", "compressed"])
def test_real_matrices(order, pack):
    data = matlab(
        pack(matrix("note", np.array([[65]], np.uint16), order, kind=4, flags=4), order),
        pack(matrix("depth_map", MATRIX, order), order),
        pack(matrix("z", np.array([[7, 8]], np.uint8), order, kind=2), order),
        order=order,
    )
    np.testing.assert_array_equal(read(data), MATRIX)
    # A double whose values are all small integers is stored in fewer bytes.
    assert read(data, "z").tolist() == [[7, 8]] and read(data, "z").dtype == np.uint8


def test_generated_file():
    (path,) = STORED.glob("*.mat")
    np.testing.assert_array_equal(read_matrix(File(path), "depth_map"), GOLDEN["corda_depth_map"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a MATLAB 5 file, got one that starts with 'nothing'"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "expected a MATLAB 5 file, got one that starts with 'MATLAB 7.3'"),
        (b"MATLAB 5.0 MAT-file".ljust(100), "its header is cut off or wrong"),
        (matlab(), "expected a variable 'depth_map', got none"),
        (matlab(matrix("depth", MATRIX), matrix("map", MATRIX)), "expected a variable 'depth_map', got depth, map;"),
        (matlab(matrix("depth_map", MATRIX, flags=0x0806)), "expected a real matrix with 2 dimensions"),
        (matlab(matrix("depth_map", MATRIX, flags=4)), "expected a real matrix with 2 dimensions"),
        (matlab(matrix("depth_map", MATRIX, size=(1, 2, 3))), "expected a real matrix with 2 dimensions"),
        (matlab(matrix("depth_map", MATRIX, size=(3, 3))), "6 values for a matrix of 3x3"),
        (matlab(matrix("depth_map", MATRIX, kind=8)), "values of an unknown type 8"),
    ],
)
def test_other_files(data, message):
    with pytest.raises(UserError, match=rf"a\.mat: .*{message}"):
        read(data)


@pytest.mark.parametrize("pack", [lambda whole: whole, compressed], ids=["plain", "compressed"])
def test_damage_is_refused_or_stays_in_the_values(pack):
    whole = matlab(pack(matrix("depth_map", MATRIX)))
    assert read(whole).shape == MATRIX.shape
    for length in range(len(whole)):
        with pytest.raises(UserError, match=r"^a\.mat: [^\n]*$"):
            read(whole[:length])
    refused = 0
    for place in range(128, len(whole)):
        for bit in range(8):
            flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
            try:
                assert read(flipped).size == MATRIX.size
            except UserError as error:
                assert str(error).startswith("a.mat: ") and "\n" not in str(error)
                refused += 1
    # Compressed files carry a checksum; the 48 bytes of plain values do not.
    assert refused >= 8 * (len(whole) - 128) * (0.95 if pack is compressed else 0.3)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.mat: cannot be read"):
        read_matrix(File(tmp_path / "gone.mat"), "depth_map")
