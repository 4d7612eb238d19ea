"""DACS with PLCA's association: the sum of both methods, and small."""

import inspect

import jax
import numpy as np
import pytest

from uda_jax.methods import dacs_plca
from uda_jax.methods.base import Segmenter
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.dacs_plca import DacsPlca
from uda_jax.methods.parts.association import Association
from uda_jax.training.initialisation import initialise
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule

FIELDS = {
    "num_classes": 3,
    "segmenter": Segmenter(name="deeplab_v2_resnet14", input_norm="imagenet_rgb", width=4),
    "optimiser": sgd(learning_rate=0.05, train_norm_affine=True),
    "schedule": Schedule(name="constant"),
}


def step(method, batch):
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    state, metrics = jax.jit(method.train_step)(state, batch)
    return jax.device_get((state.params, state.teacher["params"], metrics))


@pytest.fixture(scope="module")
def dacs(batch):
    return step(Dacs(**FIELDS), batch)


def test_without_association_it_is_dacs(batch, dacs, same):
    alone = step(DacsPlca(**FIELDS, association=Association(feature_weight=0.0, prediction_weight=0.0)), batch)
    assert same(alone[0], dacs[0]) and same(alone[1], dacs[1])
    assert alone[2] == dacs[2]


def test_association_adds_its_terms_and_moves_the_student(batch, dacs, same):
    params, teacher, metrics = step(DacsPlca(**FIELDS), batch)
    added = {name for name in metrics if name.startswith("loss/association")}
    assert added == {"loss/association_features", "loss/association_predictions"} == metrics.keys() - dacs[2].keys()
    total = sum(value for name, value in metrics.items() if name.startswith("loss/") and name != "loss/total")
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-6)
    for name in ("loss/segmentation", "loss/mixed"):
        np.testing.assert_allclose(metrics[name], dacs[2][name], rtol=1e-5)
    assert all(metrics[name] > 0 for name in added)
    # The first update makes the teacher a copy of the student.
    assert not same(params, dacs[0]) and same(teacher, params["segmenter"])


def test_the_file_is_small():
    assert len(inspect.getsource(dacs_plca).splitlines()) <= 60
