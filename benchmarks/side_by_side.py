"""Two libraries timed side by side: a warm worker process each, repeats in turns, and what others did meanwhile."""

import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

# A repeat of what is short is the mean of as many runs as take this long, in milliseconds.
SHORTEST = 50.0
PAUSE = 0.1
MIB = 2**20


class Spread(NamedTuple):
    """A middle figure and the range around it."""

    middle: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(times: Sequence[float], reference: Sequence[float]) -> Spread:
    """Returns the ratio of the medians, and the lowest and highest ratio within one turn."""
    pairs = [time / other for time, other in zip(times, reference, strict=True)]
    return Spread(statistics.median(times) / statistics.median(reference), min(pairs), max(pairs))


class Side:
    """What both libraries' workers share. A subclass sets `calls`: phase to a function that runs it once and waits."""

    calls: dict[str, Callable[[], Any]]
    runs: int = 1

    def settle(self, phase: str) -> None:
        """Gives memory that is free back to the kernel, forgets the peak so far and runs a phase until it is warm."""
        gc.collect()
        # What building and compiling took is no memory of the phase.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.calls[phase]()
        self.runs = 1
        self.runs = math.ceil(SHORTEST / self.timed(phase))

    def timed(self, phase: str) -> float:
        """Returns the milliseconds of a run, the mean of a repeat."""
        start = time.perf_counter()
        for _ in range(self.runs):
            self.calls[phase]()
        return 1000 * (time.perf_counter() - start) / self.runs

    def peak(self) -> float:
        """Returns the peak resident MiB since `settle`: weights, interpreter and libraries included."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _serve(connection: Connection, side: type[Side], case: Any) -> None:
    """Runs in a worker: answers (method, arguments) until None comes."""
    from uda_jax.training import allocator

    # Before the library starts its threads.
    if not allocator.keep_freed_memory():
        sys.exit("benchmarks: memory is measured on Linux with glibc only; run it there")
    worker = side(case)
    connection.send(None)
    while request := connection.recv():
        method, arguments = request
        connection.send(getattr(worker, method)(*arguments))


class Worker:
    """The parent's end of a worker process."""

    def __init__(self, process: multiprocessing.Process, connection: Connection):
        self.pid = process.pid
        self._connection = connection

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the worker's side returns."""
        self._connection.send((method, arguments))
        return self.answer()

    def answer(self) -> Any:
        """Returns the next answer; the first one tells that the side is built."""
        try:
            return self._connection.recv()
        except EOFError:
            sys.exit(f"benchmarks: worker {self.pid} ended early; its own message is above")


@contextlib.contextmanager
def workers(case: Any, *sides: type[Side]) -> Iterator[list[Worker]]:
    """Starts a worker per side, one after the other, and ends them.

    Args:
      case: what each side is built of; it has to be picklable.
      *sides: their classes.
    """
    context = multiprocessing.get_context("spawn")
    processes, ends, started = [], [], []
    try:
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, side, case), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            ends.append(here)
            started.append(Worker(process, here))
            started[-1].answer()
        yield started
        for end in ends:
            end.send(None)
    finally:
        for process, end in zip(processes, ends, strict=True):
            end.close()
            process.join(10)
            process.kill()


class ForeignLoad:
    """Cores that others kept busy, on average, since this was made."""

    def __init__(self, pids: Sequence[int]):
        self._pids = pids
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        # user, nice, system, (idle, iowait,) irq, softirq, steal
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        # The name of a process may hold blanks; what follows its bracket starts with field 3, and 14 and 15 are times.
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._pids]
        own = sum(int(words[11]) + int(words[12]) for words in stats)
        hertz = os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), (sum(ticks[:3]) + sum(ticks[5:])) / hertz, own / hertz

    def cores(self) -> float:
        """Returns the average; clocks tick coarsely, so it is not below 0 only because that is cut off."""
        wall, busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / wall)


def turns(sides: Mapping[str, Worker], phase: str, repeats: int) -> tuple[dict[str, list[float]], float]:
    """Runs a phase on each side in turns; returns the milliseconds and the foreign load meanwhile, in cores."""
    for worker in sides.values():
        worker.ask("settle", phase)
    times = {name: [] for name in sides}
    load = ForeignLoad([os.getpid(), *(worker.pid for worker in sides.values())])
    for turn in range(repeats):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            # Threads of the side before that spin for more work come to rest.
            time.sleep(PAUSE)
            times[name].append(sides[name].ask("timed", phase))
    return times, load.cores()


def compared(sides: Mapping[str, Worker], phase: str, repeats: int) -> dict[str, Any]:
    """Returns the times of a phase on the sides "jax" and "torch", their ratio, peaks and the foreign load."""
    times, foreign = turns(sides, phase, repeats)
    return {
        **{f"{name}_ms": spread(found)._asdict() for name, found in times.items()},
        "ratio": ratio(times["jax"], times["torch"])._asdict(),
        **{f"{name}_peak_mib": worker.ask("peak") for name, worker in sides.items()},
        "foreign_cores": foreign,
        "times_ms": times,
    }


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
