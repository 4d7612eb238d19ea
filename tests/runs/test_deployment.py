"""Runs as functions of images, and their export from the command line; the loaders of the page run without uda_jax."""

import json
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

import uda_jax
from uda_jax.cli import main
from uda_jax.errors import UserError
from uda_jax.inference.export import onnx
from uda_jax.runs.workdir import Workdir

PAGE = Path(__file__).parents[2] / "docs" / "deploying.md"


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """A run on frames of 32x64 that are resized to 16x32."""
    workdir = tmp_path_factory.mktemp("deployment") / "run"
    words = ["--config.evaluation.final.size=(16,32)", "--config.evaluation.inference.flip=True"]
    assert main(["train", "--config", tiny_config, "--workdir", str(workdir), *words]) == 0
    return workdir


@pytest.fixture(scope="module")
def images(tiny_folder):
    return sorted((tiny_folder / "val" / "images").glob("*.png"))


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "exported"
    words = ["--size", "32x64", "--platforms", "cpu"]
    assert main(["export", str(run), "--to", "stablehlo", "--output", str(folder), *words]) == 0
    return folder


def test_a_loaded_run_says_what_predict_writes(run, images, tmp_path):
    model = uda_jax.load(run)
    assert model.classes == ("ground", "wall", "thing")
    words = ["--workdir", str(run), "--input", str(images[0].parent), "--output", str(tmp_path / "out")]
    assert main(["predict", *words]) == 0
    for file in images[:3]:
        result = model(pixels(file))
        np.testing.assert_array_equal(result.labels, np.asarray(Image.open(tmp_path / "out" / file.name)))
        assert result.scores.shape == (32, 64, 3)


def test_a_checkpoint_is_chosen(run, images):
    steps = [uda_jax.load(run, step=step)(pixels(images[0])).scores for step in ("last", 6, 4)]
    np.testing.assert_array_equal(steps[0], steps[1])
    assert np.abs(steps[0] - steps[2]).max() > 0
    with pytest.raises(UserError, match="5"):
        uda_jax.load(run, step=5)


def test_an_exported_folder_says_what_the_run_says(run, exported, images):
    slip, facts = (json.loads((exported / name).read_text()) for name in ("parity.json", "model.json"))
    assert slip["frames"] == len(images) and slip["equal_pixels"] == 1 and slip["versions"]["jax"]
    assert facts["run"] == {"label": "tiny", "benchmark": "tiny", "method": "Advent", "step": 6}
    assert facts["inside"] == ["resize", "normalise", "network", "interpolate", "argmax"]
    batch = np.stack([pixels(file) for file in images[:2]])
    model = uda_jax.load(exported)
    np.testing.assert_array_equal(model(batch).labels, uda_jax.load(run)(batch).labels)
    with pytest.raises(UserError, match="step: an exported folder holds one network, got 'best'; leave it out"):
        uda_jax.load(exported, step="best")


def test_an_exported_folder_in_a_bucket(exported, bucket, images):
    fsspec.filesystem("s3").put(str(exported), bucket, recursive=True)
    image = pixels(images[0])
    np.testing.assert_array_equal(uda_jax.load(bucket)(image).labels, uda_jax.load(exported)(image).labels)


def test_frames_of_ones_own_are_compared(run, tmp_path, images, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for file in images[:2]:
        Image.open(file).resize((50, 20)).save(frames / file.name)
    words = ["export", str(run), "--to", "safetensors", "--output", str(tmp_path / "arrays"), "--frames", str(frames)]
    assert main(words) == 0
    assert "safetensors, 100.0000% of the pixels of 2 frames as the run" in capsys.readouterr().out
    np.testing.assert_array_equal(
        uda_jax.load(tmp_path / "arrays")(pixels(images[0])).scores, uda_jax.load(run)(pixels(images[0])).scores
    )


def test_an_export_that_says_other_things_ends_with_status_1(run, tmp_path, monkeypatch, capsys):
    from uda_jax.runs import deployment

    slip = {
        "frames": 1,
        "equal_pixels": 0.9998,
        "largest_difference": None,
        "milliseconds": {"run": 1.0, "exported": 1.0},
        "device": "cpu",
    }
    monkeypatch.setattr(deployment, "export", lambda *arguments, **options: slip)
    assert main(["export", str(run), "--to", "safetensors", "--output", str(tmp_path / "new")]) == 1
    assert "fewer than 99.99% of the pixels are as the run's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "stablehlo", "--size", "32"], "expected height x width, as in 512x1024, or any, got '32'"),
        (["--to", "stablehlo", "--size", "any"], "--size any: the run is scored at 16x32, and resizing inside needs"),
        (["--to", "stablehlo", "--batch", "0"], "expected a whole number of at least 1, got '0'"),
        (["--to", "stablehlo", "--platforms", "cpu,rocm"], "expected some of cpu,cuda,tpu, got 'rocm'"),
        (["--to", "safetensors", "--outputs", "labels"], "--outputs: a file of safetensors holds the network's arrays"),
        (["--to", "safetensors", "--frames", "{empty}"], "--frames {empty}: no image there; expected files such as"),
        (["--to", "safetensors", "--frames", "{empty}/no"], "--frames {empty}/no: no such file or folder"),
        (["--to", "safetensors", "--step", "5"], "5"),
        (["--to", "safetensors", "--config.method.predict_with=teacher"], "config.method.predict_with"),
        (["--to", "torchscript"], "invalid choice: 'torchscript'"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    words = [word.format(empty=tmp_path / "empty") for word in words]
    assert main(["export", str(run), "--output", str(tmp_path / "new"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(empty=tmp_path / "empty") in line
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_kept(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "safetensors", "--output", str(tmp_path)]) == 2
    assert "exists already; name a new folder" in capsys.readouterr().err


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="expected the config of a run, found no such file"):
        uda_jax.load(tmp_path / "nowhere")
    words = ["export", str(tmp_path), "--to", "safetensors", "--output", str(tmp_path / "new")]
    assert main(words) == 2
    assert "expected the config of a run" in capsys.readouterr().err


def test_loading_needs_none_of_the_runs_data(run, tiny_folder, monkeypatch, images):
    frame = pixels(images[0])
    monkeypatch.setattr("uda_jax.data.pipeline.domains.open_domain", None)
    assert uda_jax.load(run)(frame).labels.shape == (32, 64)
    assert Workdir(run).experiment().evaluation.final.size == (16, 32)


def loaders():
    """Returns format -> the page's loader."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text().partition("### Loaders")[2], re.DOTALL)
    return {re.search(r"exported/model\.(stablehlo|onnx|safetensors)", block)[1]: block for block in blocks}


@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "safetensors"])
def test_the_loaders_of_the_page_need_no_uda_jax(run, exported, images, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("jax2onnx", reason=f"a separate tool: {onnx.INSTALL}")
    code = loaders()[kind]
    assert len([line for line in code.splitlines() if line]) <= 11 and "uda_jax" not in code
    if kind != "stablehlo":
        size = ["--size", "32x64"] if kind == "onnx" else []
        words = ["export", str(run), "--to", kind, "--output", str(tmp_path / "exported"), *size]
        assert main(words) == 0
    else:
        (tmp_path / "exported").symlink_to(exported)
    Image.open(images[0]).save(tmp_path / "frame.png")
    code += "\nimport sys\nassert 'uda_jax' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if kind == "safetensors":
        assert done.stdout == "deeplab_v2_resnet14 ['batch_stats', 'params']\n"
    else:
        labels = uda_jax.load(run)(pixels(images[0])).labels
        names = ("ground", "wall", "thing")
        assert done.stdout == f"{ {names[i]: int((labels == i).sum()) for i in np.unique(labels)} }\n"
