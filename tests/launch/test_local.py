"""Starting several processes on one machine: their commands, their end, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[2] / "launch" / "local.py"
# The launcher with other commands than `uda`: process number k runs the k-th text.
DRIVER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("local", sys.argv[1])
local = importlib.util.module_from_spec(spec)
spec.loader.exec_module(local)
commands = [([sys.executable, "-uc", text], {}) for text in sys.argv[2:]]
sys.exit(local._Processes(commands, all_output=False, show_ids=True).run())
"""
WAIT = "import signal, time; print('ready', flush=True); time.sleep(60)"
STOP = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); " + WAIT


def start(*texts):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(LAUNCHER), *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ids(launcher, count):
    return [int(launcher.stderr.readline().split()[-1]) for _ in range(count)]


def is_alive(process_id):
    """Whether a process runs; one that nobody has asked for its status yet does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dry_run_prints_the_commands():
    words = ["--processes", "2", "--devices", "4", "--port", "1234", "--dry-run", "--", "train", "--workdir", "a b"]
    environment = os.environ | {"XLA_FLAGS": "--other"}
    command = [sys.executable, str(LAUNCHER), *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    flags = "'XLA_FLAGS=--other --xla_force_host_platform_device_count=4'"
    together = "--coordinator localhost:1234 --num-processes 2 --process-id"
    assert found == [
        f"JAX_PLATFORMS=cpu {flags} {sys.executable} -m uda_jax.cli train --workdir 'a b' {together} {k}"
        for k in (0, 1)
    ]


def test_the_first_failure_is_the_status_and_is_shown():
    launcher = start("import time; time.sleep(0.5); print('mine')", "print('why'); raise SystemExit(7)")
    output, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 7 and output == "mine\n"
    assert errors.splitlines()[2:] == ["local: process 1 was the first to fail, with status 7", "[1] why"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_no_process_outlives_a_launcher_that_is_killed():
    launcher = start(WAIT, WAIT)
    started = ids(launcher, 2)
    assert launcher.stdout.readline() == "ready\n"
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 30
    while any(map(is_alive, started)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_goes_to_all_of_them():
    launcher = start(STOP, STOP.replace("print('ready', flush=True)", "None"))
    ids(launcher, 2)
    assert launcher.stdout.readline() == "ready\n"
    launcher.send_signal(signal.SIGTERM)
    # The second may not have come to its handler yet, and ends of the signal then.
    assert launcher.wait(30) in (0, 128 + signal.SIGTERM)
