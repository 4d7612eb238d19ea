"""A folder in a bucket of an object store: listing it, and getting, putting and removing its objects.

It speaks through fsspec, as `etils.epath` does for the same addresses: s3fs for s3://, gcsfs for gs://, with their
credentials and their AWS_ENDPOINT_URL and the like. Of epath only the names are used, since it can neither list a
folder with the sizes in one request nor create an object on the condition that there is none.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from uda_jax.data.io.places import SCHEMES
from uda_jax.errors import DiskFull, UserError, os_error_line

_THREADS = 16  # removals at once; transfers are spread by fsspec itself
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Stored(NamedTuple):
    """What a listing says of an object.

    Attributes:
      size: in bytes.
      version: differs where the content does.
      modified: seconds since 1970 when it was put, by the store's clock.
    """

    size: int
    version: str
    modified: float


class BucketFolder:
    """A folder in a bucket; objects are named relative to it.

    Args:
      address: `s3://bucket/folder` or `gs://bucket/folder`, see `places.place`.

    Raises:
      UserError: the package that reaches the store is missing. Every method raises one for whatever the store refuses,
        with the address, the reason and what to do.
    """

    def __init__(self, address: str | os.PathLike):
        self.address = os.fspath(address)
        scheme, _, self._root = self.address.partition("://")
        import fsspec

        with self._errors():
            try:
                # What another process has put since is wanted, too.
                self._files = fsspec.filesystem(scheme, use_listings_cache=False)
            except ImportError:
                raise UserError(
                    f"{self.address}: {scheme}:// needs the package {SCHEMES[scheme]}, found none; "
                    f"pip install 'uda_jax[{scheme}]'"
                ) from None

    def listing(self) -> dict[str, Stored]:
        """Returns all objects below the folder by name; empty if there are none."""
        with self._errors():
            found = self._files.find(self._root, detail=True)
        below = f"{self._root}/"
        # A folder's own marker, which some tools make, is no file.
        named = {name.removeprefix(below): info for name, info in found.items() if name.startswith(below)}
        named = {name: info for name, info in named.items() if name and not name.endswith("/")}
        for name in named:
            # They become names of local files, which may lie nowhere else.
            if "\\" in name or not name.isprintable() or set(name.split("/")) & {"", ".", ".."}:
                raise UserError(f"{self.address}/{name}: expected a name of folders and a file; rename the object")
        return {name: _stored(info) for name, info in named.items()}

    def is_object(self) -> bool:
        """Returns whether the address is that of a single object."""
        with self._errors():
            return self._files.isfile(self._root)

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object, or None if there is none."""
        with self._errors():
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Puts an object whole, in place of what is there."""
        with self._errors():
            self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Puts an object unless there is one, and returns whether it did, as far as the store knows conditions."""
        with self._errors():
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except NotImplementedError:
                self._files.pipe_file(self._path(name), data)
        return True

    def get(self, files: Mapping[str, Path]) -> None:
        """Copies objects to local files, whose folders are made; `""` names the object of the address itself."""
        if not files:
            return
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._files.get([self._path(name) for name in files], [str(file) for file in files.values()])

    def put(self, files: Mapping[str, Path]) -> None:
        """Copies local files to objects, each of which is there whole or not at all."""
        if files:
            with self._errors():
                self._files.put([str(file) for file in files.values()], [self._path(name) for name in files])

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; one that is gone already is no error."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        with self._errors(), ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(remove, names))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what stores and networks raise into one clear line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DiskFull(f"{os_error_line(error)}, or name a larger disk in TMPDIR") from error
            raise UserError(f"{self.address}: {_reason(error)}") from error


def _stored(info: Mapping[str, Any]) -> Stored:
    modified = info.get("LastModified") or info.get("mtime") or info.get("updated")
    version = info.get("ETag") or info.get("etag") or info.get("generation") or modified
    return Stored(int(info["size"]), str(version), modified.timestamp() if hasattr(modified, "timestamp") else 0.0)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"no such bucket or object ({text}); check the name, or try again if a run is writing there"
    if isinstance(error, PermissionError) or "Forbidden" in text or "credentials" in text.lower():
        return f"may not be read or written ({text}); check the credentials and the bucket's rights"
    return f"cannot be reached ({type(error).__name__}: {text}); check the network, the credentials and the endpoint"
