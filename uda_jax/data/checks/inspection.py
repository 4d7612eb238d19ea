"""Looking at single frames of a data set, more closely than training does."""

import contextlib
import os
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.checks.label_files import Stored, contradiction, look_at
from uda_jax.data.io.archives import File
from uda_jax.data.io.files import cannot_read
from uda_jax.data.io.images import bytes_behind, damage, header, proving
from uda_jax.data.io.jpeg import is_jpeg
from uda_jax.errors import UserError, printable

LISTED = 3
# Up to this share of the frames are exceptions; more is variety, and no fault.
EXCEPTIONS = 0.2

# Notes of a report: "3 frames <note>: ...".
NOT_ASCII = "have a name beyond ASCII, which other systems may write differently"
OTHER_LABEL_SIZE = "have a label of another size than the image, which is fitted to it"
OTHER_DEPTH_SIZE = "have a depth or disparity of another size than the image, which is resized to it"
BYTES_BEHIND = "have bytes behind the end of a picture, as some cameras write, which do no harm"
NO_CLASS = "have a label without one pixel of a class"
ONE_COLOUR = "have an image of one colour all over"
ONE_CLASS = "have a label of one class all over"
NO_VALUE = "have a {} map without one valid pixel"
ONE_VALUE = "have a {} map of one value all over"
ODD_UNIT = "have most of their {} nearer than 0.1 m or further than 1 km, so its unit may be wrong"
EIGHT_BITS = "have a depth map of 8 bits, as pictures to look at have, which holds 255 depths at most"
SAME_IMAGE = "have an image file that is a copy of another frame's"
ALIKE = "have names that differ in case or the form of letters only, which other systems take for one"
# Metres: what lies all beyond, or all within, is hardly a scene.
_NEAR, _FAR = 0.1, 1000


class Range(NamedTuple):
    """Values of a depth or disparity map: smallest and largest valid one, valid pixels, all pixels."""

    low: float
    high: float
    valid: int
    pixels: int

    def __or__(self, other: "Range") -> "Range":
        valid, pixels = self.valid + other.valid, self.pixels + other.pixels
        return Range(min(self.low, other.low), max(self.high, other.high), valid, pixels)


class Finding(NamedTuple):
    """What one frame is like.

    Attributes:
      problems: {map: message}.
      notes: {which of this module's notes applies: the map it is about}.
      kinds: {map: mode of its file}.
      sizes: {map: (height, width)}, of those that could be read.
      pixels: int64 `[256]` of the label space, or None without a label.
      ranges: as in `Report`.
      stored: what the label file stores, see `label_files.look_at`.
      cameras: {map: its values}, of those that are no rasters.
      picture: length and checksum of the image file; None where there is none to itself.
    """

    problems: dict[str, str]
    notes: dict[str, str]
    kinds: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    pixels: np.ndarray | None
    ranges: dict[str, Range]
    stored: Stored | None = None
    cameras: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    picture: tuple[int, int] | None = None


def inspect_frame(dataset: Dataset, name: str, index: int) -> Finding:
    """Reads frame `index` and looks at its files; never raises for what they hold."""
    files = dataset.files(index)
    where = {field: str(files.get(field, f"{name}: frame '{printable(dataset.name(index))}'")) for field in MAPS}
    with proving():
        example, problems = _decoded(dataset, index, where, files)
    kinds, notes, picture = {}, {}, None
    for field, file in files.items():
        try:
            data = file.read_bytes()
        except OSError as error:
            problems[field] = _unreadable(file, error)  # says more than the decoder
            continue
        if field == "image":
            picture = len(data), zlib.crc32(data)
        # A JPEG was proved when it was read.
        if not is_jpeg(data) and (reason := damage(data)):
            problems.setdefault(field, f"{file}: damaged: {reason}; copy it again")
        elif bytes_behind(data):
            notes[BYTES_BEHIND] = field
        with contextlib.suppress(Exception):
            # A file that Pillow cannot identify is reported by its decoder, or is no picture.
            kinds[field] = _kind(data)
    if kinds.get("depth") in ("L", "P", "RGB"):
        notes[EIGHT_BITS] = "depth"
    ranges, pixels, stored = {}, None, None
    if "label" in example:
        stored = look_at(dataset, index, files.get("label"), example["label"])
        if stored is not None and (reason := contradiction(dataset, stored)):
            problems.setdefault("label", f"{where['label']}: {reason}")
        pixels, unknown = _label_values(dataset, example["label"])
        if unknown:
            listed = ", ".join(map(str, unknown[:LISTED])) + (", ..." if len(unknown) > LISTED else "")
            problems.setdefault(
                "label", f"{where['label']}: ids {listed} are none of {name}; replace the file or leave the frame out"
            )
        if not pixels[: len(dataset.label_space.names)].any():
            notes[NO_CLASS] = "label"
        elif example["label"].size > 1 and np.count_nonzero(pixels) == 1:
            notes[ONE_CLASS] = "label"
    for field in (field for field, spec in MAPS.items() if spec.unit is not None and field in example):
        ranges[field] = _look_at_values(field, example[field], where[field], problems, notes)
    cameras = {field: example[field] for field in MAPS if field in example and not MAPS[field].is_raster}
    for field, values in cameras.items():
        focal = values[:2] if MAPS[field].geometry == "camera" else values
        if not np.isfinite(values).all() or (focal == 0).any():
            problems.setdefault(
                field, f"{where[field]}: {field} is {values}; expected finite numbers, and no length of 0"
            )
    if "image" in example and _is_plain(example["image"]):
        notes[ONE_COLOUR] = "image"
    sizes = {field: np.shape(example[field])[:2] for field in MAPS if field in example}
    # The label of a classified picture is one pixel.
    if not problems and "image" in sizes and sizes.get("label", sizes["image"]) not in (sizes["image"], (1, 1)):
        notes[OTHER_LABEL_SIZE] = "label"
    distances = [field for field in sizes if MAPS[field].may_differ_in_size]
    if not problems and (odd := [field for field in distances if sizes[field] != sizes.get("image", sizes[field])]):
        notes[OTHER_DEPTH_SIZE] = odd[0]
    ranges = {field: found for field, found in ranges.items() if found}
    values = {field: tuple(np.ravel(found).tolist()) for field, found in cameras.items()}
    return Finding(problems, notes, kinds, sizes, pixels, ranges, stored, values, picture)


def _look_at_values(
    field: str, values: np.ndarray, where: str, problems: dict[str, str], notes: dict[str, str]
) -> Range | None:
    """Returns the range of a map's values, and adds what is odd about them; None if they cannot be."""
    if not np.isfinite(values).all() or (values < 0).any():
        problems.setdefault(field, f"{where}: {field} holds negative or infinite values; replace the file")
        return None
    valid = values[values > 0]
    low, high = (float(valid.min()), float(valid.max())) if valid.size else (np.inf, -np.inf)
    if not valid.size:
        notes[NO_VALUE.format(field)] = field
    elif valid.size > 1 and low == high:
        notes[ONE_VALUE.format(field)] = field
    # Of a scene's sky some is beyond all bounds; not most of the scene.
    if valid.size and MAPS[field].unit == "m" and not _NEAR <= np.median(valid[::16]) <= _FAR:
        notes[ODD_UNIT.format(field)] = field
    return Range(low, high, valid.size, values.size)


def _decoded(
    dataset: Dataset, index: int, where: Mapping[str, str], files: Mapping[str, File]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what can be read of a frame, with its label as stored, and {map: what is wrong}."""
    example, message = _attempt(where["image"], dataset.stored, index, MAPS)
    if not message:
        return example, {}
    problems, fields = {}, tuple(files) or tuple(MAPS)
    for field in fields:
        part, reason = _attempt(where[field], dataset.stored, index, (field,))
        example |= part
        problems |= {field: reason} if reason else {}
    if not files and set(problems.values()) == {message}:
        # The record that holds all maps cannot be read.
        return {}, {"image": message}
    if not problems:
        # Each map by itself is sound: they do not fit together.
        problems[next((field for field in fields if message.startswith(f"{where[field]}:")), "image")] = message
    return example, problems


def _attempt(where: str, read: Callable[..., dict[str, Any]], *arguments: Any) -> tuple[dict[str, Any], str]:
    """Returns (what `read` returns, "") or ({}, why it could not)."""
    try:
        return read(*arguments), ""
    except UserError as error:
        return {}, str(error)
    # A check of many frames must not end at one that its reader did not foresee.
    except Exception as error:
        reason = printable(" ".join(str(error).split()))
        return (
            {},
            f"{where}: the reader failed ({type(error).__name__}: {reason}); replace the file or remove the frame",
        )


def _unreadable(file: File, error: OSError) -> str:
    if not file.member and file.path.is_symlink() and not os.path.exists(file.path):
        target = printable(os.readlink(file.path))
        return f"{file}: a link to '{target}', where there is no file; fix or remove the link"
    return cannot_read(file, error)


def _kind(data: bytes) -> str:
    """Returns an image's Pillow mode, with the bits per channel where the mode does not tell."""
    mode, bits = header(data)
    return f"{mode} of 16 bits" if mode == "RGB" and bits == 16 else mode


def _is_plain(image: np.ndarray) -> bool:
    """Returns whether an image has one colour all over."""
    # Most are told apart by a few pixels.
    return not (image[::16, ::16] != image[0, 0]).any() and not (image != image[0, 0]).any()


def _label_values(dataset: Dataset, label: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Returns int64 `[256]`, pixels of each value of the label space, and the ids that the data set does not define."""
    counts = np.bincount(label.ravel(), minlength=256)
    unknown = [value for value in np.flatnonzero(counts).tolist() if value not in dataset.known]
    if dataset.table is None:
        return counts, unknown
    pixels = np.zeros(256, np.int64)
    np.add.at(pixels, dataset.table, counts)
    return pixels, unknown


def few_exceptions(groups: Mapping[Any, list[int]]) -> tuple[Any, dict[int, Any]]:
    """Returns the usual key and {frame: its key} of the few frames elsewhere; of none if the frames vary a lot."""
    if len(groups) < 2:
        return None, {}
    usual = max(groups, key=lambda key: len(groups[key]))
    others = {frame: key for key, frames in groups.items() if key != usual for frame in frames}
    few = len(others) <= EXCEPTIONS * sum(map(len, groups.values()))
    return usual, others if few else {}
