"""The command line: every mistake is one line and status 2, and leaves nothing half-written."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from uda_jax.cli import main
from uda_jax.methods.advent import Advent


@pytest.fixture
def folder(tiny_folder, tmp_path, monkeypatch):
    """A copy of the tiny data set that a test may damage; the tiny config reads it."""
    copy = shutil.copytree(tiny_folder, tmp_path / "data")
    monkeypatch.setenv("UDA_JAX_TEST_DATA", str(copy))
    return copy


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_size(path):
    Image.fromarray(np.zeros((16, 64), np.uint8)).save(path)


def unknown_id(path):
    Image.fromarray(np.full((32, 64), 7, np.uint8)).save(path)


def empty(path):
    for file in path.iterdir():
        file.unlink()


DAMAGE = {
    "missing folder": (shutil.rmtree, "", r"no folder {root}; give it by --root, or in a config"),
    "image without label": (os.remove, "train/labels/003.png", r"1 frames have no label, the first is '003'; add it"),
    "label of another size": (
        other_size,
        "train/labels/000.png",
        r"labels/000.png: 16x64 .*images/000.png is 32x64",
    ),
    "label id outside the table": (unknown_id, "train/labels/000.png", r"labels/000.png.*7"),
    "truncated image": (truncate, "train/images/000.png", r"images/000.png.*truncated"),
    "empty split": (empty, "val/images", r"{root}/val.*"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_data_is_named(case, folder, tiny_config, tmp_path, capsys):
    damage, path, pattern = DAMAGE[case]
    damage(folder / path if path else folder)
    assert main(["train", "--config", tiny_config, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("uda: error: ")
    assert re.search(pattern.format(root=re.escape(str(folder))), error), error
    assert not list((tmp_path / "run").rglob("checkpoints/*")) and not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--config", "advnet:streets"], "no packaged config of this name; did you mean 'advent'?"),
        (
            ["train", "--config", "{config}", "--config.train.stps=3"],
            "config.train.stps: unknown field; did you mean 'steps'?",
        ),
        (
            ["train", "--config", "{config}", "--config.method.name=advnt"],
            "unknown method 'advnt'; did you mean 'advent'?",
        ),
        (["train", "--config", "{config}", "--config.method.objectve=x"], "unknown field; did you mean 'objective'?"),
        (
            ["train", "--config", "{config}", "--config.evaluation.protocol=19"],
            "config.evaluation.protocol: expected one of",
        ),
        (["evaluate"], "expected the config of a run"),
        (["predict", "--input", "nowhere", "--output", "out"], "expected the config of a run"),
    ],
)
def test_mistakes_end_with_status_2_and_write_nothing(words, message, tiny_config, tmp_path, capsys):
    words = [word.format(config=tiny_config) for word in words]
    assert main([*words, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("uda: error: ") and message in error[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["C:\\runs\\x", "a\x1bb", "line\nbreak", "\udcff"])
def test_workdirs_that_cannot_hold_checkpoints_are_refused_at_once(name, folder, tiny_config, tmp_path, capsys):
    for words in (
        ["train", "--config", tiny_config, "--workdir", str(tmp_path / name)],
        ["convert", "--from", str(folder), "--to", str(tmp_path / name / "x")],
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected a path without backslashes and control characters" in line
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("size=None", "crop=None", "scale=None"), "image of frame '005' is 48x80 .*, but that of '000' is 32x64"),
        (("rare_classes={'min_pixels': 100000}",), "rare_classes.min_pixels: expected less than"),
    ],
)
def test_domains_that_cannot_be_drawn_from_stop_a_run_before_it_writes(
    words, told, tiny_config, tiny_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "cache"))
    root = shutil.copytree(tiny_folder, tmp_path / "data")
    for kind in ("images", "labels"):
        path = root / "train" / kind / "005.png"
        Image.open(path).resize((80, 48), Image.Resampling.NEAREST).save(path)
    words = [f"--config.data.source.{word}" for word in (f"root={root}", *words)]
    assert main(["train", "--config", tiny_config, "--workdir", str(tmp_path / "run"), *words]) == 2
    assert re.search(f"config.data.source.*{told}", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_unknown_words_are_refused(capsys):
    assert main(["report", "x", "--config.train.steps=3"]) == 2
    assert "--config.train.steps=3: uda report takes no overrides" in capsys.readouterr().err


def test_lists(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert "advent" in listed and "source_only" in listed
    assert main(["methods", "--tflops", "3"]) == 2 and "no effect without --settings" in capsys.readouterr().err
    assert main(["datasets"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"camvid", "folder", "streets"}


def check_overrides(workdir, row, monkeypatch, capsys):
    """What a trained run is scored with may change where that acts on its score, and nowhere else."""

    def evaluate(*words):
        status = main(["evaluate", "--workdir", str(workdir), *words])
        printed = capsys.readouterr()
        return json.loads(printed.out) if status == 0 else printed.err.strip().removeprefix("uda: error: ")

    # No other field of this method acts in predictions alone; this one would serve as well.
    monkeypatch.setattr(Advent, "PREDICTION_FIELDS", ("segmenter.input_norm",), raising=False)
    changed = evaluate("--config.method.segmenter.input_norm=tanh", "--config.evaluation.batch_size=8")
    assert changed["pixel_accuracy"] != row["pixel_accuracy"] and changed["iou"].keys() == row["iou"].keys()
    monkeypatch.delattr(Advent, "PREDICTION_FIELDS")
    refused = "cannot change with it any more"
    for word, message in {
        "--config.train.steps=4": f"config.train.steps: the predictions of {workdir} {refused}; leave it out",
        "--config.method.target_weight=0.1": f"config.method.target_weight: the predictions of {workdir} {refused}",
        "--config.evaluation.dev.split=val": f"config.evaluation.dev.split: the score on final {refused}; set config.",
        "--config.evaluation.pictures=1": f"config.evaluation.pictures: the score on final {refused}",
        "--config.method.objectve=entropy": "config.method.objectve: unknown field; did you mean 'objective'?",
        "--config.evaluation.batch_size=some": "--config.evaluation.batch_size: expected an integer, got 'some'",
    }.items():
        error = evaluate(word)
        assert error.startswith(message) and "\n" not in error


def test_a_run_is_trained_scored_predicted_and_reported(tiny_config, tiny_folder, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    assert main(["train", "--config", tiny_config, "--workdir", str(workdir), "--config.train.steps=2"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads((workdir / "result.json").read_text())
    assert f"mIoU {100 * row['miou']['own']:.2f} on folder/val after 2 steps" in printed

    assert main(["evaluate", "--workdir", str(workdir)]) == 0
    assert json.loads(capsys.readouterr().out)["iou"] == row["iou"]
    check_overrides(workdir, row, monkeypatch, capsys)
    lacking = shutil.copytree(tiny_folder, tmp_path / "lacking")
    for path in (lacking / "val" / "labels").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 2, 255, label).astype(np.uint8)).save(path)
    assert main(["evaluate", "--workdir", str(workdir), f"--config.evaluation.final.root={lacking}"]) == 0
    assert "note: config.evaluation.final: no pixel of the class thing in the 8 frames" in capsys.readouterr().err

    images = shutil.copytree(tiny_folder / "val" / "images", tmp_path / "images")
    truncate(images / "004.png")
    words = ["predict", "--workdir", str(workdir), "--input", str(images), "--output", str(tmp_path / "out")]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "004.png" in printed and "7 images predicted, 1 could not be read" in printed
    label = np.array(Image.open(tmp_path / "out" / "000.png"))
    assert label.shape == (32, 64) and label.max() <= 2 and (tmp_path / "out" / "000_overlay.jpg").exists()
    assert main([*words, "--network", "teacher"]) == 2
    assert f"--network teacher: {workdir}: expected a method with a teacher, got Advent" in capsys.readouterr().err

    page = tmp_path / "report.html"
    assert main(["report", str(workdir), "--output", str(page)]) == 0
    assert json.loads(page.with_suffix(".json").read_text()) == [row]
    assert "tiny" in page.read_text()
    assert main(["report", "--markdown", str(workdir)]) == 0
    assert "| tiny" in capsys.readouterr().out
