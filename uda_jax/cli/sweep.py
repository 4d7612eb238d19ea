"""The command `uda sweep`: many runs of one config."""

import argparse
import os
import re
import shlex
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from uda_jax.cli.console import report, show
from uda_jax.cli.environment import at_least, leave_accelerators_alone, local
from uda_jax.errors import UserError


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    sweep = command(
        "sweep", _sweep, "train a config with several seeds and settings, or go on with that", takes_overrides=True
    )
    sweep.add_argument("config", help="advent:streets, or path/to/file.py:setting")
    sweep.add_argument("--seeds", type=numbers, default=[0], metavar="0,1,2", help="one run of each (0)")
    sweep.add_argument("--workdir", type=local, help="folder of the runs' folders; by default runs/sweep/<config>")
    sweep.add_argument("--output", type=local, help="file of the result rows; by default <workdir>/rows.json")
    text = "runs at a time; by default one for each GPU, without one they follow each other"
    sweep.add_argument("--parallel", type=at_least(1), help=text)


def numbers(word: str) -> list[int]:
    """The type of an option that takes numbers such as 0,1,2, each counted once."""
    if re.fullmatch("[0-9]+(,[0-9]+)*", word):
        return list(dict.fromkeys(map(int, word.split(","))))
    raise argparse.ArgumentTypeError(f"expected numbers such as 0,1,2, got '{word}'")


def slots(parallel: int | None, environment: Mapping[str, str]) -> list[str | None]:
    """Returns what `runs.sweep.run_all` takes: for each run at a time the GPU that it sees, or None for what there is.

    Args:
      parallel: how many were asked for, or None.
      environment: variables of the process.
    """
    from uda_jax.runs import sweep

    found = sweep.devices(environment)
    if parallel and found and parallel > len(found):
        raise UserError(f"--parallel: expected at most one run for each of {len(found)} GPUs, got {parallel}")
    return found[:parallel] if found else [None] * (parallel or 1)


def stopped(number: int, frame: object) -> None:
    """Ends the sweep as Ctrl-C does."""
    del number, frame
    raise KeyboardInterrupt("sweep: stopped; the same command goes on from there")


def _sweep(options: argparse.Namespace) -> int:
    # The runs need the devices, and this process none of them.
    leave_accelerators_alone()
    from uda_jax.runs import sweep

    folder = options.workdir or Path("runs/sweep") / re.sub(r"[^\w.-]+", "_", options.config)
    output = options.output or folder / "rows.json"
    runs = sweep.grid(options.config, options.overrides, options.seeds, folder)
    places = slots(options.parallel, os.environ)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    failed = sweep.run_all(runs, output, places, lambda line: report(f"sweep: {line}"))
    done = len(runs) - len(failed)
    command = f"uda report {shlex.quote(str(folder))}/*/ --output {shlex.quote(f'{folder}/report.html')}"
    show(f"{output}: {done} of {len(runs)} runs are finished; {command}")
    for name, why in failed.items():
        show(f"{name}: {why}; the same command tries it again")
    return 1 if failed else 0
