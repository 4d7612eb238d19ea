"""What a command that computes sets up before jax starts, and options that several commands have."""

import argparse
import os
from pathlib import Path


def prepare_jax() -> None:
    """Sets the allocator, before jax starts threads, and the compilation cache, before anything is compiled."""
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "uda_jax" / "xla"))


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds `--step`, which chooses among the checkpoints of a run's last stage."""
    parser.add_argument(
        "--step", type=_step, default="last", help="checkpoint: last, best on the dev split, or a step that was kept"
    )


def _step(word: str) -> str | int:
    if word in ("last", "best"):
        return word
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"expected last, best or a step, got '{word}'")
    return int(word)
