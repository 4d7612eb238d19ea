"""Scoring within a run, with a throw-away method that predicts one depth for all pixels, and no classes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uda_jax import config, methods
from uda_jax.cli import main
from uda_jax.config import Evaluation, Experiment, Train
from uda_jax.data.labels.label_spaces import label_space
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.examples import DomainFrames
from uda_jax.errors import UserError
from uda_jax.inference.evaluate import protocols
from uda_jax.methods.parts.updates import initial_state
from uda_jax.report import tables
from uda_jax.runs import results, scoring, train
from uda_jax.runs.announcement import result_line
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import config_field
from uda_jax.training.logging import read_metrics


@dataclasses.dataclass(frozen=True)
class OneDepth:
    """Predicts `first` metres after no step and `stride` metres more after each."""

    precision: str = config_field("fp32", "Not used.")
    accumulation: int = config_field(1, "Not used.")
    first: float = config_field(5.0, "Metres of the first prediction.")
    stride: float = config_field(5.0, "Metres per step.")

    def init(self, key, example_batch):
        return initial_state(key, {"depth": {"params": {"metres": jnp.float32(self.first)}}}, {})

    def train_step(self, state, batch):
        metres = state.params["depth"]["metres"] + self.stride
        state = state.replace(step=state.step + 1, params={"depth": {"metres": metres}})
        return state, {"loss/total": metres}

    def predict(self, state, images, size):
        return {"depth": jnp.broadcast_to(state.params["depth"]["metres"], (len(images), *size, 1))}


OPTIONS = {"size": (48, 96), "limit": 6}
NEAR = Domain(dataset="streets", split="simulator_train", fields=("image", "depth"), options=OPTIONS)
FAR = dataclasses.replace(NEAR, split="camera_val")
DEV = dataclasses.replace(NEAR, split="camera_dev")


def experiment(**evaluation):
    return Experiment(
        label="one_depth",
        benchmark="streets",
        method={"name": "one_depth"},
        data={"source": NEAR},
        init_from={},
        train=Train(steps=8, batch_size=2, log_every=1, evaluate_every=1, checkpoint_every=1, keep_latest=1),
        evaluation=Evaluation(batch_size=4, headline="abs_rel", **evaluation),
    )


@pytest.fixture(autouse=True)
def one_depth(monkeypatch):
    monkeypatch.setattr(methods, "get", lambda name: {"one_depth": OneDepth}[name])


def abs_rel(domain, metres):
    true = np.concatenate([frame["depth"][frame["depth"] > 0] for frame in open_domain(domain)]).astype(np.float64)
    return (np.abs(metres - true) / true).mean()


def run(tmp_path, **evaluation):
    return train.run(experiment(**evaluation), tmp_path / "run", results.Invocation("one_depth", (), "uda train"))


def test_a_depth_task_is_trained_scored_and_reported_like_a_segmentation(tmp_path, capsys):
    (row,) = run(tmp_path, final=FAR, dev=DEV)
    workdir = Workdir(tmp_path / "run")
    assert json.loads(workdir.result.read_text()) == [row]
    assert row["headline"] == "abs_rel" and row["metrics"]["abs_rel"] == pytest.approx(abs_rel(FAR, 45), rel=1e-5)
    assert (row["miou"], row["iou"], row["best_miou"], row["split"]) == ({}, {}, None, "streets/camera_val")
    assert "domain" not in row
    on_dev = [abs_rel(DEV, 5 + 5 * step) for step in range(1, 9)]
    logged = [entry for entry in read_metrics(workdir.stage("train").metrics) if "evaluation/abs_rel" in entry]
    assert [entry["evaluation/abs_rel"] for entry in logged] == pytest.approx(on_dev, rel=1e-5)
    assert "evaluation/rmse" in logged[0] and "evaluation/miou" not in logged[0]
    # The best checkpoint is that of the lowest error, and not the last one.
    best = 1 + int(np.argmin(on_dev))
    assert row["best"] == pytest.approx(min(on_dev), rel=1e-5) and best < 8
    assert Checkpoints(workdir.stage("train")).best_step() == best
    assert main(["evaluate", "--workdir", str(workdir.path), "--on", "dev", "--step", "best"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["abs_rel"] == pytest.approx(min(on_dev), rel=1e-5)
    assert result_line(row).startswith(
        f"one_depth: abs_rel {row['metrics']['abs_rel']:.4f} on streets/camera_val after 8"
    )
    assert f"| one_depth | {row['metrics']['abs_rel']:.3f} |" in tables.markdown([row])
    Image.new("RGB", (96, 48)).save(tmp_path / "frame.png")
    words = ["--input", str(tmp_path), "--output", str(tmp_path.parent / f"{tmp_path.name}_out")]
    assert main(["predict", "--workdir", str(workdir.path), *words]) == 2
    assert "expected a method of classes, got ['depth'] alone; write what it has: depth" in capsys.readouterr().err
    assert main(["predict", "--workdir", str(workdir.path), *words, "--write", "depth"]) == 0
    with Image.open(tmp_path.parent / f"{tmp_path.name}_out" / "frame_depth.png") as depth:
        assert (depth.size, depth.mode) == ((96, 48), "I;16")
    assert main(["report", str(workdir.path), "--output", str(tmp_path / "report.html")]) == 0
    assert f"{row['metrics']['rmse']:.3f}" in (tmp_path / "report.html").read_text()


def test_several_splits_have_a_row_each_and_their_mean_chooses_the_checkpoint(tmp_path, monkeypatch, capsys):
    decoded, read = [], DomainFrames._read
    record = lambda frames, index: decoded.append((frames._path, index)) or read(frames, index)  # noqa: E731
    monkeypatch.setattr(DomainFrames, "_read", record)
    rows = run(tmp_path, final={"near": NEAR, "far": FAR}, dev={"one": DEV, "two": FAR})
    assert [(row["domain"], row["split"]) for row in rows] == [
        ("far", "streets/camera_val"),
        ("near", "streets/simulator_train"),
    ]
    for row, domain in zip(rows, (FAR, NEAR), strict=True):
        assert row["metrics"]["abs_rel"] == pytest.approx(abs_rel(domain, 45), rel=1e-5) and row["label"] == "one_depth"
    means = [(abs_rel(DEV, 5 + 5 * step) + abs_rel(FAR, 5 + 5 * step)) / 2 for step in range(1, 9)]
    assert [row["best"] for row in rows] == pytest.approx([min(means)] * 2, rel=1e-5)
    workdir = Workdir(tmp_path / "run")
    logged = [entry for entry in read_metrics(workdir.stage("train").metrics) if "evaluation/abs_rel" in entry]
    assert [entry["evaluation/abs_rel"] for entry in logged] == pytest.approx(means, rel=1e-5)
    assert logged[0]["evaluation/two/abs_rel"] == pytest.approx(abs_rel(FAR, 10), rel=1e-5)
    # From the first message to the last row each final frame is decoded once; the dev frames once in each evaluation.
    for name in ("near", "far"):
        assert sorted(i for path, i in decoded if path == f"config.evaluation.final.{name}") == list(range(6))
    dev = [i for path, i in decoded if path == "config.evaluation.dev.one"]
    assert dev.count(0) == 1 and dev.count(5) == 8 and dev.count(1) == 9  # one batch is scored before the first step
    assert run(tmp_path, final={"near": NEAR, "far": FAR}, dev={"one": DEV, "two": FAR}) == rows

    def evaluate(*words):
        capsys.readouterr()
        status = main(["evaluate", "--workdir", str(workdir.path), *words])
        return json.loads(capsys.readouterr().out) if status == 0 else None

    figures = {row["domain"]: row["metrics"] for row in rows}
    assert {name: found["metrics"] for name, found in evaluate().items()} == figures
    assert evaluate("--on", "near")["metrics"] == figures["near"]
    assert set(evaluate("--on", "dev")) == {"one", "two"}
    fewer = evaluate("--on", "far", "--config.evaluation.final.far.count=2")
    assert fewer["metrics"]["abs_rel"] != figures["far"]["abs_rel"]
    assert main(["evaluate", "--workdir", str(workdir.path), "--on", "middle"]) == 2
    assert "--on middle: expected one of final, far, near, dev, one, two, the splits of" in capsys.readouterr().err


def test_splits_together_have_a_row_of_their_own(tmp_path, capsys):
    rows = run(tmp_path, final={"near": NEAR, "far": FAR}, joint="mean")
    assert [row["domain"] for row in rows] == ["far", "near", "joint"]
    *each, joint = rows
    assert joint["split"] == "streets/camera_val + streets/simulator_train" and joint["label"] == "one_depth"
    for name in ("abs_rel", "rmse"):
        assert joint["metrics"][name] == pytest.approx(sum(row["metrics"][name] for row in each) / 2)
    tables.check_rows(rows, "rows")
    capsys.readouterr()
    assert main(["evaluate", "--workdir", str(tmp_path / "run")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["far", "near", "joint"] and found["joint"]["metrics"] == joint["metrics"]
    assert main(["evaluate", "--workdir", str(tmp_path / "run"), "--config.evaluation.joint=pixels"]) == 0
    pooled = json.loads(capsys.readouterr().out)["joint"]["metrics"]["abs_rel"]
    true = [frame["depth"][frame["depth"] > 0] for domain in (NEAR, FAR) for frame in open_domain(domain)]
    true = np.concatenate(true).astype(np.float64)
    assert pooled == pytest.approx((np.abs(45 - true) / true).mean(), rel=1e-5)
    assert pooled != pytest.approx(joint["metrics"]["abs_rel"], rel=1e-5)


def slow(**evaluation):
    """The experiment with predictions of 2, 4 ... 16 metres, of which one in the middle is the best."""
    return dataclasses.replace(experiment(**evaluation), method={"name": "one_depth", "first": 0.0, "stride": 2.0})


@pytest.mark.parametrize("dev", [DEV, None])
def test_the_best_checkpoint_on_target_labels_is_reported_where_that_is_asked_for(tmp_path, capsys, dev):
    """On dev, or as the released codes do on the evaluation split itself."""
    asked = {"final": FAR, "dev": dev, "selection": "best_on_target_val"}
    (row,) = train.run(slow(**asked), tmp_path / "run", results.Invocation("one_depth", (), "uda train"))
    chosen_on = FAR if dev is None else dev
    errors = [abs_rel(chosen_on, 2 * step) for step in range(1, 9)]
    best = 1 + int(np.argmin(errors))
    assert 1 < best < 8 and row["selected_step"] == best and row["steps"] == 8
    assert row["metrics"]["abs_rel"] == pytest.approx(abs_rel(FAR, 2 * best), rel=1e-5)
    assert row["selection"] == "best_on_target_val" and row["selected_on"] == f"streets/{chosen_on.split}"
    assert f"after 8 steps, step {best} chosen on labels of streets/{chosen_on.split}, " in result_line(row)
    assert f"| one_depth (best on labels of streets/{chosen_on.split}) |" in tables.markdown([row])
    # What opens the run takes the same checkpoint.
    capsys.readouterr()
    assert main(["evaluate", "--workdir", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == row["metrics"]
    assert main(["evaluate", "--workdir", str(tmp_path / "run"), "--step", "last"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["abs_rel"] == pytest.approx(abs_rel(FAR, 16), rel=1e-5)


@pytest.mark.parametrize("stop_after", [2, 7])
def test_a_choice_of_checkpoints_survives_an_interruption(tmp_path, monkeypatch, stop_after):
    """Stopped before the best step and after it."""
    asked, how = slow(final=FAR, selection="best_on_target_val"), results.Invocation()
    (whole,) = train.run(asked, tmp_path / "whole", how)
    with monkeypatch.context() as patch:
        save = train.StageRun._stopping
        patch.setattr(train.StageRun, "_stopping", lambda stage, step: step == stop_after or save(stage, step))
        with pytest.raises(train.Stopped):
            train.run(asked, tmp_path / "cut", how)
    (row,) = train.run(asked, tmp_path / "cut", how)
    assert {**row, "seconds": 0} == {**whole, "seconds": 0} and 2 < row["selected_step"] < 7


def test_a_choice_without_anything_to_choose_by_is_refused_before_anything_is_written(tmp_path):
    once = experiment(final=FAR, selection="best_on_target_val")
    once = dataclasses.replace(once, train=dataclasses.replace(once.train, evaluate_every=0))
    with pytest.raises(UserError, match="^config.train.evaluate_every: expected .* above 0, since .*selection chooses"):
        train.run(once, tmp_path / "run", results.Invocation())
    blind = dataclasses.replace(FAR, fields=("image",))
    with pytest.raises(UserError, match=r"^config.evaluation.final: expected labels to choose .*selection=last"):
        run(tmp_path, final=blind, unlabelled=True, selection="best_on_target_val")
    with pytest.raises(UserError, match=r"config.evaluation.joint: expected 'none', since no frame of .*final.far"):
        run(tmp_path, final={"near": NEAR, "far": blind}, unlabelled=True, joint="mean")
    assert not (tmp_path / "run").exists()


def test_a_run_that_chose_otherwise_is_not_gone_on_with(tmp_path):
    asked = experiment(final=FAR, selection="best_on_target_val")
    workdir = Workdir(tmp_path / "run")
    workdir.prepare(experiment(final=FAR), label_space("19"))
    with pytest.raises(UserError, match="config.evaluation.selection = 'last', asked for 'best_on_target_val'"):
        workdir.check(asked, label_space("19").names)


def test_a_headline_that_the_splits_cannot_answer_is_refused_before_anything_is_written(tmp_path):
    plain = dataclasses.replace(FAR, fields=("image", "label"))
    with pytest.raises(UserError, match="config.evaluation.final.fields: expected 'depth', since config.evaluation"):
        run(tmp_path, final=plain)
    assert not (tmp_path / "run").exists()


def test_the_protocol_of_a_depth_task_does_not_matter():
    ours = experiment(final=FAR)
    assert scoring.with_protocol(ours, protocols(label_space("7"))) is ours
    other = dataclasses.replace(ours, evaluation=dataclasses.replace(ours.evaluation, headline="dice"))
    with pytest.raises(UserError, match=r"config.evaluation.protocol: expected one of \['7'\], got '19'"):
        scoring.with_protocol(other, protocols(label_space("7")))


def test_splits_of_other_classes_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="config.evaluation.final.near: expected the classes of config.evaluation.final.f"
    ):
        run(tmp_path, final={"near": dataclasses.replace(NEAR, label_space="7"), "far": FAR})


def test_the_sections_survive_their_file(tmp_path):
    several = experiment(final={"near": NEAR, "far": FAR})
    (tmp_path / "config.json").write_text(config.to_json(several))
    found = config.from_json(tmp_path / "config.json")
    assert list(found.evaluation.splits("final")) == ["far", "near"]
    assert config.to_plain(found) == config.to_plain(several)
