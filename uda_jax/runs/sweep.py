"""Many runs of one config: a grid of settings and seeds, each `uda train` in a process and a folder of its own.

What is finished is passed over and what broke off goes on, so that the same sweep, run again, comes to its end.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import queue
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from uda_jax import config
from uda_jax.data.io import atomic
from uda_jax.errors import UserError
from uda_jax.report import tables
from uda_jax.training.layout import RunFiles

_OVERRIDE = "--config."
_SEED = f"{_OVERRIDE}seed"
# Commas outside of brackets and quotes.
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: what it differs by, and its folder's name.
      reference: of the config.
      words: its overrides.
      workdir: its folder.
    """

    name: str
    reference: str
    words: tuple[str, ...]
    workdir: Path

    @property
    def command(self) -> list[str]:
        """The words of its `uda` command."""
        return ["train", "--config", self.reference, "--workdir", str(self.workdir), *self.words]

    def rows(self) -> list[dict[str, Any]] | None:
        """Returns its result rows, or None as long as it, and nothing else in its folder, is not finished."""
        file = RunFiles(self.workdir).result
        found = tables.read_rows(file) if file.exists() else None
        mine = all(row["config"] == self.reference and tuple(row["overrides"]) == self.words for row in found or ())
        return found if mine else None


def grid(reference: str, words: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Run]:
    """Returns the runs of a sweep: of each seed, every combination of the values of its overrides.

    A value is split at its commas, but for those in brackets or quotes and but for that of a field which holds a tuple,
    such as a size. An override that is given again adds a value to those of before; then none of them is split.

    Args:
      reference: of the config.
      words: overrides such as "--config.train.steps=100,200".
      seeds: of the runs.
      folder: where their folders go.

    Raises:
      UserError: a config that does not load or is not valid with the values of a run, a seed among the overrides.
    """
    given = collections.defaultdict(list)
    for word in words:
        field, _, value = word.partition("=")
        given[field].append(value)
    if _SEED in given:
        raise UserError(f"{_SEED}: the seeds of a sweep are given by --seeds; leave it out")
    plain = config.load(reference)
    values = {
        field: found if len(found) > 1 or _holds_tuple(plain, field) else split(found[0])
        for field, found in given.items()
    }
    varied = [field for field, found in values.items() if len(found) > 1]
    last = {field: field.rpartition(".")[2] for field in varied}
    short = collections.Counter(last.values())
    called = {field: last[field] if short[last[field]] == 1 else field.removeprefix(_OVERRIDE) for field in varied}
    runs = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        parts = [f"{called[field]}={settings[field]}" for field in varied]
        for seed in seeds:
            own = (*(f"{field}={value}" for field, value in settings.items()), f"{_SEED}={seed}")
            config.experiment(config.load(reference, own))
            name = re.sub(r"[^\w.+=-]+", "_", "-".join([*parts, f"seed{seed}"]))[:150]
            runs.append(Run(name, reference, own, folder / name))
    twice = [name for name, count in collections.Counter(run.name for run in runs).items() if count > 1]
    if twice:
        raise UserError(f"uda sweep: two runs would be called '{twice[0]}'; leave out the value that is there twice")
    return runs


def split(value: str) -> list[str]:
    """Returns the parts of a value between its commas, but for those in brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in value:
        if quote or letter in _QUOTES:
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _holds_tuple(plain: ConfigDict, field: str) -> bool:
    node: Any = plain
    for name in field.removeprefix(_OVERRIDE).split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            return False  # Loading it with the override names the field.
        holder, node = node, node[name]
    return isinstance(node, tuple) or holder.get_type(name) is tuple


def devices(environment: Mapping[str, str], machine: Path = Path("/dev")) -> list[str]:
    """Returns what names each GPU of this machine in CUDA_VISIBLE_DEVICES; none where JAX is to use the CPU.

    Args:
      environment: variables of the process.
      machine: the folder of the machine's devices.
    """
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    if (chosen := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in machine.glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdecimal()), key=int)


def run_all(
    runs: Sequence[Run], output: Path, slots: Sequence[str | None], say: Callable[[str], None]
) -> dict[str, str]:
    """Runs what is not finished, and after each run writes the rows so far.

    Args:
      runs: from `grid`.
      output: a JSON file, the list of the rows of all runs that are finished; rows of other runs in it stay.
      slots: one for each process at a time: the GPU that it sees, or None for what there is.
      say: called with one line when a run begins or ends, from any thread.

    Returns:
      Of each run that failed, its name and why.
    """
    free: queue.SimpleQueue = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    alone, running, failed = len(slots) == 1, [], {}

    def one(run: Run) -> str | None:
        slot = free.get()
        try:
            return _finish(run, slot, running, say, shown=alone)
        finally:
            free.put(slot)

    waiting = []
    for run in runs:
        if run.rows() is None:
            waiting.append(run)
        else:
            say(f"{run.name}: finished before")
    store(output, runs)
    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        futures = {pool.submit(one, run): run for run in waiting}
        try:
            for future in concurrent.futures.as_completed(futures):
                run, why = futures[future], future.result()
                say(f"{run.name}: {why or 'finished'}")
                failed |= {run.name: why} if why else {}
                store(output, runs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()  # It saves its state, which the end of the block waits for.
            raise
    return failed


def _finish(run: Run, slot: str | None, running: list, say: Callable[[str], None], *, shown: bool) -> str | None:
    """Trains a run to its end; returns why it did not get there, or None."""
    environment = os.environ | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
    words = [sys.executable, "-m", "uda_jax", *run.command]
    log = run.workdir.with_name(f"{run.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{run.name}: begins" + ("" if shown else f", its output goes to {log}"))
    with contextlib.nullcontext() if shown else log.open("w") as file:
        # A session of its own: Ctrl-C reaches it through this process alone, once.
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, start_new_session=True)
        running.append(process)
        status = process.wait()
    running.remove(process)
    if status:
        last = "" if shown else (log.read_text(errors="replace").splitlines() or [""])[-1]
        return f"failed with status {status}" + (f": {last}" if last else "")
    stages = config.experiment(config.load(run.reference, run.words)).recipe or ("train",)
    ended = RunFiles(run.workdir).stage(stages[-1]).finished.exists()
    return None if ended else "was stopped before its end"


def store(output: Path, runs: Sequence[Run]) -> None:
    """Puts the rows of runs that are finished into a file, in place of earlier ones of the same run."""
    found = [row for run in runs for row in run.rows() or ()]
    before = tables.read_rows(output) if output.exists() else []
    kept = [row for row in before if _key(row) not in set(map(_key, found))]
    if kept + found:
        output.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(output, json.dumps(kept + found, indent=1) + "\n")


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["label"], row["config"], row["seed"], tuple(row["overrides"]), row.get("domain")
