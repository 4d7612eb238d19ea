"""Views of opened data sets: some of their frames, other labels, several sets as one.

Each is again a random-access sequence as `uda_jax.data` describes it, with `read`, `name`, `lacking` and `problems`;
`index` counts in the view. `label_files` tells which files its labels come from.
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS, MAPS, FrameFiles
from uda_jax.data.io.archives import File, Problem, printable
from uda_jax.data.io.images import read_label
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.errors import UserError

# What published lists append to a frame's name, before the file's ending.
_SUFFIXES = (
    "_leftImg8bit",
    "_gtFine_labelIds",
    "_gtFine_labelTrainIds",
    "_gtCoarse_labelIds",
    "_gtCoarse_labelTrainIds",
    "_rgb_anon",
    "_rgb_ref_anon",
    "_gt_labelIds",
    "_gt_labelTrainIds",
    "_train_id",
)


def read_frame(dataset: Sequence[dict[str, Any]], index: int, fields: Sequence[str]) -> dict[str, Any]:
    """Returns a frame with the maps in `fields` at most, decoding no others where the data set can."""
    if hasattr(dataset, "read"):
        return dataset.read(index, fields)
    return {key: value for key, value in dataset[index].items() if key in fields or key not in MAPS}


def lacking(dataset: Sequence[dict[str, Any]], field: str) -> list[str]:
    """Returns the names of the frames without a map, none where the data set does not tell."""
    return dataset.lacking(field) if hasattr(dataset, "lacking") else []


def label_files(dataset: Sequence[dict[str, Any]]) -> list[File | None] | None:
    """Returns the label file of each frame; None if labels do not lie in files of their own."""
    if isinstance(dataset, FrameFiles):
        return [frame.label for frame in dataset.frames]
    return dataset.label_files() if isinstance(dataset, (Selection, Relabelled)) else None


def label_size(dataset: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """Returns the size of labels that are not maps of their image: (1, 1) where they are classes of whole images."""
    return getattr(dataset, "label_size", None)


class Selection:
    """Some frames of a data set, at `positions` of it, in that order."""

    def __init__(self, dataset: Sequence[dict[str, Any]], positions: Sequence[int]):
        self.label_space = dataset.label_space
        self.label_size = label_size(dataset)
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
        return [name for name in lacking(self._dataset, field) if name in kept]

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        return read_frame(self._dataset, self._positions[index], fields) | {"index": range(len(self))[index]}

    def label_files(self) -> list[File | None] | None:
        files = label_files(self._dataset)
        return files and [files[position] for position in self._positions]


class Relabelled:
    """A data set whose labels come from other files, such as a network's pseudo-labels.

    Args:
      dataset: gives everything but the labels.
      folder: holds `<frame name>.png`, 8-bit values of the label space, 255 = ignore.
      size: (height, width) that labels may have instead of that of their image, namely that of the stream.

    Raises:
      UserError: a file is missing; on access, it is damaged, of another size, or holds a value without a class.
    """

    def __init__(self, dataset: Sequence[dict[str, Any]], folder: str, size: tuple[int, int] | None = None):
        self.label_space = dataset.label_space
        self.label_size = label_size(dataset)
        self._dataset = dataset
        self._folder = Path(folder).expanduser()
        self._size = size
        missing = [file for file in self.label_files() if not file.path.is_file()]
        if missing:
            raise UserError(
                f"labels_from: {missing[0]}: no such file; {len(missing)} of {len(self)} frames have no "
                "<frame name>.png there, write them or leave these frames out with names_file"
            )

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index, MAPS)

    def name(self, index: int) -> str:
        return self._dataset.name(index)

    @property
    def problems(self) -> list[Problem]:
        """The problems that do not concern the labels of the data set itself."""
        return [problem for problem in getattr(self._dataset, "problems", ()) if problem.field != "label"]

    def lacking(self, field: str) -> list[str]:
        return [] if field == "label" else lacking(self._dataset, field)

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        example = read_frame(self._dataset, index, [field for field in fields if field != "label"])
        if "label" in fields:
            example["label"] = self._label(example)
        return example

    def label_files(self) -> list[File]:
        return [self._file(self.name(index)) for index in range(len(self))]

    def _file(self, name: str) -> File:
        return File(self._folder / f"{name}.png")

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


class Mixture:
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

    def __init__(self, parts: Mapping[str, Sequence[dict[str, Any]]], path: str):
        self.parts = tuple(parts.values())
        self.starts = (0, *itertools.accumulate(len(part) for part in self.parts[:-1]))
        self._keys = tuple(parts)
        self.label_space = self.parts[0].label_space
        for key, part in zip(self._keys[1:], self.parts[1:], strict=True):
            if part.label_space.names != self.label_space.names:
                raise UserError(
                    f"{path}.mix.{key}.label_space: expected the classes of {path} {list(self.label_space.names)}, got "
                    f"{list(part.label_space.names)}; give both the same label_space"
                )

    def __len__(self) -> int:
        return self.starts[-1] + len(self.parts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index, MAPS)

    def name(self, index: int) -> str:
        number, place = self._place(index)
        return f"{self._keys[number]}/{self.parts[number].name(place)}"

    def lacking(self, field: str) -> list[str]:
        found = zip(self._keys, (lacking(part, field) for part in self.parts), strict=True)
        return [f"{key}/{name}" for key, names in found for name in names]

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        number, place = self._place(index)
        return read_frame(self.parts[number], place, fields) | {
            "name": self.name(index),
            "index": range(len(self))[index],
        }

    def _place(self, index: int) -> tuple[int, int]:
        """Returns which part holds a frame, and where."""
        index = range(len(self))[index]
        number = max(k for k, start in enumerate(self.starts) if start <= index)
        return number, index - self.starts[number]


def random_positions(names: Sequence[str], count: int, seed: int) -> list[int]:
    """Chooses `count` of some names at random, the same ones on every machine.

    The names, sorted, are permuted by the order of as many raw draws of PCG64, whose stream NumPy promises never to
    change, and the first are taken: a smaller count chooses some of the frames of a larger one.

    Returns:
      Their positions, in increasing order.

    Raises:
      UserError: there are fewer names.
    """
    if count > len(names):
        raise UserError(f"count: expected at most the {len(names)} frames of the split, got {count}")
    ordered = sorted(range(len(names)), key=lambda k: names[k])
    permutation = np.argsort(np.random.PCG64(seed).random_raw(len(names)), kind="stable")
    return sorted(ordered[k] for k in permutation[:count])


def listed_positions(path: str, names: Sequence[str]) -> list[int]:
    """Finds the frames that a text file lists, one per line.

    A line is a frame's name, or a row of a list as papers publish them, of whose columns, set apart by tabs or spaces,
    the first one counts: a file's path, whose folders and endings are dropped as far as the names do without them.

    Args:
      path: the text file.
      names: of all frames.

    Returns:
      Positions of the listed frames, in the order of the lines.

    Raises:
      UserError: the file cannot be read or lists nothing; a line fits no frame, several, or one of an earlier line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"names_file: cannot read {path}: {error}") from None
    index = _NameIndex(names)
    chosen: dict[int, None] = {}
    for number, line in enumerate(lines, start=1):
        if not (line := line.strip()):
            continue
        where = f"names_file: {path}, line {number}"
        found = index.find(line)
        if not found:
            raise UserError(f"{where}: no frame '{printable(line)}' in the split{index.hint(line)}")
        if len(found) > 1:
            raise UserError(f"{where}: '{printable(line)}' fits {' and '.join(found[:2])}; write the whole name")
        position = index.positions[found[0]]
        if position in chosen:
            raise UserError(f"{where}: frame '{found[0]}' is listed twice; remove one line")
        chosen[position] = None
    if not chosen:
        raise UserError(f"names_file: {path} lists no frame; write one name per line")
    return list(chosen)


class _NameIndex:
    """Frames by name and by the last part of their names."""

    def __init__(self, names: Iterable[str]):
        self.positions = {name: k for k, name in enumerate(names)}
        self._by_last: dict[str, list[str]] = {}
        for name in self.positions:
            self._by_last.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, line: str) -> list[str]:
        """Returns the names that a line may mean, best first; several only if they fit equally well."""
        column = line.split("\t")[0].strip()
        path = column.split()[0]
        for name in (line, column, path):
            if name in self.positions:
                return [name]
        *folders, last = [part for part in path.split("/") if part] or [path]
        for stem in _stems(last):
            parts = [*folders, stem]
            # A list may name more folders than the data set does, or fewer.
            fitting = {name: _shared(name.split("/"), parts) for name in self._by_last.get(stem, ())}
            best = max(fitting.values(), default=0)
            if best:
                return [name for name, length in fitting.items() if length == best]
        return []

    def hint(self, line: str) -> str:
        """Returns what else the line may have meant."""
        close = difflib.get_close_matches(line, self.positions, n=1)
        return f"; did you mean '{close[0]}'?" if close else "; the file may belong to another split"


def _stems(last: str) -> list[str]:
    """Returns what a file's name may be as the name of a frame."""
    ending = next((ending for ending in IMAGE_ENDINGS if last.lower().endswith(ending)), "")
    stem = last[: len(last) - len(ending)]
    return [last, stem, *(stem.removesuffix(suffix) for suffix in _SUFFIXES if stem.endswith(suffix))]


def _shared(name: Sequence[str], path: Sequence[str]) -> int:
    """Returns how many parts the shorter has if it is the end of the longer, else 0."""
    length = min(len(name), len(path))
    return length if list(name[-length:]) == list(path[-length:]) else 0
