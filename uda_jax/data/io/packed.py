"""Files on disk, in zip and plain tar archives, and in memory; and what of an archive is not read."""

import collections
import dataclasses
import functools
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from uda_jax.data.io.files import read_file, require_file
from uda_jax.errors import printable

ARCHIVES = (".zip", ".tar")
# What holds files, too, but cannot be read at random, or not without further packages.
UNREAD = tuple(f".tar.{packing}" for packing in ("gz", "bz2", "xz", "zst", "lzma")) + (
    ".tgz",
    ".tbz2",
    ".txz",
    ".7z",
    ".rar",
)
# What damaged archives make the readers raise: it depends on which number in them is wrong.
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, OverflowError, NotImplementedError, RuntimeError, MemoryError),
)
# The count of files in a zip has 16 bits: writers of more set all of them, or write the last ones.
_COUNTS = 1 << 16


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
        return _read_member(self.path, self.member)


class Bytes(NamedTuple):
    """A file that is in memory already, such as a field of a record."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """Returns the content."""
        return self.data


class Listing(NamedTuple):
    """What an archive holds: {path in it: file}, and lines about what is not read of it."""

    members: dict[str, File]
    notes: list[str]


def listed(path: Path) -> Listing:
    """Lists an archive.

    Raises:
      Any of `DAMAGED`: it is no archive of its kind, or is cut off.
    """
    require_file(path)
    entries, odd = _zip_entries(path) if path.suffix.lower() == ".zip" else _tar_entries(path)
    names = [name for name, _ in entries]
    notes = []
    if odd:
        notes.append(f"{_examples(odd)} in it: links, devices and sparse files are not read; pack the files themselves")
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        notes.append(f"{_examples(twice)} in it several times, of which the last one is read; pack each file once")
    if inner := [name for name in names if name.lower().endswith(ARCHIVES + UNREAD)]:
        notes.append(f"{_examples(inner)} in it: archives within archives are not read; unpack the outer one")
    if turned := [name for name in names if "\\" in name]:
        notes.append(f"{_examples(turned)} in it: backslashes do not divide folders; pack it again with slashes")
    return Listing(dict(entries), notes)


def _read_member(path: Path, name: str) -> bytes:
    """Returns the content of a file in a zip.

    Raises:
      OSError: it is damaged, or encrypted.
    """
    try:
        return _zip(path).read(name)
    except (KeyError, *DAMAGED) as error:
        raise OSError(f"damaged in the archive: {' '.join(str(error).split())}") from None


def _zip_entries(path: Path) -> tuple[list[tuple[str, File]], list[str]]:
    """Returns (path in it, file) of each file, and the names of what is no file."""
    listed = _zip(path).infolist()
    # `zipfile` takes what it can read of a damaged directory for all of it.
    expected = _zip_count(path)
    if expected not in (len(listed) % _COUNTS, _COUNTS - 1):
        raise zipfile.BadZipFile(f"its directory lists {len(listed)} files, its end says {expected}")
    entries = [entry for entry in listed if not entry.is_dir()]
    return [(entry.filename.removeprefix("./"), File(path, entry.filename)) for entry in entries], []


def _zip_count(path: Path) -> int:
    """Returns how many files a zip says that it has, 65535 for more."""
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        # The record of the end, and a comment of up to 65535 bytes.
        stream.seek(max(0, size - 22 - 65535))
        end = stream.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(b"PK\x05\x06") + 10)
    return count


def _tar_entries(path: Path) -> tuple[list[tuple[str, File]], list[str]]:
    entries, odd = [], []
    with open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        # A tar that was cut off between two members, or within a header, would list as if it were shorter.
        stream.seek(-512, os.SEEK_END)
        if stream.read().strip(b"\0") or stream.tell() % 512:
            raise tarfile.ReadError("its end is missing")
        for entry in archive:
            name = entry.name.removeprefix("./")
            if entry.isfile() and not entry.issparse():
                entries.append((name, File(path, name, (entry.offset_data, entry.size))))
            elif not entry.isdir():
                odd.append(name)
        # `tarfile` takes a damaged header for the end, which hides all that is behind it.
        stream.seek(archive.offset)
        while block := stream.read(1 << 20):
            if block.count(0) != len(block):
                raise tarfile.ReadError(f"what follows byte {archive.offset} cannot be listed")
    return entries, odd


# Opened once per process: a directory of thousands of members takes a while to read.
@functools.lru_cache(maxsize=64)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _examples(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{printable(names[0])}'{more}"
