"""Writing files and folders completely or not at all, and tables of JSON lines."""

import builtins
import errno
import os

import pytest

from uda_jax.data.io import atomic, json_lines
from uda_jax.errors import UserError


def test_a_file_is_replaced_at_the_end_alone(tmp_path):
    path = tmp_path / "new" / "file"
    atomic.write(path, "first")
    with atomic.replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    atomic.write(path, b"\xff")
    assert path.read_bytes() == b"\xff" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("flush", [False, True])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, flush):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing(path, flush=flush) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_at_the_end(tmp_path):
    path = tmp_path / "above" / "folder"
    with atomic.folder(path) as temporary:
        (temporary / "inside").write_text("text")
        assert not path.exists() and temporary.parent == path.parent
    assert (path / "inside").read_text() == "text" and os.listdir(path.parent) == ["folder"]


def test_a_folder_that_another_process_made_stays(tmp_path):
    path = tmp_path / "folder"
    with atomic.folder(path) as temporary:
        (temporary / "inside").write_text("late")
        path.mkdir()
        (path / "inside").write_text("early")
    assert (path / "inside").read_text() == "early" and os.listdir(tmp_path) == ["folder"]


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic.folder(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_system_without_locks_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_fcntl(name, *arguments, **options):
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_fcntl)
    with pytest.raises(UserError, match="no file locks"), atomic.locked(tmp_path, "--out", "uda prepare"):
        pass


def test_a_full_disk_is_an_oserror(tmp_path):
    with pytest.raises(OSError) as caught, atomic.disk_full_errors(tmp_path / "shard"):
        raise RuntimeError(f"Failed to write: {os.strerror(errno.ENOSPC)}")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(UserError, match="cannot be written"), atomic.disk_full_errors(tmp_path / "shard"):
        raise RuntimeError("something else")


def test_json_lines_come_back(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [{"step": 1, "value": 0.1 + 0.2}, {"step": 2, "name": "Straße\u2028"}, {"step": 3, "value": None}]
    json_lines.append(path, rows[:1])
    json_lines.append(path, rows[1:])
    assert json_lines.read(path) == rows and len(path.read_bytes().split(b"\n")) == 4
    json_lines.write(path, rows[1:])
    assert json_lines.read(path) == rows[1:] and os.listdir(tmp_path) == ["table.jsonl"]


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3}', '{"st{"step": 3}\n', "[3]\n", "\xff\n"])
def test_torn_lines_are_left_out(tmp_path, torn):
    path = tmp_path / "table.jsonl"
    json_lines.append(path, [{"step": 1}, {"step": 2}])
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    assert json_lines.read(path) == [{"step": 1}, {"step": 2}]


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        json_lines.read(tmp_path / "none.jsonl")


def test_leftovers_of_killed_processes_are_removed_but_no_folder_in_use(tmp_path):
    target, other = tmp_path / "cache", tmp_path / ".cache2.77-aa"
    old = tmp_path / ".cache.12345-deadbeef"
    for folder in (old, other):
        folder.mkdir()
        (folder / "frames").write_text("half")
        os.utime(folder, (0, 0))
    with atomic.folder(target) as first:
        assert not old.exists() and other.exists()
        os.utime(first, (0, 0))
        with atomic.folder(target):
            assert first.is_dir(), "a folder in use"
    assert target.is_dir() and [path.name for path in tmp_path.iterdir() if path.name.startswith(".cache.")] == []


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        atomic.write(tmp_path, "text")
    assert caught.value.filename == str(tmp_path)
