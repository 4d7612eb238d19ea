"""The command `uda config`: what a config sets, and what every field of it means."""

import argparse
from collections.abc import Callable

from uda_jax.cli.console import show
from uda_jax.errors import UserError


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns a command's parser."""
    config = command("config", _config, "list the fields of a config: value, range, meaning", takes_overrides=True)
    config.add_argument("reference", help="advent:streets, or path/to/file.py:setting")
    config.add_argument("prefix", nargs="?", help="a field or a section alone, such as train or method.segmenter")
    config.add_argument("--changed", action="store_true", help="only the fields that are not at their default")
    config.add_argument("--diff", metavar="OTHER", help="list instead what differs from another config")


def _config(options: argparse.Namespace) -> int:
    from uda_jax import config
    from uda_jax.runs import config_listing

    def rows(reference: str, *words: str) -> list[config_listing.Row]:
        return config_listing.rows(config.experiment(config.load(reference, words)))

    ours = rows(options.reference, *options.overrides)
    if options.diff is None:
        found = config_listing.chosen(ours, options.prefix)
        shown = [row for row in found if row.changed] if options.changed else found
        show(config_listing.listing(shown) or "every field is at its default")
        return 0
    if options.changed:
        raise UserError("--changed: has no effect beside --diff; leave one of them out")
    theirs = rows(options.diff)
    # A section that one of the two lacks is no mistake.
    wanted = {row.path for row in config_listing.chosen([*ours, *theirs], options.prefix)}
    sides = [[row for row in side if row.path in wanted] for side in (ours, theirs)]
    names = (options.reference, options.diff)
    show(config_listing.differences(*sides, names) or f"{names[0]} and {names[1]} set the same")
    return 0
