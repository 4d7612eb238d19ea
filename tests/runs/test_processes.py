"""Two processes of one run: asked to stop, and one of them killed; and what each needs to find the other."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from uda_jax import config
from uda_jax.errors import UserError
from uda_jax.runs import rendezvous, results, train
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training.logging import read_metrics

# The main thread waits for a lock that is never free, in C and whatever signals come, as in a compilation.
STUCK = """
import ctypes, sys
from uda_jax.cli.main import main
from uda_jax.methods.advent import Advent

def compile(*arguments):
    print("compiling", flush=True)
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

Advent.train_step = compile
sys.exit(main(sys.argv[1:]))
"""


def start(*words, program=("-m", "uda_jax.cli")):
    command = [sys.executable, *program, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_two(config, workdir, *words):
    address = f"localhost:{rendezvous.free_port()}"
    words = ["train", "--config", config, "--workdir", str(workdir), *words]
    words += ["--coordinator", address, "--num-processes", "2", "--process-id"]
    return [start(*words, str(index)) for index in range(2)]


def wait_for(stream, text):
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"never printed: {text}")


def own_lines(*processes):
    """Returns the lines of each process after what was read, without those of the training."""
    return [
        [line for line in process.communicate(timeout=60)[1].splitlines() if line.startswith("uda: ")]
        for process in processes
    ]


def test_a_signal_to_one_of_two_stops_both_at_one_step_and_one_goes_on(tiny_config, tmp_path):
    workdir = Workdir(tmp_path / "run")
    quick = ("--config.train.steps=40", "--config.train.evaluate_every=0", "--config.train.checkpoint_every=100")
    processes = start_two(f"{tiny_config}:entropy", workdir.path, *quick)
    wait_for(processes[0].stderr, "3/40")
    processes[1].send_signal(signal.SIGTERM)
    ours, theirs = own_lines(*processes)
    assert [process.returncode for process in processes] == [0, 0]
    (step,) = Checkpoints(workdir.stage("train")).all_steps()
    assert ours == [f"uda: stopped at step {step} of stage train; the same command goes on from there"] and not theirs
    rows = read_metrics(workdir.stage("train").metrics)
    assert [row["step"] for row in rows] == list(range(1, step + 1)) and 3 <= step < 40
    experiment = config.experiment(config.load(f"{tiny_config}:entropy", quick))
    stops = iter([False] * 2)
    with pytest.raises(train.Stopped, match=f"stopped at step {step + 3} "):
        train.run(experiment, workdir.path, results.Invocation(), train.Stop(polled=lambda: next(stops, True)))
    whole = tmp_path / "whole"
    stops = iter([False] * (step + 2))
    with pytest.raises(train.Stopped):
        train.run(experiment, whole, results.Invocation(), train.Stop(polled=lambda: next(stops, True)))
    losses = [
        [row["loss/total"] for row in read_metrics(Workdir(path).stage("train").metrics)]
        for path in (workdir.path, whole)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_other_ends_when_one_of_two_is_killed(tiny_config, tmp_path):
    processes = start_two(
        f"{tiny_config}:entropy", tmp_path / "run", "--config.train.steps=1000", "--config.train.evaluate_every=0"
    )
    wait_for(processes[0].stderr, "3/1000")
    processes[0].kill()
    _, (line,) = own_lines(*processes)
    assert line.startswith("uda: process 0 of 2 is gone (killed, ") and "of stage train is saved; rerun" in line
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 1]


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_run_that_compiles_ends_within_seconds(tiny_config, tmp_path, number, status):
    words = [
        "train",
        "--config",
        f"{tiny_config}:entropy",
        "--workdir",
        str(tmp_path / "run"),
        "--config.train.evaluate_every=0",
    ]
    process = start(*words, program=("-c", STUCK))
    wait_for(process.stdout, "compiling")
    process.send_signal(number)
    ((line,),) = own_lines(process)
    assert line.startswith("uda: stopped before ") and line.endswith("; the same command goes on from there")
    assert process.returncode == status


def test_a_second_process_without_a_first_says_so(tiny_config, tmp_path):
    words = ["train", "--config", tiny_config, "--workdir", str(tmp_path / "run"), "--start-timeout", "1"]
    words += ["--coordinator", f"localhost:{rendezvous.free_port()}", "--num-processes", "2", "--process-id", "1"]
    process = start(*words)
    ((line,),) = own_lines(process)
    assert line.startswith("uda: error: --start-timeout 1: process 0 of 2 at localhost:") and process.returncode == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ((None, 2, None), "--num-processes: expected --coordinator as well"),
        ((None, None, 0), "--process-id: expected --coordinator as well"),
        (("host:1", None, 0), "--num-processes: expected a number with --coordinator host:1"),
        (("host:1", 2, None), "--process-id: expected a number"),
        (("host:1", 2, 2), "--process-id: expected 0 to 1, since there are 2 processes, got 2"),
        (("host:1", 2, -1), "--process-id: expected 0 to 1"),
        (("host:1", 0, 0), "--num-processes: expected at least 1, got 0"),
        (("host", 2, 0), "--coordinator: expected host:port, such as .*, got 'host'"),
        (("host:0", 2, 0), "--coordinator: expected host:port"),
        ((":1", 2, 0), "--coordinator: expected host:port"),
        (("auto", None, 1), "--process-id: the cluster says it with --coordinator auto"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        rendezvous.place(*options, 10)


def test_options_that_go_together():
    assert rendezvous.place(None, None, None, 10) is None
    assert rendezvous.place("[::1]:80", 3, 2, 10) == (("::1", 80), 3, 2, 10, None)
    assert str(rendezvous.place("host:80", 3, 2, 10).address) == "host:80"
