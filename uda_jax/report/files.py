"""Writing a file so that nobody ever sees half of it."""

import os
import pathlib


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file under a temporary name beside its place and moves it there; makes missing folders.

    Args:
      path: where the file goes; what is there is replaced.
      data: the whole content; text is written as UTF-8.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
