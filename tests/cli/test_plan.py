"""`uda plan`, and `uda train --plan`."""

import json
import os
import subprocess
import sys

import pytest

from uda_jax.cli import main

TINY = ["--config.train.batch_size=4"]


def planned(capsys, *words):
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_it_tells_every_stage_without_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["intrada:folder", "--platform", "cuda", "--devices", "2", "--classes", "4", "--tflops", "20"]
    words += ["--config.method.segmenter.name=deeplab_v2_resnet14", "--config.method.segmenter.width=2"]
    told = planned(capsys, *words)
    assert [line.split(":")[0] for line in told.splitlines() if line.startswith("stage")] == [
        "stage inter",
        "stage intra",
    ]
    assert told.count("on 2 gpu devices") == 2 and told.count("at 20 TFLOP/s per device (--tflops)") == 2
    assert not list(tmp_path.iterdir())


def test_json_has_the_same(tiny_config, capsys, monkeypatch):
    found = json.loads(planned(capsys, "--config", tiny_config, *TINY, "--json"))
    (stage,) = found["stages"]
    assert found["config"] == tiny_config and found["overrides"] == TINY and found["classes"] == 3
    assert stage["batch"] == {"source": [4, 32, 64], "target": [4, 32, 64]} and stage["communication"] == {}
    assert stage["memory"]["peak"] == stage["memory"]["temporaries"] + stage["memory"]["arguments"] + (
        stage["memory"]["outputs"] - stage["memory"]["aliased"]
    )
    assert main(["train", "--plan", "--config", tiny_config, "--workdir", "never", *TINY]) == 0
    assert "stage train: 6 steps of source 4x32x64, target 4x32x64 on 1 cpu device" in capsys.readouterr().out
    assert not os.path.exists("never")


def test_several_devices_of_one_machine(tiny_config):
    command = [sys.executable, "-m", "uda_jax", "plan", tiny_config, "--devices", "2", "--json", *TINY]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (stage,) = json.loads(done.stdout)["stages"]
    # At least every gradient is summed over the devices.
    assert stage["devices"] == 2 and stage["communication"]["all-reduce"] >= stage["gradient_bytes"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["advent:street"], "unknown setting 'street'"),
        (["adven:streets"], "no packaged config of this name; did you mean 'advent'?"),
        ([], "expected one config, such as uda plan advent:streets"),
        (["advent:streets", "--config", "advent:streets"], "expected one config"),
        (["advent:streets", "--tflops", "0"], "--tflops: expected a number above 0"),
        (["advent:streets", "--devices", "0"], "expected a whole number of at least 1"),
        (["advent:streets", "--config.train.batch_siz=2"], "batch_siz"),
        (
            ["advent:streets", "--platform", "cuda", "--devices", "3"],
            "config.train.batch_size: expected a multiple of the 3",
        ),
        (["advent:streets", "--config.data.source.dataset=street"], "config.data.source: dataset: unknown data set"),
    ],
)
def test_mistakes_in_one_line(words, line, capsys):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1 and error.startswith("uda: error: ")
