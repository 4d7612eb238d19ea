"""The command `uda budget`: what labels of target frames are worth, and which frames to label next."""

import argparse
import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uda_jax.cli.console import report, show
from uda_jax.cli.environment import at_least, leave_accelerators_alone, local
from uda_jax.cli.sweep import numbers, slots, stopped


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    text = "train with some labelled target frames, draw what they are worth, choose the frames to label next"
    budget = command("budget", _budget, text, takes_overrides=True)
    budget.add_argument("config", help="without target labels, such as dacs:streets")
    budget.add_argument("--labels", type=numbers, required=True, metavar="0,5,10", help="numbers of labelled frames")
    budget.add_argument("--seeds", type=numbers, default=[0], metavar="0,1,2", help="one run of each (0)")
    text = "what is trained with labels: labelled (alone), both (with the source), ass; by default all three"
    budget.add_argument(
        "--lines", type=_names("labelled", "both", "ass"), default=("labelled", "both", "ass"), help=text
    )
    known = ("both", "entropy", "diversity", "random")
    text = f"how the frames of the runs are chosen, of {', '.join(known)} (random)"
    budget.add_argument("--choose", type=_names(*known), default=("random",), metavar="random,both", help=text)
    text = "how the next frames are chosen: entropy, diversity (k-centre), both, or random (both)"
    budget.add_argument("--criterion", choices=known, default="both", help=text)
    budget.add_argument("--next", type=at_least(1), default=10, metavar="N", help="how many frames to label next (10)")
    budget.add_argument("--workdir", type=local, help="folder of it all; by default runs/budget/<config>")
    text = "runs at a time; by default one for each GPU, without one they follow each other"
    budget.add_argument("--parallel", type=at_least(1), help=text)


def _names(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Returns the type of an option that takes some of these names."""

    def read(word: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(word.split(",")))
        if unknown := set(found) - set(known):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got '{min(unknown)}'")
        return found

    return read


def _budget(options: argparse.Namespace) -> int:
    # The runs need the devices, and this process none of them.
    leave_accelerators_alone()
    from uda_jax.runs import budget

    folder = options.workdir or Path("runs/budget") / re.sub(r"[^\w.-]+", "_", options.config)
    asked = budget.Asked(
        reference=options.config,
        words=options.overrides,
        labels=tuple(sorted(options.labels)),
        seeds=tuple(options.seeds),
        lines=options.lines,
        choices=options.choose,
        criterion=options.criterion,
        count=options.next,
        folder=folder,
    )
    found = budget.Budget(asked, slots(options.parallel, os.environ), lambda line: report(f"budget: {line}"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    points, failed = found.run()
    for name, why in failed.items():
        show(f"{name}: {why}; the same command tries it again")
    chosen = [] if failed else found.next_frames()
    _write(folder, budget.curve(points), points, chosen, options)
    if not failed:
        show(f"{folder}/next_frames.txt: {len(chosen)} frames to label next; {folder}/budget.html: the curve")
    return 1 if failed else 0


def _write(folder: Path, figures: list[Any], points: list[Any], chosen: list[str], options: argparse.Namespace) -> None:
    """Writes the figures and the page of the runs that are finished, and prints the table."""
    from uda_jax.data.io import atomic
    from uda_jax.report import budget_page, tables
    from uda_jax.runs import budget

    if not figures:
        return
    rows = next(found for point in points if (found := point.run.rows()))
    column, command = tables.headline_column(rows[0]), f"uda {shlex.join(options.words)}"
    how = budget.CRITERIA[options.criterion]
    plain = {"command": command, "headline": column, "criterion": options.criterion, "next": chosen, "points": figures}
    atomic.write(folder / "budget.json", json.dumps(plain, indent=1) + "\n")
    atomic.write(folder / "budget.html", budget_page.page(figures, column, chosen, how, command))
    show(budget_page.markdown(figures, column))
