"""Workdirs used again: for another run where nothing was saved, and for more steps of the same one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from result_rows import row

from uda_jax import config
from uda_jax.data.io import mirrors
from uda_jax.errors import UserError
from uda_jax.runs import announcement, results, reuse, states, train
from uda_jax.runs.workdir import Workdir, difference, longer, steps_field


def with_train(experiment, **changes):
    """Returns the experiment with other fields of its train section."""
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **changes))


def with_horizon(experiment, horizon):
    schedule = experiment.method["schedule"] | {"horizon": horizon}
    return dataclasses.replace(experiment, method=experiment.method | {"schedule": schedule})


def run(experiment, workdir):
    (row,) = train.run(experiment, workdir, results.Invocation())
    return row


def params(workdir):
    return jax.tree.map(np.asarray, states.restore(workdir)[1].params)


@pytest.fixture
def quick(tiny_experiment):
    """A run of two steps whose rate is made for more."""
    return with_horizon(with_train(tiny_experiment, steps=2, evaluate_every=0), 100)


def test_a_finished_run_goes_on_as_if_it_had_been_longer(quick, tmp_path, capsys):
    assert run(quick, tmp_path / "a")["steps"] == 2
    longer_run = with_train(quick, steps=4)
    assert run(longer_run, tmp_path / "a")["steps"] == 4
    told = capsys.readouterr().err
    assert "note: stage train: goes on from 2 to 4 steps; the learning rate goes on as its horizon of 100 steps" in told
    assert "stage train: goes on after step 2;" in told and announcement.FINISHED not in told
    run(longer_run, tmp_path / "a")
    assert capsys.readouterr().err == f"{announcement.FINISHED}\n"
    run(longer_run, tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, params(tmp_path / "a"), params(tmp_path / "b"))
    with pytest.raises(UserError, match="holds a run with config.train.steps = 4, asked for 2"):
        run(quick, tmp_path / "a")


@pytest.mark.parametrize(
    ("horizon", "told"),
    [
        (None, "decays over all of them, so that it rises again at step 2"),
        (3, "the learning rate is 0 from step 3 on"),
    ],
)
def test_what_becomes_of_the_learning_rate_is_told(quick, tmp_path, horizon, told):
    quick, workdir = with_horizon(quick, horizon), Workdir(tmp_path)
    experiment = with_train(quick, steps=4)
    (tmp_path / "train" / "checkpoints" / "2").mkdir(parents=True)
    workdir.config.write_text(config.to_json(quick))
    recipe = train.stages.recipe(experiment, 3)
    assert reuse.check(workdir, experiment, ()) == reuse.LONGER
    (note,) = reuse.notes(workdir, experiment, recipe, reuse.LONGER)
    assert told in note


def test_a_folder_of_a_run_that_saved_nothing_takes_any_run(quick, tmp_path, monkeypatch, capsys):
    def die(*_):
        raise RuntimeError("died")

    with monkeypatch.context() as patch:
        patch.setattr(train.StageRun, "save", die)
        with pytest.raises(RuntimeError, match="died"):
            run(quick, tmp_path / "run")
    workdir = Workdir(tmp_path / "run")
    assert workdir.stage("train").metrics.exists() and reuse.saves_nothing(workdir)
    capsys.readouterr()
    other = with_train(quick, steps=1, batch_size=4)
    assert run(other, workdir.path)["batch"] == 4
    assert "has saved no checkpoint, so that this one takes its place" in capsys.readouterr().err
    assert config.to_plain(workdir.experiment())["train"]["batch_size"] == 4
    assert [json.loads(line)["step"] for line in workdir.stage("train").metrics.read_text().splitlines()] == [1, 1]
    with pytest.raises(UserError, match="holds a run with config.train.batch_size = 4, asked for 8"):
        run(quick, workdir.path)


@pytest.mark.parametrize(
    "kept", ["train/checkpoints/2/x", "rank/ranking.json", "train/finished.json", "mine/notes.txt"]
)
def test_whatever_was_saved_keeps_a_folder_its_runs(kept, tmp_path):
    file = tmp_path / kept
    file.parent.mkdir(parents=True)
    file.write_text("")
    assert not reuse.saves_nothing(Workdir(tmp_path))


def test_logs_and_half_a_checkpoint_are_nothing_that_was_saved(tmp_path):
    for name in ("train/checkpoints/2.orbax-checkpoint-tmp-1/x", "train/events.out.1", "train/parameters.txt", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert reuse.saves_nothing(Workdir(tmp_path))


def test_of_a_recipe_the_last_stage_alone_grows():
    plain = lambda *words: config.to_plain(config.experiment(config.load("intrada:smoke", words)))  # noqa: E731
    whole = plain()
    last = whole["recipe"][-1]
    assert steps_field(whole) == ("train", "steps")  # The stages before it have sections of their own.
    more = plain("--config.train.steps=50")
    assert longer(whole, more) and longer(whole, more, stage=last) and not longer(more, whole)
    assert not longer(whole, more, stage=whole["recipe"][0])
    assert not longer(whole, plain("--config.stages.inter.train.steps=50"))
    assert not longer(whole, plain("--config.train.steps=50", "--config.seed=3"))
    assert difference(whole, more) is not None


def test_the_end_names_classes_the_difference_and_what_is_next(tmp_path):
    for name, found in {
        "source_only": row("source_only", 0.25, seed=1),
        "other": row("source_only", 0.5, split="t"),
        "oracle": row("oracle", 0.9),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps([found]))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text("[{")
    workdir = tmp_path / "my run"
    lines = announcement.ending([row("advent", 0.31)], workdir)
    assert lines == [
        "advent: mIoU 31.00 on s after 0 steps, 0 s",
        "  IoU  ground 50.0  wall –",
        "  +6.00 against 25.00 of source_only (source_only, which has seed 1 and not 0)",
        f"next: uda report '{workdir}' --output '{workdir}.html'",
        f"      uda predict --workdir '{workdir}' --input FOLDER --output LABELS",
    ]
    assert len(announcement.ending([row("source_only", 0.31)], workdir)) == 4
    names = {f"class_number_{i}": 0.5 for i in range(9)}
    wide = announcement.ending([row("oracle", 0.31, benchmark="c", iou=names)], workdir)
    assert len(wide) == 3 + 3 and max(map(len, wide[1:4])) <= 80


@pytest.mark.parametrize("how", [reuse.ANEW, reuse.LONGER])
def test_in_a_bucket_what_is_in_the_way_goes_as_well(how, quick, bucket):
    (recipe_stage,) = train.stages.recipe(quick, 3)
    with mirrors.opened(bucket) as folder:
        workdir = Workdir(folder)
        with workdir.locked():
            for file in (workdir.result, workdir.data, workdir.stage("train").finished, workdir.stage("train").metrics):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("[]")
    with mirrors.opened(bucket) as folder:
        workdir = Workdir(folder)
        assert workdir.stage("train").finished.exists()
        with workdir.locked():
            reuse.begin(workdir, [recipe_stage], how)
    with mirrors.opened(bucket) as folder:
        left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == ({"result.json"} if how == reuse.ANEW else {"data.json", "train/metrics.jsonl"})
