"""What the user can mend: the exception that says so in one line, and the lines for what the system refuses."""

import errno
import os


class UserError(Exception):
    """A mistake in what the user gave, told in one line.

    The message names the file or field, what was expected, what was found and what to do. The command
    line prints it without a traceback and exits with status 2; library callers can catch it.

    Names of files and frames come from data, and may hold line breaks or a terminal's control sequences: in a message,
    they are always escaped.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class DiskFull(UserError):
    """A disk of this machine is full; unlike other messages it names that disk, whatever the folder is a copy of."""


def printable(text: str) -> str:
    """Returns text that is safe to print: bytes that are no UTF-8, and control characters, become escapes."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_DISK_FULL = "the disk is full; free some space and rerun the same command"
_NO_RIGHT = "permission denied; change its rights, or name a place where you may read and write"
_TOO_MANY_FILES = "too many open files; raise the limit with 'ulimit -n', or use fewer workers"
_FAILING = "the disk or the network behind it fails; check it and rerun the same command"
_REMEDIES = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "the file system is read-only; name a place on another one",
    errno.ENAMETOOLONG: "the name is too long for the file system; give a shorter one",
    errno.ENOTDIR: "a part of this path is a file, not a folder; check the path",
    errno.EISDIR: "expected a file, found a folder; check the path",
    errno.EEXIST: "exists already; name another, or move it away",
    errno.ENOTEMPTY: "the folder is not empty; name another, or move it away",
    errno.ENOENT: "no such file or folder; check the path",
    errno.ELOOP: "its links lead in a circle; check the path",
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOMEM: "out of memory; use smaller batches or fewer workers",
    errno.EAGAIN: "no more processes or threads may be started; raise the limit with 'ulimit -u', or use fewer workers",
    errno.EFBIG: "the file is larger than the file system or 'ulimit -f' allows; name a place on another one",
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
}


def os_error_line(error: OSError, path: str | os.PathLike | None = None) -> str:
    """Returns one line for what the operating system refused: the path, the reason and what to do.

    Args:
      error: what was raised.
      path: named where the error itself names no file.
    """
    named = [os.fsdecode(name) for name in (error.filename, error.filename2, path) if isinstance(name, str | bytes)]
    named += [os.fspath(path)] if isinstance(path, os.PathLike) else []
    where = f"{_shortened(named[0])}: " if named else ""
    return where + _REMEDIES.get(error.errno, error.strerror or " ".join(str(error).split()) or type(error).__name__)


def _shortened(path: str) -> str:
    """Returns a path whose middle goes if it is so long that the reason would be lost behind it."""
    return path if len(path) <= 400 else f"{path[:200]}...{path[-120:]}"
