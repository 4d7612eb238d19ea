"""A lock on a folder in a bucket: an object that says who works there, and is renewed as long as that process lives.

Object stores give no lock back when a process dies. Whoever finds one therefore looks whether it is still renewed:
clocks of machines, which differ, play no part. A process of the same machine is asked for directly. The object is made
on the condition that there is none, which S3 and Cloud Storage grant to one of two at the same moment; where a store
ignores the condition, both look again after a moment, and the one whose name stands there has it.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from uda_jax.data.io.buckets import BucketFolder
from uda_jax.errors import UserError

LOCK = "lock.json"


class LockLost(UserError):
    """Another process works in the folder now, or may."""


class BucketLock:
    """The lock of one folder; `acquire` it, and `release` it in the end.

    Args:
      folder: the folder.
      option: the option that names it, for messages.
      command: what works in it, for messages.

    Attributes:
      RENEWED_EVERY: seconds between two renewals.
      WATCHED: seconds for which a lock of another machine must not change to count as left behind.
      SETTLED: seconds after which the second of two has put its name, where the store ignores conditions.
    """

    RENEWED_EVERY = 20.0
    WATCHED = 70.0
    SETTLED = 1.0

    def __init__(self, folder: BucketFolder, option: str, command: str):
        self._folder, self._option, self._command = folder, option, command
        self._own = {"token": secrets.token_hex(8), "host": socket.gethostname(), "machine": _machine()}
        self._own |= {"pid": os.getpid(), "process": _process(os.getpid())}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock, and one that was left behind; then renews it until `release`.

        Raises:
          UserError: another process works in the folder, or the store cannot be reached.
        """
        while not self._folder.create(LOCK, self._content()):
            found = self._folder.read(LOCK)
            if found is None:
                continue
            if self._is_alive(found):
                raise UserError(self._taken(found))
            print(f"note: {self._folder.address}: took over the lock of {_owner(found)}, which died", file=sys.stderr)
            # Whoever has found the same at the same moment has put another since.
            if self._folder.read(LOCK) == found:
                self._folder.remove([LOCK])
        if self._folder.create(LOCK, self._content()):  # The store ignores the condition.
            time.sleep(self.SETTLED)
            self.check()
        self._thread = threading.Thread(target=self._renew, name="bucket-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LockLost if the lock is gone or another process's, as after a long silence of this one."""
        found = self._folder.read(LOCK)
        if found is None:
            raise LockLost(
                f"{self._folder.address}/{LOCK}: the lock of this '{self._command}' was removed, so that another may "
                "have begun; rerun the same command"
            )
        if _read(found).get("token") != self._own["token"]:
            raise LockLost(self._taken(found))

    def release(self) -> None:
        """Gives the lock back, if it is still this process's; a store that cannot be reached is left alone."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(UserError):
            self.check()
            self._folder.remove([LOCK])

    def _content(self) -> bytes:
        # The time is for people.
        return json.dumps(self._own | {"renewed": time.strftime("%Y-%m-%dT%H:%M:%S%z")}).encode()

    def _renew(self) -> None:
        while not self._done.wait(self.RENEWED_EVERY):
            # Unreachable for a while: whoever takes over meanwhile is found out by `check`.
            with contextlib.suppress(UserError):
                self.check()
                self._folder.write(LOCK, self._content())

    def _is_alive(self, found: bytes) -> bool:
        """Whether the owner of a lock still works: told by the system, or by watching the lock."""
        owner = _read(found)
        if owner.get("machine") == self._own["machine"] and isinstance(owner.get("pid"), int):
            return _is_running(owner["pid"], owner.get("process"))
        until = time.monotonic() + self.WATCHED
        while time.monotonic() < until:
            time.sleep(min(1.0, self.WATCHED))
            now = self._folder.read(LOCK)
            if now is None:
                return False
            if now != found:
                return True
        return False

    def _taken(self, found: bytes) -> str:
        return (
            f"{self._option}: another '{self._command}' is writing into {self._folder.address} ({_owner(found)}); wait "
            "for it, end it, or choose another folder"
        )


def _read(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


def _owner(content: bytes) -> str:
    owner = _read(content)
    return f"process {owner.get('pid', '?')} of {owner.get('host', 'another machine')}"


def _machine() -> str:
    """Returns what tells this machine, or this container with processes of its own, from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def _process(pid: int) -> str | None:
    """Returns when a process began, as the system counts, which tells it from a later one of its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_running(pid: int, began: str | None) -> bool:
    """Whether a process of this machine still lives."""
    if (found := _process(pid)) is not None:
        return found == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # Another user's.
    return True
