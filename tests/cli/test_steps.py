"""Commands on a run of several checkpoints, whose method is a module of somebody else's beside the config file."""

import json
import subprocess
import sys

import pytest

from uda_jax.cli import main
from uda_jax.runs import states
from uda_jax.runs.workdir import Workdir

CONFIG = '''\
"""A config file whose method lies beside it."""

import dataclasses

from my_package.counting import METHOD

from uda_jax import config


def get_config(setting=""):
    tiny = config.experiment(config.load({tiny!r}))
    train = dataclasses.replace(tiny.train, steps=6, evaluate_every=2, checkpoint_every=2)
    experiment = dataclasses.replace(tiny, train=train)
    return config.with_method(experiment, "my_package.counting", METHOD())
'''


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    """The folder of a config file, of a package beside it, and of a run of six steps."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "counting.py").write_text("from throwaway import Counting\n\nMETHOD = Counting\n")
    (folder / "mine.py").write_text(CONFIG.format(tiny=tiny_config))
    assert main(["train", "--config", str(folder / "mine.py"), "--workdir", str(folder / "run")]) == 0
    return folder


def test_a_method_from_outside_is_trained_and_named(folder):
    (row,) = json.loads(Workdir(folder / "run").result.read_text())
    assert row["method"] == "my_package.counting" and row["steps"] == 6


def test_a_checkpoint_is_scored_by_its_step(folder, tiny_folder, tmp_path, capsys):
    workdir = folder / "run"
    scores = {}
    for step in ("last", "6", "4"):
        assert main(["evaluate", "--workdir", str(workdir), "--step", step]) == 0
        scores[step] = json.loads(capsys.readouterr().out)
    assert scores["last"] == scores["6"]
    assert main(["evaluate", "--workdir", str(workdir), "--step", "best", "--on", "dev"]) == 0
    images = str(tiny_folder / "val" / "images")
    words = ["predict", "--workdir", str(workdir), "--input", images, "--output", str(tmp_path / "out")]
    assert main([*words, "--step", "best"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--workdir", str(workdir), "--step", "5"]) == 2
    error = capsys.readouterr().err
    assert "run/train: no checkpoint has step 5; ask for 'last' or one of the steps" in error
    assert main(["evaluate", "--workdir", str(workdir), "--step", "bset"]) == 2
    assert "expected last, best or a step, got 'bset'" in capsys.readouterr().err
    restored = {step: int(states.restore(workdir, step=step)[1].step) for step in ("last", 4)}
    assert restored == {"last": 6, 4: 4}


def test_a_run_is_inspected_without_its_data(folder, monkeypatch, capsys):
    monkeypatch.setenv("UDA_JAX_TEST_DATA", "nowhere")
    assert main(["inspect", str(folder / "run"), "--step", "best"]) == 0
    printed = capsys.readouterr().out
    assert "train: finished, checkpoints of steps" in printed and "(best)" in printed
    assert f"config {folder / 'mine.py'}" in printed and "method my_package.counting" in printed
    assert "9 parameters" in printed and "anchor, never learns" in printed


def test_the_package_is_run_as_a_module():
    command = [sys.executable, "-m", "uda_jax", "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "usage: uda" in listed and all(name in listed for name in ("train", "evaluate", "inspect", "convert"))
