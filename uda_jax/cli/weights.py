"""The command `uda convert`: weights from PyTorch, and to it."""

import argparse
from collections.abc import Callable

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step, local, place, prepare_jax
from uda_jax.errors import UserError


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    convert = command("convert", _convert, "read a checkpoint or run into a folder for init_from, or write one")
    convert.add_argument("--from", dest="source", type=place, required=True, help="checkpoint, converted folder or run")
    convert.add_argument("--to", type=local, required=True, help="new folder; with --to-torch a .safetensors file")
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
    convert.add_argument("--force", action="store_true", help="write weights that the dialect's own code misreads")
    convert.add_argument("--cast", action="store_true", help="turn float16, bfloat16 and float64 into float32")
    add_step(convert)


def _convert(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax.data.io import mirrors

    with mirrors.opened(options.source) as options.source:
        return _to_torch(options) if options.to_torch else _to_folder(options)


def _to_folder(options: argparse.Namespace) -> int:
    """Writes the weights of a file, or of a run, as a folder that runs start from."""
    from uda_jax.runs import initial_weights

    fresh = tuple(part for part in options.fresh.split(",") if part)
    choices = {name: getattr(options, name) for name in ("dialect", "branches", "which", "domain", "cast", "step")}
    show(initial_weights.convert(options.source, options.to, fresh=fresh, **choices))
    show(f"{options.to}: written; start a run from it with --config.init_from.segmenter.path={options.to}")
    return 0


def _to_torch(options: argparse.Namespace) -> int:
    """Writes a run's network, or that of a converted folder."""
    from uda_jax.runs import initial_weights

    found = initial_weights.read(options.source, dialect=options.dialect, which=options.which, step=options.step)
    dialect = options.dialect or found.dialect
    if dialect is None:
        raise UserError("--dialect: say in which family's names to write a run's network, such as advent")
    count = initial_weights.export(found.variables, options.to, dialect, found.facts, force=options.force)
    show(f"{options.to}: {count} tensors")
    return 0
