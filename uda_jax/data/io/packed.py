"""Files on disk, inside zip and plain tar archives, and in memory: each has a name and bytes."""

import dataclasses
import functools
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uda_jax.data.io.files import read_file
from uda_jax.errors import printable


@dataclasses.dataclass(frozen=True)
class File:
    """One file, on disk or inside an archive.

    Attributes:
      path: the file, or the archive that holds it.
      member: its name inside the archive, empty on disk.
      span: (first byte, size) inside a tar.
    """

    path: Path
    member: str = ""
    span: tuple[int, int] | None = None

    def __str__(self) -> str:
        return printable(f"{self.path}:{self.member}" if self.member else str(self.path))

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.member.rpartition("/")[2] if self.member else self.path.name

    def read_bytes(self) -> bytes:
        """Returns the whole file.

        Raises:
          OSError: it cannot be read, or what an archive holds is damaged.
        """
        if self.span is not None:
            with open(self.path, "rb") as stream:
                stream.seek(self.span[0])
                data = stream.read(self.span[1])
            if len(data) != self.span[1]:
                raise OSError(f"the archive ends within the file: expected {self.span[1]} bytes, got {len(data)}")
            return data
        if not self.member:
            return read_file(self.path)
        try:
            return _zip(self.path).read(self.member)
        # A damaged member raises whatever the decompressor or the checksum finds first.
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, *_DECOMPRESSION) as error:
            raise OSError(f"damaged in the archive: {error}") from None


class Bytes(NamedTuple):
    """A file that is in memory already, such as a field of a record."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """Returns the content."""
        return self.data


def zip_members(path: Path) -> Iterator[tuple[str, File]]:
    """Yields the members of a zip: (name, file)."""
    for entry in _zip(path).infolist():
        if not entry.is_dir():
            yield entry.filename.removeprefix("./"), File(path, entry.filename)


def tar_members(path: Path) -> Iterator[tuple[str, File]]:
    """Yields the members of an uncompressed tar: (name, file); raises a ReadError if its end is missing."""
    with open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        # A tar that was cut off between two members, or within a header, would list as if it were shorter.
        stream.seek(-512, os.SEEK_END)
        if stream.read().strip(b"\0") or stream.tell() % 512:
            raise tarfile.ReadError("its end is missing")
        for entry in archive:
            if entry.isfile():
                name = entry.name.removeprefix("./")
                yield name, File(path, name, (entry.offset_data, entry.size))
        # `tarfile` takes a damaged header for the end, which hides all that is behind it.
        stream.seek(archive.offset)
        while block := stream.read(1 << 20):
            if block.count(0) != len(block):
                raise tarfile.ReadError(f"what follows byte {archive.offset} cannot be listed")


# Opened once per process: a directory of thousands of members takes a while to read.
@functools.lru_cache(maxsize=64)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _decompression_errors() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    return (zlib.error, lzma.LZMAError)


_DECOMPRESSION = _decompression_errors()
