"""Local copies of folders in buckets, which commands read and write as any folder.

Checkpoints through the file system, rows appended to a table, renames, and lists that the data pipeline reads back all
need files. So a run in a bucket works in a temporary folder, and the mirror carries it to the bucket, which alone
counts: every command reads it anew. Heavy files are copied here only when `fetch` asks for them.

A mirror is known by its folder: `fetch`, `publish` and the others do nothing for a folder that mirrors no bucket.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from uda_jax.data.io import atomic, places
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.data.io.mirror import Mirror

_TEMPORARY = "uda_jax-bucket-"

_open: dict[Path, Mirror] = {}


@contextlib.contextmanager
def opened(word: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path for a word of the user: itself, or that of a mirror for as long as the block lasts.

    Args:
      word: a local path, left alone; or an address in a bucket, of a folder or of a single file. Where nothing is
        there, the path does not exist. Messages of errors that leave the block name the address.

    Raises:
      UserError: the bucket cannot be read, or an address of another kind.
    """
    path = places.place(word)
    if not places.is_bucket(path):
        yield path
        return
    bucket = BucketFolder(path)
    atomic.remove_leftovers(Path(tempfile.gettempdir()), f"{_TEMPORARY}*")
    top = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    with atomic.held(top):
        mirror = _open[top / path.name] = Mirror(bucket, top / path.name)
        try:
            with mirror.named_errors():
                mirror.refresh()
                yield mirror.folder
        finally:
            del _open[mirror.folder]
            shutil.rmtree(top, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, option: str, command: str) -> Iterator[None]:
    """Keeps a second process out of a folder, as `atomic.locked` does; a mirror is carried to its bucket meanwhile."""
    if (mirror := of(folder)) is None:
        with atomic.locked(folder, option, command):
            yield
        return
    mirror.begin(option, command)
    try:
        yield
    finally:
        mirror.end()


def of(path: Path) -> Mirror | None:
    """Returns the mirror that a path lies in, or None."""
    if not _open:
        return None
    return next((mirror for folder, mirror in _open.items() if path.is_relative_to(folder)), None)


def fetch(path: Path) -> None:
    """Copies what a bucket holds at or below a path of its mirror, as far as it is not here."""
    if mirror := of(path):
        mirror.fetch(path)


def publish(steps: Path, kept: Collection[int]) -> None:
    """Has what is new in a mirror carried to its bucket, in a thread of its own.

    Args:
      steps: a folder of checkpoints.
      kept: the numbers of those in it that the bucket is to keep, once the new one is there.
    """
    if mirror := of(steps):
        mirror.publish(steps, kept)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there; of a mirror from the bucket as well, and from there first."""
    if mirror := of(path):
        mirror.remove(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def share(folder: Path) -> None:
    """Carries over what this process wrote into a mirror, lists and pictures alone unless it holds the lock."""
    if mirror := of(folder):
        mirror.share()


def renew(folder: Path, *, all_files: bool) -> None:
    """Copies what other processes have written by now below a folder of a mirror, heavy files if all are wanted."""
    if mirror := of(folder):
        mirror.refresh()
        if all_files:
            mirror.fetch(folder)


def settle(path: Path) -> None:
    """Returns once what `publish` asked for was tried; raises a UserError if the folder is another run's by now."""
    if mirror := of(path):
        mirror.settle()


def address(folder: Path) -> Path:
    """Returns the address that a folder mirrors, or the folder itself if it mirrors none."""
    mirror = _open.get(folder)
    return places.place(mirror.address) if mirror else folder


def named(path: Path, text: str) -> str:
    """Returns a text with the address of the bucket in place of its mirror's folder."""
    mirror = of(path)
    return mirror.named(text) if mirror else text
