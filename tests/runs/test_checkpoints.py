"""Checkpoints: which are kept and found, networks that never learn, other versions, other process counts."""

import jax
import numpy as np
import pytest
from throwaway import Counting

from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError
from uda_jax.runs import checkpoints
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.training import sharding
from uda_jax.training.layout import StageFiles


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
    folder.save(step, state(step), iterator, config={}, notes=notes, score=score)
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
    with pytest.raises(UserError, match="train/frozen: cannot be read .*; delete the stage's folder") as caught:
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
    resumed = [stream(index, processes) for index in range(processes)]
    for iterator in resumed:
        folder.restore(3, target(), iterator)
    for batch in expected[3:]:
        parts = [next(iterator)["source"]["index"] for iterator in resumed]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
    folder.close()
