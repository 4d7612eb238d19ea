"""Local copies of folders in buckets: what is copied when, in which order it is put, and what a failure leaves."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from uda_jax.data.io import mirrors
from uda_jax.data.io.bucket_locks import LOCK, BucketLock
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.data.io.mirror import SEAL, Mirror
from uda_jax.errors import DiskFull, UserError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, which has to be empty in the end; a store that fails is not waited for."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(Mirror, "WAITS", ())
    return folder


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def seal(root):
    """Writes the file that names all others of a folder."""
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    (root / SEAL).write_text(json.dumps({"files": dict.fromkeys(names, 0)}))


def checkpoint(folder, step, stage="train"):
    """Writes a checkpoint as a stage leaves it."""
    root = folder / stage / "checkpoints" / str(step)
    write(root, "config/metadata", "state/d/0", "state/manifest")
    seal(root)
    return root.parent


def stored(bucket):
    return sorted(BucketFolder(bucket).listing().keys() - {LOCK})


def locked(folder):
    return mirrors.locked(folder, "--workdir", "uda train")


def run(bucket, *steps):
    """Puts a run with checkpoints there."""
    with mirrors.opened(bucket) as folder, locked(folder):
        write(folder, "config.json", "train/metrics.jsonl", "train/frozen/d/0")
        seal(folder / "train" / "frozen")
        for step in steps:
            checkpoint(folder, step)


def test_local_words_are_left_alone(tmp_path):
    with mirrors.opened(str(tmp_path / "run")) as folder:
        assert folder == tmp_path / "run" and mirrors.of(folder) is None and mirrors.address(folder) is folder
        mirrors.fetch(folder)
        mirrors.publish(folder, [1])
        mirrors.settle(folder)
        with locked(folder), pytest.raises(UserError, match="another 'uda train' is writing into"):
            with locked(folder):
                pass


def test_light_files_come_at_once_and_heavy_ones_when_asked_for(bucket, temporary):
    run(bucket, 1, 2)
    with mirrors.opened(bucket) as folder:
        assert folder.name == bucket.rpartition("/")[2] and str(mirrors.address(folder)) == bucket
        assert (folder / "config.json").read_text() == "config.json"
        step = folder / "train" / "checkpoints" / "1"
        assert (step / "config" / "metadata").exists() and (step / SEAL).exists() and not (step / "state").exists()
        assert not (folder / "train" / "frozen").exists()
        mirrors.fetch(step)
        mirrors.fetch(folder / "train" / "frozen")
        assert (step / "state" / "d" / "0").read_text() == "state/d/0"
        assert not (folder / "train" / "checkpoints" / "2" / "state").exists()
        assert (folder / "train" / "frozen" / "d" / "0").exists()
    assert not folder.exists() and not list(temporary.iterdir())


def test_nothing_and_a_single_file(bucket):
    with mirrors.opened(bucket) as folder:
        assert not folder.exists()
    BucketFolder(bucket).write("weights.pth", b"weights")
    with mirrors.opened(f"{bucket}/weights.pth") as file:
        assert file.name == "weights.pth" and file.read_bytes() == b"weights"
    with mirrors.opened(bucket) as folder:
        assert folder.is_dir() and not list(folder.iterdir())


def test_seals_markers_and_results_are_put_last(bucket, monkeypatch):
    order, put = [], BucketFolder.put
    monkeypatch.setattr(BucketFolder, "put", lambda self, files: order.append(list(files)) or put(self, files))
    with mirrors.opened(bucket) as folder, locked(folder):
        write(folder, "result.json", "train/finished.json", "train/metrics.jsonl", "train/frozen/d/0")
        seal(folder / "train" / "frozen")
        write(folder, ".config.json.1-2", "train/checkpoints/3.orbax-checkpoint-tmp-4/state/0")
        write(folder, "train/checkpoints/5/state/d/0")  # not sealed yet
        write(folder, "pictures/frozen/image.png", "pictures/checkpoints/image.png")
        checkpoint(folder, 2)
    names = [name for batch in order for name in batch]
    assert names[-2:] == ["train/finished.json", "result.json"]
    assert names.index("train/metrics.jsonl") < names.index("train/frozen/d/0") < names.index(f"train/frozen/{SEAL}")
    last = names.index(f"train/checkpoints/2/{SEAL}")
    assert all(names.index(f"train/checkpoints/2/{each}") < last for each in ("config/metadata", "state/d/0"))
    assert stored(bucket) == sorted(names) and {"pictures/frozen/image.png"} < set(names)
    assert not [name for name in names if "tmp" in name or name.startswith(".") or "/5/" in name]


def test_an_upload_that_is_cut_off_leaves_no_checkpoint(bucket, monkeypatch, temporary):
    """What a killed process leaves: some objects of the next checkpoint, which is none without its seal."""
    run(bucket, 1)
    put = BucketFolder.put

    def cut_off(self, files):
        some = {name: file for name, file in files.items() if "state" not in name and not name.endswith(SEAL)}
        put(self, some)
        if len(some) < len(files):
            raise UserError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(BucketFolder, "put", cut_off)
        with pytest.raises(UserError, match="cut off; what is not in the bucket is kept in .*: copy it there") as error:
            with mirrors.opened(bucket) as folder, locked(folder):
                mirrors.publish(checkpoint(folder, 2), [2])
                mirrors.settle(folder)
    kept = Path(str(error.value).partition("kept in ")[2].partition(":")[0])
    assert (kept / "train" / "checkpoints" / "2" / "state" / "d" / "0").exists() and kept.is_relative_to(temporary)
    assert "train/checkpoints/2/config/metadata" in stored(bucket)
    # The older one stays, whatever was to be kept.
    assert f"train/checkpoints/1/{SEAL}" in stored(bucket)
    with mirrors.opened(bucket) as folder:
        assert [path.name for path in (folder / "train" / "checkpoints").iterdir()] == ["1"]
        with locked(folder):
            assert not [name for name in stored(bucket) if name.startswith("train/checkpoints/2")]


def test_checkpoints_that_are_not_kept_go_once_the_new_one_is_there(bucket):
    run(bucket, 1, 2)
    with mirrors.opened(bucket) as folder, locked(folder):
        mirrors.publish(checkpoint(folder, 3), [2, 3])
        mirrors.settle(folder)
        assert {name.split("/")[2] for name in stored(bucket) if "checkpoints" in name} == {"2", "3"}
        # The copy of one is lost; the bucket keeps it, since nobody asked for its removal.
        (folder / "train" / "checkpoints" / "2" / SEAL).unlink()
        mirrors.publish(checkpoint(folder, 4), [2, 3, 4])
        mirrors.settle(folder)
    assert {name.split("/")[2] for name in stored(bucket) if "checkpoints" in name} == {"2", "3", "4"}


def test_a_checkpoint_that_is_being_removed_here_is_not_put(bucket):
    with mirrors.opened(bucket) as folder, locked(folder):
        (checkpoint(folder, 1) / "1" / "state" / "manifest").unlink()
        mirrors.publish(checkpoint(folder, 2), [1, 2])
        mirrors.settle(folder)
    assert {name.split("/")[2] for name in stored(bucket) if "checkpoints" in name} == {"2"}


def test_only_what_changed_is_put_again(bucket, monkeypatch):
    run(bucket, 1)
    order, put = [], BucketFolder.put
    monkeypatch.setattr(BucketFolder, "put", lambda self, files: order.extend(files) or put(self, files))
    with mirrors.opened(bucket) as folder, locked(folder):
        with (folder / "train" / "metrics.jsonl").open("a") as file:
            file.write("more")
    assert order == ["train/metrics.jsonl"]
    assert BucketFolder(bucket).read("train/metrics.jsonl") == b"train/metrics.jsonlmore"


def test_logs_are_put_from_time_to_time(bucket, monkeypatch):
    monkeypatch.setattr(Mirror, "EVERY", 0.01)
    with mirrors.opened(bucket) as folder, locked(folder):
        write(folder, "train/metrics.jsonl")
        while "train/metrics.jsonl" not in stored(bucket):
            pass


def test_a_bucket_that_cannot_be_reached_for_a_while_loses_nothing(bucket, monkeypatch, capsys):
    put, broken = BucketFolder.put, [True]

    def put_or_fail(self, files):
        if broken:
            raise UserError("network is gone")
        put(self, files)

    monkeypatch.setattr(BucketFolder, "put", put_or_fail)
    with mirrors.opened(bucket) as folder, locked(folder):
        mirrors.publish(checkpoint(folder, 1), [1])
        mirrors.settle(folder)
        assert "note: network is gone; trying again in a while" in capsys.readouterr().err
        broken.clear()
        mirrors.publish(checkpoint(folder, 2), [1, 2])
        mirrors.settle(folder)
        assert {f"train/checkpoints/{step}/{SEAL}" for step in (1, 2)} < set(stored(bucket))


def test_who_lost_the_lock_puts_nothing_any_more(bucket):
    with pytest.raises(UserError, match="another 'uda train' is writing into .*is kept in"):
        with mirrors.opened(bucket) as folder, locked(folder):
            BucketFolder(bucket).write(LOCK, b"{}")
            mirrors.publish(checkpoint(folder, 1), [1])
            with pytest.raises(UserError, match="another 'uda train' is writing"):
                mirrors.settle(folder)
    assert stored(bucket) == [] and BucketFolder(bucket).read(LOCK) == b"{}"


def test_what_another_process_wrote_before_the_lock_is_seen(bucket):
    run(bucket, 1)
    with mirrors.opened(bucket) as folder:
        BucketFolder(bucket).write("config.json", b"other")
        BucketFolder(bucket).remove(["train/metrics.jsonl"])
        with locked(folder):
            assert (folder / "config.json").read_text() == "other"
            assert not (folder / "train" / "metrics.jsonl").exists()


def test_messages_name_the_bucket_unless_the_disk_here_is_full(bucket):
    def fail(error):
        with mirrors.opened(bucket) as folder:
            raise error(folder)

    with pytest.raises(UserError, match=f"^{bucket}/train: damaged$"):
        fail(lambda folder: UserError(f"{folder}/train: damaged"))
    with pytest.raises(FileNotFoundError) as error:
        fail(lambda folder: FileNotFoundError(2, "No such file", str(folder / "a")))
    assert error.value.filename == f"{bucket}/a"
    with pytest.raises(DiskFull, match="^/.*: full"):
        fail(lambda folder: DiskFull(f"{folder}: full"))


def test_a_refused_lock_leaves_everything_alone(bucket, temporary):
    run(bucket, 1)
    before = BucketFolder(bucket).listing()
    lock = BucketLock(BucketFolder(bucket), "--workdir", "uda train")
    lock.acquire()
    with pytest.raises(UserError, match="another 'uda train' is writing"):
        with mirrors.opened(bucket) as folder, locked(folder):
            raise AssertionError
    lock.release()
    assert BucketFolder(bucket).listing() == before and not list(temporary.iterdir())


def test_what_a_writing_run_removes_meanwhile_is_not_missed(bucket, monkeypatch):
    run(bucket, 1)
    get, gone = BucketFolder.get, f"train/checkpoints/1/{SEAL}"

    def late(self, files):
        if gone in files and gone in self.listing():
            self.remove([gone])
        return get(self, files)

    monkeypatch.setattr(BucketFolder, "get", late)
    with mirrors.opened(bucket) as folder:
        assert (folder / "config.json").exists() and not (folder / gone).exists()


def test_a_state_without_a_score_is_sealed_and_goes_once_it_is_scored(bucket):
    with mirrors.opened(bucket) as folder, locked(folder):
        steps = checkpoint(folder, 3).rename(folder / "train" / "unscored")
        mirrors.publish(steps, [3])
    assert f"train/unscored/3/{SEAL}" in stored(bucket)
    with mirrors.opened(bucket) as folder, locked(folder):
        assert (folder / "train/unscored/3/config/metadata").exists()
        shutil.rmtree(folder / "train" / "unscored")
        mirrors.publish(folder / "train" / "unscored", ())
    assert not [name for name in stored(bucket) if "unscored" in name]
