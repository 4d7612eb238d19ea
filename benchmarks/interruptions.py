"""Two processes of one run, one of them asked to stop (SIGTERM) or killed (SIGKILL) at random moments.

    python -m benchmarks.interruptions --config advent:smoke --workdir /tmp/interruptions

An undisturbed run comes first. Each trial then starts the same run in a workdir of its own, sends the signal, waits for
both processes and runs the same command again to the end, whose last state is compared bit by bit. On a machine that
does nothing else, a trial takes about twice as long as the run.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from launch import local

PROCESSES = 2
LONGEST = 600  # seconds that anything may take


def main() -> None:
    """Prints one table: when, what ran, how long until both had ended, how, and whether the rerun came to the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="advent:smoke")
    parser.add_argument("--workdir", type=Path, required=True, help="is made; runs of an earlier call are deleted")
    parser.add_argument("--trials", type=int, default=5, help="for each signal")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options, overrides = parser.parse_known_args()
    shutil.rmtree(options.workdir, ignore_errors=True)
    whole = _Run(options.config, options.workdir / "whole", overrides)
    whole.start()
    seconds = whole.finish()
    if whole.statuses() != [0] * PROCESSES:
        raise SystemExit(f"the undisturbed run failed: {whole.lines()}")
    columns = ("signal", "to process", "after, s", "while", "both ended after, s", "statuses", "lines", "rerun")
    print(f"undisturbed: {seconds:.0f} s\n\n| {' | '.join(columns)} |")
    print("| --- | ---: | ---: | --- | ---: | --- | --- | --- |", flush=True)
    moments = random.Random(options.seed)
    for trial in range(options.trials):
        for number in (signal.SIGTERM, signal.SIGKILL):
            run = _Run(options.config, options.workdir / f"{number.name}-{trial}", overrides)
            victim, moment = moments.randrange(PROCESSES), moments.uniform(0.05, 0.95) * seconds
            run.start()
            time.sleep(moment)
            doing, ended = run.doing(), run.send(victim, number)
            statuses, lines = run.statuses(), run.lines()
            run.start()
            run.finish()
            same = "same bits" if run.state() == whole.state() else f"OTHER STATE, statuses {run.statuses()}"
            cells = (number.name, victim, f"{moment:.0f}", doing, f"{ended:.1f}", statuses, "<br>".join(lines), same)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


class _Run:
    """A run of two processes and what they print."""

    def __init__(self, config: str, workdir: Path, overrides: list[str]):
        self._words = ["train", "--config", config, "--workdir", str(workdir), *overrides]
        self._workdir, self._processes = workdir, []
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self._logs = [workdir.with_name(f"{workdir.name}-{k}.log") for k in range(PROCESSES)]

    def start(self) -> None:
        """Starts both processes, or starts them again."""
        self._processes = []
        for log, (command, variables) in zip(self._logs, local.plan(PROCESSES, 1, self._words), strict=True):
            with open(log, "w") as file:
                process = subprocess.Popen(command, env=os.environ | variables, stdout=file, stderr=file)
            self._processes.append(process)

    def send(self, victim: int, number: int) -> float:
        """Sends a signal to one and returns how many seconds pass until both have ended."""
        began = time.monotonic()
        self._processes[victim].send_signal(number)
        self.finish()
        return time.monotonic() - began

    def finish(self) -> float:
        """Waits for both and returns how many seconds that took; kills what does not end."""
        began = time.monotonic()
        for process in self._processes:
            try:
                process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return time.monotonic() - began

    def statuses(self) -> list[int]:
        """Returns the exit statuses."""
        return [process.returncode for process in self._processes]

    def doing(self) -> str:
        """Returns the last step that the first process has logged."""
        steps = [line.split()[0] for line in self._logs[0].read_text().splitlines() if "images/s" in line]
        return f"after step {steps[-1]}" if steps else "before the first step"

    def lines(self) -> list[str]:
        """Returns what both say of their end, a traceback's lines included, with the number of the process."""
        ours = ("uda: ", "Traceback", "F0", "E0", "Fatal", "terminate called")
        return [
            f"[{k}] {line}"
            for k, log in enumerate(self._logs)
            for line in log.read_text().splitlines()
            if line.startswith(ours)
        ]

    def state(self) -> dict[str, str]:
        """Returns the checksums of the arrays of the last stage's last checkpoint."""
        found = sorted(self._workdir.glob("*/checkpoints/[0-9]*/config/metadata"), key=os.path.getmtime)
        return json.loads(found[-1].read_text())["arrays"] if found else {}


if __name__ == "__main__":
    main()
