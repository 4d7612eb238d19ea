"""The evaluation section: one split or several by name, and how it is overridden."""

import dataclasses

import pytest

from uda_jax import config
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.options import Evaluation, Inference
from uda_jax.schema import from_mapping, to_dict

TWO = {"city": Domain(split="a"), "bdd": Domain(split="b")}


def test_splits_by_name():
    assert Evaluation().splits("dev") == {} and list(Evaluation().splits("final")) == ["final"]
    section = from_mapping(Evaluation, {"final": TWO, "dev": {"split": "c"}})
    assert list(section.splits("final").items()) == [("bdd", TWO["bdd"]), ("city", TWO["city"])]
    assert section.splits("dev") == {"dev": Domain(split="c")}
    assert from_mapping(Evaluation, to_dict(section)) == section


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"final": TWO, "dev": {"bdd": {"split": "c"}}},
            "config.final: expected unique names of splits, .* got 'bdd'",
        ),
        ({"dev": {"final": {}}}, "config.dev: expected unique names of splits, .* got 'final'"),
        ({"headline": "pixel_acuracy"}, "config.headline: unknown metric .*; did you mean 'pixel_accuracy'"),
        ({"dev": {"dev": {"split": "c"}}}, "config.dev: expected unique names of splits, .* got 'dev'"),
        ({"final": {"joint": {"split": "c"}}}, "config.final: expected unique names of splits, .* got 'joint'"),
        ({"joint": "mean"}, "config.joint: expected 'none', since 'config.final' is a single split, got 'mean'"),
        (
            {"selection": "best"},
            "config.selection: expected one of 'last', 'best_on_target_val', 'best_without_labels', got 'best'",
        ),
    ],
)
def test_mistakes_in_the_section(values, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Evaluation, values)


def test_checkpoints_are_chosen_on_dev_or_without_it_on_final():
    assert Evaluation(dev=Domain()).chosen_step == "last"
    for final in (Domain(split="a"), TWO):
        section = from_mapping(Evaluation, {"final": final, "selection": "best_on_target_val"})
        assert section.chosen_step == "best" and list(section.splits("dev").values()) == list(
            section.splits("final").values()
        )
        paths = [section.path("dev", name) for name in section.splits("dev")]
        assert paths == [section.path("final", name) for name in section.splits("final")]
    other = dataclasses.replace(section, dev=Domain(split="c"))
    assert other.splits("dev") == {"dev": Domain(split="c")} and other.path("dev", "dev") == "config.evaluation.dev"


def test_overrides_of_either_form(tiny_experiment):
    for evaluation, word in (
        (tiny_experiment.evaluation, "--config.evaluation.final.root=elsewhere"),
        (dataclasses.replace(tiny_experiment.evaluation, final=TWO), "--config.evaluation.final.bdd.root=elsewhere"),
    ):
        found = config.as_config(dataclasses.replace(tiny_experiment, evaluation=evaluation))
        config.override(found, [word, "--config.evaluation.inference.flip=True"])
        config.override(
            found, ["--config.evaluation.inference.window=10,20", "--config.evaluation.inference.scales=0.5,1"]
        )
        section = config.experiment(found).evaluation
        assert next(iter(section.splits("final").values())).root == "elsewhere"
        assert section.inference == Inference(window=(10, 20), flip=True, scales=(0.5, 1.0))
