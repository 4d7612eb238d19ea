"""The command line: `uda <command>`; `uda --help` lists the commands, one file here per group of them.

A mistake of the user ends with one line on stderr and exit status 2; subpackages are imported by the command that
needs them, so that `uda --help` is quick.
"""

import argparse
import errno
import sys
from collections.abc import Sequence

from uda_jax.cli import data, inference, inspection, training, weights
from uda_jax.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and not (options.takes_overrides and all(word.startswith("--config.") for word in rest)):
        unknown = [word for word in rest if not (options.takes_overrides and word.startswith("--config."))]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.overrides = tuple(rest)
    options.words = words
    try:
        return options.run(options)
    except UserError as error:
        print(f"uda: error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("uda: interrupted; the same command goes on or starts again", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"uda: error: {where}the disk is full; free some space and rerun the same command", file=sys.stderr)
    return USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="uda", description="Domain-adaptive semantic segmentation in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, text, *, takes_overrides=False):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, takes_overrides=takes_overrides)
        return sub

    for group in (training, inference, weights, data, inspection):
        group.add(command)
    return parser
