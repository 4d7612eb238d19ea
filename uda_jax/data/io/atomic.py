"""Files and folders that are complete or not there, whatever ends the process that writes them."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from uda_jax.errors import UserError

# How file systems without locks refuse them.
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
_NEW = 60  # seconds within which a folder may not be held yet


def write(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file under a temporary name beside it and moves it there; makes missing folders.

    Args:
      path: where the file goes; what is there is replaced.
      data: the whole content; text is written as UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, flush: bool = False) -> Iterator[Path]:
    """Yields a temporary path for a file, which takes its place in one move when the block ends without an error.

    Args:
      path: where the file goes; missing folders are made, and what is there is replaced.
      flush: whether the content has to be on the disk before the move, as `finish` does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        if flush:
            finish(temporary, path)
        else:
            os.replace(temporary, path)
    except OSError as error:
        # The temporary name means nothing to whoever reads the message.
        if error.filename is not None and os.fspath(error.filename) == os.fspath(temporary):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a new folder, which gets its name in one move when the block ends without an error.

    Args:
      path: where the folder goes; folders above are made. If another process has made it meanwhile, its folder stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*-*")
    temporary = _beside(path)
    temporary.mkdir()
    try:
        # Held as long as this process lives, so that others can tell a folder in use from a leftover.
        with held(temporary):
            yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
def disk_full_errors(path: Path) -> Iterator[None]:
    """Turns the RuntimeError by which ArrayRecord reports a full disk into the OSError that it stands for."""
    try:
        yield
    except RuntimeError as error:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from None
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None


@contextlib.contextmanager
def locked(folder: Path, option: str, command: str) -> Iterator[None]:
    """Keeps a second process out of a folder, which is made if needed; a killed process gives the lock back.

    Args:
      folder: the folder.
      option: the option that names it, for messages.
      command: what works in it, for messages.

    Raises:
      UserError: another process holds the lock, the folder cannot be made, or the system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        raise UserError(f"{command}: this system has no file locks (fcntl); use Linux or macOS") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{option}: cannot make the folder {folder} ({error.strerror}); choose another") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"{option}: another '{command}' is writing into {folder}; wait for it, end it, or choose another folder"
        ) from None
    except OSError as error:
        # Some network file systems cannot lock a folder; there, the user has to take care.
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes what killed processes left behind of the folders that they held.

    Args:
      folder: where they lie.
      pattern: of their names, as `Path.glob` takes it.
    """
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            # The time between making a folder and holding it is far shorter.
            if time.time() - leftover.stat().st_mtime > _NEW:
                with held(leftover):
                    shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder until the block ends or the process does; elsewhere than on Linux and macOS, does nothing.

    Raises:
      OSError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems cannot lock a folder.
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """Returns a hidden name in the same folder, and so on the same disk, that no other process uses."""
    # Processes on other machines that share the disk may have the same number.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
