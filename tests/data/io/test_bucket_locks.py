"""Who may write into a folder in a bucket."""

import json
import os
import subprocess
import sys
import time
import types

import pytest

from uda_jax.data.io import bucket_locks
from uda_jax.data.io.bucket_locks import LOCK, BucketLock, LockLost
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.errors import UserError


@pytest.fixture
def folder(bucket):
    return BucketFolder(bucket)


def lock_of(folder):
    return BucketLock(folder, "--workdir", "uda train")


def test_the_second_is_refused_until_the_first_is_done(folder, bucket):
    first, second = lock_of(folder), lock_of(folder)
    first.acquire()
    with pytest.raises(UserError, match=rf"--workdir: another 'uda train' is writing into {bucket} .*{os.getpid()}"):
        second.acquire()
    first.check()
    first.release()
    second.acquire()
    second.release()
    assert folder.listing() == {}


def test_the_lock_of_a_killed_process_is_taken_over(folder, capsys):
    code = "import os, sys; sys.path[:0] = {path!r}; from uda_jax.data.io.bucket_locks import *\n"
    code += "from uda_jax.data.io.buckets import BucketFolder\n"
    code += "BucketLock(BucketFolder({address!r}), 'a', 'b').acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code.format(path=sys.path, address=folder.address)])
    assert folder.read(LOCK)
    lock = lock_of(folder)
    lock.acquire()
    assert "took over the lock of process" in capsys.readouterr().err
    lock.release()


def sleep_by(monkeypatch, sleep):
    """Has locks, and nothing else, sleep by calling a function."""
    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic, strftime=time.strftime)
    monkeypatch.setattr(bucket_locks, "time", clock)


def foreign(folder, renewed):
    """Leaves the lock of a process of another machine."""
    owner = {"token": "x", "host": "far", "machine": "far", "pid": 1, "renewed": renewed}
    folder.write(LOCK, json.dumps(owner).encode())


def test_a_lock_of_another_machine_is_watched(folder, monkeypatch, capsys):
    monkeypatch.setattr(BucketLock, "WATCHED", 0.05)
    foreign(folder, "then")
    lock = lock_of(folder)
    lock.acquire()
    assert "note: " in capsys.readouterr().err
    # It was only silent, and comes back.
    foreign(folder, "now")
    with pytest.raises(LockLost, match="another 'uda train' is writing .*process 1 of far"):
        lock.check()
    lock.release()
    assert b"far" in folder.read(LOCK)
    monkeypatch.setattr(BucketLock, "WATCHED", 60.0)
    sleep_by(monkeypatch, lambda _: foreign(folder, "later"))
    with pytest.raises(UserError, match="process 1 of far"):
        lock_of(folder).acquire()


def test_a_lock_is_renewed_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(BucketLock, "RENEWED_EVERY", 0.01)
    lock = lock_of(folder)
    lock.acquire()
    before, until = folder.listing()[LOCK], time.monotonic() + 20
    folder.write(LOCK, folder.read(LOCK).replace(b"renewed", b"seen"))
    while b"seen" in folder.read(LOCK):
        assert time.monotonic() < until
    lock.release()
    assert before.size and folder.read(LOCK) is None


def test_a_store_without_conditions_lets_the_last_one_begin(folder, monkeypatch):
    def ignoring(name, data):
        folder.write(name, data)
        return True

    first, second = lock_of(folder), lock_of(folder)
    monkeypatch.setattr(folder, "create", ignoring)
    # The other puts its own while the first one waits.
    sleep_by(monkeypatch, lambda _: folder.write(LOCK, second._content()))
    with pytest.raises(LockLost):
        first.acquire()
    second.acquire()
    second.release()


def test_a_lock_that_somebody_removed_is_noticed(folder):
    lock = lock_of(folder)
    lock.acquire()
    folder.remove([LOCK])
    with pytest.raises(LockLost, match="was removed, so that another may have begun; rerun the same command"):
        lock.check()
    lock.release()
