"""AdvEnt with a mean teacher: both methods' terms in one step, and small."""

import inspect

import jax
import numpy as np
import pytest

from uda_jax.methods import advent_teacher
from uda_jax.methods.advent import Advent
from uda_jax.methods.advent_teacher import AdventTeacher
from uda_jax.methods.base import Segmenter
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.training.initialisation import initialise
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule

FIELDS = {
    "num_classes": 3,
    "segmenter": Segmenter(name="deeplab_v2_resnet14", input_norm="imagenet_rgb", width=4),
    "optimiser": sgd(learning_rate=0.05, train_norm_affine=True),
    "schedule": Schedule(name="constant"),
}
ADVERSARIAL = {"discriminator": Discriminator(width=4), "target_weight": 0.5}


@pytest.fixture(scope="module")
def stepped(batch):
    """States and metrics after one step of the combination, of DACS and of AdvEnt, all from the same start."""
    method = AdventTeacher(**FIELDS, **ADVERSARIAL)
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    alone = state.replace(
        params={"segmenter": state.params["segmenter"]}, opt_state={"segmenter": state.opt_state["segmenter"]}
    )

    @jax.jit
    def step(state, alone):
        return (
            method.train_step(state, batch),
            Dacs(**FIELDS).train_step(alone, batch),
            Advent(**FIELDS, **ADVERSARIAL).train_step(state.replace(teacher=None), batch),
        )

    return state, jax.device_get([(after.replace(key=None), metrics) for after, metrics in step(state, alone)])


def test_the_losses_are_those_of_both_methods(stepped):
    _, ((_, ours), (_, dacs), (_, advent)) = stepped
    for name in ("loss/segmentation", "loss/mixed", "teacher/confident_share", "mixing/source_share"):
        np.testing.assert_allclose(ours[name], dacs[name], rtol=1e-5)
    # Each domain is normalised by its own batch statistics, so what was forwarded between them plays no part.
    for name in ("loss/adversarial", "loss/discriminator", "discriminator/accuracy"):
        np.testing.assert_allclose(ours[name], advent[name], rtol=1e-5)
    total = sum(float(ours[f"loss/{name}"]) for name in ("segmentation", "mixed", "adversarial"))
    np.testing.assert_allclose(ours["loss/total"], total, rtol=1e-6)


def test_every_player_moves_and_the_teacher_is_the_student_after_its_first_update(stepped, same):
    state, ((after, _), _, (advent, _)) = stepped
    assert same(after.teacher["params"], after.params["segmenter"])
    for name in ("segmenter", "discriminator"):
        assert not same(after.params[name], jax.device_get(state.params[name]))
    assert not same(after.params["segmenter"], advent.params["segmenter"])


def test_the_file_is_small():
    assert len(inspect.getsource(advent_teacher).splitlines()) <= 60
