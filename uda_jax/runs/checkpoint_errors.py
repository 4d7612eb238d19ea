"""What Orbax and TensorStore raise about files, as one clear line."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from uda_jax.errors import DiskFull, UserError

DELETE = "delete it, and the same 'uda train' goes on from the one before"


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns "no space left" or "denied", in whichever type TensorStore or the system raises it, into one clear line."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
            raise DiskFull(f"{folder}: the disk is full; free some space and rerun the same command") from error
        if _denied(error):
            raise UserError(f"{folder}: may not be written ({_reason(error)}); get the right to write there") from error
        raise


@contextlib.contextmanager
def unreadable_errors(folder: Path, remedy: str = DELETE) -> Iterator[None]:
    """Turns what Orbax and TensorStore raise for a damaged folder or another network's into one clear line."""
    try:
        yield
    except Exception as error:
        if _denied(error):
            raise UserError(
                f"{folder}: may not be read ({_reason(error)}); nothing is wrong with it: get the right to read and to "
                "write there, and rerun the same command"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise UserError(f"{folder}: too many files are open; raise the limit with 'ulimit -n'") from error
        raise UserError(f"{folder}: cannot be read as a checkpoint of this run ({_reason(error)}); {remedy}") from error


def _denied(error: Exception) -> bool:
    """Whether an error is about rights, in which nothing is wrong with the files."""
    system = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return system or "PERMISSION_DENIED" in str(error) or "Permission denied" in str(error)


def _reason(error: Exception) -> str:
    # What Orbax adds to TensorStore's own words is the address of a function.
    words = str(error).partition("See full TensorStore details")[0]
    return " ".join(words.split())[:300] or type(error).__name__
