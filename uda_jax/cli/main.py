"""The command line: `uda <command>`; `uda --help` lists the commands, one file here per group of them.

A mistake of the user, and whatever the operating system refuses, ends with one line on stderr and exit status 2;
subpackages are imported by the command that needs them, so that `uda --help` is quick.
"""

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from uda_jax import __version__
from uda_jax.cli import (
    budget,
    completion,
    configs,
    console,
    data,
    demo,
    depth,
    export,
    inference,
    inspection,
    new,
    outcome,
    plan,
    select,
    sweep,
    training,
    verification,
    weights,
)
from uda_jax.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
READER_GONE = 141  # what they report for one whose reader has ended, as `head` does

_OVERRIDE = "--config."
_OVERRIDES = "Fields of the config are set by words such as --config.train.steps=3000; 'uda config' lists them."
# Overrides without their beginning, or with dashes that are no hyphens, as pages and chats make of two.
_NEARLY_OVERRIDE = re.compile(
    "(?:--(?!config[.])|-?[\u2010-\u2015\u2212]-?(?:config[.])?|config[.])([a-z_]+[.][^=]+=.*)", re.S
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    console.escape_what_cannot_be_shown()
    try:
        options = parsed(words)
        status = options.run(options)
        # What is left in the buffer would fail where nothing can catch it.
        console.flush()
        return status
    except KeyboardInterrupt as interrupt:
        console.report(str(interrupt) or "interrupted; the same command goes on or starts again")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and console.reader_is_gone():
            console.silence()
            return READER_GONE
        line = outcome.line_of(error)
        if line is None:
            raise
    console.report(f"error: {line}")
    return USER_ERROR


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Returns the options of a command, its overrides among them."""
    _check_overrides(words)
    # Taken out before argparse sees them: it would give a word with a space in it to an option of several values.
    overrides = tuple(word for word in words if word.startswith(_OVERRIDE))
    options, unknown = _parser().parse_known_args([word for word in words if not word.startswith(_OVERRIDE)])
    if unknown:
        # Behind options argparse takes no further words without one.
        behind = not unknown[0].startswith("-") and any(word.startswith("-") for word in words)
        remedy = "give what has no option's name before the options, or " if behind else ""
        raise UserError(f"unrecognized arguments: {shlex.join(unknown)}; {remedy}see 'uda {options.command} --help'")
    if overrides and not options.takes_overrides:
        raise UserError(f"{overrides[0]}: uda {options.command} takes no overrides; leave it out")
    options.overrides, options.words = overrides, list(words)
    return options


def _check_overrides(words: Sequence[str]) -> None:
    """Raises a UserError for an override without a value, and for a word after one, which belongs to its value."""
    for word, following in itertools.pairwise([*words, "--"]):
        if meant := _NEARLY_OVERRIDE.fullmatch(word):
            raise UserError(f"{word}: expected an override; write {shlex.quote(f'{_OVERRIDE}{meant[1]}')}")
        if not word.startswith(_OVERRIDE):
            continue
        # Commands that take overrides have no arguments without an option's name, but for one that comes first.
        stray = not following.startswith("--")
        if "=" not in word:
            value = following if stray else "value"
            raise UserError(f"{word}: expected {word}=value in one word; write {shlex.quote(f'{word}={value}')}")
        if stray:
            remedy = shlex.quote(f"{word} {following}")
            raise UserError(
                f"{word}: expected an option after it, got '{following}'; for a value with spaces, {remedy}"
            )


class _Parser(argparse.ArgumentParser):
    """Tells mistakes as all others are told: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see '{self.prog} --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="uda", description="Domain-adaptive semantic segmentation in JAX.")
    parser.add_argument("--version", action="version", version=f"uda_jax {__version__}")
    text = "print the script by which a shell completes words, and end"
    parser.add_argument("--print-completion", action=completion.PrintCompletion, choices=completion.SHELLS, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, text, *, takes_overrides=False):
        more = _OVERRIDES if takes_overrides else None
        sub = commands.add_parser(name, help=text, description=text, epilog=more, allow_abbrev=False)
        sub.set_defaults(run=run, takes_overrides=takes_overrides)
        return sub

    for group in (
        demo,
        new,
        training,
        sweep,
        budget,
        plan,
        inference,
        select,
        verification,
        export,
        depth,
        weights,
        data,
        configs,
        inspection,
    ):
        group.add(command)
    return parser
