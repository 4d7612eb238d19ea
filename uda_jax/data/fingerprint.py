"""What data derived from a data set must remember of it, to see that it was changed since: one digest.

Prepared shards, counts of classes and whole runs outlive what they were made from. They keep the fingerprint, and are
made anew, or refuse to go on, where it is another one now.
"""

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from uda_jax.data.base import MAPS, Dataset

Stamp = tuple[str, int, int] | None


def fingerprint(dataset: Dataset, root: str | os.PathLike | None, fields: Collection[str] | None = None) -> str:
    """Returns a digest of the files of a data set, its names and what its stored values mean.

    Args:
      dataset: opened; a view of some frames has the fingerprint of these.
      root: what it was opened with.
      fields: maps whose files count; None takes all.

    Returns:
      A text that changes with the size or time of any file, with the frames, and with the classes or ids.
    """
    return Fingerprints(dataset, root, fields).of(range(len(dataset)))


class Fingerprints:
    """The fingerprints of parts of a data set, for which archives are looked at once; arguments as `fingerprint`."""

    def __init__(self, dataset: Dataset, root: str | os.PathLike | None, fields: Collection[str] | None = None):
        self._dataset = dataset
        self._fields = tuple(MAPS) if fields is None else tuple(fields)
        self._stamps: dict[Path, Stamp] = {}
        self._meaning = (
            dataset.label_space.names,
            None if dataset.table is None else dataset.table.tobytes(),
            sorted(dataset.known),
            dataset.rule,
        )
        folder = dataset.folder or root
        # Maps within other files, such as records: any of these may have changed.
        in_files = len(dataset) > 0 and bool(dataset.files(0))
        self._common = [] if in_files or folder is None else [_stamp(path) for path in _below(folder)]

    def of(self, positions: Iterable[int]) -> str:
        """Returns the fingerprint of some frames."""
        frames = [(self._dataset.name(position), self._files(position)) for position in positions]
        content = (self._meaning, self._common, frames)
        return hashlib.sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def _files(self, position: int) -> list[Any]:
        files = self._dataset.files(position)
        return [
            (field, files[field].member, self._stamp(files[field].path)) for field in self._fields if field in files
        ]

    def _stamp(self, path: Path) -> Stamp:
        if path not in self._stamps:
            self._stamps[path] = _stamp(path)
        return self._stamps[path]


def _below(root: str | os.PathLike) -> list[Path]:
    root = Path(root).expanduser()
    if root.is_file():
        return [root]
    return sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)


def _stamp(path: Path) -> Stamp:
    """Returns what tells a file from its earlier or later versions; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return path.name, stat.st_size, stat.st_mtime_ns
