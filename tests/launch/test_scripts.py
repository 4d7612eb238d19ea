"""launch/gpu_host.sh and launch/slurm.sbatch, run by bash; and what holds for every file of launch/."""

import contextlib
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
WORDS = ["--config", "advent:streets", "--workdir", "runs/a b"]
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run", ROOT / ".ci" / "newest"])

# Runs the command of srun as every one of its tasks, with the variables that SLURM gives them.
SRUN = """\
tasks=${SLURM_NTASKS:-1}
words=("$@")
while [[ ${words[0]} == --* ]]; do case ${words[0]} in --ntasks=*) tasks=${words[0]#*=} ;; esac
  words=("${words[@]:1}"); done
for ((i = 0; i < tasks; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost SLURM_NTASKS=$tasks "${words[@]}" & jobs+=($!)
done
worst=0
for job in "${jobs[@]}"; do wait "$job" || { status=$?; ((status > worst)) && worst=$status; }; done
exit "$worst"
"""
# Stands for uda: joins the others as `uda train` does, says who it is, and ends as told.
JOINS = f"""\
#!{sys.executable}
import os, sys
from uda_jax.cli.main import parsed
from uda_jax.runs import processes, rendezvous, signals
options = parsed(sys.argv[1:])
place = rendezvous.place(options.coordinator, options.num_processes, options.process_id, options.start_timeout)
with processes.joined(place, signals.Stop(), str):
    import jax
    line = f"process {{jax.process_index()}} of {{jax.process_count()}}, workdir {{options.workdir}}\\n"
    os.write(1, line.encode())  # In one piece, since both write into the same pipe.
sys.exit(options.stopped_status)
"""
ENDS = "#!/usr/bin/env bash\nexit ${ENDS:-0}\n"


def free_job_number():
    """Returns the number of a job whose port is free: JAX takes one from 61440 on by it."""
    for number in random.sample(range(4096), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", 61440 + number))
            return str(number)
    raise AssertionError("no free port was found")


@pytest.fixture
def slurm(stubs):
    """Returns a function that runs the batch script with words, as SLURM would; `uda` is the text of a script."""
    stubs.add("bin/srun", SRUN)

    def run(*words, uda=ENDS, tasks=2, **variables):
        path = stubs.folder / "task"
        path.write_text(uda)
        path.chmod(0o755)
        job = {"SLURM_JOB_ID": free_job_number(), "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": str(tasks)}
        return stubs.run("slurm.sbatch", *words, UDA=str(path), JAX_PLATFORMS="cpu", **job, **variables)

    return run


def test_jax_finds_the_tasks_of_a_slurm_job(slurm, stubs):
    """Two processes on this machine, by JAX's own detection."""
    done = slurm(*WORDS, uda=JOINS)
    assert {line for line in done.stdout.splitlines() if line.startswith("process")} == {
        "process 0 of 2, workdir runs/a b",
        "process 1 of 2, workdir runs/a b",
    }, done.stderr
    assert done.returncode == 75 and ["scontrol", "requeue"] == stubs.calls[-1][:2]


@pytest.mark.parametrize(("ends", "requeued"), [(0, False), (75, True), (1, False), (2, False)])
def test_a_job_goes_back_into_the_queue_only_if_it_was_stopped(slurm, stubs, ends, requeued):
    done = slurm(*WORDS, ENDS=str(ends), tasks=1)
    assert done.returncode == ends, done.stderr
    assert [call[0] for call in stubs.calls] == ["srun"] + ["scontrol"] * requeued


def test_data_are_copied_once_per_node(slurm, stubs):
    assert slurm(*WORDS, DATA="/shared/gta5", LOCAL="/tmp/uda data", SLURM_CPUS_PER_TASK="3").returncode == 0
    copies = [call for call in stubs.calls if call[0] == "rsync"]
    assert copies == [["rsync", "--archive", "/shared/gta5/", "/tmp/uda data/"]]
    task = [call for call in stubs.calls if call[0] == "srun"][-1]
    assert task[1:3] == ["--kill-on-bad-exit=0", "--cpus-per-task=3"] and task[4:9] == ["train", *WORDS]


def test_the_directives_of_the_job_give_every_gpu_a_task():
    text = (LAUNCH / "slurm.sbatch").read_text()
    begun = next(n for n, line in enumerate(text.splitlines()) if re.match("[A-Za-z]", line))
    lines = [(n, line) for n, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")]
    assert lines and all(n < begun for n, _ in lines)  # sbatch reads none after the first command.
    given = dict(re.fullmatch("#SBATCH --([a-z-]+)(?:=(.*))?", line).groups() for _, line in lines)
    assert given["ntasks-per-node"] == given["gpus-per-node"] and given["gpu-bind"] == "none"
    assert "gpus-per-task" not in given and "requeue" in given and given["open-mode"] == "append"
    assert re.fullmatch("TERM@[0-9]+", given["signal"])


def environment_of(printed):
    """Returns the variables and the command of a line that a dry run printed."""
    words = shlex.split(printed)
    assert words[:2] == ["env", "--unset=XLA_PYTHON_CLIENT_MEM_FRACTION"]
    number = next(n for n, word in enumerate(words[2:], 2) if "=" not in word)
    return dict(word.split("=", 1) for word in words[2:number]), words[number:]


def test_gpu_host_runs_what_it_prints(stubs):
    settings = {"GPUS": "0,1", "MEMORY": ".5", "REPRODUCIBLE": "true", "XLA_FLAGS": "--mine=1"}
    variables, command = environment_of(stubs.run("gpu_host.sh", "--dry-run", *WORDS, **settings).stdout)
    assert command == ["uda", "train", *WORDS]
    assert variables == {
        "JAX_PLATFORMS": "cuda,cpu",
        "XLA_CLIENT_MEM_FRACTION": ".5",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "XLA_FLAGS": "--mine=1 --xla_gpu_autotune_level=4 --xla_gpu_enable_latency_hiding_scheduler=true "
        "--xla_gpu_deterministic_ops=true",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    stubs.add("task", 'env; echo "words: $*"; exit 7\n', record=False)
    done = stubs.run("gpu_host.sh", *WORDS, UDA=str(stubs.folder / "task"), **settings)
    assert done.returncode == 7 and f"words: train {' '.join(WORDS)}" in done.stdout
    assert {f"{name}={value}" for name, value in variables.items()} <= set(done.stdout.splitlines())


def test_the_flags_and_variables_of_gpu_host_are_known_to_this_jax(stubs):
    """XLA ends a process that names a flag it does not know, also where no GPU is."""
    code = (
        "import jax, jaxlib.xla_client as client; jax.config.update('jax_platforms', 'cpu');"
        "jax.numpy.zeros(1).block_until_ready(); options = client.generate_pjrt_gpu_plugin_options();"
        "print(options['memory_fraction'], options['preallocate'])"
    )
    stubs.add("task", f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}", record=False)
    settings = {"UDA": str(stubs.folder / "task"), "REPRODUCIBLE": "true", "PREALLOCATE": "false"}
    done = stubs.run("gpu_host.sh", *WORDS, XLA_PYTHON_CLIENT_MEM_FRACTION=".1", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0.9 False\n"


@pytest.mark.parametrize("script", ["gpu_host.sh", "slurm.sbatch"])
def test_without_words_the_scripts_say_what_they_expect(stubs, script):
    done = stubs.run(script)
    assert done.returncode == 2 and "expected the words of 'uda train'" in done.stderr and not stubs.calls


def test_a_dry_run_of_the_job_runs_nothing(slurm, stubs):
    done = slurm("--dry-run", *WORDS, DATA="/shared/gta5")
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not stubs.calls
    assert [line[0] for line in lines] == ["srun"] * 3
    assert lines[-1][-9:] == ["train", *WORDS, "--coordinator", "auto", "--stopped-status", "75"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert command, "shellcheck is missing; install the test extra"
    done = subprocess.run([command, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_file_is_named_by_the_page_of_its_folder():
    page = (LAUNCH / "README.md").read_text()
    files = [path.name for path in LAUNCH.iterdir() if path.is_file() and path.name != "README.md"]
    assert files and all(f"`{name}`" in page for name in files)


def test_without_a_newer_python_the_newest_jax_is_skipped_with_the_reason(stubs):
    """As with a shim of pyenv that has nothing behind it."""
    stubs.add("bin/python3.13", "exit 127\n", record=False)
    for tool in ("bash", "dirname"):
        (stubs.folder / "bin" / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [shutil.which("bash"), ROOT / ".ci" / "newest"],
        capture_output=True,
        text=True,
        env={"PATH": str(stubs.folder / "bin"), "PYENV_ROOT": str(stubs.folder), "STUBS": str(stubs.folder)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("newest JAX: skipped, no Python 3.12, 3.13 or 3.14 with venv on PATH or in pyenv")
