"""Runs with a teacher or many players that are interrupted go on to the bits of one that nobody disturbed."""

import contextlib
import dataclasses
import itertools

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
    """A method that predicts and illustrates nothing: compiling that would take longer than all steps together.

    Its functions are traced once, whichever run calls them.
    """

    def __init__(self, method):
        self.init, self.train_step, self.num_classes = jax.jit(method.init), jax.jit(method.train_step), 19

    def predict(self, state, images, size):
        return {"scores": jnp.zeros((images.shape[0], *size, self.num_classes))}


class Interrupted(BaseException):
    """What ends a run between two steps."""


def train_to(steps, stage, experiment, workdir):
    """Trains a stage to its end, or on to it, unless it is interrupted after so many steps."""
    done = itertools.count(1)

    def stop():
        if next(done) == steps:
            raise Interrupted
        return False

    context = stages.Context(experiment, sharding.data_mesh(), label_spaces.label_space("19"), stop)
    train.train_stage(stage, Workdir(workdir), context)


@pytest.fixture
def interrupted_and_not(tmp_path):
    """A function that trains a config with one interruption and without, and returns the last state of the first."""

    def run(reference, *more):
        experiment = config.experiment(config.load(reference, [*WORDS, *more]))
        experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, dev=None))
        (stage,) = stages.recipe(experiment, num_classes=19)
        stage = dataclasses.replace(stage, method=Unscored(stage.method))
        with pytest.raises(Interrupted):
            train_to(5, stage, experiment, tmp_path / "interrupted")
        files = Workdir(tmp_path / "interrupted").stage("train")
        with contextlib.closing(Checkpoints(files)) as checkpoints:
            assert checkpoints.latest_step() == 4
        states_after = []
        for name in ("interrupted", "undisturbed"):
            train_to(None, stage, experiment, tmp_path / name)
            state = states.load(stage, Workdir(tmp_path / name), sharding.data_mesh())
            states_after.append(state.replace(key=jax.random.key_data(state.key)))
        ours, theirs = states_after
        for (path, leaf), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
        return ours

    return run


def test_a_teacher_outlives_an_interruption(interrupted_and_not):
    state = interrupted_and_not("dacs:smoke")
    student, teacher = (
        params["head"]["branch_0"]["kernel"] for params in (state.params["segmenter"], state.teacher["params"])
    )
    # Six steps in, it lags behind its student.
    assert np.any(student != teacher)


def test_four_players_and_their_image_pool_outlive_an_interruption(interrupted_and_not):
    state = interrupted_and_not("gio_ada:smoke", POOL)
    players = {"segmenter", "translator", "image_discriminator", "discriminator"}
    assert set(state.params) == set(state.opt_state) == players and int(state.extra["pooled"]) == 3
