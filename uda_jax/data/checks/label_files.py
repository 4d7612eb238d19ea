"""What label files say besides the classes that are read from them: palettes, and the values that are ignored."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from uda_jax.data.base import Dataset
from uda_jax.data.io.archives import File
from uda_jax.data.io.images import opened
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.errors import printable

# Frames, spread over the split, whose label files are looked at: a palette or a table is wrong in many or in none.
_SAMPLE = 50
# Shares of the pixels without a class from which on they are worth a note.
_MUCH = 0.2
_LISTED = 3

Colour = tuple[int, int, int]


class Stored(NamedTuple):
    """What a label file stores.

    Attributes:
      palette: {index that occurs: its colour}; empty for a file without a palette.
      ignored: {stored value: pixels}, of those that are in no class.
    """

    palette: dict[int, Colour]
    ignored: dict[int, int]


def look_at(dataset: Dataset, index: int, file: File | None, label: np.ndarray) -> Stored | None:
    """Returns what the label file of a frame stores; None if it is none of the sample, or holds no ids.

    Args:
      dataset: the data set.
      index: of the frame.
      file: its label file, if there is one.
      label: uint8 `[H, W]`, what the data set reads from it.
    """
    return None if index % max(1, len(dataset) // _SAMPLE) else stored_in(dataset, file, label)


def stored_in(dataset: Dataset, file: File | None, label: np.ndarray) -> Stored | None:
    """Returns what a label file stores; None if it holds no ids.

    Args:
      dataset, file, label: as in `look_at`.
    """
    if file is None or dataset.painted:
        return None
    # Whatever is wrong with the file has been reported.
    with contextlib.suppress(Exception), opened(file.read_bytes()) as image:
        if image.mode not in ("L", "P"):
            return None
        ids = np.array(image)
        colours = np.array(image.getpalette("RGB") if image.mode == "P" else [], np.uint8).reshape(-1, 3)
        used = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist()
        without = np.bincount(ids[label == IGNORE], minlength=256) if ids.shape == label.shape else np.zeros(256, int)
        return Stored(
            {value: tuple(colours[value].tolist()) for value in used if value < len(colours)},
            {value: int(without[value]) for value in np.flatnonzero(without).tolist()},
        )
    return None


def contradiction(dataset: Dataset, stored: Stored) -> str | None:
    """Returns what is wrong with a palette whose colours are those of other classes than its indices."""
    meant = {colour: value for value, colour in (dataset.colours or {}).items()}
    for value, colour in stored.palette.items():
        other = meant.get(colour, value)
        if value in (dataset.colours or {}) and dataset.colours[value] != colour and other != value:
            return (
                f"its palette shows id {value} in the colour of id {other}, {list(colour)}, so the colours of the "
                "description contradict the ids; leave out 'ids' to read labels by their colours"
            )
    return None


def palette_notes(found: Sequence[tuple[str, Stored]]) -> list[str]:
    """Returns a note if one index has several colours; `found` are label files and what they store."""
    first: dict[int, tuple[Colour, str]] = {}
    for file, stored in found:
        for value, colour in stored.palette.items():
            before, where = first.setdefault(value, (colour, file))
            if before != colour:
                return [
                    f"the palettes of label files differ: id {value} is {list(before)} in {where}, but {list(colour)} "
                    f"in {file}; ids are read, not colours, so give 'colours' without 'ids' if the colours are right"
                ]
    return []


def class_notes(dataset: Dataset, pixels: np.ndarray, found: Sequence[tuple[str, Stored]]) -> list[str]:
    """Returns notes about classes without a pixel, and about many pixels without a class.

    Args:
      dataset: the data set.
      pixels: int64 `[256]`, how many label pixels have each value of the label space.
      found: what some label files store.
    """
    total, names = int(pixels.sum()), dataset.label_space.names
    if not total:
        return []
    possible = range(len(names)) if dataset.table is None else set(dataset.table[sorted(dataset.known)].tolist())
    absent = [printable(name) for value, name in enumerate(names) if value in possible and not pixels[value]]
    notes = [f"no label has a pixel of {', '.join(absent)}"] if absent else []
    share = int(pixels[dataset.label_space.ignore]) / total
    counts = np.zeros(256, np.int64)
    for _, stored in found:
        for value, number in stored.ignored.items():
            counts[value] += number
    if share < _MUCH or not dataset.rule or not counts.any():
        return notes
    values = np.argsort(-counts, kind="stable")[:_LISTED].tolist()
    listed = ", ".join(f"{value} ({100 * counts[value] / counts.sum():.0f} %)" for value in values if counts[value])
    return [
        *notes,
        f"{100 * share:.1f} % of the label pixels are ignored, which store {listed}; list a value in 'ids' if it is a "
        "class",
    ]
