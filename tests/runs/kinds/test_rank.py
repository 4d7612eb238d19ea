"""IntraDA's recipe: what its second stage writes, what its third reads, resuming, errors before anything is written."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import config, ops
from uda_jax.config import InitFrom
from uda_jax.data.frames import FrameFiles
from uda_jax.errors import UserError
from uda_jax.runs import checksums, results, stages, states, train
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
from uda_jax.training.logging import read_metrics

# The tiny experiment as the first and the third stage; the target's root has images only.
RECIPE_CONFIG = """\
import dataclasses

from uda_jax import config
from uda_jax.config import StageConfig
from uda_jax.runs.kinds.rank import Rank

SHARED = ("segmenter", "optimiser", "schedule", "discriminator")


def get_config():
    tiny = config.experiment(config.load({tiny!r}))
    target = dataclasses.replace(tiny.data["target"], root={target!r})
    rank = "{{workdir}}/rank"
    easy = dataclasses.replace(
        target, names_file=rank + "/easy.txt", labels_from=rank + "/pseudo_labels", fields=("image", "label")
    )
    hard = dataclasses.replace(target, names_file=rank + "/hard.txt")
    stages = {{
        "inter": StageConfig(method=tiny.method),
        # Eight frames in threes: the last batch is padded.
        "rank": StageConfig(
            kind=config.named("rank", Rank(fraction=0.67, batch_size=3, pictures=1)),
            start_from={{"segmenter": "inter"}},
        ),
        "intra": StageConfig(data={{"source": easy, "target": hard}}, start_from={{"segmenter": "inter"}}),
    }}
    return config.as_config(
        dataclasses.replace(
            tiny,
            method={{"name": "intrada"}} | {{name: tiny.method[name] for name in SHARED}},
            data=tiny.data | {{"target": target}},
            train=dataclasses.replace(tiny.train, steps=4, evaluate_every=0),
            recipe=tuple(stages),
            stages=stages,
        )
    )
"""


@pytest.fixture(scope="module")
def recipe_config(tiny_config, tiny_folder, tmp_path_factory):
    """The path of a config file of three stages."""
    folder = tmp_path_factory.mktemp("recipe")
    target = shutil.copytree(tiny_folder, folder / "target", ignore=shutil.ignore_patterns("labels"))
    (folder / "recipe.py").write_text(RECIPE_CONFIG.format(tiny=tiny_config, target=str(target)))
    return str(folder / "recipe.py")


@pytest.fixture(scope="module")
def experiment(recipe_config):
    return config.experiment(config.load(recipe_config))


@pytest.fixture(scope="module")
def uninterrupted(experiment, tmp_path_factory):
    """The workdir of a run of all three stages that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train.run(experiment, workdir, results.Invocation())
    return workdir


def with_rank(experiment, **changes):
    section = experiment.stages["rank"]
    section = dataclasses.replace(section, kind=section.kind | changes)
    return dataclasses.replace(experiment, stages=experiment.stages | {"rank": section})


def until(stage, uninterrupted, experiment, workdir):
    """A copy of the run as it was before a stage, for an experiment that differs from there on."""
    later = {"rank": ("rank", "intra"), "intra": ("intra",)}[stage]
    shutil.copytree(uninterrupted, workdir, ignore=lambda path, _: later if Path(path) == uninterrupted else ())
    (workdir / "result.json").unlink()
    (workdir / "config.json").write_text(config.to_json(experiment))
    return workdir


def rank(experiment, workdir):
    """Runs the second stage alone and returns what its marker would say."""
    space = stages.label_space(experiment)
    stage = stages.recipe(experiment, len(space.names))[1]
    return stage.kind.run(
        stage, Workdir(workdir), stages.Context(experiment, sharding.data_mesh(), space, lambda: False)
    )


def ranked(workdir):
    return json.loads((workdir / "rank" / "ranking.json").read_text())


def listed(workdir, name):
    return (workdir / "rank" / f"{name}.txt").read_text().split()


def pseudo_label(workdir, name):
    return np.asarray(Image.open(workdir / "rank" / "pseudo_labels" / f"{name}.png"))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_frames_are_sorted_and_split(uninterrupted):
    found = ranked(uninterrupted)
    scores, order = ([frame[key] for frame in found["frames"]] for key in ("score", "name"))
    assert scores == sorted(scores) and sorted(order) == [f"{i:03}" for i in range(8)]
    # int(8 * 0.67)
    assert listed(uninterrupted, "easy") == order[:5] and listed(uninterrupted, "hard") == order[5:]
    about = {key: found[key] for key in found if key != "frames"}
    settings = {"fraction": 0.67, "statistics": "training", "normalise": False, "rare_classes": ["wall"]}
    assert about == {"stage": "inter", "step": 4} | settings
    marker = json.loads((uninterrupted / "rank" / "finished.json").read_text())
    assert (marker["easy"], marker["hard"]) == (5, 3)
    for group, name in (("easiest", order[0]), ("hardest", order[-1])):
        assert [path.name for path in (uninterrupted / "rank" / group).iterdir() if path.is_dir()] == [name]


def test_scores_and_labels_are_those_of_the_first_stages_network(uninterrupted, experiment):
    """Recomputed frame by frame from its last checkpoint."""
    inter = stages.recipe(experiment, num_classes=3)[0]
    state = states.load(inter, Workdir(uninterrupted), sharding.data_mesh())
    images = Path(experiment.data["target"].root) / "val" / "images"
    predict = jax.jit(lambda image: inter.method.predict(state, image, (32, 64))["scores"])
    palette = np.array(stages.label_space(experiment).palette)
    shown = set()
    for frame in ranked(uninterrupted)["frames"]:
        scores = predict(np.asarray(Image.open(images / f"{frame['name']}.png"))[None])
        label = pseudo_label(uninterrupted, frame["name"])
        np.testing.assert_array_equal(label, np.argmax(scores[0], axis=-1))
        assert frame["score"] == pytest.approx(float(ops.entropy_score(jax.nn.softmax(scores))[0]), rel=1e-5)
        assert frame["rare_classes"] == int((label == 1).any()) and frame["normaliser"] == 1.0
        picture = Image.open(uninterrupted / "rank" / "pseudo_labels" / f"{frame['name']}.png")
        assert picture.mode == "P" and label.dtype == np.uint8 and label.max() < 3
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette[label])
        shown |= set(np.unique(label).tolist())
    assert len(shown) > 1, "a network that predicts one class tests nothing"


def test_the_targets_own_statistics_come_from_one_pass_over_its_whole_batches(uninterrupted, experiment, tmp_path):
    """Eight frames in batches of three: the third batch, which would be padded, does not count."""
    changed = with_rank(experiment, statistics="target", batch_size=3)
    workdir = until("rank", uninterrupted, changed, tmp_path / "run")
    rank(changed, workdir)
    inter = stages.recipe(experiment, num_classes=3)[0]
    state = states.load(inter, Workdir(uninterrupted), sharding.data_mesh())
    folder = Path(experiment.data["target"].root) / "val" / "images"
    images = np.stack([np.asarray(Image.open(folder / f"{i:03}.png")) for i in range(8)])
    stats = state.model_state["segmenter"]
    for batch in (images[:3], images[3:6]):
        inputs = ops.normalise(batch, inter.method.segmenter.input_norm)
        variables = {"params": state.params["segmenter"], **stats}
        _, stats = inter.method.network.apply(variables, inputs, train=True, mutable=["batch_stats"])
    state = state.replace(model_state=state.model_state | {"segmenter": stats})
    scores = jax.jit(lambda images: inter.method.predict(state, images, (32, 64))["scores"])(images)
    expected = ops.entropy_score(jax.nn.softmax(scores))
    plain = {frame["name"]: frame["score"] for frame in ranked(uninterrupted)["frames"]}
    for frame in ranked(workdir)["frames"]:
        assert frame["score"] == pytest.approx(float(expected[int(frame["name"])]), rel=1e-4)
        assert frame["score"] != pytest.approx(plain[frame["name"]], rel=1e-3)


def test_the_factor_favours_frames_with_rare_classes(uninterrupted, experiment, tmp_path):
    factored = with_rank(experiment, normalise=True, rare_classes=("wall", "thing"))
    workdir = until("rank", uninterrupted, factored, tmp_path / "run")
    rank(factored, workdir)
    plain = {frame["name"]: frame["score"] for frame in ranked(uninterrupted)["frames"]}
    frames = ranked(workdir)["frames"]
    for frame in frames:
        label = pseudo_label(workdir, frame["name"])
        count = len({1, 2} & set(np.unique(label).tolist()))
        assert frame["rare_classes"] == count and frame["normaliser"] == (2 - count) / 2 + 0.5
        assert frame["score"] == pytest.approx(plain[frame["name"]] * frame["normaliser"], rel=1e-5)
    assert [frame["score"] for frame in frames] == sorted(frame["score"] for frame in frames)
    assert ranked(workdir)["rare_classes"] == ["wall", "thing"] and ranked(workdir)["normalise"] is True


def test_without_hard_frames_the_last_stage_trains_itself(uninterrupted, experiment, tmp_path):
    """The empty list of hard frames, which would be an error to read, is not opened."""
    everything = with_rank(experiment, fraction=1.0)
    workdir = until("rank", uninterrupted, everything, tmp_path / "run")
    train.run(everything, workdir, results.Invocation())
    assert len(listed(workdir, "easy")) == 8 and listed(workdir, "hard") == []
    terms = lambda run: {name for row in read_metrics(run / "intra" / "metrics.jsonl") for name in row}  # noqa: E731
    assert "loss/adversarial" in terms(uninterrupted) and "loss/segmentation" in terms(workdir)
    assert not [name for name in terms(workdir) if "adversarial" in name or "discriminator" in name]
    assert {frame["name"] for frame in ranked(workdir)["frames"]} == set(listed(workdir, "easy"))


def test_the_last_stage_reads_neither_the_source_nor_labels_of_the_target(uninterrupted, experiment, tmp_path):
    """The target's root has no labels anyway; here no file of the source can be read either."""
    source = shutil.copytree(experiment.data["source"].root, tmp_path / "source")
    for file in (*source.glob("train/images/*"), *source.glob("train/labels/*")):
        file.write_bytes(b"not to be read")
    assert not list(Path(experiment.data["target"].root).rglob("labels"))
    blind = dataclasses.replace(
        experiment,
        data=experiment.data | {"source": dataclasses.replace(experiment.data["source"], root=str(source))},
    )
    workdir = until("rank", uninterrupted, blind, tmp_path / "run")
    # The first stage's checkpoints are made those of a run on that source.
    for file in (Path(workdir) / "inter" / "checkpoints").glob("*/config/metadata"):
        stored = json.loads(file.read_text())
        del stored["checksum"]
        stored["experiment"]["data"]["source"]["root"] = str(source)
        file.write_text(json.dumps(checksums.sealed(stored)))
        checksums.seal_files(file.parents[1])
    train.run(blind, workdir, results.Invocation())
    assert ranked(workdir) == ranked(uninterrupted)
    losses_of = lambda run: [row.get("loss/total") for row in read_metrics(run / "intra" / "metrics.jsonl")]  # noqa: E731
    assert losses_of(workdir) == losses_of(uninterrupted)


@pytest.mark.parametrize("lost", ["scores", "picture"])
def test_an_interrupted_ranking_goes_on_after_the_last_whole_batch(uninterrupted, experiment, tmp_path, lost):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    folder = workdir / "rank"
    (folder / "finished.json").unlink()
    (folder / "ranking.json").unlink()
    lines = (folder / "scores.jsonl").read_text().splitlines(keepends=True)
    if lost == "scores":
        # Killed within the second batch's lines: four frames and half a fifth are told, two more labels written.
        (folder / "scores.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
        for line in lines[6:]:
            (folder / "pseudo_labels" / f"{json.loads(line)['name']}.png").unlink()
    else:
        (folder / "pseudo_labels" / f"{json.loads(lines[4])['name']}.png").unlink()
    before = times(folder / "pseudo_labels")
    rank(experiment, workdir)
    for path in ("ranking.json", "scores.jsonl", "easy.txt", "hard.txt"):
        assert (folder / path).read_bytes() == (uninterrupted / "rank" / path).read_bytes()
    after = times(folder / "pseudo_labels")
    untouched = {path.stem for path in after if before.get(path) == after[path]}
    assert untouched == {json.loads(line)["name"] for line in lines[:3]}
    for name in (json.loads(line)["name"] for line in lines):
        np.testing.assert_array_equal(pseudo_label(workdir, name), pseudo_label(uninterrupted, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fraction": 0.1},
            r"config.stages.rank.kind.fraction: expected at least 0.125, one of the 8 target frames, got 0.1",
        ),
        (
            {"rare_classes": ("wall", "tram")},
            r"config.stages.rank.kind.rare_classes: expected classes of .*'thing'.* got {'tram'}",
        ),
        ({"normalise": True, "rare_classes": ()}, r"config.stages.rank.kind.normalise: expected False"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_anything_is_written(experiment, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train.run(with_rank(experiment, **changes), tmp_path / "run", results.Invocation())
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../../{}", "/tmp/{}", "a/../../{}", "line\n{}"])
def test_names_that_lead_out_of_the_folder_are_refused(experiment, tmp_path, monkeypatch, name):
    monkeypatch.setattr(FrameFiles, "name", lambda frames, index: name.format(index))
    with pytest.raises(UserError, match="config.data.target: the name .* leads out of its folder, or holds control"):
        train.run(experiment, tmp_path / "run", results.Invocation())
    assert not (tmp_path / "run").exists()


def test_padded_frames_are_not_ranked(experiment, tmp_path):
    target = dataclasses.replace(experiment.data["target"], fit="pad")
    with pytest.raises(UserError, match="config.data.target.fit: expected 'stretch', .* got 'pad'"):
        train.run(
            dataclasses.replace(experiment, data=experiment.data | {"target": target}),
            tmp_path / "run",
            results.Invocation(),
        )
    assert not (tmp_path / "run").exists()


def test_a_trained_network_from_elsewhere_ranks(uninterrupted, experiment, tmp_path):
    """A recipe without a first stage: here the network is another run's, elsewhere a published file's."""
    plans = {name: experiment.stages[name] for name in ("rank", "intra")}
    other = {"segmenter": InitFrom(path=str(uninterrupted))}
    plans["rank"] = dataclasses.replace(plans["rank"], method=experiment.method, init_from=other, start_from=None)
    plans["intra"] = dataclasses.replace(plans["intra"], start_from=None)
    alone = dataclasses.replace(experiment, stages=plans, recipe=tuple(plans))
    space = stages.label_space(alone)
    stage, _ = recipe = stages.recipe(alone, len(space.names))
    context = stages.Context(alone, sharding.data_mesh(), space, lambda: False)
    stage.kind.validate(stage, context)
    states.check_initial(recipe)
    stage.kind.run(stage, Workdir(tmp_path / "run"), context)
    said = ranked(tmp_path / "run")
    assert (said["stage"], said["step"]) == (str(uninterrupted), 0)
    method, state, _ = states.restore(uninterrupted)
    predict = jax.jit(method.predict, static_argnames="size")
    for frame in stages.domains.open_domain(dataclasses.replace(experiment.data["target"], fields=("image",))):
        scores = predict(state, frame["image"][None], size=(32, 64))["scores"][0]
        differ = pseudo_label(tmp_path / "run", frame["name"]) != np.argmax(scores, axis=-1)
        assert differ.mean() < 0.01


@pytest.mark.parametrize("init", [None, {}, {"path": "x.pth", "fresh": ("head",)}])
def test_a_ranking_without_a_trained_network_is_refused(experiment, init):
    init_from = None if init is None else {"segmenter": InitFrom(**init)}
    stage = dataclasses.replace(experiment.stages["rank"], start_from=None, init_from=init_from)
    changed = dataclasses.replace(experiment, stages=experiment.stages | {"rank": stage})
    space = stages.label_space(changed)
    stage = stages.recipe(changed, len(space.names))[1]
    with pytest.raises(UserError, match="stages.rank.start_from.segmenter: expected an earlier stage, .*init_from"):
        stage.kind.validate(stage, stages.Context(changed, sharding.data_mesh(), space, lambda: False))


def test_without_easy_frames_there_is_no_recipe(recipe_config):
    with pytest.raises(UserError, match="config.stages.rank.kind.fraction: expected a share above 0, .* got 0.0"):
        words = ["--config.stages.rank.kind.fraction=0.0"]
        stages.recipe(config.experiment(config.load(recipe_config, words)), num_classes=3)


# The second stage alone, in a process of its own or in one of several.
RANK_ALONE = """
import sys
from pathlib import Path
import jax
workdir, port, process = sys.argv[1:]
if port != "0":
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from uda_jax import config
from uda_jax.runs import stages
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
experiment = Workdir(workdir).experiment()
space = stages.label_space(experiment)
context = stages.Context(experiment, sharding.data_mesh(), space, lambda: False)
stage = stages.recipe(experiment, len(space.names))[1]
stage.kind.run(stage, Workdir(workdir), context)
"""


@pytest.mark.parametrize(("devices", "processes"), [(8, 1), (1, 2)])
def test_more_devices_and_processes_rank_alike(uninterrupted, experiment, tmp_path, devices, processes):
    """Eight frames in batches of eight, or in batches of six of which the last is padded."""
    shared_out = with_rank(experiment, batch_size=8 if devices == 8 else 6)
    workdir = until("rank", uninterrupted, shared_out, tmp_path / "run")
    environment = dict(os.environ)
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1] if processes > 1 else 0
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_ALONE, str(workdir), str(port), str(process)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for process in range(processes)
    ]
    for process in started:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    ours, theirs = ranked(workdir)["frames"], ranked(uninterrupted)["frames"]
    assert [frame["name"] for frame in ours] == [frame["name"] for frame in theirs]
    np.testing.assert_allclose(*([frame["score"] for frame in frames] for frames in (ours, theirs)), rtol=1e-5)
    for frame in theirs:
        differ = pseudo_label(workdir, frame["name"]) != pseudo_label(uninterrupted, frame["name"])
        assert differ.mean() < 0.01
    assert listed(workdir, "easy") == listed(uninterrupted, "easy")
    assert (workdir / "rank" / "hardest" / theirs[-1]["name"] / "entropy.png").exists()


def last_state(workdir):
    _, state, _ = states.restore(workdir)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def kill_when(exists, command, finished):
    """Starts a run and kills it with signal 9 as soon as a file is there, before the stage is finished."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not finished.exists(), "the stage was over before the signal arrived"


def test_kill_9_in_later_stages_then_the_same_run_gives_the_same_bits(
    uninterrupted, experiment, recipe_config, tmp_path
):
    """In one after the other; the first stage is killed in the tests of the training loop."""
    workdir = until("rank", uninterrupted, experiment, tmp_path / "killed")
    scores = workdir / "rank" / "scores.jsonl"
    command = [sys.executable, "-m", "uda_jax.cli", "train", "--config", recipe_config, "--workdir", str(workdir)]
    first = times(workdir / "inter")
    kill_when(
        lambda: scores.exists() and scores.read_text().endswith("\n"), command, workdir / "rank" / "finished.json"
    )
    kill_when((workdir / "intra" / "checkpoints" / "2").exists, command, workdir / "intra" / "finished.json")
    second = times(workdir / "rank")
    train.run(experiment, workdir, results.Invocation())
    assert (times(workdir / "inter"), times(workdir / "rank")) == (first, second)
    ours, theirs = last_state(workdir), last_state(uninterrupted)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    files = [Path("rank") / name for name in ("ranking.json", "easy.txt", "hard.txt")]
    files += [path.relative_to(uninterrupted) for path in (uninterrupted / "rank" / "pseudo_labels").iterdir()]
    assert len(files) == 11
    for file in files:
        assert (workdir / file).read_bytes() == (uninterrupted / file).read_bytes(), file
    (row,), (expected,) = (json.loads((run / "result.json").read_text()) for run in (workdir, uninterrupted))
    assert (row["miou"], row["iou"], row["steps"]) == (expected["miou"], expected["iou"], 8)
