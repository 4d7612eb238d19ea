"""One domain of a run: the config section, and the data set that it opens."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uda_jax.data import open_dataset, raise_first
from uda_jax.data.files import Problem
from uda_jax.data.frames import MAPS
from uda_jax.errors import UserError
from uda_jax.sections import described

NO_MAP = "add it, leave the frame out with names_file, or take the map out of fields"


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain of a run: a data set and how its frames are prepared, in the order of the fields."""

    dataset: str = described("streets", "name of the data set, see `uda datasets`")
    root: str | None = described(None, "folder of the data set; None if it is not read from files")
    split: str = described("train", "split of the data set")
    label_space: str = described("19", "class protocol of the labels: 19, 16, 13, 10, 7, or own (folder)")
    options: dict[str, Any] | None = described(
        None, "options that only this data set has, such as size and limit of streets"
    )
    names_file: str | None = described(
        None, "text file with one frame name per line: keeps these frames, in this order"
    )
    fields: tuple[str, ...] = described(
        ("image", "label"), "maps that a batch holds", choices=("image", "label", "depth")
    )
    size: tuple[int, int] | None = described(
        None, "resize frames to this (height, width) in pixels; None keeps theirs", low=1
    )
    resize_label: bool = described(True, "False keeps labels and depth at their own size (evaluation)")
    scale: tuple[float, float] | None = described(None, "bounds of the random scale factor of a frame", low=0.01)
    crop: tuple[int, int] | None = described(None, "(height, width) in pixels of the random crop", low=1)
    flip: bool = described(False, "mirror frames left and right at random")

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if "image" not in self.fields or len(set(self.fields)) != len(self.fields):
            raise UserError(f"{path}.fields: expected 'image' and each map once, got {self.fields!r}")
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise UserError(f"{path}.scale: expected (low, high), got {self.scale!r}")
        if self.scale is not None and self.crop is None:
            raise UserError(f"{path}.crop: expected a size, since '{path}.scale' makes frames of many sizes, got None")
        if not self.resize_label and (self.scale or self.crop or self.flip):
            raise UserError(f"{path}.resize_label: expected True together with scale, crop or flip, got False")


def open_domain(domain: Domain, path: str = "domain") -> Sequence[dict[str, Any]]:
    """Opens the data set of a domain, restricted to its `names_file`.

    Args:
      domain: the section.
      path: dotted name of the section, which starts every message.

    Returns:
      A random-access sequence as `uda_jax.data.get_dataset` gives it; `index` counts in it, restricted or not.

    Raises:
      UserError: anything wrong with the data set or the names file, or a frame without a map that `fields` asks for.
    """
    try:
        dataset = open_dataset(domain.dataset, domain.root, domain.split, domain.label_space, **(domain.options or {}))
        if domain.names_file is not None:
            dataset = _Selection(dataset, _read_names(domain.names_file, dataset))
        raise_first(_problems(dataset, domain.fields), domain.dataset)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    lacking = getattr(dataset, "lacking", lambda field: [])
    for field in domain.fields:
        if missing := lacking(field):
            raise UserError(
                f"{path}.fields: {len(missing)} frames have no {field}, the first is '{missing[0]}'; {NO_MAP}"
            )
    return dataset


def _problems(dataset: Sequence[dict[str, Any]], fields: Sequence[str]) -> list[Problem]:
    """Returns the problems that matter to who reads `fields` of all frames; images are always read."""
    return [problem for problem in getattr(dataset, "problems", ()) if problem.field in fields]


def read_frame(dataset: Sequence[dict[str, Any]], index: int, fields: Sequence[str]) -> dict[str, Any]:
    """Returns a frame with the maps in `fields` at most, decoding no others where the data set can."""
    if hasattr(dataset, "read"):
        return dataset.read(index, fields)
    return {key: value for key, value in dataset[index].items() if key in fields or key not in MAPS}


class _Selection:
    """Some frames of a data set, in an order of their own; `index` counts in the selection."""

    def __init__(self, dataset: Sequence[dict[str, Any]], positions: list[int]):
        self.label_space = dataset.label_space
        self._dataset = dataset
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index, MAPS)

    def name(self, index: int) -> str:
        return self._dataset.name(self._positions[index])

    @property
    def problems(self) -> list[Problem]:
        """The problems of the frames that are kept; what spoils no frame does not matter to a list of names."""
        kept = {self.name(index) for index in range(len(self))}
        return [problem for problem in getattr(self._dataset, "problems", ()) if problem.frame in kept]

    def lacking(self, field: str) -> list[str]:
        kept = {self.name(index) for index in range(len(self))}
        return [name for name in getattr(self._dataset, "lacking", lambda _: [])(field) if name in kept]

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        return read_frame(self._dataset, self._positions[index], fields) | {"index": range(len(self))[index]}


def _read_names(path: str, dataset: Sequence[dict[str, Any]]) -> list[int]:
    """Returns the positions of the frames that a names file lists."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"names_file: cannot read {path}: {error}") from None
    positions = {dataset.name(k): k for k in range(len(dataset))}
    chosen = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        if name not in positions:
            close = difflib.get_close_matches(name, positions, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; the file may belong to another split"
            raise UserError(f"names_file: {path}, line {number}: no frame '{name}' in the split{hint}")
        if name in chosen:
            raise UserError(f"names_file: {path}, line {number}: frame '{name}' is listed twice; remove one line")
        chosen[name] = positions[name]
    if not chosen:
        raise UserError(f"names_file: {path} lists no frame; write one name per line")
    return list(chosen.values())
