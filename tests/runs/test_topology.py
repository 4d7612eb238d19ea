"""The same run on one device, on eight, and on two processes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from uda_jax import config
from uda_jax.runs import results, train
from uda_jax.training.logging import read_metrics


def start(tiny_config, workdir, devices, *words):
    environment = dict(os.environ)
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    command = [
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
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(*processes):
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def losses(workdir):
    """Returns [steps, terms]: every loss of the first five steps, and the score on dev."""
    rows = read_metrics(workdir / "train" / "metrics.jsonl")
    terms = sorted(name for name in rows[0] if name.startswith("loss/"))
    table = [[row[name] for name in terms] for row in rows if "loss/total" in row][:5]
    assert np.shape(table) == (5, 7)
    return np.array(table)


@pytest.fixture(scope="module")
def one_device(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    train.run(config.experiment(config.load(tiny_config)), workdir, results.Invocation())
    return workdir


def test_eight_devices_are_one_device(one_device, tiny_config, tmp_path):
    finish(start(tiny_config, tmp_path / "run", 8))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(one_device), rtol=1e-5, atol=1e-5)


def test_two_processes_are_one_device(one_device, tiny_config, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id"]
    finish(*[start(tiny_config, tmp_path / "run", 1, *words, str(i)) for i in range(2)])
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(one_device), rtol=1e-5, atol=1e-5)
    assert (tmp_path / "run" / "result.json").exists()
