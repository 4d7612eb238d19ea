"""The commands `uda convert`, weights from PyTorch and to it, and `uda weights`, the catalogue of published files."""

import argparse
import shlex
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
    known = command("weights", _weights, "list known published files of weights, get one, or check one")
    known.add_argument("action", choices=tuple(_ACTIONS), help="what to do")
    known.add_argument("target", nargs="?", help="get: a name of the list, or a URL; check: a file")
    known.add_argument("--sha256", help="get: checksum of what the URL holds")


def _weights(options: argparse.Namespace) -> int:
    if (options.target is None) != (options.action == "list"):
        expected = "no name" if options.action == "list" else "a file" if options.action == "check" else "a name or URL"
        raise UserError(f"uda weights {options.action}: expected {expected}, got {options.target or 'none'}")
    if options.sha256 and not (options.action == "get" and "://" in options.target):
        raise UserError("--sha256: belongs to a URL that 'uda weights get' is given; leave it out")
    _ACTIONS[options.action](options)
    return 0


def _list(options: argparse.Namespace) -> None:
    from uda_jax.weights import catalogue, fetch

    show(catalogue.listing())
    show(f"fetched files lie in {fetch.folder()}; start from one with --config.init_from.segmenter.path=NAME")


def _get(options: argparse.Namespace) -> None:
    from uda_jax.weights import fetch

    url = "://" in options.target
    show(fetch.from_url(options.target, options.sha256) if url else fetch.from_catalogue(options.target))


def _check(options: argparse.Namespace) -> None:
    """Says what a file is, by its checksum and by its names; raises a UserError if it is not what its name says."""
    from uda_jax import weights
    from uda_jax.data.io import places
    from uda_jax.weights import catalogue, fetch, files

    path = places.local(options.target, "uda weights check")
    state_dict = weights.unwrap(files.read(path), where=str(path))
    size, sha256 = path.stat().st_size, fetch.checksum(path)
    show(f"{path}: {len(state_dict)} tensors, {size} bytes, sha256 {sha256}")
    same = [name for name, found in catalogue.CATALOGUE.items() if found.sha256 == sha256]
    named = [name for name, found in catalogue.CATALOGUE.items() if found.file == path.name]
    for name in same:
        show(f"{path}: it is '{name}' of the catalogue, byte for byte ({catalogue.CATALOGUE[name].what})")
    for name in named if not same else ():
        if expected := catalogue.CATALOGUE[name].sha256:
            raise UserError(f"{path}: expected sha256 {expected} of '{name}', got {sha256}; get the file again")
        show(f"{path}: called as '{name}' of the catalogue, of which no checksum is known")
    try:
        family = weights.detect(state_dict, where=str(path))
        weights.from_torch(weights.cast(state_dict), family)
    except UserError as error:
        show(f"{path}: no network here takes its names ({error})")
    else:
        show(f"{path}: names and shapes are those of the family '{family}'")


_ACTIONS = {"list": _list, "get": _get, "check": _check}


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
    flag = shlex.quote(f"--config.init_from.segmenter.path={options.to}")
    show(f"{options.to}: written; start a run from it with {flag}")
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
