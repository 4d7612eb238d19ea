"""The commands `uda demo` and `uda train`."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uda_jax.cli import outcome, plan
from uda_jax.cli.console import show
from uda_jax.cli.environment import at_least, place, prepare_jax, say_that_it_starts
from uda_jax.errors import printable


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands by `command(name, run, text)`, which returns a command's parser."""
    demo = command("demo", _demo, "render the built-in data, train without and with adaptation, write a report")
    demo.add_argument("--workdir", type=place, default=Path("runs/demo"), help="by default runs/demo")

    train = command("train", _train, "train a config, or go on where it stopped", takes_overrides=True)
    train.add_argument("--config", required=True, help="advent:streets, or path/to/file.py:setting")
    train.add_argument("--workdir", type=place, required=True, help="folder of the run; the same command resumes it")
    train.add_argument("--plan", action="store_true", help="only tell what the run will take, as uda plan does")
    train.add_argument(
        "--ignore-memory", action="store_true", help="start steps that take more memory than there seems to be"
    )
    train.add_argument("--coordinator", help="host:port of process 0 of several; auto on TPU pods and SLURM")
    train.add_argument("--num-processes", type=int, help="how many processes there are, unless auto")
    train.add_argument("--process-id", type=int, help="which one this is, from 0, unless auto")
    text = "seconds until all of several processes must have come (default: 300)"
    train.add_argument("--start-timeout", type=at_least(1), default=300, help=text)
    train.add_argument(
        "--stopped-status",
        type=_exit_status,
        default=0,
        metavar="NUMBER",
        help="exit status of a run that SIGTERM stopped before its end, by which a launcher tells (default 0)",
    )


def _train(options: argparse.Namespace) -> int:
    if options.plan:
        return plan.tell(options.config, options.overrides)
    say_that_it_starts(f"train {options.config} in {options.workdir}")
    prepare_jax()
    from uda_jax.runs import processes, rendezvous, signals

    place = rendezvous.place(options.coordinator, options.num_processes, options.process_id, options.start_timeout)
    stop = signals.Stop(end=processes.end, stopped_status=options.stopped_status)
    try:
        with stop.handled():
            if place is None:
                return _trained(options, stop)
            with processes.joined(place, stop, outcome.line_of):
                return _trained(options, stop)
    except signals.Stopped as stopped:
        print(f"uda: {stopped}", file=sys.stderr)
        return options.stopped_status


def _trained(options: argparse.Namespace, stop: Any) -> int:
    import jax

    from uda_jax.runs import announcement, by_machine, results, train

    experiment, notes = by_machine.load(options.config, options.overrides, options.workdir)
    for note in notes if jax.process_index() == 0 else ():
        print(printable(note), file=sys.stderr)
    how = results.Invocation(options.config, options.overrides, "uda " + shlex.join(options.words))
    rows = train.run(experiment, options.workdir, how, stop, ignore_memory=options.ignore_memory)
    if jax.process_index() == 0:
        nothing = f"{experiment.label}: trained; nothing to score on, see the predictions in {options.workdir}/pictures"
        show("\n".join([*([] if rows else [nothing]), *announcement.ending(rows, options.workdir)]))
    return 0


def _exit_status(word: str) -> int:
    if word.isdecimal() and int(word) < 256:
        return int(word)
    raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 255, got '{word}'")


def _demo(options: argparse.Namespace) -> int:
    say_that_it_starts(f"demo in {options.workdir}")
    prepare_jax()
    from uda_jax.runs import processes, signals

    stop = signals.Stop(end=processes.end)
    try:
        with stop.handled():
            return _demonstrated(options, stop)
    except signals.Stopped as stopped:
        print(f"uda: {stopped}", file=sys.stderr)
        return 0


def _demonstrated(options: argparse.Namespace, stop: Any) -> int:
    from uda_jax import config, report
    from uda_jax.runs import announcement, results, train

    folders, found = [], []
    for reference in ("source_only:streets", "advent:streets"):
        experiment = config.experiment(config.load(reference))
        folder = options.workdir / experiment.label
        command = f"uda train --config {reference} --workdir {folder}"
        print(f"demo: {command}", file=sys.stderr)
        rows = train.run(experiment, folder, results.Invocation(reference, (), command), stop)
        show("\n".join(map(announcement.result_line, rows)))
        folders.append(folder)
        found += rows
    page = report.write(folders, options.workdir / "report.html")
    show(report.markdown(found))
    show(f"report: {page}")
    return 0
