"""GIO-Ada's four players and its image pool: a run that is killed goes on to the bits of one that nobody disturbed."""

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

# Batches of two: the pool is full after the second step and exchanges images at random from then on.
WORDS = ["--config.train.steps=6", "--config.train.log_every=1", "--config.train.evaluate_every=0"]
WORDS += ["--config.method.image_pool=3"]
PLAYERS = {"segmenter", "translator", "image_discriminator", "discriminator"}


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


def finish(workdir):
    """Trains to the end, or on to it, and returns the last state with its key as numbers."""
    experiment = config.experiment(config.load("gio_ada:smoke", WORDS))
    experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, dev=None))
    (stage,) = stages.recipe(experiment, {}, num_classes=19)
    stage, mesh = dataclasses.replace(stage, method=Unscored(stage.method)), sharding.data_mesh()
    train.train_stage(stage, workdir, train.Context(experiment, mesh, np.zeros((19, 3), np.uint8), lambda: False))
    state = workdirs.last_state(stage, workdir, mesh)
    return state.replace(key=jax.random.key_data(state.key))


def test_kill_9_then_the_same_command_gives_the_same_bits(tmp_path):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "uda_jax.cli", "train", "--config", "gio_ada:smoke", "--workdir", str(workdir)]
    process = subprocess.Popen([*command, *WORDS], stderr=subprocess.PIPE, text=True)
    # Step 4 was saved only after the checkpoint of step 2 had become complete.
    assert any(line.startswith("5/6") for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert Checkpoints(workdir / "train" / "checkpoints").latest_step() in (2, 4)
    ours, theirs = finish(workdir), finish(tmp_path / "undisturbed")
    assert set(ours.params) == set(ours.opt_state) == PLAYERS and int(ours.extra["pooled"]) == 3
    for (path, leaf), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
