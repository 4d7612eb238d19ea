"""Parts of the segmenter that do not learn, with and without their running statistics."""

import dataclasses

import jax
import numpy as np
import pytest

from uda_jax import config
from uda_jax.errors import UserError
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.runs import stages
from uda_jax.training.initialisation import initialise


@pytest.fixture(scope="module")
def steps():
    """Returns the state before and after a step of source_only, by whether statistics are kept."""
    (stage,) = stages.recipe(config.experiment(config.load("source_only:smoke")), 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 48, 3), np.uint8)
    batch = {"source": {"image": images, "label": np.ones((2, 24, 48), np.uint8), "index": np.zeros(2, np.int32)}}

    def step(keeps):
        section = dataclasses.replace(
            stage.method.segmenter, freeze=("encoder/(conv1|bn1)/", "layer1"), freeze_statistics=keeps
        )
        method = dataclasses.replace(stage.method, segmenter=section)
        before = initialise(lambda key: method.init(key, batch), jax.random.key(0))
        return before, jax.jit(method.train_step)(before, batch)[0]

    return {keeps: step(keeps) for keeps in (False, True)}


def changed(before, after):
    """Returns the paths of the arrays that differ."""
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): not np.array_equal(old, new)
        for (path, old), new in pairs
    }


def is_frozen(path):
    return path.startswith(("encoder/conv1/", "encoder/bn1/")) or "layer1" in path


def test_frozen_parts_do_not_learn_and_others_do(steps):
    for before, after in steps.values():
        learnt = changed(before.params["segmenter"], after.params["segmenter"])
        assert not any(moved for path, moved in learnt.items() if is_frozen(path))
        assert any(map(is_frozen, learnt)) and learnt["encoder/layer4_0/conv1/kernel"]


def test_their_statistics_stay_where_that_is_asked_for(steps):
    moved = {
        keeps: changed(before.model_state["segmenter"]["batch_stats"], after.model_state["segmenter"]["batch_stats"])
        for keeps, (before, after) in steps.items()
    }
    assert all(moved[False].values())
    assert {path for path, differs in moved[True].items() if not differs} == set(filter(is_frozen, moved[True]))


def test_recomputed_blocks_are_known_by_their_paths():
    section = Segmenter(name="deeplab_v2_resnet14", width=4, remat="all", freeze=("layer1",), freeze_statistics=True)
    network, images = section.build(3, "fp32"), np.ones((1, 24, 48, 3), np.float32)

    @jax.jit
    def statistics():
        variables = network.init(jax.random.key(0), images, train=False)
        with section.statistics_kept():
            _, after = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables["batch_stats"], after["batch_stats"]

    moved = changed(*statistics())
    assert not any(moved[path] for path in moved if "layer1" in path)
    assert any(moved[path] for path in moved if "layer2" in path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["freeze=('encoder/(',)"], r"config.method.segmenter.freeze\[0\]: expected a regular expression"),
        (["freeze_statistics=True"], "freeze_statistics: has no effect without freeze"),
        (["freeze=('encodr',)"], "freeze: no parameter of deeplab_v2_resnet14 matches 'encodr'; they are such as segm"),
    ],
)
def test_mistakes_are_one_line(words, message):
    words = [f"--config.method.segmenter.{word}" for word in words]
    with pytest.raises(UserError, match=message):
        (stage,) = stages.recipe(config.experiment(config.load("source_only:smoke", words)), 3)
        jax.eval_shape(stage.initialise, jax.random.key(0))
