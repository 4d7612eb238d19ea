"""Names out of data as names of files: they never lead elsewhere, are never too long, and no two become one."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from uda_jax.errors import UserError

# File systems take 255 bytes; what is written beside a file, and under what temporary name, adds to its own.
LONGEST = 180
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def component(name: str, longest: int = LONGEST) -> str:
    """Returns the name of one file or folder for any text, such as the name of a frame, that no other text gets.

    A slash becomes two underscores. What could lead elsewhere, be hidden or be too long is replaced, and a digest of
    the whole text keeps apart what would become the same.

    Args:
      name: the text.
      longest: of the result, in bytes.
    """
    ambiguous = any(mark in name for mark in ("__", "_/", "/_"))
    return _safe(name.replace("/", "__"), name, longest, ambiguous=ambiguous)


def below(folder: Path, name: str, longest: int = LONGEST) -> Path:
    """Returns the path below a folder for a name, whose slashes make folders; its parts are as `component` says."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return folder / component(name, longest)
    return folder.joinpath(*(_safe(part, part, longest) for part in parts))


def _safe(text: str, name: str, longest: int, *, ambiguous: bool = False) -> str:
    """Returns `text`, or if it will not do what is left of it and a digest of `name`."""
    clean = "".join(c if c.isprintable() and c != "\\" else "_" for c in text).lstrip(".")
    if clean == text and text and not ambiguous and len(text.encode()) <= longest:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    kept = clean.encode("utf-8", "replace")[: longest - len(digest) - 1].decode("utf-8", "ignore")
    return f"{kept or 'frame'}-{digest}"


def is_safe(name: str) -> bool:
    """Returns whether a name from data may become a part of a path: it stays below its folder, and is printable.

    Names come from archives and manifests that anybody may have written; those of files are looked up, and results
    are written under names of frames.
    """
    parts = name.split("/")
    return bool(name) and not any(part in ("", ".", "..") for part in parts) and not _CONTROL.search(name)


def require_safe(names: Iterable[str], where: str | os.PathLike) -> None:
    """Raises a UserError for the first name that is none that `is_safe` allows.

    Args:
      names: of frames or files.
      where: what they come from, which starts the message.
    """
    for name in names:
        if not isinstance(name, str) or not is_safe(name):
            raise UserError(
                f"{where}: the name {name!r} leads out of its folder, or holds control characters; expected names such "
                "as 'drive/000017'; do not use this copy"
            )
