"""Handwritten digits and house numbers: MNIST, USPS and SVHN, for classification; and drawn ones to try things on.

Take it to try classification and recipes of several stages in minutes.

To classify is to segment a map of one pixel: the label of a picture is 1x1. Grey pictures get three equal channels,
and each set keeps its own size: MNIST 28x28, USPS 16x16 and SVHN 32x32 pixels. A domain's `size` brings them together;
CyCADA's protocol takes USPS to 28x28, bilinearly. MNIST and USPS are white strokes on black.

The option `which` names the set. Its files lie in the root or in `<set>`, `<SET>`, `<SET>/raw` or `raw` below it:
- mnist, usps: `<set>.npz` with train_images `[N, H, W]`, train_labels `[N]`, test_images and test_labels (or x_train,
  y_train, x_test, y_test); or IDX files, {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, also .gz.
- usps: also zip.train and zip.test, also .gz: lines of a label and 256 grey values between -1 and 1.
- svhn: {train,test}_32x32.mat, in which the label of zero is 10.
- segments, faded: no files and no root. Seven-segment digits of 28x28 pixels, drawn by code at random places and in
  random thickness: white on black, and grey in noise. A recipe runs on them in seconds where nothing was downloaded;
  their accuracy says nothing about handwriting.

The option `margin` frames every picture in black. Handwritten digits reach the border, or nearly so; only with a margin
does a random crop shift the strokes instead of cutting them off.
"""

import gzip
import io
import os
import struct
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.base import Announced, Dataset
from uda_jax.data.frames import check_split
from uda_jax.data.io.archives import File, Tree
from uda_jax.data.io.matlab import read_matrix
from uda_jax.data.io.packed import DAMAGED
from uda_jax.data.labels.label_spaces import LabelSpace, distinct_colours
from uda_jax.errors import UserError

SPLITS = ("train", "test")
CLASSES = tuple("0123456789")
LABEL_SPACE = LabelSpace(CLASSES, distinct_colours(len(CLASSES)))
# Height and width of the pictures as published.
SIDES = {"mnist": 28, "usps": 16, "svhn": 32, "segments": 28, "faded": 28}
# Samples that are drawn for a split.
DRAWN = 200


class _Look(NamedTuple):
    """How drawn digits look: bounds of their thickness in pixels, grey levels of strokes and ground, noise."""

    thickness: tuple[int, int]
    stroke: int
    ground: int
    noise: float


_LOOKS = {"segments": _Look((3, 4), 255, 0, 0.0), "faded": _Look((1, 3), 170, 50, 25.0)}

# Rows and columns of a digit of 19x11 pixels that each segment joins, and the segments of each digit, in the usual
# letters: a at the top, then clockwise, g in the middle.
_SEGMENTS = {
    "a": ((0, 0), (0, 10)),
    "b": ((0, 9), (10, 10)),
    "c": ((9, 18), (10, 10)),
    "d": ((18, 18), (0, 10)),
    "e": ((9, 18), (0, 0)),
    "f": ((0, 9), (0, 0)),
    "g": ((9, 9), (0, 10)),
}
_SHAPES = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
_IDX = {"train": "train", "test": "t10k"}
_NPZ = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


class Digits(Dataset):
    """One split of MNIST, USPS, SVHN or a drawn set: a data set of pictures and their classes.

    Pictures are uint8 `[H, W, 3]`, labels uint8 `[1, 1]`. All samples are held in memory, 47 MB of MNIST or 225 MB of
    SVHN; a copy in another process reads the files again.

    Args:
      root: the folder of the files; not used by the drawn sets.
      split: "train" or "test".
      label_space: "own", the ten digits.
      which: "mnist", "usps" or "svhn"; "segments" or "faded" for drawn digits.
      limit: only the first samples of the split.
      margin: black pixels added on each side of a picture, in its own size.

    Attributes:
      label_space: names and colours of the label values.
      label_size: that of a label, which is no map of its image.

    Raises:
      UserError: an unknown split, label space or set, a limit below 1, a margin below 0, or files that are missing or
        damaged.
    """

    label_size = (1, 1)
    maps = ("image", "label")

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "own",
        *,
        which: str = "mnist",
        limit: int | None = None,
        margin: int = 0,
    ):
        check_split("digits", split, SPLITS)
        if label_space != "own":
            raise UserError(f"digits: label_space: expected 'own', since the classes are digits, got '{label_space}'")
        if which not in SIDES:
            raise UserError(f"digits: which: expected one of {', '.join(SIDES)}, got {which!r}")
        for name, value, low in (("limit", 1 if limit is None else limit, 1), ("margin", margin, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"digits: {name}: expected an integer >= {low}, got {value!r}")
        self.label_space = LABEL_SPACE
        self._which, self._split, self._limit, self._margin = which, split, limit, margin
        self._files = () if which in _LOOKS else _find(Tree("digits", root), which, split)
        self._load()

    @classmethod
    def announced(cls, label_space: str, options: Mapping[str, Any]) -> Announced:
        """Returns the digits and the size of pictures, without reading a file; an unknown set has no size."""
        del label_space
        side = SIDES.get(options.get("which", "mnist"))
        return Announced(LABEL_SPACE, side and (side + 2 * options.get("margin", 0),) * 2)

    def __len__(self) -> int:
        return len(self._labels)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_images", "_labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def name(self, index: int) -> str:
        """Returns the name of sample `index`, such as "train_00042"."""
        return f"{self._split}_{range(len(self))[index]:05d}"

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns sample `index` with the maps in `fields` at most."""
        index = range(len(self))[index]
        example: dict[str, Any] = {"name": self.name(index), "index": index}
        if "image" in fields:
            picture = self._images[index]
            grey = picture if picture.ndim == 3 else picture[..., None]
            example["image"] = np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
        if "label" in fields:
            example["label"] = self._labels[index].reshape(1, 1)
        return example

    def _load(self) -> None:
        """Draws the samples, or reads them and checks that they are those of the set."""
        if self._which in _LOOKS:
            images, labels = _drawn(self._which, self._split, self._limit)
        else:
            images, labels = self._read_files()
        self._images = images[: self._limit]
        if self._margin:
            border = [(self._margin, self._margin)] * 2
            self._images = np.pad(self._images, [(0, 0), *border, (0, 0)][: images.ndim])
        self._labels = labels[: self._limit].astype(np.uint8)

    def _read_files(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = _samples(self._files, self._split)
        side, source = SIDES[self._which], self._files[0]
        expected = (side, side, 3) if self._which == "svhn" else (side, side)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            size = "x".join(map(str, images.shape[1:]))
            raise UserError(
                f"{source}: expected pictures of {self._which}, uint8 of {side}x{side}, got {images.dtype} of {size}; "
                "set 'which' or replace the file"
            )
        if labels.shape != images.shape[:1]:
            raise UserError(
                f"{' and '.join(map(str, self._files))}: expected one label for each of {len(images)} pictures, got "
                f"{labels.shape}; copy them again"
            )
        if not len(labels):
            raise UserError(f"{source}: expected pictures, found none; copy it again")
        if not np.isin(labels, np.arange(len(CLASSES))).all():
            raise UserError(f"{self._files[-1]}: expected labels from 0 to 9, got others; copy it again")
        return images, labels


def _drawn(which: str, split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures `[N, 28, 28]` and labels `[N]`: the digits in turn, each drawn from its own index alone."""
    look, number = _LOOKS[which], (list(_LOOKS).index(which), SPLITS.index(split))
    labels = np.arange(min(limit or DRAWN, DRAWN)) % len(CLASSES)
    pictures = [_draw(label, look, np.random.default_rng((*number, index))) for index, label in enumerate(labels)]
    return np.stack(pictures), labels


def _draw(label: int, look: _Look, generator: np.random.Generator) -> np.ndarray:
    """Returns a seven-segment digit, uint8 `[28, 28]`, somewhere in the picture."""
    side = SIDES["segments"]
    thickness = int(generator.integers(*look.thickness, endpoint=True))
    top, left = generator.integers(1, (side - 18 - thickness, side - 10 - thickness))
    picture = np.full((side, side), look.ground, np.float64)
    for segment in _SHAPES[label]:
        rows, columns = _SEGMENTS[segment]
        lines = slice(top + rows[0], top + rows[1] + thickness)
        picture[lines, left + columns[0] : left + columns[1] + thickness] = look.stroke
    picture += generator.normal(0, look.noise, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _find(tree: Tree, which: str, split: str) -> tuple[File, ...]:
    """Returns the file of a split, or those of its pictures and of its labels."""
    idx = [f"{_IDX[split]}-images-idx3-ubyte", f"{_IDX[split]}-labels-idx1-ubyte"]
    kinds: list[list[str]] = [[f"{split}_32x32.mat"]] if which == "svhn" else [[f"{which}.npz"], idx]
    if which == "usps":
        kinds.append([f"zip.{split}"])
    for folder in ("", f"{which}/", f"{which.upper()}/", f"{which.upper()}/raw/", "raw/"):
        for names in kinds:
            found = [tree.file(f"{folder}{name}") or tree.file(f"{folder}{name}.gz") for name in names]
            if all(found):
                return tuple(found)
    wanted = " or ".join(" with ".join(names) for names in kinds)
    raise UserError(f"digits: no file of {which} {split} in {tree.where('')}: expected {wanted}")


def _samples(files: tuple[File, ...], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures `[N, H, W]` or `[N, H, W, 3]` and labels `[N]` as the files have them."""
    first = files[0]
    if first.name.endswith(".mat"):
        pictures, labels = read_matrix(first, "X", dimensions=4), read_matrix(first, "y").ravel()
        return np.moveaxis(pictures, 3, 0), np.where(labels == 10, 0, labels)
    try:
        contents = [_content(file) for file in files]
        if first.name.endswith(".npz"):
            return _npz(contents[0], split)
        if len(files) == 2:
            return _idx(contents[0]), _idx(contents[1])
        return _rows(contents[0])
    # A damaged file raises whatever the decompressor or the parser meets first.
    except (KeyError, TypeError, *DAMAGED) as error:
        names = " and ".join(map(str, files))
        raise UserError(f"{names}: cannot be read ({' '.join(str(error).split())}); copy it again") from None


def _content(file: File) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if file.name.endswith(".gz") else data


def _npz(data: bytes, split: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(data)) as arrays:
        for images, labels in _NPZ[split]:
            if images in arrays and labels in arrays:
                return arrays[images], arrays[labels]
        raise ValueError(f"expected the arrays {' and '.join(_NPZ[split][0])}, got {', '.join(arrays.files)}")


def _idx(data: bytes) -> np.ndarray:
    """Parses IDX: two zero bytes, the type (8 = uint8), the number of dimensions, their sizes, the values."""
    zero, kind, dimensions = struct.unpack_from(">HBB", data)
    if zero or kind != 8:
        raise ValueError("expected the IDX format with bytes")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _rows(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Parses USPS as text. Grey values -1 .. 1 become 0 .. 255 by rounding."""
    side = SIDES["usps"]
    rows = np.array(data.split(), np.float64).reshape(-1, 1 + side * side)
    labels = rows[:, 0]
    if not (np.abs(rows[:, 1:]) <= 1).all() or (labels % 1).any():
        raise ValueError("expected whole labels and grey values from -1 to 1")
    pictures = np.rint(255 * (rows[:, 1:] + 1) / 2).astype(np.uint8)
    return pictures.reshape(-1, side, side), labels.astype(np.int64)
