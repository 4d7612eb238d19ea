"""A run with a teacher that is killed goes on to the bits of one that nobody disturbed."""

import dataclasses
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import config, stages, train, workdirs
from uda_jax.training import sharding
from uda_jax.training.checkpoints import Checkpoints

WORDS = ["--config.train.steps=6", "--config.train.log_every=1", "--config.train.evaluate_every=0"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One folder of rendered frames for all tests of this session."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


class Unscored:
    """A method that predicts and illustrates nothing: compiling that would take longer than all steps together."""

    def __init__(self, method):
        self.init, self.train_step, self.num_classes = method.init, method.train_step, method.num_classes

    def predict(self, state, images, size):
        return {"scores": jnp.zeros((images.shape[0], *size, self.num_classes))}


def finish(reference, workdir):
    """Trains the only stage to its end, or on to it, and returns its last state as {path: array}."""
    experiment = config.experiment(config.load(reference, WORDS))
    experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, dev=None))
    (stage,) = stages.recipe(experiment, {}, num_classes=19)
    stage, mesh = dataclasses.replace(stage, method=Unscored(stage.method)), sharding.data_mesh()
    palette = np.zeros((19, 3), np.uint8)
    train.train_stage(stage, workdir, train.Context(experiment, mesh, palette, lambda: False))
    state = workdirs.last_state(stage, workdir, mesh)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


@pytest.mark.parametrize("reference", ["dacs:smoke", "corda:smoke,exact_depth"])
def test_kill_9_then_the_same_command_gives_the_same_bits(reference, tmp_path):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "uda_jax.cli", "train", "--config", reference, "--workdir", str(workdir), *WORDS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # Step 4 was saved only after the checkpoint of step 2 had become complete.
    assert any(line.startswith("5/6") for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert Checkpoints(workdir / "train" / "checkpoints").latest_step() in (2, 4)
    ours, theirs = finish(reference, workdir), finish(reference, tmp_path / "undisturbed")
    assert ours.keys() == theirs.keys() and any(path.startswith(".teacher['params']") for path in ours)
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    # Six steps in, the teacher lags behind its student.
    path = "['head']['branch_0']['kernel']"
    assert np.any(ours[f".teacher['params']{path}"] != ours[f".params['segmenter']{path}"])
