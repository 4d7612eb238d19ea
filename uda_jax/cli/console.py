"""What commands print: text from files and folders must neither end a command nor steer the terminal."""

import contextlib
import importlib
import inspect
import io
import os
import select
import sys
from collections.abc import Iterable

from uda_jax.errors import printable

# How the paragraph of a module begins that says when it is the one to take.
TAKE = "Take it "


def escape_what_cannot_be_shown() -> None:
    """Makes characters that a stream's encoding lacks appear as escapes, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: object) -> None:
    """Prints a result to stdout, its control characters as escapes."""
    print("\n".join(map(printable, str(text).split("\n"))), flush=True)


def show_modules(package: str, names: Iterable[str], width: int) -> None:
    """Prints what the modules of a package are, and when to take which, as the heads of their own pages say."""
    for name in names:
        summary, take = summary_of(f"{package}.{name}")
        show(f"  {name:{width}} {summary}" + (f"\n  {'':{width}} {take}" if take else ""))


def summary_of(module: str) -> tuple[str, str]:
    """Returns what a module is, and the line that says when to take it, "" if it has none."""
    summary, _, rest = inspect.getdoc(importlib.import_module(module)).partition("\n\n")
    take = next((paragraph for paragraph in rest.split("\n\n") if paragraph.startswith(TAKE)), "")
    # A line of the paragraph that follows its sentence is a formula.
    sentence, stop, _ = take.partition(".\n")
    return summary, " ".join((sentence + stop).split())


def report(text: str) -> None:
    """Prints one line to stderr; a broken pipe there is nobody's loss."""
    with contextlib.suppress(BrokenPipeError):
        print(f"uda: {printable(text)}", file=sys.stderr, flush=True)


def flush() -> None:
    """Writes out what stdout still holds."""
    if sys.stdout is not None:
        sys.stdout.flush()


def reader_is_gone() -> bool:
    """Returns whether stdout or stderr is a pipe that nobody reads any more, as after `uda datasets | head -1`."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    poll = select.poll()
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def silence() -> None:
    """Sends what is left for stdout nowhere, so that Python's own flush at the end does not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
