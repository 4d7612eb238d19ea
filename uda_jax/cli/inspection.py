"""The commands `uda report`, `uda inspect` and `uda methods`: looking at runs and at what there is."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands by `command(name, run, text)`, which returns a command's parser."""
    report = command("report", _report, "write one HTML page and report.json for finished runs")
    report.add_argument("workdirs", nargs="+", type=Path, help="run folders; with --markdown also result files")
    report.add_argument("--output", type=Path, default=Path("runs/report.html"))
    report.add_argument("--markdown", action="store_true", help="print README's tables instead")

    inspect = command("inspect", _inspect, "list the networks, parameters and sizes of a run's checkpoints")
    inspect.add_argument("workdir", type=Path, help="folder of the run")
    inspect.add_argument("--stage", help="whose checkpoint; by default the last stage's that has one")
    inspect.add_argument("--full", action="store_true", help="also every parameter with its shape and type")
    add_step(inspect)

    command("methods", _methods, "list the methods and the packaged configs")


def _report(options: argparse.Namespace) -> int:
    from uda_jax import report
    from uda_jax.training.layout import RunFiles

    if options.markdown:
        files = [RunFiles(path).result if path.is_dir() else path for path in options.workdirs]
        show(report.markdown([row for file in files for row in report.read_rows(file)]))
        return 0
    show(f"report: {report.write(options.workdirs, options.output)}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from uda_jax.runs import inspection
    from uda_jax.runs.workdir import Workdir

    show(inspection.describe(Workdir(options.workdir), options.stage, options.step, full=options.full))
    return 0


def _methods(options: argparse.Namespace) -> int:
    del options
    from uda_jax import methods
    from uda_jax.config import files

    show("methods:")
    for name in methods.names():
        show(f"  {name:16} {_summary(f'uda_jax.methods.{name}')}")
    show("configs:")
    for name in files.names():
        show(f"  {name:16} {_summary(f'uda_jax.configs.{name}')}")
    return 0


def _summary(module: str) -> str:
    return importlib.import_module(module).__doc__.splitlines()[0]
