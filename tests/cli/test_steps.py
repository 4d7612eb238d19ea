"""Commands on a run of several checkpoints, whose method is a module of somebody else's beside the config file."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from uda_jax.cli import main
from uda_jax.cli.inference import _made_by
from uda_jax.data.pipeline.domains import Domain
from uda_jax.inference.options import Inference
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


METHOD = """\
import dataclasses

from throwaway import Counting

from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class METHOD(Counting):
    PREDICTION_FIELDS = ("predict_with",)

    predict_with: str = config_field("student", "Network that predicts.", choices=("student", "teacher"))

    def predict(self, state, images, size):
        scores = Counting.predict(self, state, images, size)["scores"]
        return {"scores": -scores if self.predict_with == "teacher" else scores}
"""


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    """The folder of a config file, of a package beside it, and of a run of six steps."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "counting.py").write_text(METHOD)
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


def test_the_network_is_chosen(folder, tiny_folder, tmp_path, capsys):
    run = ["--workdir", str(folder / "run")]

    def evaluate(*words):
        assert main(["evaluate", *run, *words]) == 0
        return json.loads(capsys.readouterr().out)

    scores = {network: evaluate("--network", network) for network in ("student", "teacher")}
    assert scores["student"] == evaluate() and scores["teacher"]["iou"] != scores["student"]["iou"]
    assert scores["teacher"] == evaluate("--config.method.predict_with=teacher")
    images = str(tiny_folder / "val" / "images")
    words = ["predict", *run, "--input", images, "--output", str(tmp_path / "out"), "--write", "labels"]
    assert main([*words, "--network", "teacher"]) == 0
    assert main([*words, "--network", "teacher"]) == 0
    assert "0 images predicted, 8 skipped, whose files exist" in capsys.readouterr().out
    assert main(words) == 2
    assert "holds predictions that were made otherwise (network)" in capsys.readouterr().err


def test_several_splits_are_scored_in_one_call(folder, tmp_path, capsys):
    diagram = tmp_path / "reliability.png"
    words = ["evaluate", "--workdir", str(folder / "run"), "--on", "dev", "final", "--worst", "2"]
    assert main([*words, "--reliability", str(diagram)]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    for name, card in found.items():
        assert f"{name}: mIoU {100 * card['metrics']['miou']:.2f}, of {folder / 'run'} at step 6\n" in told.err
    assert f"{diagram.with_stem('reliability_dev')}: reliability diagram of dev\n" in told.err
    assert list(found) == ["dev", "final"] and found["dev"]["iou"] != found["final"]["iou"]
    assert len(found["final"]["worst_frames"]) == 2 and "folder/train" in found["dev"]["protocol"]
    assert {"ece", "bins"} == set(found["final"]["calibration"])
    assert {path.name for path in tmp_path.iterdir()} == {"reliability_dev.png", "reliability_final.png"}
    void = "--config.evaluation.count_void_labels=True"
    assert main(["evaluate", "--workdir", str(folder / "run"), void]) == 0
    strict = json.loads(capsys.readouterr().out)
    assert strict["miou"]["own"] < found["final"]["miou"]["own"]
    assert strict["pixel_accuracy"] == found["final"]["pixel_accuracy"]
    assert main([*words, "--reliability", "diagram.svg"]) == 2
    assert "--reliability diagram.svg: expected a name that ends in .png" in capsys.readouterr().err


def test_predictions_tell_runs_apart_whose_folders_have_one_name():
    """As those of a sweep's seeds, whose other settings may be the same."""
    options = SimpleNamespace(workdir=[Path("sweep/seed0")], network=None, size=None)
    states = [
        SimpleNamespace(step=np.int32(4), params={"w": np.full(3, value)}, model_state={}, teacher=None)
        for value in (0.0, 0.0, 1.0)
    ]
    same, again, other = (_made_by(options, (), Inference(), Domain(), state) for state in states)
    assert same == again and {key for key in same if same[key] != other[key]} == {"weights"}
    assert json.dumps(_made_by(options, (), Inference(), Domain(), states)["weights"])


def test_options_that_would_have_no_effect_are_refused(folder, tiny_folder, tmp_path, capsys):
    images = str(tiny_folder / "val" / "images")
    words = ["predict", "--workdir", str(folder / "run"), "--input", images, "--output", str(tmp_path / "out")]
    for more, message in (
        (["--fps", "10"], "--fps: expected --video with it"),
        (["--server", "cityscapes", "--size", "4x4"], "--size: expected none with --server"),
        (["--server", "cityscapes"], "--server cityscapes: expected classes of Cityscapes"),
        (["--write", "labels", "depth"], "depth: expected a method of depth"),
        (["--fps", "0"], "argument --fps: expected a number from 0.1 to 1000, got '0'"),
        (["--write", "label"], "argument --write: invalid choice: 'label'"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_the_command_line_names_what_there_is():
    from uda_jax.cli import inference
    from uda_jax.inference import outputs, servers

    assert inference.KINDS == tuple(outputs.KINDS) and inference.SERVERS == tuple(servers.SERVERS)


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
