"""Every config with `:smoke`, end to end; of all their variants the steps can be traced."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import config
from uda_jax.cli import main
from uda_jax.config import settings
from uda_jax.data.pipeline import domains
from uda_jax.runs import stages, states
from uda_jax.runs.workdir import Workdir

# The smoke setting of every variant of every packaged config.
REFERENCES = [reference for reference in settings.packaged() if ":smoke" in reference]

# What has stages, networks or domains of its own besides the plain config; every other variant is traced.
# Depth without classes has another score, and a test of its own below.
DEPTH = "self_supervised_depth"
RUN = [f"{name}:smoke" for name in config.names() if name != DEPTH]
RUN += ["source_only:smoke,both", "gio_ada:smoke,staged"]
TRACED = set()
# Of the variant that every method has, those whose steps ask different things of the network.
PRETRAINED = [f"{name}:smoke,pretrained" for name in ("advent", "plca", "corda", "dada", "gio_ada")]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One folder of rendered frames for all tests of this session."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def build(reference):
    """Returns the experiment of a config, its stages and the classes of its evaluation split."""
    experiment = config.experiment(config.load(reference))
    space = stages.label_space(experiment)
    return experiment, stages.recipe(experiment, len(space.names)), space.names


def shapes(stage, network):
    state = states.shapes(stage)
    leaves = jax.tree.leaves_with_path((state.params[network], state.model_state[network]))
    return {(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves}


def check_step(stage):
    """Traces a step: it returns a state like the one it gets, and scalars."""
    first = states.shapes(stage)
    state, metrics = jax.eval_shape(stage.method.train_step, first, stage.example())
    assert state == first
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_variant_builds(reference):
    experiment, recipe, classes = build(reference)
    assert recipe[-1].kind.TRAINS and getattr(recipe[-1].method, "num_classes", len(classes)) == len(classes)
    assert experiment.label and experiment.benchmark == "smoke"
    assert [stage.name for stage in recipe] == list(experiment.recipe or ["train"])
    for stage in recipe:
        if not stage.kind.TRAINS:
            continue
        for network, origin in stage.start_from.items():
            assert shapes(stage, network) <= shapes(origin.stage, origin.network)
        # Variants that differ in their data alone have one step, and the first stage of IntraDA is another config's.
        step = (stage.method, *sorted(stage.domains))
        if "pretrained" in reference and reference not in PRETRAINED:
            continue
        if reference not in RUN and stage.name != "inter" and step not in TRACED:
            TRACED.add(step)
            check_step(stage)


@pytest.mark.parametrize("reference", RUN)
def test_smoke(reference, tmp_path):
    workdir = tmp_path / "run"
    assert main(["train", "--config", reference, "--workdir", str(workdir)]) == 0
    files = Workdir(workdir)
    (row,) = json.loads(files.result.read_text())
    experiment, recipe, classes = build(reference)
    assert row["config"] == reference and row["label"] == experiment.label and tuple(row["iou"]) == classes
    assert row["steps"] == sum(stage.train.steps for stage in recipe if stage.kind.TRAINS)
    assert row["protocol"] == experiment.evaluation.protocol and 0 <= row["miou"][row["protocol"]] <= 1
    assert row["best_miou"] is not None
    assert len(list(files.pictures.iterdir())) == experiment.evaluation.pictures
    assert all(files.stage(stage.name).finished.exists() for stage in recipe)


def test_depth_alone(tmp_path):
    """Scored by depth as it is and times each frame's median; pictures of depth, of a rebuilt frame and of the mask."""
    workdir = tmp_path / "run"
    words = ["--config.train.steps=2", "--config.train.evaluate_every=0"]
    assert main(["train", "--config", f"{DEPTH}:smoke,stereo", "--workdir", str(workdir), *words]) == 0
    files = Workdir(workdir)
    (row,) = json.loads(files.result.read_text())
    assert row["headline"] == "abs_rel_scaled" and row["split"] == "streets/camera_val"
    assert all(row["metrics"][f"{name}{end}"] > 0 for name in ("abs_rel", "rmse_log") for end in ("", "_scaled"))
    drawn = files.stage("train").illustrations
    assert {path.parent.name for path in drawn.glob("*/*.png")} == {"depth", "rebuilt", "mask"}


def test_masks_of_ones_own_are_read_as_the_preset_says(tmp_path):
    (tmp_path / "dataset.yaml").write_text("classes: [background, polyp]\nids: [0, 255]\n")
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9] = 255
    for split in ("source/train", "target/labelled", "target/train", "target/val"):
        for kind, picture in (("images", np.stack([mask] * 3, axis=-1)), ("labels", mask)):
            if (split, kind) != ("target/train", "labels"):
                (tmp_path / split / kind).mkdir(parents=True)
                Image.fromarray(picture).save(tmp_path / split / kind / "0.png")
    roots = {name: tmp_path / name.rpartition("_")[2] for name in ("source", "labelled_target", "target")}
    words = [f"--config.data.{name}.root={root}" for name, root in roots.items()]
    words += [f"--config.evaluation.final.root={tmp_path}/target"]
    experiment = config.experiment(config.load("ass:folder,dice", words))
    assert experiment.evaluation.headline == "dice" and stages.label_space(experiment).names[1] == "polyp"
    frames = {name: domains.open_domain(domain)[0] for name, domain in experiment.data.items()}
    assert {name: "label" in frame for name, frame in frames.items()} == {
        "source": True, "labelled_target": True, "target": False
    }  # fmt: skip
    final = domains.open_domain(experiment.evaluation.final)[0]
    np.testing.assert_array_equal(final["label"], mask // 255)
    assert all(domain.size == (256, 256) for domain in (*experiment.data.values(), experiment.evaluation.final))


def test_a_binary_task_ends_with_dice(tmp_path):
    few = "{'limit': 4, 'size': (32, 32)}"
    words = [f"--config.{path}.options={few}" for path in ("data.source", "evaluation.final", "evaluation.dev")]
    words += ["--config.method.segmenter.width=4", "--config.train.steps=2", "--config.method.schedule.warmup=1"]
    assert main(["train", "--config", "source_only:blobs", "--workdir", str(tmp_path / "run"), *words]) == 0
    (row,) = json.loads(Workdir(tmp_path / "run").result.read_text())
    assert (row["benchmark"], row["headline"], row["split"]) == ("blobs", "dice", "blobs/soft_test")
    assert row["metrics"]["dice"] == row["dice"]["structure"] and set(row["dice"]) == {"background", "structure"}
    assert row["best"] is not None
