"""The command line `uda`; see `uda --help`."""

from uda_jax.cli.main import main

__all__ = ["main"]
