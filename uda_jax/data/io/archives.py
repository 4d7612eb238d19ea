"""Files where they lie: in folders, and inside the archives that a data set was downloaded as.

A `Tree` shows a root folder and the zip and plain tar archives directly in it as one tree, as if all of them had been
unpacked there; the root may also be one archive. Compressed tars cannot be read at random: they are left out,
and named.

Libraries of virtual file systems, such as fsspec, open one archive at a time; here many form one tree, whose listing
also tells which archive is damaged and which link leads nowhere.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from uda_jax.data.io import packed
from uda_jax.data.io.names import is_safe
from uda_jax.data.io.packed import ARCHIVES, UNREAD, Bytes, File
from uda_jax.data.io.problems import Problem
from uda_jax.errors import UserError, printable

# Commands and configs call it differently.
GIVE_ROOT = "give it by --root, or in a config as the domain's 'root'"

__all__ = ["Bytes", "File", "Problem", "Tree"]

# What macOS packs beside the files proper.
_FOREIGN = "__MACOSX"
# How deep below the root `Tree.find` looks for a folder: data sets are unpacked into one or two folders more.
_DEPTH = 3


class OtherKinds(NamedTuple):
    """Files that were passed over for their kind.

    Attributes:
      folder: that was listed, relative to the tree.
      names: theirs, relative to the folder.
      asked: the endings that were asked for there, such as ".png".
      files: those that were found there.
    """

    folder: str
    names: list[str]
    asked: tuple[str, ...]
    files: Collection[File]


class Tree:
    """The files of a data set: its root and the archives in it, as one tree.

    Args:
      dataset: name of the data set, for messages.
      root: a folder or an archive.

    Attributes:
      root: as given.
      problems: what could not be listed: archives that cannot be opened or are cut off, links to folders that are
        not there or that lead back to themselves.

    Raises:
      UserError: no root, or there is nothing.
    """

    def __init__(self, dataset: str, root: str | os.PathLike | None):
        if root is None:
            raise UserError(f"{dataset}: root: expected the folder of the data set, got none; {GIVE_ROOT}")
        self._dataset = dataset
        self.root = Path(root).expanduser()
        self.problems: list[Problem] = []
        self._members: dict[str, File] = {}
        self._passed: dict[str, set[str]] = {}
        self._asked: dict[str, set[str]] = {}
        self._found: dict[str, set[File]] = {}
        self._packed_folders: dict[str, list[str]] = {}
        unread: list[Path] = []
        if self.root.is_dir():
            paths = sorted(self.root.iterdir())
            archives = [path for path in paths if path.suffix.lower() in ARCHIVES and not path.is_dir()]
            unread = [path for path in paths if path.name.lower().endswith(UNREAD)]
        elif self.root.suffix.lower() in ARCHIVES and self.root.is_file():
            archives = [self.root]
        else:
            raise UserError(f"{dataset}: root: no folder {self.root}; {GIVE_ROOT}, where the data set lies")
        # Their members are listed, so that they themselves are passed over by nobody.
        self._opened = {archive.name for archive in archives}
        for archive in archives:
            self._index(archive)
        for archive in unread:
            self._report(
                f"{printable(str(archive))}: not read, since only {' and '.join(ARCHIVES)} can be; unpack it", note=True
            )

    def find(self, folder: str) -> str | None:
        """Returns where a folder such as "leftImg8bit/train" is, at the root or a few folders below; None if nowhere.

        The nearest to the root wins, then the first by name.

        Raises:
          UserError: it is nowhere but for a link that leads to nothing.
        """
        parents, lost = [""], []
        for _ in range(_DEPTH):
            for parent in parents:
                if self.is_folder(candidate := _join(parent, folder)):
                    return candidate
                path = self.root / parent
                for part in folder.split("/"):
                    path = path / part
                    lost += [path] if path.is_symlink() and not os.path.exists(path) else []
            parents = [_join(parent, child) for parent in parents for child in self._folders(parent)]
        if lost:
            raise UserError(f"{self._dataset}: {_leads_to_nothing(lost[0])}")
        return None

    def is_folder(self, folder: str) -> bool:
        """Returns whether there is such a folder, on disk or packed."""
        return folder in self._packed_folders or os.path.isdir(self.root / folder)

    def files(self, folder: str, endings: Iterable[str], *, recursive: bool = False) -> dict[str, File]:
        """Lists a folder.

        Args:
          folder: relative to the tree.
          endings: of the names that count, in lower case, such as (".png", ".jpg"). Hidden files never count.
          recursive: whether to go into folders in it.

        Returns:
          {name relative to `folder`: file}, sorted by name. A file on disk hides one of its name in an archive.
        """
        endings = tuple(endings)
        listed = {name: self._members[_join(folder, name)] for name in self._packed(folder, recursive)}
        if self.root.is_dir():
            names = self._on_disk(folder, recursive, endings)
            names = (name for name in names if _join(folder, name) not in self._opened)
            listed |= {name: File(self.root / folder / name) for name in names}
        found = {name: file for name, file in sorted(listed.items()) if name.lower().endswith(endings)}
        passed = listed.keys() - found.keys()
        self._passed[folder] = self._passed.get(folder, passed) & passed
        self._asked.setdefault(folder, set()).update(f".{ending.rpartition('.')[2]}" for ending in endings)
        self._found.setdefault(folder, set()).update(found.values())
        if not found and not recursive:
            self._look_deeper(folder, endings)
        return found

    def passed_over(self, folder: str) -> list[str]:
        """Returns the names of the files in a folder that no call of `files` asked for."""
        return sorted(self._passed.get(folder, ()))

    def other_kinds(self) -> list[OtherKinds]:
        """Returns the files of kinds that were not asked for, of each folder that was listed and holds some."""
        found = []
        for folder, passed in self._passed.items():
            kinds = tuple(sorted(self._asked[folder]))
            if names := sorted(name for name in passed if not name.lower().endswith(kinds)):
                found.append(OtherKinds(folder, names, kinds, self._found[folder]))
        return found

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder."""
        return self._folders(folder)

    def _look_deeper(self, folder: str, endings: tuple[str, ...]) -> None:
        """Reports files that were unpacked one folder too deep."""
        for child in self._folders(folder):
            below = _join(folder, child)
            names = [*self._packed(below, False), *(self._on_disk(below, False, ()) if self.root.is_dir() else ())]
            if deeper := [name for name in names if name.lower().endswith(endings)]:
                self._report(
                    f"{self.where(folder)}: expected files {' or '.join(endings)} in it, found none, but {len(deeper)} "
                    f"in {self.where(below)}; move these up"
                )

    def file(self, name: str) -> File | None:
        """Returns the file of this name relative to the tree; None if there is none."""
        if self.root.is_dir() and (self.root / name).is_file():
            return File(self.root / name)
        return self._members.get(name)

    def where(self, folder: str) -> str:
        """Returns a folder's name for messages."""
        return printable(str(self.root / folder))

    def _index(self, archive: Path) -> None:
        """Enters the members of an archive."""
        where = printable(str(archive))
        try:
            listing = packed.listed(archive)
        except packed.DAMAGED as error:
            reason = printable(" ".join((getattr(error, "strerror", None) or str(error)).split()))
            self._report(f"{where}: damaged archive ({reason}); download it again")
            return
        for note in listing.notes:
            self._report(f"{where}: {note}", note=True)
        members = {name: file for name, file in listing.members.items() if not _is_foreign(name)}
        if unsafe := [name for name in members if not is_safe(name)]:
            self._report(
                f"{where}: {len(unsafe)} names in it lead out of its folder or hold control "
                f"characters, the first is {unsafe[0]!r}; they are not read, do not use this copy"
            )
        for name, file in members.items():
            parts = name.split("/")
            if not is_safe(name):
                continue
            self._members.setdefault(name, file)
            for depth, part in enumerate(parts):
                entries = self._packed_folders.setdefault("/".join(parts[:depth]), [])
                if depth == len(parts) - 1 or _join("/".join(parts[:depth]), part) not in self._packed_folders:
                    entries.append(part)

    def _packed(self, folder: str, recursive: bool) -> Iterator[str]:
        for entry in self._packed_folders.get(folder, ()):
            path = _join(folder, entry)
            if path in self._members:
                yield entry
            elif recursive:
                yield from (_join(entry, name) for name in self._packed(path, True))

    def _on_disk(
        self, folder: str, recursive: bool, endings: tuple[str, ...], above: tuple[tuple[int, int], ...] = ()
    ) -> Iterator[str]:
        """Yields names below a folder, following links but never back to a folder they come from."""
        try:
            entries = self._entries(folder)
        except OSError as error:
            where = self.where(folder)
            self._report(f"{where}: this folder cannot be listed ({error.strerror}); fix or remove it")
            return
        if not entries:
            return
        if not above:
            parts = folder.split("/") if folder else []
            above = tuple(_identity(self.root.joinpath(*parts[:depth])) for depth in range(len(parts)))
        above = (*above, _identity(self.root / folder))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                # A link without a target counts as a file, so that reading it names it, unless its name says folder.
                if recursive and entry.is_symlink() and "." not in entry.name and not os.path.exists(entry.path):
                    self._report(_leads_to_nothing(entry.path))
                yield entry.name
            elif entry.is_symlink() and _identity(entry.path) in above:
                self._report(f"{printable(entry.path)}: the folder links back to one that holds it; remove the link")
            elif endings and entry.name.lower().endswith(endings):
                self._report(f"{printable(entry.path)}: expected a file, found a folder; replace or remove it")
            elif recursive:
                below = self._on_disk(_join(folder, entry.name), True, endings, above)
                yield from (_join(entry.name, name) for name in below)

    def _entries(self, folder: str) -> list[os.DirEntry]:
        """Returns what is in a folder on disk, by name; nothing if there is no such folder.

        Raises:
          OSError: it cannot be listed.
        """
        path = self.root / folder
        if not self.root.is_dir() or not os.path.lexists(path):
            return []
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _report(self, message: str, *, note: bool = False) -> None:
        """Adds a problem of no single frame, once."""
        if (problem := Problem(None, "image", message, note=note)) not in self.problems:
            self.problems.append(problem)

    def _folders(self, folder: str) -> list[str]:
        packed = [name for name in self._packed_folders.get(folder, ()) if _join(folder, name) in self._packed_folders]
        disk = []
        with contextlib.suppress(OSError):
            disk = [entry.name for entry in self._entries(folder) if _is_folder(entry)]
        return sorted({name for name in (*packed, *disk) if not name.startswith(".")})


def compressed(root: str | os.PathLike | None) -> list[Path]:
    """Returns the archives at a root, or in it, that are compressed as a whole, so that they are not read."""
    if root is None:
        return []
    path = Path(root).expanduser()
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.name.lower().endswith(UNREAD) and file.is_file()]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself.
        return False


def _leads_to_nothing(link: str | os.PathLike) -> str:
    return f"{printable(os.fspath(link))}: a link to a folder that is not there; fix or remove the link"


def _identity(path: str | os.PathLike) -> tuple[int, int]:
    """Returns what tells a folder from all others, whichever links lead to it."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_foreign(name: str) -> bool:
    """Returns whether a system packed this beside the files proper, or hid it."""
    parts = name.split("/")
    return _FOREIGN in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)
