"""Views of opened data sets: some of their frames, other labels, several sets as one.

Each is again a `Dataset`; `index` counts in the view.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.io.archives import File, Problem
from uda_jax.data.io.images import read_label
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.errors import UserError


class View(Dataset):
    """A data set that shows another one: by itself, all of it as it is.

    Args:
      dataset: what is shown.
    """

    def __init__(self, dataset: Dataset):
        self.label_space = dataset.label_space
        self.label_size = dataset.label_size
        self.table, self.known = dataset.table, dataset.known
        self.folder, self.resized = dataset.folder, dataset.resized
        self.passed_over, self.rule = dataset.passed_over, dataset.rule
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return self._dataset.name(self._position(index))

    @property
    def maps(self) -> tuple[str, ...]:
        return self._dataset.maps

    @property
    def problems(self) -> Sequence[Problem]:
        return self._dataset.problems

    def missing(self, field: str) -> list[str]:
        return self._dataset.missing(field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return self._dataset.read(self._position(index), fields) | {"index": range(len(self))[index]}

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return self._dataset.stored(self._position(index), fields) | {"index": range(len(self))[index]}

    def files(self, index: int) -> Mapping[str, File]:
        return self._dataset.files(self._position(index))

    def record_files(self) -> list[Path]:
        return self._dataset.record_files()

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        return self._dataset.stored_size(self._position(index), field)

    def label_files(self) -> list[File | None] | None:
        files = self._dataset.label_files()
        return files and [files[self._position(index)] for index in range(len(self))]

    def sequence(self, index: int) -> tuple[str, int] | None:
        return self._dataset.sequence(self._position(index))

    def _position(self, index: int) -> int:
        """Returns which frame of the other data set is shown at an index."""
        return range(len(self))[index]


class Selection(View):
    """Some frames of a data set, at `positions` of it, in that order."""

    def __init__(self, dataset: Dataset, positions: Sequence[int]):
        super().__init__(dataset)
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def problems(self) -> list[Problem]:
        """The problems of the frames that are kept; those of no frame do not matter to a list of names."""
        kept = set(self.names())
        return [problem for problem in self._dataset.problems if not kept.isdisjoint(problem.concerned)]

    def missing(self, field: str) -> list[str]:
        kept = set(self.names())
        return [name for name in self._dataset.missing(field) if name in kept]

    def _position(self, index: int) -> int:
        return self._positions[index]


class PseudoLabelled(View):
    """A data set whose labels come from other files, such as a network's pseudo-labels.

    Args:
      dataset: gives everything but the labels.
      folder: holds `<frame name>.png`, 8-bit values of the label space, 255 = ignore.
      size: (height, width) that labels may have instead of that of their image, namely that of the stream.

    Raises:
      UserError: a file is missing; on access, it is damaged, of another size, or holds a value without a class.
    """

    def __init__(self, dataset: Dataset, folder: str, size: tuple[int, int] | None = None):
        super().__init__(dataset)
        # The files hold classes, whatever ids the data set itself stores.
        self.table, self.known = None, frozenset((*range(len(self.label_space.names)), self.label_space.ignore))
        self._labels = Path(folder).expanduser()
        self._size = size
        missing = [file for file in self.label_files() if not file.path.is_file()]
        if missing:
            raise UserError(
                f"labels_from: {missing[0]}: no such file; {len(missing)} of {len(self)} frames have no "
                "<frame name>.png there, write them or leave these frames out with names_file"
            )

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(field for field in MAPS if field == "label" or field in self._dataset.maps)

    @property
    def problems(self) -> list[Problem]:
        """The problems that do not concern the labels of the data set itself."""
        return [problem for problem in self._dataset.problems if problem.field != "label"]

    def missing(self, field: str) -> list[str]:
        return [] if field == "label" else self._dataset.missing(field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        example = super().read(index, [field for field in fields if field != "label"])
        if "label" in fields:
            example["label"] = self._label(example)
        return example

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return self.read(index, fields)

    def files(self, index: int) -> Mapping[str, File]:
        return {**super().files(index), "label": self._file(self.name(index))}

    def label_files(self) -> list[File]:
        return [self._file(name) for name in self.names()]

    def _file(self, name: str) -> File:
        return File(self._labels / f"{name}.png")

    def _label(self, example: dict[str, Any]) -> np.ndarray:
        file = self._file(example["name"])
        label = read_label(file)
        classes = len(self.label_space.names)
        if (unknown := label[(label >= classes) & (label != IGNORE)]).size:
            raise UserError(
                f"labels_from: {file}: value {unknown[0]} is no class, expected 0 .. {classes - 1} or {IGNORE}; write "
                "labels of the domain's label_space"
            )
        sizes = [example["image"].shape[:2], self._size] if "image" in example else [label.shape]
        sizes = sizes if self.label_size is None else [self.label_size]
        if label.shape not in sizes:
            words = " or ".join(f"{size[0]}x{size[1]}" for size in sizes if size)
            raise UserError(
                f"labels_from: {file}: expected {words} (height x width), got {label.shape[0]}x{label.shape[1]}; write "
                "labels of the size of the image"
            )
        return label


class Mixture(Dataset):
    """Several data sets as one: their frames one after the other, named "<key>/<frame>".

    Args:
      parts: {key: data set}, in order.
      path: dotted name of the section, for messages.

    Attributes:
      parts: as given.
      starts: the index of each part's first frame.

    Raises:
      UserError: their label spaces differ.
    """

    def __init__(self, parts: Mapping[str, Dataset], path: str):
        self.parts = tuple(parts.values())
        self.starts = (0, *itertools.accumulate(len(part) for part in self.parts[:-1]))
        self._keys = tuple(parts)
        self.label_space = self.parts[0].label_space
        self.label_size = self.parts[0].label_size
        for key, part in zip(self._keys[1:], self.parts[1:], strict=True):
            if part.label_space.names != self.label_space.names:
                raise UserError(
                    f"{path}.mix.{key}.label_space: expected the classes of {path} {list(self.label_space.names)}, got "
                    f"{list(part.label_space.names)}; give both the same label_space"
                )

    def __len__(self) -> int:
        return self.starts[-1] + len(self.parts[-1])

    def name(self, index: int) -> str:
        number, position = self._position(index)
        return f"{self._keys[number]}/{self.parts[number].name(position)}"

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that any part has."""
        return tuple(field for field in MAPS if any(field in part.maps for part in self.parts))

    def missing(self, field: str) -> list[str]:
        found = zip(self._keys, (part.missing(field) for part in self.parts), strict=True)
        return [f"{key}/{name}" for key, names in found for name in names]

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        number, position = self._position(index)
        return self.parts[number].read(position, fields) | {
            "name": self.name(index),
            "index": range(len(self))[index],
        }

    def _position(self, index: int) -> tuple[int, int]:
        """Returns which part holds a frame, and where."""
        index = range(len(self))[index]
        number = max(k for k, start in enumerate(self.starts) if start <= index)
        return number, index - self.starts[number]
