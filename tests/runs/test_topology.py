"""The same run on one device, on eight with the state split, and on two processes of four devices each.

Every method on every topology is the business of `python -m benchmarks.topology`.
"""

import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from uda_jax import config
from uda_jax.runs import results, train
from uda_jax.runs.rendezvous import free_port
from uda_jax.training.logging import read_metrics

# Networks of a few channels, of which the field's default would split nothing.
FSDP = ["--config.train.sharding=fsdp", "--config.train.split_from=64", "--config.train.keep_latest=9"]


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
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(*processes):
    """Returns what each process wrote to stderr."""
    found = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors
        found.append(errors)
    return found


def losses(workdir):
    """Returns [steps, terms]: every loss of all six steps."""
    rows = read_metrics(workdir / "train" / "metrics.jsonl")
    terms = sorted(name for name in rows[0] if name.startswith("loss/"))
    table = [[row[name] for name in terms] for row in rows if "loss/total" in row]
    assert np.shape(table) == (6, 4)
    return np.array(table)


def scores(workdir):
    (row,) = results_of(workdir)
    return [row["miou"]["own"], row["pixel_accuracy"], *row["iou"].values()]


def results_of(workdir):
    return config.json.loads((workdir / "result.json").read_text())


def rewind(source, workdir, step):
    """Copies a finished run as it was when only the checkpoints up to a step were there."""
    shutil.copytree(source, workdir)
    for folder in (workdir / "train" / "checkpoints").iterdir():
        if folder.name.isdecimal() and int(folder.name) > step:
            shutil.rmtree(folder)
    for file in ("result.json", "train/finished.json"):
        (workdir / file).unlink()


def run_here(tiny_config, workdir):
    train.run(config.experiment(config.load(tiny_config)), workdir, results.Invocation())


@pytest.fixture(scope="module")
def one_device(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    run_here(tiny_config, workdir)
    return workdir


@pytest.fixture(scope="module")
def eight_devices(tiny_config, tmp_path_factory):
    """A run on eight devices that each hold an eighth of the large arrays; all of its checkpoints are kept."""
    workdir = tmp_path_factory.mktemp("eight") / "run"
    (errors,) = finish(start(tiny_config, workdir, 8, *FSDP))
    assert re.search(r"stage train: 0\.\d of the state.s \d\.\d MB lie on each of 8 devices", errors)
    return workdir


def check_same(workdir, one_device):
    np.testing.assert_allclose(losses(workdir), losses(one_device), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores(workdir), scores(one_device), rtol=0, atol=1e-6)


def test_eight_devices_that_share_the_state_are_one_device(one_device, eight_devices):
    check_same(eight_devices, one_device)


def test_one_device_goes_on_where_eight_stopped(one_device, eight_devices, tiny_config, tmp_path):
    """From split arrays to whole ones: neither the devices nor the sharding belong to the experiment."""
    assert jax.device_count() == 1
    rewind(eight_devices, tmp_path / "run", 4)
    run_here(tiny_config, tmp_path / "run")
    check_same(tmp_path / "run", one_device)


@pytest.fixture(scope="module")
def two_processes(eight_devices, tiny_config, tmp_path_factory):
    """The last four steps of the run on two processes of four devices, which share the state, too."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    rewind(eight_devices, workdir, 2)
    words = [*FSDP, "--coordinator", f"localhost:{free_port()}", "--num-processes", "2", "--process-id"]
    finish(*[start(tiny_config, workdir, 4, *words, str(i)) for i in range(2)])
    return workdir


def test_two_processes_go_on_where_one_stopped(one_device, two_processes):
    check_same(two_processes, one_device)


def test_one_process_goes_on_where_two_stopped(one_device, two_processes, tiny_config, tmp_path):
    rewind(two_processes, tmp_path / "run", 4)
    run_here(tiny_config, tmp_path / "run")
    check_same(tmp_path / "run", one_device)
