"""The command `uda demo`: the main job on the built-in data, from nothing to a report."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uda_jax.cli.console import show
from uda_jax.cli.environment import place, prepare_jax, say_that_it_starts
from uda_jax.errors import UserError

# A run without adaptation and one with; the second pair is for machines that cannot get the encoder's weights.
PRETRAINED = ("source_only:streets,pretrained", "dacs:streets,pretrained")
FROM_SCRATCH = ("source_only:streets", "advent:streets")

ENCODER = "efficientnet_lite0"

# Where the two runs lie in the demo's folder, whichever pair it is.
FOLDERS = ("source_only", "adapted")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds it by `command(name, run, text)`, which returns a command's parser."""
    demo = command("demo", _demo, "render the built-in data, train without and with adaptation, write a report")
    demo.add_argument("--workdir", type=place, default=Path("runs/demo"), help="by default runs/demo")


def _demo(options: argparse.Namespace) -> int:
    say_that_it_starts(f"demo in {options.workdir}")
    prepare_jax()
    from uda_jax.runs import processes, signals

    stop = signals.Stop(end=processes.end)
    try:
        with stop.handled():
            return _demonstrated(_references(options.workdir), options.workdir, stop)
    except signals.Stopped as stopped:
        print(f"uda: {stopped}", file=sys.stderr)
        return 0


def _references(workdir: Path) -> Sequence[str]:
    """Returns the configs of the runs, and says in one line which first weights they have and why."""
    from uda_jax.training.layout import RunFiles
    from uda_jax.weights import fetch

    # A demo that has begun goes on with the pair that it began with.
    config_file = RunFiles(workdir / FOLDERS[0]).config
    if config_file.exists() and '"pretrained/source_only"' not in config_file.read_text():
        print("demo: from scratch, as it began", file=sys.stderr)
        return FROM_SCRATCH
    try:
        file = fetch.from_catalogue(ENCODER)
    except UserError as error:
        print(f"demo: from scratch, since there are no pretrained weights: {error}", file=sys.stderr)
        return FROM_SCRATCH
    print(f"demo: with an encoder that has seen ImageNet, {file.name}", file=sys.stderr)
    return PRETRAINED


def _demonstrated(references: Sequence[str], workdir: Path, stop: Any) -> int:
    from uda_jax import config, report
    from uda_jax.runs import announcement, results, train

    folders, found = [], []
    for reference, name in zip(references, FOLDERS, strict=True):
        experiment = config.experiment(config.load(reference))
        folder = workdir / name
        command = f"uda train --config {reference} --workdir {folder}"
        print(f"demo: {command}", file=sys.stderr)
        rows = train.run(experiment, folder, results.Invocation(reference, (), command), stop)
        show("\n".join(map(announcement.result_line, rows)))
        folders.append(folder)
        found += rows
    page = report.write(folders, workdir / "report.html")
    show(report.markdown(found))
    show(f"report: {page}")
    return 0
