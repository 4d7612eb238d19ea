"""What `uda train` is told about other processes, and its exit status."""

import pytest

from uda_jax.cli import main
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


def test_a_stopped_run_exits_with_0_unless_told_otherwise():
    assert parsed(TRAIN).stopped_status == 0
    assert parsed([*TRAIN, "--stopped-status", "75"]).stopped_status == 75
