"""The results tables: runs of several rows share the stages that they have in common."""

import json

import jax
import pytest

from benchmarks import adaptation
from uda_jax import config
from uda_jax.runs import stages
from uda_jax.runs.initial_weights import start


def write_run(folder, reference, *words):
    """Writes what `copy_stages` reads of a finished run; each stage's file holds the run's name."""
    experiment = config.experiment(config.load(reference, words))
    folder.mkdir()
    for stage in experiment.recipe:
        (folder / stage).mkdir()
        (folder / stage / "finished.json").write_text(folder.name)
    (folder / "config.json").write_text(config.to_json(experiment))
    (folder / "result.json").write_text("[]")
    return folder


@pytest.mark.parametrize(
    ("words", "shared"),
    [
        (["--config.seed=3"], ["inter", "source"]),
        (["--config.seed=4"], []),
        (["--config.seed=3", "--config.stages.inter.train.steps=5"], ["source"]),
        (["--config.seed=3", "--config.stages.source.method.optimiser.learning_rate=0.5"], []),
        (["--config.seed=3", "--config.evaluation.batch_size=16"], []),
    ],
)
def test_only_stages_of_the_same_settings_are_copied(tmp_path, words, shared):
    other = write_run(tmp_path / "inter", "digits:smoke,inter", *words)
    adaptation.copy_stages("digits:smoke", ["--config.seed=3"], [tmp_path / "absent", other], tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").glob("*")) == shared


def test_longer_runs_add_the_stages_that_shorter_ones_lack(tmp_path):
    short = write_run(tmp_path / "short", "digits:smoke,source_only", "--config.seed=0")
    long = write_run(tmp_path / "long", "digits:smoke,inter", "--config.seed=0")
    adaptation.copy_stages("digits:smoke", ["--config.seed=0"], [short, long], tmp_path / "run")
    copied = {path.parent.name: path.read_text() for path in (tmp_path / "run").glob("*/finished.json")}
    assert copied == {"source": "short", "inter": "long"}


def test_stages_that_do_not_train_are_shared_whatever_follows_them(tmp_path):
    other = write_run(tmp_path / "easy", "digits:smoke,long,easy", "--config.seed=0")
    adaptation.copy_stages("digits:smoke,long", ["--config.seed=0"], [other], tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "pixel", "translate", "source", "inter", "rank", "easy"
    }  # fmt: skip


def test_unfinished_runs_and_single_stages_share_nothing(tmp_path):
    other = write_run(tmp_path / "other", "digits:smoke,inter", "--config.seed=0")
    (other / "result.json").unlink()
    adaptation.copy_stages("digits:smoke", ["--config.seed=0"], [other], tmp_path / "run")
    adaptation.copy_stages(
        "advent:streets", ["--config.seed=0"], [write_run(tmp_path / "done", "advent:smoke")], tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("benchmark", adaptation.ROWS)
def test_rows_are_configs_under_the_benchmark_and_label_of_their_place(benchmark):
    for label, words in adaptation.ROWS[benchmark].items():
        reference, *overrides = words.split()
        experiment = config.experiment(config.load(reference, overrides))
        # Rows with a pretrained encoder have a file of their own beside those of the same task from scratch.
        assert (experiment.benchmark, experiment.label) == (benchmark.removesuffix("_pretrained"), label)


def test_the_row_of_published_weights_reads_their_file(shared):
    reference, *overrides = adaptation.ROWS["camvid_vgg16"]["imagenet"].split()
    file = shared / "data" / "weights" / "vgg16_imagenet_caffe_bgr.safetensors"
    overrides += [f"--config.init_from.segmenter.path={file}", f"--config.data.source.root={shared}/data/camvid"]
    (stage,) = stages.recipe(config.experiment(config.load(reference, overrides)), 19)
    said = []
    start(jax.eval_shape(stage.initialise, jax.random.key(0)), stage, said.append)
    assert "loaded: 26 " in said[0] and "unused: none" in said[0]


def test_rows_replace_earlier_ones_of_their_run_alone(tmp_path):
    row = lambda config, seed, figure: {"label": "pair/intra", "config": config, "seed": seed, "figure": figure}  # noqa: E731
    target = tmp_path / "rows.json"
    adaptation.merge(target, [row("digits:a", 1, 0.1)])
    adaptation.merge(target, [row("digits:a", 0, 0.2)])
    adaptation.merge(target, [row("digits:a,long", 1, 0.3), row("digits:a", 1, 0.4)])
    assert [(found["config"], found["seed"], found["figure"]) for found in json.loads(target.read_text())] == [
        ("digits:a", 0, 0.2),
        ("digits:a,long", 1, 0.3),
        ("digits:a", 1, 0.4),
    ]
