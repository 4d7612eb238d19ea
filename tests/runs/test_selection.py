"""`uda select` on runs of a method of milliseconds, and its criteria while such a run is trained."""

import dataclasses
import json
import shutil
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

from uda_jax import methods
from uda_jax.cli import main
from uda_jax.errors import UserError
from uda_jax.inference.label_free import Measurer
from uda_jax.methods.parts.updates import initial_state
from uda_jax.report import tables
from uda_jax.runs import results, stages, target_frames, train
from uda_jax.runs.announcement import result_line
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import config_field
from uda_jax.training.logging import read_metrics


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """Tells the tiny folder's classes by their colours; its ground grows brighter with every step."""

    num_classes: int = config_field(3, "Not used.")
    precision: str = config_field("fp32", "Not used.")
    accumulation: int = config_field(1, "Not used.")
    rate: float = config_field(40.0, "How much brighter.")
    PREDICTION_FIELDS: ClassVar[tuple[str, ...]] = ()

    def init(self, key: jax.Array, example_batch: Any):
        return initial_state(key, {"segmenter": {"params": {"ground": jnp.float32(90)}}}, {})

    def train_step(self, state, batch):
        ground = state.params["segmenter"]["ground"] + self.rate
        return state.replace(step=state.step + 1, params={"segmenter": {"ground": ground}}), {"loss/total": ground}

    def predict(self, state, images, size):
        ground = jnp.full(3, 1.0) * state.params["segmenter"]["ground"]
        colours = jnp.stack([ground, jnp.array([180.0, 60, 40]), jnp.array([40.0, 60, 200])])
        distance = jnp.abs(images[..., None, :].astype(jnp.float32) - colours).mean(axis=-1)
        return {"scores": jax.image.resize(-distance, (len(images), *size, 3), "nearest")}


@pytest.fixture(scope="module")
def patched():
    known = methods.get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "get", lambda name: Forgetting if name == "forgetting" else known(name))
        patch.setattr(methods, "check_domains", lambda *words: None)
        yield


def experiment_of(config_file, **changes):
    from uda_jax import config

    found = config.experiment(config.load(config_file))
    evaluation = dataclasses.replace(found.evaluation, **changes.pop("evaluation", {}))
    training = dataclasses.replace(found.train, steps=4, evaluate_every=2, checkpoint_every=2)
    changes = {"method": {"name": "forgetting"}, "init_from": {}, "train": training, "evaluation": evaluation} | changes
    return dataclasses.replace(found, **changes)


def trained(folder, experiment):
    (row,) = train.run(experiment, folder, results.Invocation("tiny", (), "uda train"))
    return row


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_config, patched):
    """Two finished runs, of which "still" learns nothing and stays right, and "fast" grows worse."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("fast", 40.0), ("still", 0.0)):
        trained(folder / name, experiment_of(tiny_config, method={"name": "forgetting", "rate": rate}))
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


def selected(capsys, *words):
    assert main(["select", *map(str, words)]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_table_the_choice_and_what_is_kept(copied, capsys, monkeypatch):
    words = [copied / "fast", copied / "still", copied / "nothing", "--checkpoints"]
    out, err = selected(capsys, *words)
    assert "8 frames of folder/val, their labels not read" in out and "choice: " in out
    # Both checkpoints of the one that stays as it was are equal; the first one counts.
    assert f"choice: {copied / 'still'}, step 2: the lowest mean rank" in out and err.count("measuring") == 4
    assert f"note: {copied / 'nothing'} is passed over: " in err
    stored = json.loads(Workdir(copied / "still").unlabelled.read_text())
    assert sorted(entry["step"] for entry in stored.values()) == [2, 4]

    def never(*words):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(Measurer, "measure", never)
        again, err = selected(capsys, *words)
        assert again == out and "measuring" not in err
        with pytest.raises(AssertionError):  # of other frames, nothing is kept
            main(["select", str(copied / "still"), "--frames", "3"])
    # A file that is no score is computed anew.
    Workdir(copied / "still").unlabelled.write_text("{")
    assert selected(capsys, *words)[0] == out


def test_json_and_one_criterion(copied, capsys, monkeypatch):
    out, _ = selected(capsys, copied / "fast", copied / "still", "--json", "--by", "source_score", "--frames", 4)
    found = json.loads(out)
    assert found["choice"] == {"run": str(copied / "still"), "step": 4} and found["by"] == "source_score"
    assert found["frames"] == {"dataset": "folder", "split": "val", "count": 4}
    fast, still = found["candidates"]
    assert still["values"]["source_score"] > 0.9 > fast["values"]["source_score"]
    assert still["values"]["teacher_agreement"] is None and sum(still["shares"]) == pytest.approx(1)

    def gone(*words):
        raise UserError("source: it is not there")

    monkeypatch.setattr(target_frames, "as_trained", gone)
    out, err = selected(capsys, copied / "still", "--json", "--frames", 4)
    assert "note: measured without the source: source: it is not there" in err
    (alone,) = json.loads(out)["candidates"]
    assert alone["prior"] is None is alone["values"]["source_score"] and alone["values"]["entropy"] > 0


def test_runs_of_other_targets_are_refused_in_one_line(copied, capsys):
    file = Workdir(copied / "still").config
    plain = json.loads(file.read_text())
    plain["data"]["target"]["split"] = "train"
    file.write_text(json.dumps(plain))
    assert main(["select", str(copied / "fast"), str(copied / "still")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"got folder/val of {copied / 'fast'} and others, folder/train, of {copied / 'still'}" in line


def test_without_a_target_stream_the_images_of_dev_count(copied, capsys):
    file = Workdir(copied / "still").config
    plain = json.loads(file.read_text())
    del plain["data"]["target"]
    file.write_text(json.dumps(plain))
    _, err = selected(capsys, copied / "fast", copied / "still", "--json")
    assert "no run has a target stream" not in err and "passed over" in err  # its checkpoint is of another config
    _, err = main(["select", str(copied / "still")]), capsys.readouterr().err
    assert "measured on the images of config.evaluation.dev, without labels" in err


def test_nothing_to_choose_from_is_an_error(tmp_path, capsys):
    assert main(["select", str(tmp_path / "none")]) == 2
    assert "none of the runs can be measured" in capsys.readouterr().err


def test_target_frames_are_prepared_as_the_scored_ones(tiny_experiment):
    frames = target_frames.as_scored(
        target_frames.target(stages.recipe(tiny_experiment, 3)), tiny_experiment.evaluation, 5
    )
    assert frames.path == "config.data.target" and frames.domain.count == 5 and frames.domain.fields == ("image",)
    assert not frames.domain.flip and frames.domain.size == tiny_experiment.evaluation.final.size


def test_the_best_checkpoint_without_labels(tmp_path, tiny_config, patched):
    section = {"criteria": ("entropy",), "criteria_frames": 4, "best_by": "source_score", "dev": None}
    section |= {"selection": "best_without_labels"}
    row = trained(tmp_path / "run", experiment_of(tiny_config, evaluation=section))
    assert (row["selection"], row["selected_by"], row["selected_step"]) == ("best_without_labels", "source_score", 2)
    assert "step 2 chosen by source_score" in result_line(row)
    assert tables.selection_note(row) == " (best by source_score, without labels)"
    files = Workdir(tmp_path / "run").stage("train")
    logged = {entry["step"]: entry for entry in read_metrics(files.metrics) if "unlabelled/entropy" in entry}
    assert list(logged) == [2, 4] and "unlabelled/flip_agreement" not in logged[2]
    kept = Checkpoints(files)
    assert kept.best_step() == 2
    assert kept.scores() == pytest.approx({step: entry["unlabelled/source_score"] for step, entry in logged.items()})
    kept.close()


def test_what_cannot_be_measured_is_said_before_anything_is_written(tmp_path, tiny_config, patched):
    for section, data, message in (
        ({"best_by": "teacher_agreement"}, None, "best_by: 'teacher_agreement' needs a method with a teacher"),
        ({"criteria": ("entropy",)}, ("source",), "criteria: expected a run with a target domain"),
        ({"best_by": "prior_distance"}, ("target",), "best_by: 'prior_distance' needs a labelled source domain"),
    ):
        experiment = experiment_of(tiny_config, evaluation=section)
        if data:
            kept = {name: domain for name, domain in experiment.data.items() if name in data}
            experiment = dataclasses.replace(experiment, data=kept)
        with pytest.raises(UserError, match=message):
            trained(tmp_path / "run", experiment)
    assert not (tmp_path / "run").exists()


def test_fields_of_the_choice_agree(tiny_experiment):
    section = tiny_experiment.evaluation
    with pytest.raises(UserError, match="best_by: expected a criterion"):
        dataclasses.replace(section, selection="best_without_labels").check("config.evaluation")
    with pytest.raises(UserError, match="best_by: expected None, since"):
        dataclasses.replace(section, selection="best_on_target_val", best_by="entropy").check("config.evaluation")
    assert dataclasses.replace(section, criteria=("entropy",), best_by="information").measured == (
        "entropy",
        "information",
    )
