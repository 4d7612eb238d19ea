"""A local copy of a folder in a bucket, which is kept in step with it; see `mirrors`, whose part this is.

What the bucket holds is true whenever the process is killed, because of the order of putting. First come logs, lists
and pictures; then checkpoints, in each of which the file `SEAL`, the checksums of all its others, comes last: a
checkpoint without it is none. Then come the stages' markers, and at last the result.
"""

import contextlib
import errno
import json
import os
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from uda_jax.data.io.bucket_locks import LOCK, BucketLock, LockLost
from uda_jax.data.io.buckets import BucketFolder, Stored
from uda_jax.errors import DiskFull, UserError

# The file that makes a folder of others complete: JSON, whose "files" names them relative to it.
SEAL = "files.json"
# Within a stage: the folders of folders that are sealed each, and the one that is sealed itself.
_STEPS, _SEALED = ("checkpoints", "unscored"), "frozen"
_PICTURES = "pictures"  # no stage
# Within a checkpoint: what only its restoring needs.
_HEAVY = ("state", "data")
_TEXTS = (".json", ".jsonl", ".txt")
_LAST = ("finished.json", "result.json")  # put when all else is there, in this order
_KEPT = "uda_jax-kept-"
_UNFINISHED = ".orbax-checkpoint-tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Mirror:
    """A local copy of a folder in a bucket.

    Args:
      bucket: the folder.
      folder: where the copy lies.

    Attributes:
      EVERY: seconds between two looks for logs that grew.
      WAITS: seconds to wait before another attempt to reach the bucket.
    """

    EVERY = 60.0
    WAITS = (2.0, 10.0)

    def __init__(self, bucket: BucketFolder, folder: Path):
        self._bucket, self.address, self.folder = bucket, bucket.address, folder
        self._stored: dict[str, Stored] = {}
        self._same: dict[str, tuple[int, int]] = {}  # Size and time of local files that are as stored.
        self._kept: dict[str, set[str]] = {}  # Folder of checkpoints -> their names.
        self._lock: BucketLock | None = None
        self._worker: threading.Thread | None = None
        self._busy = threading.Lock()
        self._change = threading.Condition()
        self._asked = self._done = 0
        self._closing, self._lost = False, None

    def refresh(self) -> None:
        """Looks at the bucket anew: copies what is light, and drops copies of what is other or gone by now."""
        for attempts in (2, 1, 0):
            found = self._look()
            try:
                return self._get(name for name in found if self._is_light(name))
            except UserError:
                # What a run that is writing there has removed since the listing is in no other one.
                if not attempts or found.keys() <= self._bucket.listing().keys():
                    raise

    def _look(self) -> dict[str, Stored]:
        """Returns the objects that there are, after dropping copies of others."""
        with self._busy:
            found = self._bucket.listing()
            for name in [name for name in self._same if _differs(self._stored.get(name), found.get(name))]:
                del self._same[name]
                self._file(name).unlink(missing_ok=True)
            self._stored = found
        if found:
            self.folder.mkdir(parents=True, exist_ok=True)
        if not found and not self.folder.exists() and self._bucket.is_object():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._bucket.get({"": self.folder})
        return found

    def fetch(self, path: Path) -> None:
        """See the function `fetch`."""
        name = path.relative_to(self.folder).as_posix()
        self._get(each for each in self._stored if name == "." or each == name or each.startswith(f"{name}/"))

    def begin(self, option: str, command: str) -> None:
        """Takes the folder's lock and from then on carries over what is written; see `BucketLock` for the words."""
        lock = BucketLock(self._bucket, option, command)
        lock.acquire()
        try:
            self.refresh()  # Another process may have written here since the first look.
            self._remove({name for name in self._stored if (step := _step_of(name)) and not self._is_sealed(step)})
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self._worker = threading.Thread(target=self._work, name="bucket", daemon=True)
        self._worker.start()

    def publish(self, steps: Path, kept: Collection[int]) -> None:
        """See the function `publish`."""
        with self._change:
            self._kept[steps.relative_to(self.folder).as_posix()] = set(map(str, kept))
            self._asked += 1
            self._change.notify_all()

    def remove(self, path: Path) -> None:
        """See the function `remove`."""
        name = path.relative_to(self.folder).as_posix()
        with self._busy:
            if self._lock is not None:
                self._lock.check()
            gone = {each for each in self._stored if each == name or each.startswith(f"{name}/")}
            self._remove(gone)
            self._same = {each: stat for each, stat in self._same.items() if each not in gone}

    def share(self) -> None:
        """See the function `share`."""
        self._attempt()

    def settle(self) -> None:
        """See the function `settle`."""
        with self._change:
            self._change.wait_for(lambda: self._done >= self._asked or self._lost is not None)
        if self._lost is not None:
            raise self._lost

    def end(self) -> None:
        """Carries over what is left and gives the lock back.

        Raises:
          UserError: the bucket cannot be reached; the copy is then kept, and the message says where.
        """
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._worker.join()
        try:
            if self._lost is not None:
                raise self._lost
            self._attempt()
        except (UserError, OSError) as error:
            raise UserError(
                f"{error}; what is not in the bucket is kept in {self._keep()}: copy it there, or rerun the same "
                "command, which goes on from the last checkpoint in the bucket"
            ) from error
        except Exception:
            print(f"note: what is not in {self.address} is kept in {self._keep()}", file=sys.stderr)
            raise
        finally:
            self._lock.release()

    def named(self, text: str) -> str:
        """Returns a text with the bucket's address in place of the copy's folder."""
        return text.replace(str(self.folder), self.address)

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Makes errors name the bucket's address, unless the copy's own disk is full."""
        try:
            yield
        except DiskFull:
            raise
        except UserError as error:
            error.args = (self.named(str(error)),)
            raise
        except OSError as error:
            if error.errno not in _FULL and isinstance(error.filename, str | os.PathLike):
                error.filename = self.named(os.fspath(error.filename))
            raise

    def _work(self) -> None:
        """Carries over what is new when asked, and what grew from time to time."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closing or self._done < self._asked, self.EVERY)
                if self._closing:
                    return
                asked = self._asked
            try:
                self._attempt()
            except LockLost as error:
                self._lost = error
            except (UserError, OSError) as error:
                print(f"note: {error}; trying again in a while", file=sys.stderr)
            except Exception as error:  # Whoever waits must not wait for ever.
                self._lost = error
            with self._change:
                self._done = asked
                self._change.notify_all()
            if self._lost is not None:
                return

    def _attempt(self) -> None:
        """Carries over what is new, several times if need be."""
        for wait in self.WAITS:
            try:
                with self._busy:
                    return self._publish()
            except LockLost:
                raise
            except (UserError, OSError):
                with self._change:
                    self._change.wait_for(lambda: self._closing, wait)
        with self._busy:
            return self._publish()

    def _publish(self) -> None:
        """Puts what is new, in the order that the module's text tells, then removes checkpoints that are not kept."""
        loose, sealed = self._local()
        if self._lock is None:
            return self._put(name for name in loose if not _is_last(name))
        self._lock.check()
        for last in (None, *_LAST):
            self._put(name for name in loose if (name.rpartition("/")[2] == last if last else not _is_last(name)))
            if last is None:
                for folder in sealed:
                    self._put_sealed(folder)
        for steps, kept in list(self._kept.items()):
            found = {step for name in self._stored if (step := _step_of(name)) and step.startswith(f"{steps}/")}
            gone = {step for step in found if step.rpartition("/")[2] not in kept}
            self._remove({name for name in self._stored if _step_of(name) in gone})

    def _local(self) -> tuple[list[str], list[str]]:
        """Returns the names of the copy's files that belong to no sealed folder, and of its sealed folders."""
        loose, sealed = [], []
        for here, folders, files in os.walk(self.folder):
            name = Path(here).relative_to(self.folder).as_posix()
            folders[:] = sorted(each for each in folders if not each.startswith(".") and _UNFINISHED not in each)
            if _is_sealed_folder(name):
                folders.clear()
                sealed += [name] if SEAL in files else []
            elif _part(name) not in _STEPS:
                loose += [_join(name, each) for each in files if not each.startswith(".")]
        return loose, sealed

    def _put_sealed(self, folder: str) -> None:
        """Puts a folder with its seal last, unless it is there as it is."""
        seal = f"{folder}/{SEAL}"
        if self._same.get(seal) == _stat(self._file(seal)):
            return
        files = {f"{folder}/{name}" for name in json.loads(self._file(seal).read_bytes())["files"]} | {seal}
        if not all(self._file(name).exists() for name in files):
            return  # It is being removed.
        stored = {name for name in self._stored if name.startswith(f"{folder}/")}
        # Without its seal it counts as absent until all of it is there.
        self._remove(stored & {seal})
        self._put(sorted(files - {seal}))
        self._remove(stored - files)
        self._put([seal])

    def _put(self, names: Iterable[str]) -> None:
        """Puts those files that are not as stored."""
        stats = {name: _stat(self._file(name)) for name in names}
        changed = {name: stat for name, stat in stats.items() if self._same.get(name) != stat}
        self._bucket.put({name: self._file(name) for name in changed})
        self._same |= changed
        # Another thread may be reading the old one.
        self._stored = self._stored | {name: Stored(size, "", 0.0) for name, (size, _) in changed.items()}

    def _remove(self, names: Collection[str]) -> None:
        """Removes objects, seals first."""
        seals = {name for name in names if name.endswith(f"/{SEAL}")}
        for some in (seals, set(names) - seals):
            if some:
                self._bucket.remove(sorted(some))
        self._stored = {name: stored for name, stored in self._stored.items() if name not in names}

    def _get(self, names: Iterable[str]) -> None:
        """Copies those objects that are not here."""
        wanted = {name: self._file(name) for name in names if name not in self._same and name != LOCK}
        wanted = {name: file for name, file in wanted.items() if not file.exists()}
        self._bucket.get(wanted)
        for name, file in wanted.items():
            # The order of stages is told by the times of their logs.
            os.utime(file, (self._stored[name].modified,) * 2)
            self._same[name] = _stat(file)

    def _is_light(self, name: str) -> bool:
        """Whether an object is copied without being asked for."""
        part, step = _part(name), _step_of(name)
        if part in _STEPS:
            return step is not None and self._is_sealed(step) and name.split("/")[3] not in _HEAVY
        return part != _SEALED and name.endswith(_TEXTS)

    def _is_sealed(self, folder: str) -> bool:
        return f"{folder}/{SEAL}" in self._stored

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _keep(self) -> Path:
        """Moves the copy where the next process does not remove it, and returns the place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = Path(tempfile.mkdtemp(prefix=_KEPT))
        return self.folder.rename(kept / self.folder.name)


def _part(name: str) -> str:
    """Returns which part of a stage a file or folder belongs to, "checkpoints" of "train/checkpoints/100"."""
    parts = name.split("/")
    return parts[1] if len(parts) > 1 and parts[0] != _PICTURES else ""


def _step_of(name: str) -> str | None:
    """Returns the folder of the checkpoint that a file belongs to, "train/checkpoints/100", or None."""
    parts = name.split("/")
    return "/".join(parts[:3]) if _part(name) in _STEPS and len(parts) > 3 else None


def _is_sealed_folder(name: str) -> bool:
    depth = {_SEALED: 2, **dict.fromkeys(_STEPS, 3)}.get(_part(name))
    return depth == len(name.split("/"))


def _is_last(name: str) -> bool:
    return name.rpartition("/")[2] in _LAST


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _differs(known: Stored | None, found: Stored | None) -> bool:
    """Whether an object is another than the one that is known; of what this process put, the version is not."""
    return known != found and not (known and found and not known.version)


def _stat(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
