"""Looking into checkpoints: parts that are read alone, the overview of `uda inspect`, damage."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from grain import MapDataset

from uda_jax import config
from uda_jax.cli import main
from uda_jax.config import StageConfig
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.methods.base import TrainState
from uda_jax.report import pictures
from uda_jax.runs import inspection, overview
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training import optimisers
from uda_jax.training.schedules import Schedule

SPACE = label_spaces.LabelSpace(("ground", "wall", "thing"), ((9, 9, 9), (1, 1, 1), (2, 2, 2)), 255)
BIG = (512, 512)  # so that reading all of a checkpoint is told from reading a part


def state(step):
    """Returns a state with everything that one may hold."""
    generator = np.random.default_rng(0)
    params = {
        "segmenter": {"encoder": {"kernel": jnp.full((2, 2), 2.0 + step)}, "head": {"bias": jnp.array([3.0, 0.0])}},
        "discriminator": {"kernel": jnp.asarray(generator.normal(size=BIG), jnp.float32)},
    }
    sections = {"segmenter": optimisers.sgd(), "discriminator": optimisers.adam()}
    opt_state = {}
    for name, section in sections.items():
        transform = optimisers.build(section, Schedule(horizon=10), {name: params[name]})
        own = {name: params[name]}
        _, opt_state[name] = transform.update(jax.tree.map(jnp.ones_like, own), transform.init(own), own)
    statistics = {"batch_stats": {"encoder": {"bn": {"mean": jnp.array([-1.0, 2.0]), "var": jnp.array([0.5, 4.0])}}}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        model_state={"segmenter": statistics, "discriminator": {}},
        opt_state=opt_state,
        teacher={"params": jax.tree.map(lambda x: x + 1.0, params["segmenter"]), "model_state": statistics},
        key=jax.random.key(7),
        extra={"shares": jnp.ones(3)},
        frozen={"anchor": {"params": {"kernel": jnp.full(4, 5.0)}, "model_state": {}}},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_config):
    """A workdir with the checkpoints of steps 2 and 4, of which the first is the best; not to be changed."""
    workdir = Workdir(tmp_path_factory.mktemp("inspected") / "run")
    experiment = config.experiment(config.load(tiny_config))
    workdir.prepare(experiment, SPACE)
    files = workdir.stage("train")
    checkpoints, iterator = Checkpoints(files), iter(MapDataset.range(8).to_iter_dataset())
    checkpoints.save_frozen(state(0))
    for step, score in ((2, 0.75), (4, 0.5)):
        checkpoints.save(step, state(step), iterator, identity=workdir.identity(), notes={}, score=score)
    checkpoints.close()
    rates = ("learning_rate/segmenter", "learning_rate/discriminator")
    rows = [{"step": step, "stage": "train", **dict.fromkeys(rates, 1 / step)} for step in (1, 2, 3, 5)]
    files.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that may be damaged."""
    return Workdir(shutil.copytree(run.path, tmp_path / "copy"))


def bytes_read():
    """Returns how much TensorStore has read from files in this process."""
    (metric,) = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(entry["value"] for entry in metric["values"])


def test_a_snapshot_is_of_metadata(run):
    snapshot = inspection.open_snapshot(run.path)
    assert (snapshot.stage, snapshot.step, snapshot.best) == ("train", 4, 2)
    assert snapshot.scores == {2: 0.75, 4: 0.5} and set(snapshot.networks) == {"segmenter", "discriminator"}
    expected = jax.eval_shape(lambda: state(0))
    layouts = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(each)]
        for each in (snapshot.shapes["params"], expected.params)
    ]
    assert layouts[0] == layouts[1]
    assert snapshot.shapes["frozen"]["anchor"]["params"]["kernel"].shape == (4,)
    assert snapshot.shapes["key"].dtype == np.uint32 and snapshot.has("teacher/params") and not snapshot.has("extra/x")
    assert inspection.open_snapshot(run.path, "train", "best").step == 2


def test_a_network_is_read_alone(run):
    snapshot, wanted = inspection.open_snapshot(run.path), state(4)
    before = bytes_read()
    found = snapshot.network("segmenter")
    assert bytes_read() - before < 4 * np.prod(BIG) / 4
    expected = {"params": wanted.params["segmenter"], **wanted.model_state["segmenter"]}
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    average = snapshot.network(which="teacher")
    np.testing.assert_array_equal(average["params"]["head"]["bias"], [4, 1])
    assert average["batch_stats"].keys() == {"encoder"}
    assert snapshot.network("discriminator").keys() == {"params"}
    assert snapshot.network("anchor")["params"]["kernel"].tolist() == [5] * 4


def test_any_part_is_read_by_its_path(run):
    snapshot = inspection.open_snapshot(run.path, step=2)
    assert snapshot.read("params/segmenter/head/bias").tolist() == [3, 0] and int(snapshot.read("step")) == 2
    np.testing.assert_array_equal(snapshot.read("key"), jax.random.key_data(jax.random.key(7)))
    assert snapshot.read("opt_state").keys() == {"segmenter", "discriminator"}
    assert snapshot.read("model_state/discriminator") == {}


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (lambda s: s.read("params/segmentr"), "step 4: params has no 'segmentr'; did you mean 'segmenter'"),
        (lambda s: s.read("step/0"), "step has no '0'; known: $"),
        (lambda s: s.network("segmentr"), "no network 'segmentr'; did you mean 'segmenter'"),
        (lambda s: s.network("discriminator", which="teacher"), "keeps no averaged teacher of its discriminator"),
        (lambda s: s.network(which="both"), "which: expected student or teacher, got 'both'"),
    ],
)
def test_parts_that_are_not_there(run, look, message):
    with pytest.raises(UserError, match=message):
        look(inspection.open_snapshot(run.path))


def test_the_frame_that_a_run_was_scored_on(copy):
    with pytest.raises(UserError, match="pictures: expected picture 0, found 0; a run keeps as many .*once it is fin"):
        inspection.evaluation_frame(copy.path)
    image, label = np.full((4, 6, 3), 7, np.uint8), np.array([[0, 2, 255]], np.uint8)
    for name, own in (("a", label), ("b", None)):
        entropy = np.zeros(label.shape)
        pictures.save_frame(copy.pictures, name, image, own, label, entropy, SPACE.palette)
    found = inspection.evaluation_frame(copy.path)
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], label)
    assert inspection.evaluation_frame(copy.path, 1)[1] is None


def test_the_overview_holds_every_part(run):
    found = overview.gather(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["label"], found["config"], found["notes"]) == ("tiny", None, [])
    kept = [{"step": 2, "score": 0.75, "best": True}, {"step": 4, "score": 0.5, "best": False}]
    assert found["stages"] == {"train": {"finished": False, "checkpoints": kept}}
    checkpoint = found["checkpoint"]
    assert (checkpoint["step"], checkpoint["score"], checkpoint["method"]) == (4, 0.5, "advent")
    assert checkpoint["parameters"] == 6 + np.prod(BIG)
    expected = jax.eval_shape(lambda: state(0).replace(key=jax.random.key_data(jax.random.key(0))))
    assert checkpoint["bytes"] == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(expected))
    segmenter = checkpoint["networks"]["segmenter"]
    assert segmenter["norm"] == pytest.approx(np.sqrt(4 * 36 + 9))
    assert segmenter["statistics"]["ranges"] == {
        "mean": {"least": -1, "most": 2},
        "var": {"least": 0.5, "most": 4},
    }
    assert checkpoint["networks"]["discriminator"]["statistics"]["values"] == 0
    assert checkpoint["teacher"]["distance"]["absolute"] == pytest.approx(np.sqrt(6))
    assert checkpoint["frozen"]["anchor"]["norm"] == 10
    players = checkpoint["players"]
    assert {name: entry["optimiser"] for name, entry in players.items()} == {
        "segmenter": "sgd",
        "discriminator": "adam",
    }
    assert players["segmenter"]["moments"].keys() == {"momentum"}
    assert players["discriminator"]["moments"]["mu"] == pytest.approx(0.1 * np.sqrt(np.prod(BIG)), rel=1e-5)
    # The last one that was logged before the checkpoint.
    assert players["segmenter"]["learning_rate"] == {"value": 1 / 3, "step": 3}
    assert checkpoint["extra"] == {"shares": {"shape": [3], "type": "float32", "bytes": 12}}
    assert found["checkpoint"]["key"]["shape"] == [2]


def test_the_overview_fits_a_terminal(run, capsys):
    assert main(["inspect", str(run.path)]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(run.path) and max(map(len, lines)) <= 80
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "tiny on tiny, seed 0\ntrain: not finished, checkpoints of steps 2 (0.75, best), 4 (0.5)\n" in text
    assert "train, step 4: method advent, score 0.5\n" in text
    for row in (
        "segmenter 6 24 12.37",
        "anchor, never learns 4 16 10",
        "segmenter mean -1 2",
        "teacher var 0.5 4",
        "teacher: 2.449 away from the student, 19.8 % of the student's norm",
        "key: uint32 (2,)\nextra shares: float32 (3,)",
        "0.3333 (step 3)",
    ):
        assert row in text, row
    assert main(["inspect", str(run.path), "--step", "best", "--full"]) == 0
    printed = capsys.readouterr().out
    assert "train, step 2: method advent, score 0.75 (best)" in printed and "| encoder/kernel | (2, 2) " in printed


def test_the_overview_for_programs(run, capsys):
    assert main(["inspect", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == overview.gather(run)
    assert main(["inspect", str(run.path), "--json", "--full"]) == 0
    arrays = json.loads(capsys.readouterr().out)["arrays"]
    assert arrays["params/segmenter/head/bias"] == {"shape": [2], "type": "float32"}
    assert "teacher/params/head/bias" in arrays and "frozen/anchor/params/kernel" in arrays


def test_many_checkpoints_are_listed_in_several_lines():
    kept = [{"step": 1000 * i, "score": None, "best": False} for i in range(1, 30)]
    found = {"workdir": "w", "label": "a", "benchmark": "b", "seed": 0, "config": "a:b", "notes": []}
    found |= {"stages": {"train": {"finished": True, "checkpoints": kept}}, "checkpoint": None}
    lines = overview.text(found).splitlines()
    assert lines[1] == "a on b, seed 0, config a:b" and len(lines) > 4 and max(map(len, lines)) <= 80


def test_a_run_without_a_checkpoint_is_told_of(tmp_path, tiny_experiment, capsys):
    workdir = Workdir(tmp_path / "run")
    workdir.prepare(tiny_experiment, SPACE)
    assert main(["inspect", str(workdir.path), "--full"]) == 0
    assert capsys.readouterr().out.endswith("\ntrain: not finished, no checkpoint\n")
    assert main(["inspect", str(workdir.path), "--stage", "train"]) == 2
    assert "train: no checkpoint yet; train it first" in capsys.readouterr().err


def test_adamw_is_told_by_the_config_of_a_method_that_is_not_installed(copy, tiny_experiment):
    method = {"name": "absent_package.method", "discriminator": {"optimiser": {"name": "adamw"}}}
    copy.prepare(dataclasses.replace(tiny_experiment, method=method), SPACE)
    checkpoint = overview.gather(copy)["checkpoint"]
    assert checkpoint["method"] == "absent_package.method"
    assert checkpoint["players"]["discriminator"]["optimiser"] == "adamw"


def test_what_cannot_be_told_is_noted(copy, capsys):
    copy.stage("train").metrics.unlink()
    copy.result.write_text("[")
    assert main(["inspect", str(copy.path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "note: no learning rates: " in text and "metrics.jsonl: no such file or folder" in text
    assert "result.json" in text


@pytest.mark.parametrize("file", ["state/_METADATA", "config/metadata", "state/d"])
def test_damage_is_one_line(copy, file, capsys):
    path = copy.stage("train").checkpoints / "4" / file
    for each in path.glob("*") if path.is_dir() else (path,):
        each.write_bytes(b"damaged")
    assert main(["inspect", str(copy.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("uda: error: ") and f"{copy.path}/train/checkpoints/4: " in line and "delete it" in line


def test_the_last_stage_with_a_checkpoint_is_opened(copy, tiny_experiment):
    stages = {"first": StageConfig(method={"name": "advent", "objective": "entropy"}), "last": StageConfig()}
    copy.prepare(dataclasses.replace(tiny_experiment, stages=stages, recipe=("first", "last")), SPACE)
    (copy.path / "train").rename(copy.path / "first")
    copy.stage("first").finished.write_text("{}")
    assert inspection.open_snapshot(copy.path).stage == "first"
    found = overview.gather(copy)
    assert {name: (stage["finished"], len(stage["checkpoints"])) for name, stage in found["stages"].items()} == {
        "first": (True, 2),
        "last": (False, 0),
    }
    with pytest.raises(UserError, match="last: no checkpoint yet; train it first"):
        overview.gather(copy, "last")
