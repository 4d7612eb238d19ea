"""Where a word of the user leads: to a local path, or into a bucket of an object store (gs://, s3://).

`place` is the one that decides, and `local` the one that refuses a bucket where only files will do.
"""

import os
import re
from pathlib import Path

from uda_jax.errors import UserError

# Scheme of a bucket -> the package that reaches it; the extra of the library is called like the scheme.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# What pathlib makes of an address.
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)(.*)", re.DOTALL)


def place(word: str | os.PathLike, field: str = "") -> Path:
    """Returns the path that a word names.

    Args:
      word: a local path; or `gs://bucket/folder` or `s3://bucket/folder`, as text or as an `epath.Path`.
      field: the field or option that it was given for, which starts messages.

    Returns:
      A `pathlib.Path`, or for a bucket an `epath.Path`, whose text is the address.

    Raises:
      UserError: an address of another kind, or one without a bucket or a folder in it.
    """
    text = os.fspath(word)
    start = f"{field}: " if field else ""
    if collapsed := _COLLAPSED.match(text):
        address = f"{collapsed[1]}://{collapsed[2]}"
        raise UserError(
            f"{start}{text}: expected {address} with two slashes; give it as text or as an etils.epath.Path"
        )
    address = _ADDRESS.fullmatch(text)
    if address is None:
        return Path(word)
    scheme, rest = address.groups()
    if scheme not in SCHEMES:
        known = " or ".join(f"{each}://bucket/folder" for each in sorted(SCHEMES))
        raise UserError(f"{start}{text}: expected a local path, or {known}, got an address of '{scheme}'")
    parts = rest.rstrip("/").split("/")
    # Their names become those of local files.
    if len(parts) < 2 or not all(_is_plain(part) for part in parts):
        raise UserError(
            f"{start}{text}: expected {scheme}://bucket/folder, its parts of letters, digits and marks other than "
            "\\ * ? [ ]; name a folder in the bucket"
        )
    from etils import epath  # Only who uses a bucket waits for it.

    return epath.Path(f"{scheme}://{'/'.join(parts)}")


def is_bucket(path: str | os.PathLike) -> bool:
    """Returns whether a path or word leads into a bucket."""
    return os.fspath(path).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def local(word: str | os.PathLike, field: str = "") -> Path:
    """Returns the path of a word that has to lead to local files.

    Args:
      word: what the user gave.
      field: as in `place`.

    Raises:
      UserError: it leads into a bucket, or is another address.
    """
    if is_bucket(word):
        start = f"{field}: " if field else ""
        raise UserError(
            f"{start}expected a local path, got {os.fspath(word)}; data and other files are read and written locally "
            "alone: mount the bucket and give the path there, or copy what is needed first"
        )
    return place(word, field)


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and part.isprintable() and not set(part) & set("\\*?[]")
