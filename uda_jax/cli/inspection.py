"""The commands `uda report`, `uda inspect` and `uda methods`: looking at runs and at what there is."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uda_jax.cli.console import report as tell
from uda_jax.cli.console import show, show_modules
from uda_jax.cli.environment import add_step, leave_accelerators_alone, place
from uda_jax.errors import UserError

# In float32, sustained: about what a good desktop GPU of today may do.
TFLOPS = 10.0


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands by `command(name, run, text)`, which returns a command's parser."""
    report = command(
        "report", _report, "write one HTML page about runs, finished or not, and their result rows as JSON beside it"
    )
    report.add_argument("workdirs", nargs="+", type=place, help="run folders; with --markdown also result files")
    report.add_argument("--output", type=place, default=Path("runs/report.html"), help="by default runs/report.html")
    report.add_argument("--markdown", action="store_true", help="print tables in Markdown instead")

    inspect = command("inspect", _inspect, "tell what a run's checkpoint holds: networks, norms, optimisers, scores")
    inspect.add_argument("workdir", type=place, help="folder of the run")
    inspect.add_argument("--stage", help="whose checkpoint; by default the last stage's that has one")
    inspect.add_argument("--full", action="store_true", help="also every parameter with its shape and type")
    inspect.add_argument("--json", action="store_true", help="the same for programs; with --full every array")
    add_step(inspect)

    methods = command("methods", _methods, "list the methods and the packaged configs")
    methods.add_argument(
        "--settings",
        action="store_true",
        help="list instead the settings that follow a paper: its figure, weights, hours",
    )
    methods.add_argument(
        "--tflops", type=float, help=f"with --settings: what the device sustains, for the hours ({TFLOPS:g})"
    )


def _report(options: argparse.Namespace) -> int:
    from uda_jax import report

    if options.markdown:
        show(report.markdown([row for word in options.workdirs for row in _rows(word)]))
        return 0
    show(f"report: {report.write(options.workdirs, options.output, tell)}")
    return 0


def _rows(word: Path) -> list[dict[str, Any]]:
    """Returns the result rows of a run, or of a file of them."""
    from uda_jax import report
    from uda_jax.data.io import mirrors
    from uda_jax.training.layout import RunFiles

    with mirrors.opened(word) as path:
        return report.read_rows(RunFiles(path).result if path.is_dir() else path)


def _inspect(options: argparse.Namespace) -> int:
    leave_accelerators_alone()
    from uda_jax.data.io import mirrors
    from uda_jax.runs.workdir import Workdir

    with mirrors.opened(options.workdir) as folder:
        show(mirrors.named(folder, _inspected(Workdir(folder), options)))
    return 0


def _inspected(workdir: Any, options: argparse.Namespace) -> str:
    """Returns what `uda inspect` prints of a workdir."""
    from uda_jax.runs import inspection, overview

    found = overview.gather(workdir, options.stage, options.step)
    snapshot = None
    if options.full and found["checkpoint"] is not None:
        snapshot = inspection.open_snapshot(workdir, options.stage, options.step)
    if options.json:
        return json.dumps(found | ({"arrays": overview.arrays(snapshot)} if snapshot else {}), indent=1)
    return overview.text(found) + (f"\n\n{overview.parameters(snapshot)}" if snapshot else "")


def _methods(options: argparse.Namespace) -> int:
    if options.settings:
        return _settings(TFLOPS if options.tflops is None else options.tflops)
    if options.tflops is not None:
        raise UserError("--tflops: has no effect without --settings; add that, or leave it out")
    from uda_jax import methods
    from uda_jax.config import files

    show("methods (docs/choosing.md has the same lines beside what each was measured to gain):")
    show_modules("uda_jax.methods", methods.names(), 16)
    show("configs:")
    show_modules("uda_jax.configs", files.names(), 16)
    return 0


def _settings(tflops: float) -> int:
    from uda_jax.runs import published_settings

    if not tflops > 0:
        raise UserError(f"--tflops: expected a number above 0, got {tflops}")
    found = published_settings.find_all()
    width = max(len(setting.reference) for setting in found)
    show(
        "Hours are an estimate, as none of these settings has been timed: three forwards' operations per image, on a\n"
        f"device that sustains {tflops:g} TFLOP/s. Two cores of AMD EPYC sustain 0.27; give yours with --tflops.\n"
    )
    show(f"{'setting':{width}}  {'steps':>7}  {'hours':>5}  paper's figure, percent; weights")
    for setting in found:
        hours, words = _hours(setting.hours(1e12 * tflops)), [_printed(setting.printed), *setting.weights]
        show(f"{setting.reference:{width}}  {setting.steps:>7}  {hours:>5}  {'; '.join(words)}")
    return 0


def _hours(hours: float | None) -> str:
    if hours is None:
        return "–"
    return "<0.1" if hours < 0.1 else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


def _printed(row: Any) -> str:
    """Returns a published row's means with their protocols and its source; None is a dash."""
    if row is None:
        return "–"
    from uda_jax.report import tables

    means = ", ".join(f"{row.figure(protocol)} {tables.heading(protocol)}" for protocol in row.miou)
    return f"{means}, {row.paper}"
