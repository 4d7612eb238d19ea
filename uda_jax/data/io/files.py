"""Files of the user: read whole, and what to say where that fails; and where files are kept between runs."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

from uda_jax.errors import UserError, printable

_OPEN_FILES = (errno.EMFILE, errno.ENFILE)


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the content of a file; a pipe or device, whose reading might never end, is refused.

    Raises:
      OSError: it cannot be read.
    """
    require_file(path)
    return Path(path).read_bytes()


def require_file(path: str | os.PathLike) -> None:
    """Raises an OSError unless there is a file, and no folder, pipe or device, at a path."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", os.fspath(path))


def cannot_read(source: Any, error: OSError) -> str:
    """Returns the line for a file that cannot be read."""
    reason = printable(" ".join((error.strerror or str(error)).split()))
    cure = "raise the limit with 'ulimit -n', or use fewer workers" if error.errno in _OPEN_FILES else "copy it again"
    if error.errno in (errno.EACCES, errno.EPERM):
        cure = "change its rights"
    elif error.errno in (errno.EINVAL, errno.EISDIR):
        cure = "replace or remove it"
    return f"{source}: cannot be read ({reason}); {cure}"


def cache_folder(name: str) -> Path:
    """Returns where something that can be made again is kept: `$UDA_JAX_CACHE/<name>`, or `~/.cache/uda_jax/<name>`."""
    cache = os.environ.get("UDA_JAX_CACHE")
    if not cache:
        try:
            cache = Path.home() / ".cache" / "uda_jax"
        except RuntimeError:
            raise UserError(f"{name}: there is no home folder to keep it in; set UDA_JAX_CACHE to a folder") from None
    return Path(cache) / name
