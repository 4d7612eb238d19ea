"""What `uda train` is told about other processes, and its exit status."""

import subprocess
import sys

import pytest

from uda_jax.cli import environment, main
from uda_jax.cli.main import parsed

TRAIN = ["train", "--config", "advent:smoke", "--workdir", "runs/advent"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "auto"], "--coordinator auto: found no TPU pod, SLURM or other cluster that JAX knows"),
        (["--coordinator", "node1"], "--coordinator: expected host:port, such as 10.0.0.1:12345, or auto, got 'node1'"),
        (["--process-id", "0"], "--process-id: expected --coordinator as well, got none"),
        (["--stopped-status", "256"], "expected a whole number from 0 to 255, got '256'"),
        (["--stopped-status", "-1"], "argument --stopped-status"),
    ],
)
def test_what_is_wrong_with_the_processes_is_one_line(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    assert main([*TRAIN, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not list(tmp_path.iterdir())


def test_the_first_line_comes_before_what_takes_seconds():
    code = (
        "import sys\n"
        "from uda_jax.cli import environment, main\n"
        "def stop(): raise SystemExit('jax' in sys.modules)\n"
        "import uda_jax.cli.training\n"
        "uda_jax.cli.training.prepare_jax = stop\n"
        "main(['train', '--config', 'advent:smoke', '--workdir', 'runs/a\\x1bb'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "train advent:smoke in runs/a\\x1bb: loading JAX\n"


def test_where_jax_is_loaded_nothing_has_to_be_waited_for(capsys):
    pytest.importorskip("jax")
    environment.say_that_it_starts("train x")
    assert capsys.readouterr().err == ""


def test_a_stopped_run_exits_with_0_unless_told_otherwise():
    assert parsed(TRAIN).stopped_status == 0
    assert parsed([*TRAIN, "--stopped-status", "75"]).stopped_status == 75
