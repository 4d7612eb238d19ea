"""The command `uda select`: which run, or which checkpoint, to take where the target has no labels."""

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any

from uda_jax.cli.console import report, show
from uda_jax.cli.environment import at_least, place, prepare_jax

# As `inference.criteria.CRITERIA`, which a test compares: what lists commands is quick.
CRITERIA = (
    "entropy",
    "information",
    "neighbourhood_density",
    "flip_agreement",
    "scale_agreement",
    "mask_agreement",
    "teacher_agreement",
    "prior_distance",
    "source_score",
)
# As `runs.target_frames.COUNT`.
FRAMES = 64


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns a command's parser."""
    select = command("select", _select, "choose among runs, or their checkpoints, without labels of the target")
    select.add_argument("workdirs", nargs="+", type=place, metavar="RUN", help="run folders of one target")
    text = "measure every kept checkpoint of each run's last stage, not only that of its result"
    select.add_argument("--checkpoints", action="store_true", help=text)
    text = f"how many target frames to measure on, chosen by a fixed seed ({FRAMES})"
    select.add_argument("--frames", type=at_least(1), default=FRAMES, metavar="COUNT", help=text)
    text = "choose by one criterion in place of the mean rank of several"
    select.add_argument("--by", choices=CRITERIA, help=text)
    select.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _select(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax.data.io import mirrors
    from uda_jax.runs import choice, selection

    with contextlib.ExitStack() as stack:
        folders = [(str(word), stack.enter_context(mirrors.opened(word))) for word in dict.fromkeys(options.workdirs)]
        tell = lambda line: report(f"select: {line}")  # noqa: E731
        found = selection.measure_all(folders, options.frames, checkpoints=options.checkpoints, tell=tell)
    chosen = choice.choose(found.candidates, found.classes, options.by or choice.COMBINED)
    if options.json:
        show(json.dumps(_plain(found, chosen), indent=1))
    else:
        show("\n".join(_lines(found, chosen)))
    for warning in chosen.warnings:
        report(f"select: warning: {warning}")
    return 0


def _lines(found: Any, chosen: Any) -> list[str]:
    """Returns the table, the choice and why."""
    from uda_jax.runs import choice, overview

    headings, rows = choice.table(found.candidates, chosen)
    frames, best = found.frames, found.candidates[chosen.index]
    lines = [f"{frames['count']} frames of {frames['dataset']}/{frames['split']}, their labels not read", ""]
    lines += overview.aligned(headings, rows, right=set(range(2, len(headings))))
    lines += ["", f"choice: {best.run}, step {best.step}: {chosen.reason}"]
    return lines + [
        f"set aside: {found.candidates[k].run}, step {found.candidates[k].step}: {why}"
        for k, why in chosen.aside.items()
    ]


def _plain(found: Any, chosen: Any) -> dict[str, Any]:
    """Returns the same as JSON's values."""
    name = lambda k: {"run": found.candidates[k].run, "step": found.candidates[k].step}  # noqa: E731
    return {
        "frames": found.frames,
        "by": chosen.by,
        "criteria": list(chosen.used),
        "choice": name(chosen.index),
        "reason": chosen.reason,
        "warnings": chosen.warnings,
        "candidates": [
            name(k) | each.measured._asdict() | {"figure": chosen.figures[k], "set_aside": chosen.aside.get(k)}
            for k, each in enumerate(found.candidates)
        ],
        "classes": list(found.classes),
        "passed_over": found.passed_over,
    }
