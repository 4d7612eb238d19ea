"""Shards of prepared data: each is written as a whole by one process."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from uda_jax.data.io import atomic
from uda_jax.data.prepare.records import Encoder
from uda_jax.errors import UserError

# Records by themselves, for random access, under the fastest compression, which reads faster than the disk.
WRITER_OPTIONS = "group_size:1,zstd:1"


class Shard(NamedTuple):
    """A finished shard, as manifest and journal list it; `source` is the fingerprint of what it was made from."""

    file: str
    frames: int
    bytes: int
    sha256: str
    source: str = ""


class Unreadable(NamedTuple):
    """A frame that cannot be read, and why."""

    name: str
    message: str


def write_shard(
    encoder: Encoder, path: Path, positions: Sequence[int], source: str, expected: Shard | None
) -> tuple[Shard | None, bool, list[Unreadable]]:
    """Writes a shard unless it is there as expected, made from files that have not changed since.

    Args:
      encoder: makes the records.
      path: of the shard.
      positions: of its frames.
      source: their fingerprint.
      expected: the shard as an earlier call described it; None if there was none.

    Returns:
      (the shard, whether it was written now, its unreadable frames); no shard is written if there are any of these.
    """
    if expected is not None and _described(path, len(positions), source) == expected:
        return expected, False, []
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    unreadable = []
    try:
        writer = ArrayRecordWriter(str(partial), WRITER_OPTIONS)
        for position in positions:
            try:
                record = encoder.record(position)
            except UserError as error:
                unreadable.append(Unreadable(encoder.dataset.name(position), str(error)))
                continue
            if not unreadable:
                with atomic.disk_full_errors(path):
                    writer.write(record)
        with atomic.disk_full_errors(path):
            writer.close()
        if unreadable:
            return None, False, unreadable
        shard = _described(partial, len(positions), source)._replace(file=path.name)
        atomic.finish(partial, path)
        return shard, True, []
    finally:
        partial.unlink(missing_ok=True)


def _described(path: Path, frames: int, source: str) -> Shard | None:
    """Returns a file's entry in the manifest; None if there is no file."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Shard(path.name, frames, os.fstat(file.fileno()).st_size, digest, source)
    except FileNotFoundError:
        return None
