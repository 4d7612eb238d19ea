"""The variant "pretrained" of every method: its networks, what they start from, and where it belongs."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
from uda_jax.configs.common import pretrained

from uda_jax import config
from uda_jax.data.labels.label_spaces import label_space
from uda_jax.errors import UserError
from uda_jax.runs import initial_weights, stages

# Not of those without a segmenter, whose networks have tests of their own.
WITHOUT = {"self_supervised_depth"}
METHODS = [
    name
    for name in config.names()
    if name not in WITHOUT and pretrained.VARIANT in importlib.import_module(f"uda_jax.configs.{name}").VARIANTS
]


def test_every_method_on_streets_has_it():
    """But those that come with an encoder of their own."""
    assert (
        set(METHODS) == set(config.names()) - {"digits", "daformer", "hrda", "mic", "vfm_uda", "few_labels"} - WITHOUT
    )


@pytest.mark.parametrize("method", METHODS)
def test_only_network_rates_and_length_change(method):
    plain, found = (config.experiment(config.load(f"{method}:streets{word}")) for word in ("", ",pretrained"))
    assert found.label == f"pretrained/{plain.label}"
    for before, after in zip(stages.recipe(plain, 19), stages.recipe(found, 19), strict=True):
        one, other = before.method, after.method
        assert other.segmenter.name.endswith("_efficientnet_lite0") and other.segmenter.bn_mode == "frozen"
        rate, new = one.optimiser.learning_rate, other.optimiser.learning_rate * other.optimiser.head_multiplier
        assert other.optimiser.learning_rate == pytest.approx(rate / 10) and new == pytest.approx(rate)
        assert other.schedule == dataclasses.replace(one.schedule, horizon=after.train.steps)
        same = {name: getattr(one, name) for name in ("segmenter", "optimiser", "schedule")}
        assert dataclasses.replace(other, **same) == one
        steps = round(0.4 * before.train.steps)
        assert (before.domains, dataclasses.replace(before.train, steps=steps)) == (after.domains, after.train)
        if after.kind.TRAINS and not after.start_from:
            assert after.init_from["segmenter"].path == "efficientnet_lite0"


@pytest.mark.parametrize("method", ["source_only", "gio_ada", "dada", "corda"])
def test_it_starts_from_the_real_file(method, lite0_file, monkeypatch):
    """By its name in the catalogue; all of the encoder, and nothing else, comes from there."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(lite0_file.parents[1]))
    (stage,) = stages.recipe(config.experiment(config.load(f"{method}:streets,pretrained")), 19)
    log, state = [], jax.eval_shape(stage.initialise, jax.random.key(0))
    started = initial_weights.start(state, stage, log.append)
    assert "(efficientnet_lite0)" in log[0] and "loaded: 240 arrays (encoder 240)" in log[0]
    leaves = jax.tree.leaves_with_path(started.params["segmenter"])
    assert {path[0].key for path, leaf in leaves if isinstance(leaf, np.ndarray)} == {"encoder"}


def test_it_follows_another_variant():
    found = config.experiment(config.load("source_only:streets_idd,oracle,pretrained"))
    assert found.label == "pretrained/oracle" and set(found.data) == {"labelled_target"}
    assert found.method["segmenter"]["name"] == "pyramid_efficientnet_lite0"
    # A smoke run is as short as any.
    plain, smoke = (config.experiment(config.load(f"dacs:smoke{word}")) for word in ("", ",pretrained"))
    assert smoke.train == plain.train


def test_it_is_for_small_networks():
    for setting in ("gta5_cityscapes", "folder"):
        with pytest.raises(
            UserError, match="variant 'pretrained': expected a setting of streets, smoke, streets_camvid"
        ):
            config.load(f"advent:{setting},pretrained")


@pytest.mark.parametrize(("setting", "classes"), [("streets_camvid", 11), ("streets_idd", 7)])
def test_streets_to_a_real_camera(setting, classes):
    """Frames of one size and one set of classes; what is scored was never trained or tuned on."""
    experiment = config.experiment(config.load(f"source_only:{setting},both"))
    target = config.experiment(config.load(f"dacs:{setting}")).data["target"]
    assert len(label_space(experiment.evaluation.protocol).names) == classes and target.fields == ("image",)
    assert experiment.data["source"].crop == target.size
    splits = {target.split, experiment.evaluation.dev.split, experiment.evaluation.final.split}
    assert len(splits) == 3 and not experiment.evaluation.final.resize_label
