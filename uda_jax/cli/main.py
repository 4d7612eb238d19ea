"""The command line: `uda demo | train | evaluate | predict | convert | check | prepare | report | methods | datasets`.

A mistake of the user ends with one line on stderr and exit status 2; rooms are imported by the command that
needs them, so that `uda --help` is quick.
"""

import argparse
import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uda_jax.cli import data
from uda_jax.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and not (options.takes_overrides and all(word.startswith("--config.") for word in rest)):
        unknown = [word for word in rest if not (options.takes_overrides and word.startswith("--config."))]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.overrides = tuple(rest)
    options.words = words
    try:
        return options.run(options)
    except UserError as error:
        print(f"uda: error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("uda: interrupted; the same command goes on or starts again", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"uda: error: {where}the disk is full; free some space and rerun the same command", file=sys.stderr)
    return USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="uda", description="Domain-adaptive semantic segmentation in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, text, *, takes_overrides=False):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, takes_overrides=takes_overrides)
        return sub

    demo = command("demo", _demo, "render the built-in data, train without and with adaptation, write a report")
    demo.add_argument("--workdir", type=Path, default=Path("runs/demo"))

    train = command("train", _train, "train a config, or go on where it stopped", takes_overrides=True)
    train.add_argument("--config", required=True, help="advent:streets, or path/to/file.py:setting")
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run; the same command resumes it")
    train.add_argument("--coordinator", help="host:port of process 0 of several; auto on TPU pods and SLURM")
    train.add_argument("--num-processes", type=int, help="how many processes there are, unless auto")
    train.add_argument("--process-id", type=int, help="which one this is, from 0, unless auto")

    several = {"type": Path, "nargs": "+", "required": True}
    several["help"] = "folder of the run; of several, the mean of their scores counts, and the first one's config"
    evaluate = command("evaluate", _evaluate, "score a run's last checkpoint", takes_overrides=True)
    evaluate.add_argument("--workdir", **several)
    evaluate.add_argument("--on", choices=("final", "dev"), default="final", help="which evaluation domain")

    predict = command("predict", _predict, "segment a folder of images with a run")
    predict.add_argument("--workdir", **several)
    predict.add_argument("--input", type=Path, required=True)
    predict.add_argument("--output", type=Path, required=True)
    predict.add_argument("--batch-size", type=int, default=4)

    convert = command("convert", _convert, "read a PyTorch checkpoint into a folder for init_from, or write one")
    convert.add_argument("--from", dest="source", type=Path, required=True, help="checkpoint; with --to-torch a folder")
    convert.add_argument("--to", type=Path, required=True, help="new folder; with --to-torch a .safetensors file")
    convert.add_argument(
        "--to-torch", action="store_true", help="write PyTorch's names, from a converted folder or run"
    )
    convert.add_argument("--dialect", help="family of the checkpoint, if its names do not tell")
    convert.add_argument("--branches", type=int, choices=(2, 4), help="convolutions that its classifiers sum")
    convert.add_argument("--fresh", default="", help="parts to leave out, as in head,aux_head for other classes")
    convert.add_argument(
        "--which", choices=("student", "teacher"), default="student", help="network of a file with two"
    )
    convert.add_argument("--domain", choices=("source", "target"), help="batch norms of a file with one set per domain")
    convert.add_argument("--cast", action="store_true", help="turn float16, bfloat16 and float64 into float32")

    data.add(command)

    report = command("report", _report, "write one HTML page and report.json for finished runs")
    report.add_argument("workdirs", nargs="+", type=Path, help="run folders; with --markdown also result files")
    report.add_argument("--output", type=Path, default=Path("runs/report.html"))
    report.add_argument("--markdown", action="store_true", help="print README's tables instead")

    command("methods", _methods, "list the methods and the packaged configs")
    command("datasets", _datasets, "list the data sets")
    return parser


def _prepare_jax() -> None:
    """Sets the allocator, before jax starts threads, and the compilation cache, before anything is compiled."""
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "uda_jax" / "xla"))


def _train(options: argparse.Namespace) -> int:
    _prepare_jax()
    import jax

    from uda_jax import config
    from uda_jax.runs import results, train

    if options.coordinator == "auto":
        jax.distributed.initialize()
    elif options.coordinator:
        jax.distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    experiment = config.experiment(config.load(options.config, options.overrides))
    command = "uda " + shlex.join(options.words)
    origin = results.Origin(options.config, options.overrides, command)
    try:
        row = train.run(experiment, options.workdir, origin)
    except train.Stopped as stopped:
        print(f"uda: {stopped}", file=sys.stderr)
        return 0
    if jax.process_index() == 0 and row is None:
        print(f"{experiment.label}: trained; nothing to score on, see the predictions in {options.workdir}/pictures")
    elif jax.process_index() == 0:
        _print_result(row)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _prepare_jax()
    from uda_jax import config
    from uda_jax.inference.evaluate import Evaluator
    from uda_jax.runs import workdir as workdirs
    from uda_jax.training import sharding

    scoring = [word for word in options.overrides if word.startswith("--config.evaluation.")]
    method, state, _ = _open(options.workdir, [word for word in options.overrides if word not in scoring])
    path = f"config.evaluation.{options.on}"
    stored = config.from_json(options.workdir[0] / "config.json")
    if getattr(stored.evaluation, options.on) is None:
        raise UserError(f"{options.workdir[0]}: its config has no {path}; leave out --on")
    acting = ("evaluation.batch_size", f"evaluation.{options.on}")
    section = workdirs.overridden(stored, scoring, acting, f"the score on {options.on}").evaluation
    domain = getattr(section, options.on)
    sharding.check_batch_size(section.batch_size, "config.evaluation.batch_size")
    evaluator = Evaluator(method, domain, section.batch_size, sharding.data_mesh(), path=path)
    if not evaluator.labelled:
        raise UserError(f"{path}: no frame of the split has a label to score on; name another split")
    summary = evaluator.score(state)
    print(json.dumps(summary, indent=1))
    return 0


def _predict(options: argparse.Namespace) -> int:
    _prepare_jax()
    import jax

    from uda_jax import config
    from uda_jax.inference import predict

    method, state, space = _open(options.workdir)
    domain = config.from_json(options.workdir[0] / "config.json").evaluation.final
    scores = jax.jit(method.predict, static_argnames="size")

    def run(images, size):
        return scores(state, images, size=size)["scores"]

    summary = predict.predict_folder(
        run,
        options.input,
        options.output,
        size=domain.size,
        palette=space.palette,
        batch_size=options.batch_size,
    )
    print(summary)
    return 1 if summary.failed else 0


def _open(folders: Sequence[Path], overrides: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Returns the method, the state and the label space of a run, or of several as an ensemble.

    Overrides of fields that act in predictions alone hold for each of them.
    """
    from uda_jax.inference.evaluate import Ensemble
    from uda_jax.runs import workdir as workdirs

    methods, states, spaces = zip(*(workdirs.restore(folder, overrides) for folder in folders), strict=True)
    if len(folders) == 1:
        return methods[0], states[0], spaces[0]
    return Ensemble(list(zip(folders, methods, spaces, strict=True))), states, spaces[0]


def _convert(options: argparse.Namespace) -> int:
    _prepare_jax()
    from uda_jax.runs import initial_weights
    from uda_jax.runs import workdir as workdirs

    if options.to_torch:
        if (options.source / "config.json").exists():
            if options.dialect is None:
                raise UserError("--dialect: say in which family's names to write a run's network, such as advent")
            _, state, _ = workdirs.restore(options.source)
            variables = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
        else:
            variables, dialect = initial_weights.read(options.source, dialect=options.dialect)
        count = initial_weights.export(variables, options.to, options.dialect or dialect)
        print(f"{options.to}: {count} tensors")
        return 0
    fresh = tuple(part for part in options.fresh.split(",") if part)
    choices = {name: getattr(options, name) for name in ("dialect", "branches", "which", "domain", "cast")}
    print(initial_weights.convert(options.source, options.to, fresh=fresh, **choices))
    print(f"{options.to}: written; start a run from it with --config.init_from.segmenter.path={options.to}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from uda_jax import report

    if options.markdown:
        files = [path / "result.json" if path.is_dir() else path for path in options.workdirs]
        print(report.markdown([row for file in files for row in report.read_rows(file)]))
        return 0
    print(f"report: {report.write(options.workdirs, options.output)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    _prepare_jax()
    from uda_jax import config, report
    from uda_jax.runs import results, train

    workdirs = []
    for reference in ("source_only:streets", "advent:streets"):
        experiment = config.experiment(config.load(reference))
        workdir = options.workdir / experiment.label
        print(f"demo: uda train --config {reference} --workdir {workdir}", file=sys.stderr)
        origin = results.Origin(reference, (), f"uda train --config {reference} --workdir {workdir}")
        try:
            row = train.run(experiment, workdir, origin)
        except train.Stopped as stopped:
            print(f"uda: {stopped}", file=sys.stderr)
            return 0
        _print_result(row)
        workdirs.append(workdir)
    page = report.write(workdirs, options.workdir / "report.html")
    print(report.markdown([row for workdir in workdirs for row in report.read_rows(workdir / "result.json")]))
    print(f"report: {page}")
    return 0


def _methods(options: argparse.Namespace) -> int:
    del options
    import importlib

    from uda_jax import config, methods

    print("methods:")
    for name in methods.names():
        summary = importlib.import_module(f"uda_jax.methods.{name}").__doc__.splitlines()[0]
        print(f"  {name:16} {summary}")
    print("configs:")
    for name in config.names():
        summary = importlib.import_module(f"uda_jax.configs.{name}").__doc__.splitlines()[0]
        print(f"  {name:16} {summary}")
    return 0


def _datasets(options: argparse.Namespace) -> int:
    del options
    import importlib

    from uda_jax import data

    for name in data.dataset_names():
        summary = importlib.import_module(f"uda_jax.data.datasets.{name}").__doc__.splitlines()[0]
        print(f"{name:12} {summary}")
    return 0


def _print_result(row: dict) -> None:
    """Prints the line that ends a run."""
    measure = "accuracy" if row["protocol"] == "accuracy" else "mIoU"
    score = 100 * row["miou"][row["protocol"]]
    print(f"{row['label']}: {measure} {score:.2f} on {row['split']} after {row['steps']} steps, {row['seconds']:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
