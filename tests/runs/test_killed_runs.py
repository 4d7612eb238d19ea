"""Runs with a teacher or many players that are killed go on to the bits of one that nobody disturbed."""

import dataclasses
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import config
from uda_jax.data.labels import label_spaces
from uda_jax.runs import stages, states, train
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

WORDS = ["--config.train.steps=6", "--config.train.log_every=1", "--config.train.evaluate_every=0"]
# Batches of two: the pool is full after the second step and exchanges images at random from then on.
POOL = "--config.method.image_pool=3"


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


def finish(reference, words, workdir):
    """Trains the only stage to its end, or on to it, and returns its last state with its key as numbers."""
    experiment = config.experiment(config.load(reference, words))
    experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, dev=None))
    (stage,) = stages.recipe(experiment, num_classes=19)
    stage, mesh = dataclasses.replace(stage, method=Unscored(stage.method)), sharding.data_mesh()
    space = label_spaces.label_space("19")
    train.train_stage(stage, Workdir(workdir), stages.Context(experiment, mesh, space, lambda: False))
    state = states.load(stage, Workdir(workdir), mesh)
    return state.replace(key=jax.random.key_data(state.key))


@pytest.fixture
def killed_and_not(tmp_path):
    """A function that trains a config with one kill -9 and without, and returns the last state of the first."""

    def run(reference, *more):
        words, workdir = [*WORDS, *more], tmp_path / "killed"
        command = [sys.executable, "-m", "uda_jax.cli", "train", "--config", reference, "--workdir", str(workdir)]
        process = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True)
        # Step 4 was saved only after the checkpoint of step 2 had become complete.
        assert any(line.startswith("5/6") for line in process.stderr)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        assert Checkpoints(Workdir(workdir).stage("train")).latest_step() in (2, 4)
        ours, theirs = finish(reference, words, workdir), finish(reference, words, tmp_path / "undisturbed")
        for (path, leaf), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
        return ours

    return run


@pytest.mark.parametrize("reference", ["dacs:smoke", "corda:smoke"])
def test_a_teacher_outlives_kill_9(reference, killed_and_not):
    state = killed_and_not(reference)
    student, teacher = (
        params["head"]["branch_0"]["kernel"] for params in (state.params["segmenter"], state.teacher["params"])
    )
    # Six steps in, it lags behind its student.
    assert np.any(student != teacher)


def test_four_players_and_their_image_pool_outlive_kill_9(killed_and_not):
    state = killed_and_not("gio_ada:smoke", POOL)
    players = {"segmenter", "translator", "image_discriminator", "discriminator"}
    assert set(state.params) == set(state.opt_state) == players and int(state.extra["pooled"]) == 3
