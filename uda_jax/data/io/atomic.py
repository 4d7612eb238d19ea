"""Files that are whole or not there, whatever ends the process that writes them."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from uda_jax.errors import UserError


def write(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file under a temporary name beside it and moves it there; makes missing folders.

    Args:
      path: where the file goes; what is there is replaced.
      data: the whole content; text is written as UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def finish(partial: Path, path: Path) -> None:
    """Gives a complete file its name, once its content is on the disk."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turns the writer's words about a full disk into the OSError that they stand for."""
    try:
        yield
    except RuntimeError as error:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from None
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a folder, which is made if needed; a killed process gives the lock back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"--out: cannot make the folder {folder} ({error.strerror}); choose another") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"--out: another 'uda prepare' is writing into {folder}; wait for it, or end it") from None
    except OSError as error:
        # Some network file systems cannot lock a folder; there, the user has to take care.
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
    try:
        yield
    finally:
        os.close(descriptor)
