"""What a command that computes sets up before jax starts, and options that several commands have."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from uda_jax.errors import UserError, printable


def place(word: str) -> Path:
    """The type of an option that takes a local path, or an address in a bucket."""
    from uda_jax.data.io import places

    return _argument(places.place, word)


def local(word: str) -> Path:
    """The type of an option that takes a local path alone."""
    from uda_jax.data.io import places

    return _argument(places.local, word)


def _argument(read: Callable[[str], Path], word: str) -> Path:
    try:
        return read(word)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def say_that_it_starts(what: str) -> None:
    """Prints a line at once if JAX and the libraries on it, seconds of imports, are still to come."""
    if "jax" not in sys.modules:
        print(printable(f"{what}: loading JAX"), file=sys.stderr, flush=True)


def prepare_jax() -> None:
    """Sets the allocator, before jax starts threads, and the compilation cache, before anything is compiled."""
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # A user without a home, as in many containers, compiles anew.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "uda_jax" / "xla"))
        # The programs that draw parameters take less than the second from which JAX keeps them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def leave_accelerators_alone() -> None:
    """Keeps jax off accelerators, for a command that computes nothing: a training may be using them."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def add_step(parser: argparse.ArgumentParser, default: str | None = "last") -> None:
    """Adds `--step`, which chooses among the checkpoints of a run's last stage; None = the one of its result row."""
    text = "checkpoint: last, best on the dev split, or a step that was kept"
    text += "" if default else "; by default that of the run's result"
    parser.add_argument("--step", type=_step, default=default, help=text)


def _step(word: str) -> str | int:
    if word in ("last", "best"):
        return word
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"expected last, best or a step, got '{word}'")
    return int(word)


def at_least(low: int) -> Callable[[str], int]:
    """Returns the type of an option that takes a whole number from `low` on."""

    def number(word: str) -> int:
        # Not isdecimal: a minus sign is part of the mistake.
        with contextlib.suppress(ValueError):
            if int(word) >= low:
                return int(word)
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got '{word}'")

    return number


def size(word: str) -> tuple[int, int]:
    """The type of an option that takes a size such as 1280x720, width first as the papers write it: (height, width)."""
    width, _, height = word.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected width x height such as 1280x720, got '{word}'")
    return int(height), int(width)
