"""Digits: accuracy as the headline, the recipe's stages, and every variant end to end on drawn digits."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import config
from uda_jax.cli import main
from uda_jax.configs import digits
from uda_jax.data import get_dataset
from uda_jax.errors import UserError
from uda_jax.inference.evaluate import protocols, summarise
from uda_jax.runs import stages, states
from uda_jax.runs.announcement import result_line
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

SPACE = get_dataset("digits", None, "train", "own", which="segments", limit=1).label_space
REFERENCES = [f"{setting}{variant and ','}{variant}" for setting in digits.SETTINGS for variant in digits.VARIANTS]


def test_accuracy_by_hand():
    assert protocols(SPACE) == {"accuracy": tuple(range(10))}
    matrix = np.zeros((10, 10), np.int64)
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = 90, 6, 4
    result = summarise(matrix, SPACE)
    # Not the mean over the two classes, which would be (1 + 0.4) / 2.
    assert result["miou"] == {"accuracy": 0.94} and result["pixel_accuracy"] == 0.94
    assert result["iou"]["1"] == pytest.approx(4 / 10) and result["iou"]["7"] is None
    assert summarise(np.zeros((10, 10), np.int64), SPACE)["miou"] == {"accuracy": None}


def test_the_last_line_of_a_run_names_the_measure():
    row = {"label": "mnist_usps/inter", "protocol": "accuracy", "split": "digits/test", "steps": 8, "seconds": 3.2}
    line = result_line(row | {"miou": {"accuracy": 0.91234}})
    assert line == "mnist_usps/inter: accuracy 91.23 on digits/test after 8 steps, 3 s"
    assert "mIoU 50.00" in result_line(row | {"protocol": "19", "miou": {"19": 0.5}})


@pytest.mark.parametrize("reference", REFERENCES)
def test_config_is_valid_and_hides_the_target(reference):
    experiment = config.experiment(config.load(f"digits:{reference}"))
    recipe = stages.recipe(experiment, num_classes=10)
    setting, _, variant = reference.partition(",")
    row = digits.VARIANTS[variant]
    assert experiment.label == f"{setting}/{row.label}"
    assert experiment.evaluation.protocol == "accuracy" and experiment.evaluation.final.split == "test"
    assert experiment.evaluation.dev.split == "train"
    target = digits.SETTINGS[setting].target
    for stage in recipe:
        assert hash(stage.method)  # jit can take it as static
        for domain in stage.domains.values():
            assert domain.split == "train"
            if domain.options["which"] == target and variant != "oracle":
                assert "label" not in domain.fields or domain.labels_from == "{workdir}/rank/pseudo_labels"
    # A run of one stage has no recipe, and its stage the loop's own name.
    assert tuple(stage.name for stage in recipe) == (("train",) if variant == "oracle" else row.recipe)


def test_behind_the_pixel_stage_the_source_is_seen_translated_alone():
    experiment = config.experiment(config.load("digits:mnist_usps,long"))
    recipe = {stage.name: stage for stage in stages.recipe(experiment, num_classes=10)}
    assert list(recipe) == ["pixel", "translate", "source", "inter", "rank", "easy", "intra"]
    plain = recipe["pixel"].domains["source"]
    assert (plain.options["which"], plain.images_from) == ("mnist", None)
    for stage in ("source", "inter"):
        seen = recipe[stage].domains["source"]
        assert seen.options["which"] == "mnist" and seen.images_from == "{workdir}/translate/translated"
    assert "label" in recipe["source"].domains["source"].fields
    assert "label" not in recipe["inter"].domains["source"].fields
    start = recipe["translate"].start_from["translator"]
    assert (start.stage.name, start.network) == ("pixel", "translator")
    # Nothing is shifted, so that the translators see what they are to translate.
    assert {(d.size, d.crop) for stage in recipe.values() for d in stage.domains.values()} == {((28, 28), None)}


def test_every_stage_that_adapts_starts_both_networks_from_one():
    experiment = config.experiment(config.load("digits:mnist_usps"))
    origins = {}
    for stage in stages.recipe(experiment, num_classes=10):
        origins[stage.name] = {name: (start.stage.name, start.network) for name, start in stage.start_from.items()}
    both = lambda stage: dict.fromkeys(("segmenter", "source_segmenter"), (stage, "segmenter"))  # noqa: E731
    rank = {"segmenter": ("inter", "segmenter")}
    assert origins == {"source": {}, "inter": both("source"), "rank": rank, "easy": {}, "intra": both("easy")}


def test_the_published_schedule_of_the_docstring_is_that_of_the_specification():
    words = [word for word in digits.__doc__.split() if word.startswith("--config.")]
    experiment = config.experiment(config.load("digits:mnist_usps", words))
    source, inter = stages.recipe(experiment, num_classes=10)[:2]
    assert source.train.batch_size == inter.train.batch_size == 128
    # 100 epochs of MNIST, 200 epochs of as many images as USPS has.
    assert source.train.steps == 100 * 60_000 // 128 and inter.train.steps == round(200 * 7291 / 128)
    assert (source.method.optimiser.learning_rate, source.method.schedule.name) == (1e-4, "constant")
    assert inter.method.optimiser.learning_rate == inter.method.discriminator.optimiser.learning_rate == 1e-5
    assert (inter.method.schedule.name, inter.method.update_above) == ("constant", 0.6)
    for adam in (source.method.optimiser, inter.method.optimiser, inter.method.discriminator.optimiser):
        assert (adam.beta1, adam.beta2) == (0.9, 0.999)


def test_unknown_settings_name_the_known_ones():
    with pytest.raises(UserError, match="unknown setting 'usps_mnis'; did you mean 'usps_mnist'"):
        config.load("digits:usps_mnis")


def last_networks(workdir, stage, experiment):
    (found,) = [s for s in stages.recipe(experiment, num_classes=10) if s.name == stage]
    return states.load(found, Workdir(workdir), sharding.data_mesh()).params


@pytest.mark.parametrize("variant", ["long", "self_training"])
def test_smoke(variant, tmp_path):
    reference, workdir = f"digits:smoke{variant and ','}{variant}", tmp_path / "run"
    assert main(["train", "--config", reference, "--workdir", str(workdir)]) == 0
    (row,) = json.loads((workdir / "result.json").read_text())
    label, recipe, _ = digits.VARIANTS[variant]
    trained = [stage for stage in recipe if stage not in ("rank", "translate")]
    assert (row["label"], row["protocol"], row["steps"]) == (f"smoke/{label}", "accuracy", 4 * len(trained))
    assert set(row["miou"]) == {"accuracy"} and row["miou"]["accuracy"] == row["pixel_accuracy"] <= 1
    assert tuple(row["iou"]) == SPACE.names and row["best_miou"] is not None
    assert len(list((workdir / "pictures").iterdir())) == 2
    if "rank" in recipe:
        easy, hard = ((workdir / "rank" / f"{name}.txt").read_text().split() for name in ("easy", "hard"))
        assert (len(easy), len(hard)) == ((32, 8) if "intra" in recipe else (40, 0))
        labels = [Image.open(file) for file in (workdir / "rank" / "pseudo_labels").iterdir()]
        assert len(labels) == 40 and {label.size for label in labels} == {(1, 1)}
        assert max(np.asarray(label).max() for label in labels) < 10
    if variant == "long":
        experiment = config.from_json(workdir / "config.json")
        easy, intra = (last_networks(workdir, stage, experiment) for stage in ("easy", "intra"))
        jax.tree.map(np.testing.assert_array_equal, intra["source_segmenter"], easy["segmenter"])
        metrics = (workdir / "intra" / "metrics.jsonl").read_text()
        assert "segmenter/update_share" in metrics and "discriminator/accuracy" in metrics
