"""Receipts and `uda verify`: tampered copies are named, honest ones pass, on a method that takes milliseconds."""

import contextlib
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
from throwaway import Counting

from uda_jax import config
from uda_jax.cli import main
from uda_jax.config import Evaluation, Experiment, Train
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.runs import receipts, replay, results, train, verification
from uda_jax.runs.workdir import Workdir

ROOT = Path(__file__).resolve().parents[2]
METHOD = "of_this_test.counting"


@pytest.fixture(scope="module")
def tampering():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import tampering
    finally:
        sys.path.remove(str(ROOT))
    return tampering


@pytest.fixture(scope="module")
def experiment():
    """The benchmark's run, with a method that has one array of weights."""
    package, module = types.ModuleType("of_this_test"), types.ModuleType(METHOD)
    module.METHOD = Counting
    own = {"dataset": "folder", "label_space": "own", "size": (32, 64)}
    plain = Experiment(
        label="counting",
        benchmark="tiny",
        data={"source": Domain(root="data/source", **own)},
        train=Train(steps=6, batch_size=8, log_every=1, checkpoint_every=2),
        evaluation=Evaluation(
            final=Domain(root="data/target", split="val", **own), batch_size=8, protocol="own", pictures=0
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "of_this_test", package)
        patch.setitem(sys.modules, METHOD, module)
        yield config.experiment(config.with_method(plain, METHOD, Counting()))


@pytest.fixture(scope="module")
def trial(tampering, experiment, tmp_path_factory):
    """Ten tampered copies and three untouched ones."""
    folder = tmp_path_factory.mktemp("tampering")
    return folder, tampering.trial(experiment, folder / "trial", tampered=10, honest=3, seed=1)


@pytest.fixture
def copy(trial, tmp_path):
    """A copy of the run, in whose folder the test is."""
    shutil.copytree(trial[0] / "trial" / "original", tmp_path / "copy")
    with contextlib.chdir(tmp_path / "copy"):
        yield Workdir("run")


def test_every_change_is_named_and_no_untouched_copy(trial):
    wrong = [case for case in trial[1]["cases"] if not case["right"]]
    assert not wrong
    assert (trial[1]["named"], trial[1]["passed"]) == (10, 3)
    assert len({case["change"] for case in trial[1]["cases"]}) == 6


def test_what_a_receipt_says(copy):
    stage, whole = (json.loads(file.read_text()) for file in (copy.stage("train").receipt, copy.receipt))
    assert stage["config"] == whole["config"] == config.to_plain(copy.experiment())
    assert stage["config_hash"] == receipts.plain_digest(stage["config"]) and stage["seed"] == 0
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy", "uda_jax"} <= stage["versions"].keys()
    assert stage["fingerprints"] == json.loads(copy.data.read_text())
    assert stage["data"]["source"]["folder"]["names"] == [f"{k:03}" for k in range(8)]
    assert stage["state"]["step"] == 6 and "params/segmenter/weights" in stage["state"]["arrays"]
    assert "frozen/anchor/params/weights" in stage["state"]["arrays"]
    assert list(stage["checkpoints"]) == ["4", "6"] and [row["step"] for row in stage["losses"]] == [1, 2, 3, 4, 5, 6]
    assert list(whole["stages"]) == ["train"] and set(whole["results"]) == {"result.json", "confusion.json"}


def test_the_command_says_it_and_ends_with_a_status(copy, capsys):
    assert main(["verify", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True
    copy.result.write_text(copy.result.read_text() + " ")
    assert main(["verify", "run"]) == 1
    assert "run: differs first in its results: result.json is not what the run wrote" in capsys.readouterr().out
    for receipt in (copy.receipt, copy.stage("train").receipt):
        receipt.unlink()
    assert main(["verify", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run: no receipt.json in a stage's folder, so there is nothing to compare with" in line


def test_a_rerun_of_the_finished_run_leaves_its_receipt_and_brings_back_a_lost_one(copy, experiment):
    before = copy.receipt.read_bytes()
    train.run(experiment, "run", results.Invocation())
    assert copy.receipt.read_bytes() == before
    copy.receipt.unlink()
    train.run(experiment, "run", results.Invocation())
    assert verification.verify(copy).first is None


def test_a_stage_that_ended_can_be_verified_before_the_run_has(copy):
    copy.receipt.unlink()
    copy.result.unlink()
    assert verification.verify(copy).first is None
    plain = json.loads(copy.config.read_text())
    plain["train"]["batch_size"] = 4
    copy.config.write_text(json.dumps(plain))
    first = verification.verify(copy).first
    assert first.what == verification.CONFIG and "config.train.batch_size is 4" in first.message


def test_other_hardware_is_replayed_to_a_tolerance_that_is_told(copy, monkeypatch):
    here = receipts.machine(1)
    monkeypatch.setattr(receipts, "machine", lambda devices: here | {"cores": 1234})
    found = verification.verify(copy)
    (check,) = (check for check in found.checks if check.what == verification.REPLAY)
    assert found.first is None
    assert "within 0.1 of each network's way" in check.message and "1234 now; a network is 0 of" in check.message


def test_edits_that_nothing_can_be_compared_with_are_named_at_last(copy):
    receipt = json.loads(copy.receipt.read_text())
    copy.receipt.write_text(json.dumps(receipt | {"commit": "0123"}))
    first = verification.verify(copy).first
    assert first.what == verification.RECEIPT and "its own checksum differs" in first.message


def test_which_steps_are_replayed():
    receipt = {"state": {"step": 100}, "checkpoints": {"60": {}, "80": {}, "100": {}}}
    receipt |= {"losses": [{"step": step} for step in (70, 90, 100)]}
    spans = {None: (80, 100), 20: (80, 100), 10: (80, 90), 15: (80, 95), 25: (60, 100), 41: (0, 100), 900: (0, 100)}
    for steps, expected in spans.items():
        found = replay.span(receipt, steps, "run/train")
        assert (found.start, found.last) == expected
    with pytest.raises(UserError, match="--steps 9: run/train: expected at least 10, since no loss was logged"):
        replay.span(receipt, 9, "run/train")
