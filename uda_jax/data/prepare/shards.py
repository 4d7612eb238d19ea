"""Shards of prepared data: each written whole by one process, several at a time."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from uda_jax.data.io import atomic
from uda_jax.data.prepare.records import Encoder
from uda_jax.errors import UserError

# Records by themselves, for random access, under the fastest compression, which reads faster than the disk.
WRITER_OPTIONS = "group_size:1,zstd:1"


class Shard(NamedTuple):
    """A finished shard, as manifest and journal list it."""

    file: str
    frames: int
    bytes: int
    sha256: str


class Spoilt(NamedTuple):
    """A frame that cannot be read, and why."""

    name: str
    message: str


def write_shard(
    encoder: Encoder, path: Path, positions: Sequence[int], expected: Shard | None
) -> tuple[Shard | None, bool, list[Spoilt]]:
    """Writes a shard unless it is there as expected.

    Returns:
      (the shard, whether it was written now, its spoilt frames); no shard is written if there are any of these.
    """
    if expected is not None and _described(path, len(positions)) == expected:
        return expected, False, []
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    spoilt = []
    try:
        writer = ArrayRecordWriter(str(partial), WRITER_OPTIONS)
        for position in positions:
            try:
                record = encoder.record(position)
            except UserError as error:
                spoilt.append(Spoilt(encoder.dataset.name(position), str(error)))
                continue
            if not spoilt:
                with atomic.disk_full_errors(path):
                    writer.write(record)
        with atomic.disk_full_errors(path):
            writer.close()
        if spoilt:
            return None, False, spoilt
        shard = _described(partial, len(positions))._replace(file=path.name)
        atomic.finish(partial, path)
        return shard, True, []
    finally:
        partial.unlink(missing_ok=True)


def _described(path: Path, frames: int) -> Shard | None:
    """Returns a file's entry in the manifest; None if there is no file."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Shard(path.name, frames, os.fstat(file.fileno()).st_size, digest)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def mapped(encoder: Encoder, jobs: Sequence[tuple], workers: int | None) -> Iterator[Iterator[tuple]]:
    """Yields an iterator of what `write_shard` returns for each job, in the order in which they end."""
    count = min((os.cpu_count() or 1) if workers is None else workers, len(jobs))
    if count <= 1:
        yield (write_shard(encoder, *job) for job in jobs)
        return
    # Spawn, not fork: the caller may have started JAX's threads.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, context, initializer=_begin, initargs=(encoder,))
    try:
        futures = [pool.submit(_shard, *job) for job in jobs]
        yield (future.result() for future in concurrent.futures.as_completed(futures))
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "prepare: a worker process was killed, perhaps for lack of memory; run the same command again with "
            f"--workers below {count}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_ENCODER: list[Encoder] = []  # of this worker process: sent once, since it lists every file


def _begin(encoder: Encoder) -> None:
    _ENCODER[:] = [encoder]
    # A worker whose parent was killed would wait for its next shard for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _shard(path: Path, positions: Sequence[int], expected: Shard | None) -> tuple:
    return write_shard(_ENCODER[0], path, positions, expected)
