"""Several runs scored as one, and the other words that say how scores are made, from the command line."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uda_jax.cli import main
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.inference.scores import Ensemble
from uda_jax.ops import confusion_matrix
from uda_jax.runs import checksums, states


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
    """The workdirs of two runs of two steps, of AdvEnt and of MinEnt, from different seeds."""
    folder = tmp_path_factory.mktemp("ensemble")
    for seed, objective in enumerate(("adversarial", "entropy")):
        words = ["--config.train.steps=2", "--config.train.evaluate_every=0", f"--config.seed={seed}"]
        words = ["train", "--config", f"{tiny_config}:{objective}", "--workdir", str(folder / objective), *words]
        assert main(words) == 0
    return folder / "adversarial", folder / "entropy"


@pytest.fixture(scope="module")
def frames(tiny_folder):
    """The evaluation split: names, images [8, 32, 64, 3] and labels [8, 32, 64]."""
    files = sorted((tiny_folder / "val" / "images").iterdir())
    read = lambda folder: np.stack([np.asarray(Image.open(tiny_folder / "val" / folder / f.name)) for f in files])  # noqa: E731
    return [file.stem for file in files], read("images"), read("labels")


@pytest.fixture(scope="module")
def mean_scores(runs, frames):
    """Half of each run's logits at the size of the labels, from its own method and state."""
    total = 0
    for folder in runs:
        method, state, _ = states.restore(folder)
        total += 0.5 * np.asarray(jax.jit(method.predict, static_argnums=2)(state, frames[1], (32, 64))["scores"])
    return total


def evaluate(capsys, *folders):
    capsys.readouterr()
    assert main(["evaluate", "--workdir", *map(str, folders)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_with_itself_is_the_run(runs, capsys):
    alone = evaluate(capsys, runs[0])
    assert evaluate(capsys, runs[0], runs[0]) == alone != evaluate(capsys, runs[1])
    method, state, space = states.restore(runs[0])
    twice = Ensemble([("a", method, space), ("b", method, space)])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    ours, theirs = (
        jax.jit(member.predict, static_argnums=2)(states, images, (40, 80))["scores"]
        for member, states in ((twice, (state, state)), (method, state))
    )
    assert ours.shape == (2, 40, 80, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_scores_of_two_runs_are_averaged(runs, frames, mean_scores, capsys):
    matrix = np.asarray(confusion_matrix(jnp.array(frames[2], jnp.int32), jnp.argmax(mean_scores, axis=-1), 3))
    both = evaluate(capsys, *runs)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    assert list(both["iou"].values()) == pytest.approx((np.diag(matrix) / union).tolist(), abs=2e-3)
    assert both["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-3)
    assert both["iou"] != evaluate(capsys, runs[0])["iou"]


def test_predictions_are_those_of_the_averaged_scores(runs, frames, mean_scores, tiny_folder, tmp_path):
    images = str(tiny_folder / "val" / "images")
    words = ["--workdir", *map(str, runs), "--input", images, "--output", str(tmp_path / "out")]
    assert main(["predict", *words]) == 0
    for name, values in zip(frames[0], mean_scores, strict=True):
        label = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        assert (label != np.argmax(values, axis=-1)).mean() < 0.005


def flipped_scores(runs, images):
    """The mean probabilities of both runs on the images and on the mirrored ones."""
    total = 0
    for folder in runs:
        method, state, _ = states.restore(folder)
        predict = jax.jit(method.predict, static_argnums=2)
        total += jax.nn.softmax(predict(state, images, (32, 64))["scores"])
        total += jax.nn.softmax(predict(state, images[:, :, ::-1], (32, 64))["scores"])[:, :, ::-1]
    return np.asarray(total) / 4


def test_evaluate_and_predict_make_scores_as_the_words_say(runs, frames, tiny_folder, tmp_path, capsys):
    expected = np.argmax(flipped_scores(runs, frames[1]), axis=-1)
    words = ["--config.evaluation.inference.flip=True", "--config.evaluation.inference.average=probabilities"]
    found = evaluate(capsys, *runs, *words)
    matrix = np.asarray(confusion_matrix(jnp.array(frames[2], jnp.int32), jnp.array(expected), 3))
    assert found["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-3)
    assert found["iou"] != evaluate(capsys, *runs)["iou"]
    images = ["--input", str(tiny_folder / "val" / "images"), "--output", str(tmp_path / "out")]
    assert main(["predict", "--workdir", *map(str, runs), *images, *words]) == 0
    labels = np.stack([np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in frames[0]])
    assert (labels != expected).mean() < 0.005


def test_a_run_predicts_as_it_was_scored(runs, frames, tiny_folder, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    stored = json.loads((folder / "config.json").read_text())
    stored["evaluation"]["inference"] |= {"window": [16, 32], "stride": [16, 16]}
    (folder / "config.json").write_text(json.dumps(stored))
    written = {}
    words = {
        "own": [],
        "whole": ["--config.evaluation.inference.window=None", "--config.evaluation.inference.stride=None"],
    }
    for name, overrides in words.items():
        images = ["--input", str(tiny_folder / "val" / "images"), "--output", str(tmp_path / name)]
        assert main(["predict", "--workdir", str(folder), *images, *overrides]) == 0
        written[name] = np.stack([np.asarray(Image.open(tmp_path / name / f"{frame}.png")) for frame in frames[0]])
    method, state, _ = states.restore(folder)
    composed = jax.jit(scores.Composed(method, Inference((16, 32), (16, 16))).predict, static_argnames="size")
    ours = np.argmax(composed(state, frames[1], size=(32, 64))["scores"], axis=-1)
    assert (written["own"] != ours).mean() < 0.005 < (written["own"] != written["whole"]).mean()
    assert main(["predict", "--workdir", str(folder), *images, "--evaluation.inference.flip=True"]) == 2
    assert main(["predict", "--workdir", str(folder), *images, "--config.evaluation.pictures=3"]) == 2


def test_runs_of_other_classes_are_refused(runs, tmp_path, capsys):
    other = shutil.copytree(runs[1], tmp_path / "other")
    space = json.loads((other / "label_space.json").read_text())
    (other / "label_space.json").write_text(json.dumps(space | {"names": ["ground", "wall", "tram"]}))
    for file in (other / "train" / "checkpoints").glob("*/config/metadata"):
        stored = json.loads(file.read_text()) | {"classes": ["ground", "wall", "tram"]}
        del stored["checksum"]
        file.write_text(json.dumps(checksums.sealed(stored)))
        checksums.seal_files(file.parents[1])
    for words in (["evaluate"], ["predict", "--input", str(tmp_path), "--output", str(tmp_path / "out")]):
        assert main([*words, "--workdir", str(runs[0]), str(other)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"uda: error: --workdir {runs[0]} {other}: expected runs of the same classes")
        assert "'tram'" in line and "'thing'" in line
    assert not Path(tmp_path / "out").exists()


def test_the_order_of_the_classes_matters():
    first, second = (LabelSpace(names, ((0, 0, 0),) * 2) for names in (("a", "b"), ("b", "a")))
    member = object()
    Ensemble([("x", member, first), ("y", member, first)])
    with pytest.raises(
        UserError, match=r"--workdir x y: expected runs of the same classes .* \['a', 'b'\] and \['b', 'a'\]"
    ):
        Ensemble([("x", member, first), ("y", member, second)])
