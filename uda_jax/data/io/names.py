"""Names out of data as names of files: they never lead elsewhere, are never too long, and no two become one."""

import hashlib
from pathlib import Path

# File systems take 255 bytes; what is written beside a file, and under what temporary name, adds to its own.
LONGEST = 180


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
