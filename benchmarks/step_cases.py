"""The rows of `benchmarks.train_step` and `benchmarks.startup`: a method's packaged setting at a size of frames."""

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEFAULT_SIZES = "128x256,256x512"


class Case(NamedTuple):
    """One row.

    Attributes:
      method: name in `benchmarks.torch_steps`.
      reference: of the config.
      words: overrides of it.
      stage: of its recipe; None = the last that trains.
      sizes: domain -> (frames, height, width).
      own: whether these are the setting's own.
    """

    method: str
    reference: str
    words: tuple[str, ...]
    stage: str | None
    sizes: Mapping[str, tuple[int, int, int]]
    own: bool

    @property
    def label(self) -> str:
        """The row's name, such as "advent 1+1 x 128x256"."""
        frames = "+".join(str(count) for count, _, _ in self.sizes.values())
        return f"{self.method} {frames} x {self.size}"

    @property
    def size(self) -> str:
        """Height and width of the frames."""
        _, height, width = next(iter(self.sizes.values()))
        return f"{height}x{width}"

    @property
    def frames(self) -> int:
        """Images of a batch, of all domains together."""
        return sum(count for count, _, _ in self.sizes.values())


class Setting(NamedTuple):
    """What a method's cases share.

    Attributes:
      reference, words, stage: see `Case`.
      domains: that have frames.
      digits: how many digits a batch has of each domain; None = a frame of the size that is asked for.
    """

    reference: str
    domains: tuple[str, ...] = ("source", "target")
    words: tuple[str, ...] = ()
    stage: str | None = None
    digits: int | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """Words of the command line: every batch is an update."""
        return "--config.train.accumulation=1", *(f"--config.method.{word}" for word in self.words)


# PLCA's groups of image pairs, and its two batches per update, are those of several devices.
_ONE_PAIR = ("supervised_group=0", "association.reduction_group=0")

SETTINGS = {
    "source_only": Setting("source_only:gta5_cityscapes", ("source",)),
    "adaptsegnet": Setting("adaptsegnet:gta5_cityscapes"),
    "minent": Setting("advent:gta5_cityscapes,minent"),
    "advent": Setting("advent:gta5_cityscapes"),
    "intrada": Setting("intrada:gta5_cityscapes"),
    "dada": Setting("dada:synthia_cityscapes"),
    "ass": Setting("ass:gta5_cityscapes", ("source", "labelled_target", "target")),
    "dacs": Setting("dacs:gta5_cityscapes"),
    "corda": Setting("corda:gta5_cityscapes"),
    "plca": Setting("plca:gta5_cityscapes", words=_ONE_PAIR),
    "gio_ada": Setting("gio_ada:synthia_cityscapes"),
    "adda": Setting("digits:mnist_usps,inter", digits=128),
    "cycada": Setting("digits:mnist_usps,long,pixel", stage="pixel", digits=32),
}
DIGIT = (28, 28)


def cases(methods: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[Case]:
    """Returns the rows of some methods, one for each size of frames; those of digits have their own size alone."""
    found = []
    for method in methods:
        setting = SETTINGS[method]
        for size in (DIGIT,) if setting.digits else sizes:
            frames = dict.fromkeys(setting.domains, (setting.digits or 1, *size))
            own = setting.digits is not None
            found.append(Case(method, setting.reference, setting.overrides, setting.stage, frames, own))
    return found


def add_options(parser: argparse.ArgumentParser, sizes: str) -> None:
    """Adds the options that choose rows."""
    parser.add_argument("--methods", type=_methods, default=list(SETTINGS), help="only these, separated by commas")
    parser.add_argument("--sizes", type=_sizes, default=sizes, help=f"of frames, heightxwidth; default {sizes}")


def _methods(word: str) -> list[str]:
    names = word.split(",")
    if unknown := set(names) - set(SETTINGS):
        raise argparse.ArgumentTypeError(f"unknown methods {sorted(unknown)}; known: {', '.join(SETTINGS)}")
    return names


def _sizes(word: str) -> list[tuple[int, int]]:
    found = []
    for size in word.split(","):
        height, times, width = size.partition("x")
        if not (times and height.isdecimal() and width.isdecimal()) or int(height) % 32 or int(width) % 32:
            raise argparse.ArgumentTypeError(f"expected multiples of 32 such as 128x256, got '{size}'")
        found.append((int(height), int(width)))
    return found
