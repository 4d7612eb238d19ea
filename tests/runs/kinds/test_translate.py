"""The stage that writes translated images: what it writes, that it goes on where it stopped, its errors."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from uda_jax import config, ops
from uda_jax.cli import main
from uda_jax.data.io.images import read_image
from uda_jax.errors import UserError
from uda_jax.runs import stages, states, train
from uda_jax.runs.results import Invocation
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

REFERENCE = "digits:smoke,long,pixel"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of three stages: pixel, translate, source."""
    folder = tmp_path_factory.mktemp("translate") / "run"
    assert main(["train", "--config", REFERENCE, "--workdir", str(folder)]) == 0
    return folder


def test_every_frame_is_written_as_the_translator_draws_it(workdir):
    recipe = stages.recipe(config.from_json(workdir / "config.json"), num_classes=10)
    pixel, translate, source = recipe
    files = Workdir(workdir).stage("translate")
    assert json.loads(files.finished.read_text())["frames"] == 40
    assert len(list(files.translated.iterdir())) == 40
    state = states.load(pixel, Workdir(workdir), sharding.data_mesh())
    dataset = stages.domains.open_domain(translate.domains["source"])
    images = np.stack([dataset[k]["image"] for k in (0, 39)])
    expected = jax.jit(lambda params: ops.to_pixels(pixel.method.translate(params, {"image": images})))(state.params)
    found = np.stack([read_image(files.translated / f"{dataset.name(k)}.png") for k in (0, 39)])
    # Another batch size may round another way.
    assert np.abs(found.astype(int) - expected).max() <= 1 and np.ptp(found) > 0
    # What the next stage learns from.
    learnt = stages.domains.open_domain(source.domains_in(Workdir(workdir))["source"])
    np.testing.assert_array_equal(learnt[39]["image"], found[1])
    np.testing.assert_array_equal(learnt[39]["label"], dataset[39]["label"])


def test_a_stage_that_was_interrupted_goes_on_after_the_last_complete_batch(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    files = Workdir(run).stage("translate")
    shutil.rmtree(run / "source")
    for file in (files.finished, run / "result.json", files.translated / "train_00025.png"):
        file.unlink()
    drawn = {file.name: file.read_bytes() for file in (workdir / "translate" / "translated").iterdir()}
    for name in ("train_00003.png", "train_00030.png"):  # Before the batch that lacks one, and in it.
        (files.translated / name).write_bytes(b"")
    experiment = config.from_json(run / "config.json")
    context = stages.Context(experiment, sharding.data_mesh(), stages.label_space(experiment), stop=lambda: False)
    translate = stages.recipe(experiment, num_classes=10)[1]
    translate = dataclasses.replace(translate, kind=dataclasses.replace(translate.kind, batch_size=20))
    translate.kind.run(translate, Workdir(run), context)
    again = {file.name: file.read_bytes() for file in files.translated.iterdir()}
    assert again.keys() == drawn.keys()
    assert [name for name in drawn if again[name] == b""] == ["train_00003.png"]
    assert again["train_00030.png"] == drawn["train_00030.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": None}, "start_from.translator: expected an earlier stage, whose network translates"),
        ({"start_from": {"translator": "first.segmenter"}}, "expected a stage whose method translates images, such as"),
        ({"data": "target"}, "config.data.source: expected the frames to translate in stage translate"),
        ({"data": "mixture"}, "config.data.source.mix: expected None in stage translate, which takes one data set"),
    ],
)
def test_mistakes(changes, message, tmp_path):
    experiment = config.experiment(config.load(REFERENCE))
    recipe = dict(experiment.stages)
    target = experiment.data["target"]
    data = {"target": {"target": target}, "mixture": {"source": dataclasses.replace(target, mix={"more": target})}}
    if "data" in changes:
        changes = {"data": data[changes["data"]]}
    if changes.get("start_from"):
        recipe["first"] = dataclasses.replace(recipe["source"], data={"source": experiment.data["source"]})
    recipe["translate"] = dataclasses.replace(recipe["translate"], **changes)
    order = tuple(name for name in ("first", *experiment.recipe) if name in recipe)
    wrong = dataclasses.replace(experiment, stages=recipe, recipe=order)
    with pytest.raises(UserError, match=message):
        train.run(wrong, tmp_path / "run", Invocation())
    assert not (tmp_path / "run").exists()
