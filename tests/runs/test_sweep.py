"""Sweeps: which runs there are and what they are called, what is run again, what a failed one leaves."""

import json
import shlex

import pytest
import stand_ins

from uda_jax.cli import main
from uda_jax.errors import UserError
from uda_jax.runs import sweep


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_ins.replace_training(tmp_path, monkeypatch)


def names(reference, *words, seeds=(0,), folder="runs"):
    return [run.name for run in sweep.grid(reference, words, seeds, sweep.Path(folder))]


def test_the_grid_has_every_combination_by_what_differs():
    assert names("advent:smoke", seeds=(0, 2)) == ["seed0", "seed2"]
    words = ["--config.train.steps=4,8", "--config.train.log_every=3", "--config.method.target_weight=0.1,0.01"]
    assert names("advent:smoke", *words) == [
        f"steps={steps}-target_weight={weight}-seed0" for steps in (4, 8) for weight in ("0.1", "0.01")
    ]
    (first, *_) = sweep.grid("advent:smoke", words, (3,), sweep.Path("runs"))
    assert first.command == [
        *("train", "--config", "advent:smoke", "--workdir", "runs/steps=4-target_weight=0.1-seed3"),
        *("--config.train.steps=4", "--config.train.log_every=3", "--config.method.target_weight=0.1"),
        "--config.seed=3",
    ]
    both = ["--config.data.source.count=4,6", "--config.data.target.count=4,6"]
    assert names("advent:smoke", *both)[1] == "data.source.count=4-data.target.count=6-seed0"


def test_values_with_commas_stay_whole():
    assert sweep.split("a,'b,c',(1,2),{'x': [3, 4]}") == ["a", "'b,c'", "(1,2)", "{'x': [3, 4]}"]
    assert names("advent:streets", "--config.data.source.size=48,96") == ["seed0"]
    again = ["--config.data.source.size=48,96", "--config.data.source.size=24,48"]
    assert names("advent:streets", *again) == ["size=48_96-seed0", "size=24_48-seed0"]
    options = "--config.data.source.options={'size': [48, 96], 'limit': 8}"
    assert names("advent:smoke", options) == ["seed0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.seed=1,2"], "--config.seed: the seeds of a sweep are given by --seeds"),
        (["--config.train.stps=1,2"], "config.train.stps: unknown field; did you mean 'steps'"),
        (["--config.train.steps=4,many"], "--config.train.steps: expected an integer, got 'many'"),
        (["--config.train.steps=4,4"], "two runs would be called 'steps=4-seed0'"),
    ],
)
def test_mistakes_are_found_before_the_first_run(words, message, tmp_path, capsys):
    assert main(["sweep", "advent:smoke", *words, "--workdir", str(tmp_path / "sweep")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("parallel", ["1", "2"])
def test_what_failed_is_named_and_what_is_done_is_passed_over(parallel, stand_in, tmp_path, capfd):
    folder = tmp_path / "sweep"
    command = ["sweep", "advent:smoke", "--workdir", str(folder), "--parallel", parallel, "--seeds", "0,1"]
    assert main([*command, "--config.train.batch_size=2,1"]) == 1
    told = capfd.readouterr()
    assert f"{folder}/rows.json: 2 of 4 runs are finished" in told.out
    failed = [line for line in told.out.splitlines() if line.startswith("batch_size=1-seed")]
    assert len(failed) == 2 and "failed with status 1" in failed[0]
    assert ("uda: error: one image" in failed[0]) == (parallel == "2")
    rows = json.loads((folder / "rows.json").read_text())
    assert sorted(row["seed"] for row in rows) == [0, 1]
    assert main([*command, "--config.train.batch_size=2,4"]) == 0
    told = capfd.readouterr().err
    assert told.count("finished before") == 2 and told.count("begins") == 2
    assert len(json.loads((folder / "rows.json").read_text())) == 4


def test_a_run_that_was_stopped_is_no_finished_one(stand_in, tmp_path, capfd):
    assert main(["sweep", "advent:smoke", "--workdir", str(tmp_path / "sweep"), "--seeds", "7"]) == 1
    assert "seed7: was stopped before its end; the same command tries it again" in capfd.readouterr().out
    assert not (tmp_path / "sweep" / "rows.json").exists()


def test_every_process_sees_a_gpu_of_its_own(stand_in, tmp_path, monkeypatch, capfd):
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert sweep.devices({}, tmp_path) == ["0", "2", "10"]
    assert sweep.devices({"CUDA_VISIBLE_DEVICES": "3,1"}, tmp_path) == ["3", "1"]
    assert sweep.devices({"JAX_PLATFORMS": "cpu"}, tmp_path) == []
    runs = sweep.grid("advent:smoke", [], (0, 1, 2), tmp_path / "sweep")
    assert sweep.run_all(runs, tmp_path / "rows.json", ["3", "1"], print) == {}
    assert {row["hardware"] for row in json.loads((tmp_path / "rows.json").read_text())} <= {"3", "1"}
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main(["sweep", "advent:smoke", "--workdir", str(tmp_path / "x"), "--parallel", "2"]) == 2
    assert "expected at most one run for each of 1 GPUs, got 2" in capfd.readouterr().err


def test_a_mistaken_reference_is_one_line():
    with pytest.raises(UserError, match="no packaged config of this name; did you mean 'advent'"):
        names("advnet:smoke")


def test_the_command_at_the_end_can_be_pasted(stand_in, tmp_path, capsys):
    folder = tmp_path / "my sweep"
    assert main(["sweep", "advent:smoke", "--workdir", str(folder)]) == 0
    command = capsys.readouterr().out.strip().rpartition("; ")[2]
    assert shlex.split(command) == ["uda", "report", f"{folder}/*/", "--output", f"{folder}/report.html"]
