"""The command `uda verify`: is a run what its receipt says, and does it come to the same again?"""

import argparse
from collections.abc import Callable
from typing import Any

from uda_jax.cli.console import report, show
from uda_jax.cli.environment import at_least, place, prepare_jax


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    verify = command(
        "verify", _verify, "compare a run with its receipt, replay its last steps, name what differs first"
    )
    verify.add_argument("workdir", type=place, help="folder of the run")
    verify.add_argument("--stage", help="whose steps are replayed; by default the last one's that trains")
    text = "steps to replay; by default those from the last checkpoint before the end"
    verify.add_argument("--steps", type=at_least(1), metavar="K", help=text)
    verify.add_argument("--json", action="store_true", help="the same for programs")


def _verify(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax.data.io import mirrors
    from uda_jax.runs import verification
    from uda_jax.runs.workdir import Workdir

    with mirrors.opened(options.workdir) as folder:
        workdir = Workdir(folder)
        replaying = verification.Replaying(options.stage, options.steps, say=lambda line: report(f"verify: {line}"))
        verdict = verification.verify(workdir, replaying)
        text = verification.to_json(workdir, verdict) if options.json else _told(options.workdir, verdict)
        show(mirrors.named(folder, text))
    return 0 if verdict.first is None else 1


def _told(name: object, verdict: Any) -> str:
    width = max(len(check.what) for check in verdict.checks)
    lines = [
        f"{check.what:{width}}  {'same' if check.same else 'DIFFERS'}  {check.message}" for check in verdict.checks
    ]
    first = verdict.first
    ending = "is what its receipt says" if first is None else f"differs first in its {first.what}: {first.message}"
    return "\n".join([*lines, f"{name}: {ending}"])
