"""The loop: resuming bit for bit, stopping, guarding, finishing; one compilation per stage."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uda_jax import config
from uda_jax.cli import main
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import domains, streams
from uda_jax.errors import UserError
from uda_jax.inference.evaluate import protocols
from uda_jax.report import confusion
from uda_jax.report.rows import KEYS
from uda_jax.runs import results, scoring, stages, states, train
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training import metrics, sharding
from uda_jax.training.guard import NonFiniteLoss
from uda_jax.training.initialisation import initialise
from uda_jax.training.logging import read_metrics


def with_train(experiment, **changes):
    """Returns the experiment with other fields of its train section."""
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **changes))


def run(experiment, workdir):
    """Runs an experiment and returns its only row; None where there is nothing to score on."""
    rows = train.run(experiment, workdir, results.Invocation())
    assert len(rows) < 2
    return rows[0] if rows else None


def leaves(workdir):
    """Returns {path: array} of a run's last state."""
    _, state, _ = states.restore(workdir)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def assert_same_state(workdir, other):
    ours, theirs = leaves(workdir), leaves(other)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def logged(workdir):
    """Returns the metric rows without what depends on the clock."""
    rows = read_metrics(Path(workdir) / "train" / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("speed/")} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tiny_config, tmp_path_factory):
    """The workdir of a run that nobody disturbed, and its result row."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return workdir, run(config.experiment(config.load(tiny_config)), workdir)


def command(tiny_config, workdir, *words):
    return [
        sys.executable,
        "-m",
        "uda_jax.cli",
        "train",
        "--config",
        tiny_config,
        "--workdir",
        str(workdir),
        *words,
    ]


def test_a_run_leaves_what_the_report_reads(uninterrupted):
    workdir, row = uninterrupted
    assert json.loads((workdir / "result.json").read_text()) == [row]
    assert row["steps"] == 6 and row["protocol"] == "own" and set(row["iou"]) == {"ground", "wall", "thing"}
    assert row["miou"]["own"] == pytest.approx(np.mean(list(row["iou"].values())))
    assert {name for name, key in KEYS.items() if key.required} <= set(row) <= set(KEYS)
    steps = [entry["step"] for entry in logged(workdir) if "loss/total" in entry]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in logged(workdir) if "evaluation/miou" in entry] == [3, 6]
    assert len(list((workdir / "pictures").glob("*/prediction.png"))) == 1  # a split of one batch has one picture
    matrix = confusion.read(workdir / "confusion.json")["final"]
    assert matrix.classes == tuple(row["iou"]) and metrics.iou(matrix.counts).tolist() == list(row["iou"].values())
    last = Checkpoints(Workdir(workdir).stage("train")).latest_step()
    assert last == 6 and (workdir / "train" / "finished.json").exists()


def test_finished_runs_are_not_run_again(uninterrupted, tiny_experiment, monkeypatch):
    workdir, row = uninterrupted
    before = (workdir / "train" / "metrics.jsonl").stat().st_mtime_ns
    opened, open_dataset = [], domains.open_dataset
    monkeypatch.setattr(domains, "open_dataset", lambda *where, **o: opened.append(where) or open_dataset(*where, **o))
    assert run(tiny_experiment, workdir) == row
    # Of four domains two read one split each.
    assert sorted(split for _, _, split, _ in opened) == ["train", "val"]
    assert (workdir / "train" / "metrics.jsonl").stat().st_mtime_ns == before


def unfinished(workdir):
    """Returns the checkpoints in the making, or that were so when their process was killed."""
    return set(workdir.glob("train/checkpoints/*tmp*"))


def wait_for(moment, process, workdir):
    """Waits until a run is in its second step, in its first write of a checkpoint, or in its first evaluation."""
    if moment == "checkpoint":
        left = unfinished(workdir)
        while not unfinished(workdir) - left:
            assert process.poll() is None, "the run ended before a checkpoint was seen in the making"
            time.sleep(0.0005)
    else:
        # The line of step 3 is printed just before the evaluation that is due there.
        wanted = {"step": "1/6", "evaluation": "3/6"}[moment]
        assert any(line.startswith(wanted) for line in process.stderr)


@pytest.fixture(scope="module")
def killed(tiny_config, tmp_path_factory):
    """The workdir of a run that was killed with signal 9 at three moments, one after the other; and what another
    training was told that wanted the workdir before the first of them.
    """
    workdir = tmp_path_factory.mktemp("killed") / "run"
    for moment in ("step", "checkpoint", "evaluation"):
        process = subprocess.Popen(command(tiny_config, workdir), stderr=subprocess.PIPE, text=True)
        wait_for(moment, process, workdir)
        if moment == "step":
            process.send_signal(signal.SIGSTOP)  # It would be over before the other one is refused.
            with pytest.raises(UserError) as refused:
                run(config.experiment(config.load(tiny_config)), workdir)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        assert not (workdir / "train" / "finished.json").exists()
    return workdir, str(refused.value)


def test_two_trainings_do_not_share_a_workdir(killed):
    assert re.match("--workdir: another 'uda train' is writing into .*/run; wait for it", killed[1])


def test_kill_9_then_the_same_run_gives_the_same_bits(killed, uninterrupted, tiny_experiment, tmp_path):
    """Whatever it was doing when it was killed; a dead process keeps no lock."""
    workdir = tmp_path / "killed"
    shutil.copytree(killed[0], workdir)
    run(tiny_experiment, workdir)
    assert_same_state(workdir, uninterrupted[0])
    assert logged(workdir) == logged(uninterrupted[0])


def test_sigterm_saves_and_exits_with_the_status_asked_for(uninterrupted, tiny_config, tmp_path):
    """The same command goes on, also with another number of workers."""
    workdir, other = tmp_path / "stopped", tmp_path / "workers"
    words = [*command(tiny_config, workdir), "--stopped-status", "75"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("1/6"):
            process.terminate()
    assert process.wait() == 75
    assert "stopped at step" in lines[-1] and "the same command goes on from there" in lines[-1]
    shutil.copytree(workdir, other)
    assert main(words[words.index("train") :]) == 0  # Run to its end.
    assert_same_state(workdir, uninterrupted[0])
    run(config.experiment(config.load(tiny_config, ["--config.train.workers=1"])), other)
    assert_same_state(other, uninterrupted[0])


def test_a_half_written_checkpoint_is_passed_over(uninterrupted, tiny_experiment, tmp_path):
    """What kill -9 leaves while Orbax writes: a folder under a temporary name."""
    workdir = tmp_path / "half"
    shutil.copytree(uninterrupted[0], workdir)
    folder = workdir / "train" / "checkpoints"
    for stale in ("result.json", "train/finished.json"):
        (workdir / stale).unlink()
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp-123")
    earlier = {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}
    assert earlier and max(earlier) < 6
    run(tiny_experiment, workdir)
    assert_same_state(workdir, uninterrupted[0])


def test_another_config_is_refused(uninterrupted, tiny_experiment):
    with pytest.raises(UserError, match=r"holds a run with config.train.steps = 6, asked for 4; use the same config"):
        run(with_train(tiny_experiment, steps=4), uninterrupted[0])


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
@pytest.mark.parametrize("file", ["result.json", "train/finished.json", "label_space.json", "data.json"])
def test_a_damaged_file_is_one_line_whose_cure_works(uninterrupted, tiny_experiment, tmp_path, file, text):
    workdir = tmp_path / "damaged"
    shutil.copytree(uninterrupted[0], workdir)
    (workdir / file).write_text(text)
    with pytest.raises(UserError, match=f"{file}: .*; delete it and rerun the same") as caught:
        run(tiny_experiment, workdir)
    assert "\n" not in str(caught.value)
    if text == "{":
        (workdir / file).unlink()
        assert run(tiny_experiment, workdir)["miou"] == uninterrupted[1]["miou"]
        states.restore(workdir)


def test_a_class_that_was_added_since_is_refused(uninterrupted, tiny_config, tiny_folder, tmp_path):
    root, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_folder, root)
    shutil.copytree(uninterrupted[0], workdir)
    (root / "dataset.yaml").write_text("classes: [ground, wall, thing, tram]\n")
    words = [f"--config.{name}.root={root}" for name in ("data.source", "evaluation.final", "evaluation.dev")]
    before = (workdir / "label_space.json").read_bytes()
    stored = json.loads((workdir / "config.json").read_text())
    experiment = config.experiment(config.load(tiny_config, [*words, f"--config.data.target.root={root}"]))
    (workdir / "config.json").write_text(config.to_json(experiment))
    assert json.loads((workdir / "config.json").read_text())["format"] == stored["format"]
    with pytest.raises(UserError, match=r"holds a run with classes \[.*'thing'\], asked for \[.*'tram'\]"):
        run(experiment, workdir)
    assert (workdir / "label_space.json").read_bytes() == before
    (root / "dataset.yaml").write_text("classes: [ground, wall, thing]\n")


def relabelled(tiny_folder, root, table):
    """Copies the tiny folder with other label values, in its split "train"."""
    shutil.copytree(tiny_folder, root)
    for file in (root / "train" / "labels").iterdir():
        Image.fromarray(table[np.asarray(Image.open(file))]).save(file)
    return str(root)


def test_source_labels_that_teach_nothing_are_refused_before_anything_is_written(
    tiny_experiment, tiny_folder, tmp_path
):
    root = relabelled(tiny_folder, tmp_path / "void", np.full(256, 255, np.uint8))
    source = dataclasses.replace(tiny_experiment.data["source"], root=root)
    experiment = dataclasses.replace(tiny_experiment, data=tiny_experiment.data | {"source": source})
    with pytest.raises(UserError, match="config.data.source: none of the 8 frames has a labelled .*stored as 255"):
        run(experiment, tmp_path / "run")
    dev = dataclasses.replace(tiny_experiment.evaluation.dev, root=root)
    evaluation = dataclasses.replace(tiny_experiment.evaluation, dev=dev)
    with pytest.raises(UserError, match="config.evaluation.dev: none of the 8 frames has a labelled pixel"):
        run(dataclasses.replace(tiny_experiment, evaluation=evaluation), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_over_other_frames(uninterrupted, tiny_experiment, tiny_folder, tmp_path):
    root, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_folder, root)
    data = {name: dataclasses.replace(domain, root=str(root)) for name, domain in tiny_experiment.data.items()}
    experiment = dataclasses.replace(tiny_experiment, data=data)
    shutil.copytree(uninterrupted[0], workdir)
    (workdir / "config.json").write_text(config.to_json(experiment))
    run(experiment, workdir)  # The same files elsewhere are the same frames.
    for kind in ("images", "labels"):
        shutil.copy(root / "train" / kind / "000.png", root / "train" / kind / "100.png")
    with pytest.raises(UserError, match="other files of train.source, 8 frames then and 9 now; put them back"):
        run(experiment, workdir)
    for kind in ("images", "labels"):
        (root / "train" / kind / "100.png").unlink()
    Image.new("RGB", (64, 32)).save(root / "train" / "images" / "000.png")
    with pytest.raises(UserError, match="other files of train.source, 8 frames then and 8 now"):
        run(experiment, workdir)


def test_a_run_that_is_stopped_while_it_scores_goes_on_with_the_score(uninterrupted, tiny_experiment, tmp_path):
    # One point before the first stage and two in each of three steps; the next is the first batch that is scored.
    stop, asked = train.Stop(), iter([False] * 7 + [True])
    point = stop.point
    stop.point = lambda: (next(asked, False) and stop.ask(signal.SIGTERM), point())[1]
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(train.Stopped, match="^stopped while scoring step 3 of stage train; the same command goes on"):
        train.run(tiny_experiment, workdir.path, results.Invocation(), stop)
    unscored = workdir.stage("train").unscored
    assert [path.name for path in unscored.iterdir()] == ["3"]
    run(tiny_experiment, workdir.path)
    assert not unscored.exists() and logged(workdir.path) == logged(uninterrupted[0])
    assert_same_state(workdir.path, uninterrupted[0])


def test_a_run_that_waits_for_data_is_stopped_there(uninterrupted, tiny_experiment, tmp_path, monkeypatch):
    batches = itertools.count(1)
    take = streams.TrainStream.__next__

    def take_or_wait(stream):
        if next(batches) == 4:
            signal.raise_signal(signal.SIGTERM)
            threading.Event().wait(20)
        return take(stream)

    with monkeypatch.context() as patch:
        patch.setattr(streams.TrainStream, "__next__", take_or_wait)
        with pytest.raises(train.Stopped, match="^stopped at step 3 of stage train; the same command goes on"):
            run(tiny_experiment, tmp_path / "run")
    run(tiny_experiment, tmp_path / "run")
    assert logged(tmp_path / "run") == logged(uninterrupted[0])
    assert_same_state(tmp_path / "run", uninterrupted[0])


def test_an_unreadable_checkpoint_is_named(uninterrupted, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(uninterrupted[0], workdir)
    for path in (workdir / "train" / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/6: cannot be read as a checkpoint of this run") as caught:
        states.restore(workdir)
    assert "\n" not in str(caught.value)


def test_a_non_finite_loss_names_the_term_and_the_frames(tiny_experiment, tmp_path):
    method = tiny_experiment.method | {"target_weight": 1e39}  # infinite in float32
    with pytest.raises(NonFiniteLoss, match=r"step 1: loss/adversarial is (inf|nan)"):
        run(dataclasses.replace(tiny_experiment, method=method), tmp_path / "run")
    written = json.loads((tmp_path / "run" / "train" / "nonfinite.json").read_text())
    assert written["step"] == 1 and sorted(written["frames"]) == ["source", "target"]
    assert sorted(written["frames"]["source"]) == [f"{i:03}" for i in range(8)]
    assert Checkpoints(Workdir(tmp_path / "run").stage("train")).latest_step() is None


def test_a_batch_the_devices_cannot_share_is_refused(tiny_experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(
        UserError, match=r"config.train.batch_size: expected a multiple of the 3 devices, got 8; use 6 or 9"
    ):
        run(tiny_experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A mounted disk of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_full_disk_ends_with_one_line(tiny_config, small_disk, moment):
    filler = small_disk / "filler"
    if moment == "before":
        filler.write_bytes(bytes(20_000_000))
    process = subprocess.Popen(command(tiny_config, small_disk / "run"), stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("1/6"):
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 4_000_000))
    assert process.wait() == 2
    assert [line for line in lines if line.startswith("uda: error:")] == lines[-1:]
    assert "the disk is full" in lines[-1] and not any("Traceback" in line for line in lines)
    assert not list(small_disk.rglob("*tmp*"))
    if moment == "before":
        assert not (small_disk / "run" / "config.json").exists()


def test_a_recipe_hands_networks_on_and_skips_finished_stages(tiny_experiment, tmp_path):
    short = dataclasses.replace(tiny_experiment.train, steps=2, evaluate_every=0)
    plans = {
        "warm_up": config.StageConfig(train=short),
        "adapt": config.StageConfig(start_from={"segmenter": "warm_up"}, train=dataclasses.replace(short, steps=1)),
    }
    experiment = dataclasses.replace(tiny_experiment, stages=plans, recipe=tuple(plans))
    workdir = tmp_path / "recipe"
    run(experiment, workdir)
    (first, second) = stages.recipe(experiment, num_classes=3)
    mesh = sharding.data_mesh()
    handed_on = states.load(first, Workdir(workdir), mesh)
    fresh = initialise(second.initialise, jax.random.key(0))
    started = states.initial(second, Workdir(workdir), 0, mesh)
    for network, expected in (("segmenter", handed_on), ("discriminator", fresh)):
        for ours, theirs in zip(
            jax.tree.leaves(started.params[network]), jax.tree.leaves(expected.params[network]), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    before = (workdir / "warm_up" / "metrics.jsonl").stat().st_mtime_ns
    (workdir / "result.json").unlink()
    (workdir / "adapt" / "finished.json").unlink()
    run(experiment, workdir)
    assert (workdir / "warm_up" / "metrics.jsonl").stat().st_mtime_ns == before
    assert int(states.load(second, Workdir(workdir), mesh).step) == 1


def test_accumulation_of_equal_batches_is_one_larger_step(tiny_experiment):
    """Two accumulated batches update once, by the mean gradient."""
    example = {
        name: {"image": jnp.full((2, 32, 64, 3), 100, jnp.uint8), "label": jnp.ones((2, 32, 64), jnp.uint8)}
        for name in ("source", "target")
    }
    section = {key: value for key, value in tiny_experiment.method.items() if key != "name"} | {"objective": "entropy"}
    ends = {}
    for accumulation in (1, 2):
        plan = dataclasses.replace(tiny_experiment.train, accumulation=accumulation)
        method = stages.build_method({"name": "advent", **section}, 3, plan, "config.method")
        state = initialise(lambda key, method=method: method.init(key, example), jax.random.key(0))
        start, step = state.params["segmenter"], jax.jit(method.train_step)
        states = [state := step(state, example)[0] for _ in range(accumulation)]
        if accumulation == 2:
            for ours, theirs in zip(
                jax.tree.leaves(states[0].params), jax.tree.leaves({"segmenter": start}), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
        ends[accumulation] = state.params
    for ours, theirs in zip(jax.tree.leaves(ends[1]), jax.tree.leaves(ends[2]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_camera_without_any_label_is_adapted_to_and_shown_but_not_scored(
    tiny_experiment, tiny_folder, tmp_path, capsys
):
    target = tmp_path / "target"
    shutil.copytree(tiny_folder, target, ignore=shutil.ignore_patterns("labels"))
    final = dataclasses.replace(tiny_experiment.evaluation.final, root=str(target))
    evaluation = dataclasses.replace(tiny_experiment.evaluation, final=final, dev=None)
    experiment = with_train(dataclasses.replace(tiny_experiment, evaluation=evaluation), steps=2, evaluate_every=0)
    with pytest.raises(UserError, match="config.evaluation.final: no frame of folder/val has a label, .*unlabelled=T"):
        run(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    evaluation = dataclasses.replace(evaluation, unlabelled=True)
    experiment = dataclasses.replace(experiment, evaluation=evaluation)
    assert run(experiment, tmp_path / "run") is None
    assert "note: config.evaluation.final: no frame has a label; the run ends with pred" in capsys.readouterr().err
    assert not (tmp_path / "run" / "result.json").exists()
    shown = sorted(path.name for path in (tmp_path / "run" / "pictures").glob("*/*.png"))
    assert shown == ["entropy.png", "image.png", "prediction.png"]
    experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(evaluation, dev=final))
    with pytest.raises(UserError, match="config.evaluation.dev: expected labels to choose checkpoints by"):
        run(experiment, tmp_path / "other")


def test_own_classes_that_are_those_of_a_protocol_are_scored_by_its_name(tiny_experiment):
    seven = protocols(label_spaces.label_space("7"))
    assert scoring.with_protocol(tiny_experiment, seven).evaluation.protocol == "7"
    assert scoring.with_protocol(tiny_experiment, {"own": ()}).evaluation.protocol == "own"
    other = dataclasses.replace(tiny_experiment.evaluation, protocol="13")
    with pytest.raises(UserError, match=r"config.evaluation.protocol: expected one of \['7'\], got '13'"):
        scoring.with_protocol(dataclasses.replace(tiny_experiment, evaluation=other), seven)
