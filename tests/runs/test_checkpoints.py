"""Checkpoints: which are kept and found, networks that never learn, other versions, other process counts."""

import re

import jax
import numpy as np
import pytest
from throwaway import Counting

from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError
from uda_jax.runs import checkpoints, checksums
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Identity
from uda_jax.training import sharding
from uda_jax.training.layout import StageFiles

RUN = Identity({"method": {"name": "counting"}, "evaluation": {"batch_size": 2}}, ("a", "b", "c"))


@pytest.fixture
def files(tmp_path):
    return StageFiles(tmp_path / "train")


@pytest.fixture
def stream(tiny_folder):
    def open_stream(process_index=0, process_count=1):
        domain = Domain(dataset="folder", root=str(tiny_folder), label_space="own", size=(32, 64))
        processes = {"process_index": process_index, "process_count": process_count}
        return train_stream({"source": domain}, global_batch=2, seed=0, workers=0, **processes)

    return open_stream


def state(step=0):
    first = Counting().init(jax.random.key(step), {})
    return first.replace(step=first.step + step)


def target():
    return sharding.abstract(jax.eval_shape(state), sharding.replicated(sharding.data_mesh()))


def save(folder, step, iterator, score=None):
    notes = {"seconds": float(step), "best": score}
    folder.save(step, state(step), iterator, identity=RUN, notes=notes, score=score)
    folder.wait()


def test_the_best_of_three_is_kept_and_found_after_a_restart_too(files, stream):
    folder, iterator = Checkpoints(files, keep_latest=1), stream()
    folder.save_frozen(state())
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.5)):
        save(folder, step, iterator, score)
    assert folder.all_steps() == [2, 3]
    folder.close()
    folder = Checkpoints(files, keep_latest=1)
    save(folder, 4, iterator)
    save(folder, 5, iterator, 0.8)
    assert folder.all_steps() == [2, 5]
    assert [folder.resolve(step) for step in ("best", "last", 2, 5)] == [2, 5, 2, 5]
    assert int(folder.restore(folder.resolve("best"), target()).step) == 2
    assert folder.notes(2) == {"seconds": 2.0, "best": 0.9}
    with pytest.raises(UserError, match="no checkpoint has step 3; ask for 'last' or one of the steps 2, 5"):
        folder.resolve(3)
    folder.close()


def test_without_scores_there_is_no_best(files, stream):
    folder, iterator = Checkpoints(files), stream()
    with pytest.raises(UserError, match="train: no checkpoint yet; train it first"):
        folder.resolve("last")
    save(folder, 2, iterator)
    with pytest.raises(UserError, match="no checkpoint has a score on config.evaluation.dev; .* of the steps 2$"):
        folder.resolve("best")
    folder.close()


def test_networks_that_never_learn_are_written_once(files, stream):
    folder, iterator = Checkpoints(files), stream()
    folder.save_frozen(state(7))
    written = {path: path.stat().st_mtime_ns for path in files.frozen.rglob("*")}
    for step in (1, 2):
        save(folder, step, iterator)
    assert written and written == {path: path.stat().st_mtime_ns for path in files.frozen.rglob("*")}
    stored = (files.checkpoints / "2" / "state" / "_METADATA").read_text()
    assert "segmenter" in stored and "anchor" not in stored
    restored = folder.restore(2, target())
    expected = state(2).replace(frozen=state(7).frozen)
    for leaf, other in zip(jax.tree.leaves(restored.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(leaf, other)
    np.testing.assert_array_equal(
        restored.frozen["anchor"]["params"]["weights"], expected.frozen["anchor"]["params"]["weights"]
    )
    shapes = folder.shapes(2)
    assert (
        shapes["frozen"]["anchor"]["params"]["weights"].shape
        == (3, 3)
        == shapes["params"]["segmenter"]["weights"].shape
    )
    other = target()
    other = other.replace(frozen={"anchor": {"params": {"bias": other.step}, "model_state": {}}})
    with pytest.raises(UserError, match="train/frozen: holds another network or other classes: anchor/.*") as caught:
        folder.restore(2, other)
    assert "\n" not in str(caught.value)
    folder.close()


def test_another_versions_checkpoint_is_refused(files, stream, monkeypatch):
    folder = Checkpoints(files)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 1)
        save(folder, 2, stream())
    with pytest.raises(UserError, match="train/checkpoints/2: expected format 2, got 1, of another version") as caught:
        folder.restore(2, target())
    assert "\n" not in str(caught.value)
    folder.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_data_go_on_where_another_number_of_processes_stopped(files, stream, processes):
    """The stored position belongs to a file per process; of another count there is none for this process."""
    undisturbed = stream()
    expected = [next(undisturbed)["source"]["index"] for _ in range(5)]
    interrupted, folder = stream(), Checkpoints(files)
    for _ in range(3):
        next(interrupted)
    folder.save_frozen(state())
    save(folder, 3, interrupted)
    if processes == 2:
        (stored,) = (files.checkpoints / "3" / "data").glob("process_0-of-1*")
        stored.rename(stored.with_name(stored.name.replace("process_0-of-1", "process_0-of-3")))
        checksums.seal_files(files.checkpoints / "3")
    resumed = [stream(index, processes) for index in range(processes)]
    for iterator in resumed:
        folder.restore(3, target(), iterator)
    for batch in expected[3:]:
        parts = [next(iterator)["source"]["index"] for iterator in resumed]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
    folder.close()


def flipped(file, position, bit=3):
    """Flips one bit of a file."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(bytes(data))


@pytest.fixture
def stored(files, stream):
    """A stage with one checkpoint of step 2, with a score."""
    folder, iterator = Checkpoints(files), stream()
    folder.save_frozen(state())
    next(iterator), next(iterator)
    save(folder, 2, iterator, 0.5)
    folder.close()
    return files


def read_back(files, iterator=None, identity=RUN):
    """Returns the leaves of the best checkpoint, as a new process reads it."""
    folder = Checkpoints(files)
    try:
        found = folder.restore(folder.resolve("best"), target(), iterator, identity=identity)
    finally:
        folder.close()
    return jax.tree.leaves(found.replace(key=jax.random.key_data(found.key)))


def test_every_flipped_bit_is_refused(stored, stream):
    """A bit in the middle of every file, and in the last bytes of it, whether it holds an array or not."""
    read_back(stored, stream())
    for file in sorted(path for path in stored.path.rglob("*") if path.is_file() and path.stat().st_size):
        whole = file.read_bytes()
        for position in (len(whole) // 2, len(whole) - 2):
            flipped(file, position)
            with pytest.raises(UserError, match=re.escape(str(stored.path))) as caught:
                read_back(stored, stream())
            assert "\n" not in str(caught.value)
            file.write_bytes(whole)
    read_back(stored, stream())


@pytest.mark.parametrize("lost", ["state/_sharding", "files.json"])
def test_a_lost_file_is_named_but_for_the_table_which_a_killed_process_may_not_have_written(stored, lost):
    (stored.checkpoints / "2" / lost).unlink()
    if lost == "files.json":
        read_back(stored)
    else:
        with pytest.raises(UserError, match="checkpoints/2: damaged: its file state/_sharding is gone; delete it"):
            read_back(stored)


@pytest.mark.parametrize("part", ["state", "frozen"])
def test_values_that_were_changed_are_refused_by_the_name_of_their_array(stored, part, monkeypatch):
    """What a flipped bit makes of an array where the format below does not notice."""
    reader = (checkpoints.ocp.CheckpointManager, "restore") if part == "state" else (checkpoints.stored_arrays, "part")
    original = getattr(*reader)

    def restore(*words, **options):
        found = original(*words, **options)
        add = lambda x: x + 1 if x.dtype == np.float32 else x  # noqa: E731
        if part == "frozen":
            return jax.tree.map(add, found)
        return {"state": jax.tree.map(add, found["state"])} if "state" in found.keys() else found  # noqa: SIM118

    monkeypatch.setattr(*reader, restore)
    name = "params/segmenter/weights" if part == "state" else "anchor/params/weights"
    with pytest.raises(UserError, match=f"damaged: {name} is not what was written, its checksum differs; delete"):
        read_back(stored)


def test_a_position_of_another_step_is_refused(stored, stream):
    (file,) = (stored.checkpoints / "2" / "data").glob("process_0*")
    text = file.read_text()
    assert "2" in text
    file.write_text(text.replace("2", "7"))
    with pytest.raises(UserError, match="checkpoints/2: damaged: the position in the data is .*7.*, not .*2"):
        read_back(stored, stream())


def test_notes_and_scores_are_protected(stored):
    file = stored.checkpoints / "2" / "config" / "metadata"
    whole = file.read_text()
    file.write_text(whole.replace('"seconds": 2.0', '"seconds": 3.0').replace('"seconds":2.0', '"seconds":3.0'))
    assert file.read_text() != whole
    with pytest.raises(UserError, match="checkpoints/2: damaged, or of an earlier version: its config has no right"):
        read_back(stored)
    file.write_text(whole)
    (file,) = (stored.checkpoints / "2" / "metrics").glob("metrics")
    file.write_text(file.read_text().replace("0.5", "0.7"))
    with pytest.raises(UserError, match="checkpoints/2: damaged: its score is 0.7, not 0.5; delete it"):
        read_back(stored)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity({"method": {"name": "other"}}, RUN.classes), "config.method.name = 'counting', expected 'other'"),
        (Identity(RUN.experiment, ("a", "c", "b")), "classes .* expected "),
    ],
)
def test_a_checkpoint_of_another_run_with_the_same_tree_is_refused(stored, identity, words):
    with pytest.raises(UserError, match=f"checkpoints/2: is of a run with {words}.*; put back the run's own"):
        read_back(stored, identity=identity)
    # How it is scored is not part of what it is.
    read_back(stored, identity=Identity(RUN.experiment | {"evaluation": {"batch_size": 1}}, RUN.classes))


def test_a_checkpoint_of_another_stage_or_step_is_refused(stored):
    stored.path.rename(stored.path.with_name("intra"))
    with pytest.raises(UserError, match="is of a run with stage 'train', expected 'intra'"):
        read_back(StageFiles(stored.path.with_name("intra")))
    moved = StageFiles(stored.path.with_name("intra"))
    (moved.checkpoints / "2").rename(moved.checkpoints / "4")
    with pytest.raises(UserError, match="checkpoints/4: damaged"):
        read_back(moved)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), ValueError("PERMISSION_DENIED: no")])
def test_an_error_of_rights_advises_no_deletion(stored, error, monkeypatch):
    def restore(self, *words, **options):
        raise error

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", restore)
    with pytest.raises(UserError, match="checkpoints/2: may not be read .*: get the right to read") as caught:
        read_back(stored)
    assert "delete" not in str(caught.value)


def test_another_network_advises_no_deletion(stored):
    folder, other = Checkpoints(stored), target()
    weights = jax.ShapeDtypeStruct((3, 5), np.float32, sharding=other.step.sharding)
    other = other.replace(params={"segmenter": {"weights": weights}})
    expected = "params/segmenter/weights should be float32 of shape .3, 5., found float32 of shape .3, 3."
    with pytest.raises(UserError, match=f"holds another network or other classes: {expected}") as caught:
        folder.restore(2, other)
    assert "delete" not in str(caught.value)
    folder.close()


def test_a_state_that_is_not_finite_is_refused(files, stream):
    folder = Checkpoints(files)
    folder.save_frozen(state())
    bad = state(2)
    bad = bad.replace(params={"segmenter": {"weights": bad.params["segmenter"]["weights"].at[1, 1].set(np.nan)}})
    folder.save(2, bad, stream(), identity=RUN, notes={}, score=None)
    folder.wait()
    with pytest.raises(UserError, match="checkpoints/2: params/segmenter/weights holds nan, so the training had diver"):
        folder.restore(2, target())
    folder.close()


def test_arrays_without_a_run_are_protected(tmp_path):
    arrays = {"params": {"kernel": np.arange(6.0, dtype=np.float32), "bias": np.ones(3, np.float32)}}
    checkpoints.write_arrays(tmp_path / "arrays", arrays)
    found = checkpoints.read_arrays(tmp_path / "arrays")
    np.testing.assert_array_equal(found["params"]["kernel"], arrays["params"]["kernel"])
    table = tmp_path / "arrays.checksums.json"
    whole = table.read_text()
    table.write_text(whole.replace("float32", "float64"))
    with pytest.raises(UserError, match="arrays.checksums.json: damaged: its own checksum differs; convert the file"):
        checkpoints.read_arrays(tmp_path / "arrays")
    table.unlink()
    with pytest.raises(UserError, match="arrays.checksums.json: cannot be read .*; convert the file again"):
        checkpoints.read_arrays(tmp_path / "arrays")
