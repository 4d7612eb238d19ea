"""What the files of a data set hold: digests of their bytes, by which another time or place can be compared.

`fingerprint` goes by sizes and times, in an instant; this reads the files. Maps of many bytes are read in part, but
never labels: a pixel that is another class is seen in any file.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from uda_jax.data.base import Dataset
from uda_jax.data.io.packed import File

# Digests are computed, and files read, outside of the interpreter's lock.
_THREADS = 4
_PIECE = 2**20
# A map whose files have more bytes together is read in part: of each file its size and so many bytes at its beginning,
# its middle and its end. What lies between is not seen; in a PNG, whose checksums follow its pixels, and in a JPEG,
# whose codes shift, hardly a change leaves all three as they are.
WHOLE_BYTES = 4 * 2**30
_SAMPLE = 2**16
_ALWAYS_WHOLE = ("label",)


class Change(NamedTuple):
    """The first thing in which a data set is not what it was.

    Attributes:
      what: "order" of its frames, their "meaning" (classes, ids), or a "file".
      message: which one.
    """

    what: str
    message: str


class Contents:
    """Reads data sets, each file once however many of them have it, and again only where its time or size changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def of(self, dataset: Dataset, fields: Collection[str], modes: Mapping[str, bool] | None = None) -> dict[str, Any]:
        """Returns what a data set holds, as JSON can hold it.

        Args:
          dataset: opened; a view of some frames is these.
          fields: the maps whose files count.
          modes: whether those of a map are read as a whole; of the others, and for None, their bytes decide.

        Returns:
          {"names": of the frames in order, "meaning": digest of the classes and the rule by which stored values are
          read, "maps": {map: {"whole": bool, "files": [digest of each frame's]}}, "records": {file: digest}}; the last
          one is of data sets whose frames have no files of their own.

        Raises:
          OSError: a file is not there or cannot be read.
        """
        files = [dataset.files(index) for index in range(len(dataset))]
        maps = {}
        for field in fields:
            if any(field in each for each in files):
                own = [each.get(field) for each in files]
                whole = (modes or {}).get(field, field in _ALWAYS_WHOLE or _bytes(own) <= WHOLE_BYTES)
                maps[field] = {"whole": whole, "files": self._digests(own, whole)}
        records = [] if maps else dataset.record_files()
        return {
            "names": dataset.names(),
            "meaning": _meaning(dataset),
            "maps": maps,
            "records": {path.name: digest for path, digest in zip(records, self._read(records), strict=True)},
        }

    def _read(self, paths: Collection[Path]) -> list[str]:
        return self._digests([File(path) for path in paths], True)

    def _digests(self, files: Collection[File | None], whole: bool) -> list[str]:
        """Returns the digests of files, "" where a frame has none."""
        keys = [None if file is None else (file, whole, *_stamp(file)) for file in files]
        unread = [key for key in dict.fromkeys(keys) if key is not None and key not in self._known]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda key: (_whole if whole else _sampled)(key[0]), unread)
            self._known |= dict(zip(unread, found, strict=True))
        return ["" if key is None else self._known[key] for key in keys]


def first_change(recorded: Mapping[str, Any], dataset: Dataset, reader: Contents) -> Change | None:
    """Returns the first thing in which a data set is not what `Contents.of` recorded; None if there is none."""
    names = dataset.names()
    if names != recorded["names"]:
        pairs = zip(names, recorded["names"], strict=False)
        at = next((k for k, (now, then) in enumerate(pairs) if now != then), min(len(names), len(recorded["names"])))
        now, then = (repr(each[at]) if at < len(each) else "none" for each in (names, recorded["names"]))
        return Change(
            "order", f"frame {at} is {now}, was {then} ({len(recorded['names'])} frames then, {len(names)} now)"
        )
    modes = {field: entry["whole"] for field, entry in recorded["maps"].items()}
    found = reader.of(dataset, modes, modes)
    if found["meaning"] != recorded["meaning"]:
        return Change("meaning", "its classes, or the ids or colours that stand for them, are others")
    for field, entry in recorded["maps"].items():
        then, now = entry["files"], found["maps"].get(field, {"files": [""] * len(names)})["files"]
        at = next((k for k, (one, other) in enumerate(zip(now, then, strict=True)) if one != other), None)
        if at is None:
            continue
        if sorted(now) == sorted(then):
            held = names[then.index(now[at])]
            return Change("order", f"{field} of frame {names[at]!r} is what that of {held!r} was; files were exchanged")
        file = dataset.files(at).get(field)
        return Change("file", f"{field} of frame {names[at]!r} is another one: {file or 'it is gone'}")
    # Further files beside them are of other splits, or of nobody's concern.
    for name, then in recorded["records"].items():
        if (now := found["records"].get(name)) != then:
            return Change("file", f"{name}, which holds frames, is {'gone' if now is None else 'another one'}")
    return None


def file_digest(path: Path) -> str:
    """Returns the digest of a file that is read as a whole."""
    return _whole(File(path))


def _meaning(dataset: Dataset) -> str:
    table = None if dataset.table is None else dataset.table.tobytes().hex()
    content = repr((dataset.label_space.names, table, dataset.rule))
    return _hash([content.encode("utf-8", "backslashreplace")])


def _whole(file: File) -> str:
    if file.member or file.span:
        return _hash([file.read_bytes()])
    with open(file.path, "rb") as stream:
        return _hash(iter(lambda: stream.read(_PIECE), b""))


def _sampled(file: File) -> str:
    size = _size(file)
    if size <= 3 * _SAMPLE or file.member and not file.span:
        return _whole(file)
    first = file.span[0] if file.span else 0
    pieces = [str(size).encode()]
    with open(file.path, "rb") as stream:
        for start in (0, (size - _SAMPLE) // 2, size - _SAMPLE):
            stream.seek(first + start)
            pieces.append(stream.read(_SAMPLE))
    return _hash(pieces)


def _hash(pieces: Iterator[bytes] | Collection[bytes]) -> str:
    found = hashlib.blake2b(digest_size=12)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _bytes(files: Collection[File | None]) -> int:
    return sum(_size(file) for file in files if file is not None)


def _size(file: File) -> int:
    """Returns the bytes of a file; of one that lies compressed in an archive none, since it is read as a whole."""
    return file.span[1] if file.span else 0 if file.member else file.path.stat().st_size


def _stamp(file: File) -> tuple[int, int]:
    stat = file.path.stat()
    return stat.st_size, stat.st_mtime_ns
