"""Runs whose workdir lies in a bucket, on a server of this machine: the same bits as in a local folder."""

import json
import os
import signal
import threading

import jax
import numpy as np
import pytest

from uda_jax import config
from uda_jax.cli.main import main
from uda_jax.data.io.buckets import BucketFolder
from uda_jax.data.io.mirror import SEAL
from uda_jax.errors import UserError
from uda_jax.report.rows import KEYS
from uda_jax.runs import initial_weights, results, run_weights, stages, states, train
from uda_jax.runs.signals import Stop
from uda_jax.training.logging import ProgressLine, read_metrics


def run(experiment, workdir):
    return train.run(experiment, workdir, results.Invocation())


def leaves(workdir):
    """Returns {path: array} of a run's last state."""
    _, state, _ = states.restore(workdir)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def logged(path):
    """Returns the metric rows without what depends on the clock, and when they were compiled."""
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in read_metrics(path)]


def stop_after(step, experiment, workdir, monkeypatch, during):
    """Starts a run and stops it after a step by SIGTERM, which comes while it is logged."""
    update, decide, decided = ProgressLine.update, Stop.decide, threading.Event()

    def stop(self, now, scalars):
        if now == step:
            during()
            os.kill(os.getpid(), signal.SIGTERM)
            # A thread notices it, before the loop goes on.
            assert decided.wait(60)
        return update(self, now, scalars)

    def told(self, *where):
        decide(self, *where)
        decided.set()

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "decide", told)
        patch.setattr(ProgressLine, "update", stop)
        with pytest.raises(train.Stopped, match=f"stopped at step {step} "):
            run(experiment, workdir)


@pytest.fixture(scope="module")
def both(tiny_config, object_store, tmp_path_factory):
    """A run in a local folder; and the same one in a bucket: stopped, seen by others, and gone on with.

    Yields:
      The local workdir, the bucket's address, and what a second run said that was started meanwhile.
    """
    experiment = config.experiment(config.load(tiny_config))
    folder, said = tmp_path_factory.mktemp("runs"), []
    run(experiment, folder / "run")
    address = f"{object_store}/{folder.name}/run"

    def second():
        with pytest.raises(UserError) as error:
            run(experiment, address)
        said.append(str(error.value))

    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(5, experiment, address, monkeypatch, second)
    bucket = BucketFolder(address)
    said.append(set(bucket.listing()))
    # What a process leaves that is killed while it puts a checkpoint: all but the seal.
    for name in bucket.listing():
        if name.startswith("train/checkpoints/5/") and not name.endswith(f"/{SEAL}"):
            bucket.write(name.replace("/5/", "/6/"), bucket.read(name))
    run(experiment, address)
    return folder / "run", address, said


def test_a_stopped_and_resumed_run_is_the_uninterrupted_local_one_bit_for_bit(both, tmp_path):
    local, address, _ = both
    ours, theirs = leaves(address), leaves(local)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    (tmp_path / "metrics.jsonl").write_bytes(BucketFolder(address).read("train/metrics.jsonl"))
    assert logged(tmp_path / "metrics.jsonl") == logged(local / "train" / "metrics.jsonl")
    texts = BucketFolder(address).read("result.json"), (local / "result.json").read_text()
    (row,), (other,) = map(json.loads, texts)
    assert {name for name in KEYS if row.get(name) != other.get(name)} <= {"seconds", "commit"}


def test_the_bucket_holds_what_the_folder_holds(both):
    local, address, said = both
    assert "another 'uda train' is writing into" in said[0] and address in said[0]
    # Of the one that was stopped, the step at which it was.
    assert {f"train/checkpoints/5/{SEAL}", "train/metrics.jsonl", "config.json"} < said[1]
    assert not {"lock.json", "result.json", "train/finished.json"} & said[1]

    def kinds(names):
        """Leaves out what is named at random, the logs' files of each start, and which of the steps are kept."""
        parts = [name.split("/") for name in names]
        return {"/".join(part for part in each if not part.isdigit()) for each in parts if "state" not in each} - {
            name for name in names if "events" in name
        }

    names = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert kinds(BucketFolder(address).listing()) == kinds(names)
    steps = {name.split("/")[2] for name in BucketFolder(address).listing() if name.startswith("train/checkpoints/")}
    assert steps == {"5", "6"}  # the last two; what was left of a broken 6 is gone


def test_commands_read_runs_in_buckets(both, tmp_path, capsys):
    local, address, _ = both
    found = {}
    for workdir in (str(local), address):
        assert main(["evaluate", "--workdir", workdir]) == 0
        found[workdir, "evaluate"] = capsys.readouterr().out
        assert main(["inspect", workdir]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{workdir}\n")
        # Only the one before the last is another.
        found[workdir, "inspect"] = text.removeprefix(workdir).replace("steps 5, 6 (", "steps 4, 6 (")
    for command in ("evaluate", "inspect"):
        assert found[address, command] == found[str(local), command]
    assert main(["report", address, "--output", f"{address}-report.html"]) == 0
    capsys.readouterr()
    page = BucketFolder(address.rpartition("/")[0]).read("run-report.html").decode()
    assert address in page and page.count("data:image") >= 4 and "uda_jax-bucket-" not in page
    assert main(["report", f"{address}-report.json", "--markdown"]) == 0
    assert "**tiny**" in capsys.readouterr().out
    images = os.path.join(os.environ["UDA_JAX_TEST_DATA"], "val", "images", "000.png")
    assert main(["predict", "--workdir", address, "--input", images, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "000.png").exists()


def test_runs_and_their_checkpoints_in_buckets_are_first_weights(both, tiny_experiment, tmp_path, capsys):
    local, address, _ = both
    assert main(["convert", "--from", address, "--to", str(tmp_path / "weights")]) == 0
    files = [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    BucketFolder(f"{address}-weights").put({path.relative_to(tmp_path / "weights").as_posix(): path for path in files})
    expected, plain = run_weights.read(local).variables, config.to_plain(tiny_experiment)

    def stage(path):
        found = config.experiment({**plain, "init_from": {"segmenter": {"path": path}}})
        return stages.recipe(found, 3)[0]

    for path in (address, f"{address}-weights"):
        initial_weights.check_classes([stage(path)], ("ground", "wall", "thing"))
        states.check_initial([stage(path)])
        jax.tree.map(np.testing.assert_array_equal, initial_weights.read(path).variables, expected)
    with pytest.raises(UserError, match=rf"^config.init_from.segmenter.path: {address}-nothing: no such file; "):
        states.check_initial([stage(f"{address}-nothing")])
    with pytest.raises(UserError, match="^config.init_from.segmenter.path: ftp://x/y: expected a local path, or gs://"):
        stage("ftp://x/y")
