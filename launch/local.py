"""Several processes on this machine, one run: to try what a cluster would do, or one process for each GPU.

    python launch/local.py --processes 2 --devices 4 -- train --config advent:streets --workdir runs/advent

Needs uda_jax installed for the Python that runs this, and nothing else. Every process holds its own copy of the state
and compiles for itself, so on one CPU two processes are no faster than one: one process that sees all the devices is
the usual choice on one machine.

What the first process prints is shown; of the others the last lines, if one of them fails. The exit status is that of
the first that failed. Ctrl-C, SIGTERM and SIGHUP go on to all of them, which save their state and stop. If the launcher
itself is killed, Linux kills the processes with it; elsewhere (macOS) they go on until they are done or are ended by
the ids that `--show-ids` prints.
"""

import argparse
import collections
import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

PATIENCE = 90  # seconds for the others to end after one has failed, or after a signal; then they are killed
LINES = 20  # of a failed process that are shown, unless all are
POLL = 0.1  # seconds between two looks at the processes
COMMAND = (sys.executable, "-m", "uda_jax.cli")

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_C = ctypes.CDLL(None)  # Here, since between fork and exec nothing should be loaded.


def main(words: Sequence[str] | None = None) -> int:
    """Runs the processes to their end and returns the exit status of the first that failed, or 0."""
    options = _options(words)
    commands = plan(options.processes, options.devices, options.words, options.port)
    if options.dry_run:
        for command, variables in commands:
            print(shlex.join([f"{name}={value}" for name, value in variables.items()] + command))
        return 0
    return _Processes(commands, all_output=options.all_output, show_ids=options.show_ids).run()


def plan(
    processes: int, devices: int | None, words: Sequence[str], port: int | None = None
) -> list[tuple[list[str], dict[str, str]]]:
    """Returns the command of each process, and the environment variables that it needs besides.

    Args:
      processes: how many; a single one is started as if there were no launcher.
      devices: CPU devices that each of them sees; None = whatever devices there are.
      words: of the command, such as ["train", "--config", ...].
      port: where the first process is found by the others; None = a free one.
    """
    variables = {}
    if devices is not None:
        flags = [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}"]
        variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(filter(None, flags))}
    if processes == 1:
        return [([*COMMAND, *words], variables)]
    together = ["--coordinator", f"localhost:{port or free_port()}", "--num-processes", str(processes)]
    return [([*COMMAND, *words, *together, "--process-id", str(k)], variables) for k in range(processes)]


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class _Processes:
    """The processes, and the last lines of those that are not shown."""

    def __init__(self, commands: Sequence[tuple[list[str], dict[str, str]]], *, all_output: bool, show_ids: bool):
        self._commands, self._all_output, self._show_ids = commands, all_output, show_ids
        self._running: list[subprocess.Popen] = []
        self._lines: list[collections.deque[str]] = [collections.deque(maxlen=LINES) for _ in commands]
        self._readers: list[threading.Thread] = []
        self._kill_at: float | None = None

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        try:
            for k in range(len(self._commands)):
                self._start(k)
            for k, process in enumerate(self._running):
                if process.stdout is not None:
                    self._readers.append(threading.Thread(target=self._read, args=(k, process), daemon=True))
                    self._readers[-1].start()
            return self._wait()
        finally:
            for process in self._running:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _start(self, number: int) -> None:
        command, variables = self._commands[number]
        piped = self._all_output or number > 0
        parent = os.getpid()
        process = subprocess.Popen(
            command,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.STDOUT if piped else None,
            # A terminal's Ctrl-C would else reach them twice, from it and from here.
            start_new_session=True,
            preexec_fn=lambda: _end_with_parent(parent),
        )
        self._running.append(process)
        if self._show_ids:
            print(f"local: process {number} has the id {process.pid}", file=sys.stderr, flush=True)

    def _wait(self) -> int:
        """Returns when all have ended; the first failure is the result."""
        status, failed = 0, None
        left = dict(enumerate(self._running))
        while left:
            for k, process in list(left.items()):
                if (code := process.poll()) is None:
                    continue
                del left[k]
                if code and failed is None:
                    # What shells report for a program that a signal ended.
                    failed, status = k, code if code > 0 else 128 - code
                    self._kill_at = self._kill_at or time.monotonic() + PATIENCE
            if left and self._kill_at is not None and time.monotonic() > self._kill_at:
                print(f"local: {len(left)} processes have not ended in {PATIENCE} s; killed", file=sys.stderr)
                for process in left.values():
                    process.kill()
                self._kill_at, status = None, status or 1
            time.sleep(POLL)
        for reader in self._readers:
            reader.join(timeout=1)  # Workers of a process that was killed may hold its pipe for a moment.
        if failed is not None and not self._all_output and status != 128 + signal.SIGINT:
            self._show(failed, status)
        return status

    def _show(self, failed: int, status: int) -> None:
        """Prints what is known about the first failure, unless it is on the screen already."""
        print(f"local: process {failed} was the first to fail, with status {status}", file=sys.stderr)
        for line in self._lines[failed]:
            print(f"[{failed}] {line}", file=sys.stderr)

    def _read(self, number: int, process: subprocess.Popen) -> None:
        for raw in process.stdout:
            line = raw.decode(errors="backslashreplace").rstrip("\n")
            if self._all_output:
                print(f"[{number}] {line}", flush=True)
            else:
                # Of a line that is rewritten in place the last state counts.
                self._lines[number].append(line.rsplit("\r", 1)[-1])

    def _pass_on(self, number: int, frame: object) -> None:
        del frame
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        self._kill_at = time.monotonic() + PATIENCE


def _end_with_parent(parent: int) -> None:
    """Makes Linux kill the process that calls it when its parent is gone, whatever ended that."""
    if sys.platform != "linux":
        return
    _C.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/local.py", description="Runs one uda command in several processes on this machine."
    )
    parser.add_argument("--processes", type=_count, default=2, help="how many (default: 2)")
    parser.add_argument("--devices", type=_count, help="CPU devices of each process (default: the devices there are)")
    parser.add_argument("--port", type=_count, help="where process 0 is found (default: a free port)")
    parser.add_argument("--all-output", action="store_true", help="show the lines of all, each with its number")
    parser.add_argument("--show-ids", action="store_true", help="print the id of each process")
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    parser.add_argument("words", nargs="+", metavar="-- command", help="such as: -- train --config ... --workdir ...")
    return parser.parse_args(words)


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{word}'")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
