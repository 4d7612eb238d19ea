"""Configs whose network depends on the machine: which one a run takes, and keeps on any other machine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uda_jax import config
from uda_jax.config import Experiment, machine
from uda_jax.data.io import mirrors
from uda_jax.runs.workdir import Workdir

_SECTIONS = ("method", "stages")


def load(reference: str, words: Sequence[str], workdir: str | os.PathLike) -> tuple[Experiment, list[str]]:
    """Returns the experiment of a config for this machine, or for that on which the run in a workdir began.

    Args:
      reference: of the config, see `config.load`.
      words: overrides.
      workdir: a local path or an address in a bucket, where there need be nothing yet.

    Returns:
      The experiment, and a line that tells the choice if there is one.

    Raises:
      UserError: as `config.load` and `config.experiment`.
    """
    here = machine.accelerated()
    ours, other = (_for(reference, words, accelerator=found) for found in (here, not here))
    names = [", ".join(dict.fromkeys(_networks(config.to_plain(each)))) for each in (ours, other)]
    if ours == other:
        return ours, []
    with mirrors.opened(workdir) as folder:
        stored = config.to_plain(Workdir(folder).experiment()) if Workdir(folder).config.exists() else None
    if stored is not None and _differing(stored, other) < _differing(stored, ours):
        return other, [f"note: the run goes on with {names[1]}, which it began with; this machine would get {names[0]}"]
    found = "a GPU or TPU" if here else "neither GPU nor TPU"
    elsewhere = "without one" if here else "with one"
    return ours, [
        f"note: JAX finds {found} here, so that the network is {names[0]}, and not {names[1]} as on a machine "
        f"{elsewhere}; --config.method.segmenter.name= chooses"
    ]


def _for(reference: str, words: Sequence[str], *, accelerator: bool) -> Experiment:
    with machine.assumed(accelerator):
        return config.experiment(config.load(reference, words))


def _differing(stored: Mapping[str, Any], experiment: Experiment) -> int:
    """Returns how many fields of the methods of a stored experiment are not those of another one."""
    before, after = ({path: leaf for path, leaf in _leaves(plain)} for plain in (stored, config.to_plain(experiment)))
    return sum(before.get(path) != after.get(path) for path in before.keys() | after.keys())


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, entry in value.items():
        if path or name in _SECTIONS:
            if isinstance(entry, Mapping):
                yield from _leaves(entry, (*path, name))
            else:
                yield (*path, name), entry


def _networks(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of all segmenters of an experiment."""
    for path, leaf in _leaves(plain):
        if path[-2:] == ("segmenter", "name"):
            yield leaf
