"""Words that shells complete: `uda --print-completion bash` prints the script, with the names of all configs."""

import argparse
from collections.abc import Iterator
from typing import Any

from uda_jax.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")

# Options and arguments by what they take.
_CONFIGS = ("config", "named", "reference", "diff")
_FOLDERS = ("workdir", "workdirs", "root", "out", "folder")
_FILES = ("output", "input", "source", "to", "fix_list", "names_file")
_FUNCTION = "_uda_configs"


class PrintCompletion(argparse.Action):
    """Prints the script for a shell and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Prints the script of `parser` for the shell that `values` names."""
        print(script(parser, values))
        parser.exit(0)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns the script that makes a shell complete the words of a parser.

    Raises:
      UserError: the package shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError("--print-completion: needs the package shtab; install it with: pip install shtab") from None
    for action in _actions(parser):
        if action.dest in _CONFIGS:
            action.complete = dict.fromkeys(("bash", "zsh"), _FUNCTION)
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.dest in _FILES:
            action.complete = shtab.FILE
    return shtab.complete(parser, shell=shell, preamble=_preamble())


def _preamble() -> dict[str, str]:
    """Returns the functions that complete the name of a config, or a file."""
    from uda_jax.config import settings

    names = " ".join(settings.packaged())
    # Bash takes a colon for the end of a word unless it is told otherwise.
    bash = f'COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}\n{_FUNCTION}() {{ compgen -f -W "{names}" -- "$1"; }}'
    zsh = f"{_FUNCTION}() {{ compadd -- {names}; _files -g '*.py'; }}"
    return {"bash": bash, "zsh": zsh}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields all options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
