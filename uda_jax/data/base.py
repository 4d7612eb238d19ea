"""What a frame may hold, and what a data set offers: the one table of maps, and the base class of all data sets."""

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.io.archives import File, Problem
from uda_jax.data.io.images import IMAGE_ENDINGS, stored_size
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import IGNORE, LabelSpace
from uda_jax.data.recordings import moment
from uda_jax.errors import UserError, printable
from uda_jax.schema import did_you_mean


class MapSpec(NamedTuple):
    """One thing that a frame may hold.

    Attributes:
      dtype: of its values.
      channels: its shape behind height and width; the whole shape of what is no raster.
      geometry: "raster", cropped, scaled and mirrored with the image; "camera", (fx / W, fy / H, u0 / W, v0 / H) of a
        pinhole camera whose image is W pixels wide and H high, where the principal point (u0, v0) is counted from the
        outer corner of the first pixel, whose centre is (1/2, 1/2): a scale of the whole image leaves these as they
        are, a crop changes all of them, and a mirrored image shows the mirrored scene, whose principal point is
        mirrored; "lateral", a length along the camera's x axis, positive to the right, which turns its sign when the
        image is mirrored; or "none", which stays as it is.
      resampling: the rule by which a raster is resized: one of `transforms.RULES`, or "image" or "disparity", the rule
        that a domain's `image_resampling` or `disparity_resampling` names.
      fill: its value where there is nothing: outside of the frame, and in the frames that fill up a batch.
      per_image: whether a raster of 1x1 beside a larger image is one value for all of it, without geometry.
      description: what it is, with its unit.
      unit: of a map of distances, whose valid values are above 0 and whose others are 0; None for other maps.
      offset: of an image of another time, frames of the video by which it lies ahead; a domain takes it from the video
        where the data set has no such map.
      on_request: whether data sets look for it only when it is asked for, since finding it, or making it, takes time
        that training without it should not spend.
    """

    dtype: type[np.generic]
    channels: tuple[int, ...]
    geometry: str
    resampling: str
    fill: float
    description: str
    per_image: bool = False
    unit: str | None = None
    offset: int = 0
    on_request: bool = False

    @property
    def is_raster(self) -> bool:
        """Whether the map has a height and a width."""
        return self.geometry == "raster"

    @property
    def belongs_to_image(self) -> bool:
        """Whether networks read it, so that it always has the image's size; the others may keep theirs to score on."""
        return self.geometry == "camera" or self.resampling == "image"

    @property
    def may_differ_in_size(self) -> bool:
        """Whether a file of another size than the image is no mistake, but resized: a network's depth, as CorDA's."""
        return self.unit is not None

    def shape(self, size: tuple[int, int], batch: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Returns the shape of the map in frames of a size (height, width), or in a batch of them."""
        return (*batch, *(size if self.is_raster else ()), *self.channels)


def _picture(description: str, offset: int = 0, on_request: bool = True) -> MapSpec:
    return MapSpec(np.uint8, (3,), "raster", "image", 0, description, offset=offset, on_request=on_request)


class Announced(NamedTuple):
    """What is known of a data set before any of its files is there.

    Attributes:
      label_space: names and colours of the label values; None where its files say them.
      size: (height, width) of every frame; None where its files have it.
    """

    label_space: LabelSpace | None
    size: tuple[int, int] | None


# Everything that a frame may hold, in the order in which it is listed and stored. A new map is a new row; data sets
# yield it under its name, domains ask for it in `fields`, and what lies between reads this table.
MAPS: dict[str, MapSpec] = {
    "image": _picture("RGB", on_request=False),
    "label": MapSpec(
        np.uint8, (), "raster", "nearest", IGNORE, "classes of the label space, 255 = ignore", per_image=True
    ),
    "depth": MapSpec(np.float32, (), "raster", "nearest", 0, "metres, 0 = invalid", unit="m"),
    "disparity": MapSpec(
        np.float32, (), "raster", "disparity", 0, "relative inverse depth, larger = nearer, 0 = invalid", unit=""
    ),
    "image_previous": _picture("RGB, the frame before in time", offset=-1),
    "image_next": _picture("RGB, the frame after in time", offset=1),
    # Mirroring a frame mirrors both images; the camera of this one is then to the left, and the baseline negative.
    "image_right": _picture("RGB, the rectified view of a second camera to the right"),
    "intrinsics": MapSpec(
        np.float32,
        (4,),
        "camera",
        "none",
        0,
        "fx / width, fy / height, u0 / width, v0 / height of the image, from its outer corner",
        on_request=True,
    ),
    "baseline": MapSpec(
        np.float32, (), "lateral", "none", 0, "metres to the camera of image_right, right = positive", on_request=True
    ),
    "distrust": MapSpec(np.float32, (), "raster", "nearest", 1, "0 = a label to rely on, 1 = one to leave out"),
}
# What a frame holds besides maps.
KEYS = ("name", "index")


def map_names(example: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns the names of the maps that an example holds, in the order of `MAPS`.

    Args:
      example: what a data set gives for a frame.
      where: starts the message.

    Raises:
      UserError: it holds something that `MAPS` does not list.
    """
    for key in example:
        if key not in MAPS and key not in KEYS:
            raise UserError(
                f"{where}: frame '{printable(str(example.get('name')))}' holds the unknown map '{key}'"
                f"{did_you_mean(key, MAPS)}; a new map needs a row in uda_jax.data.base.MAPS"
            )
    return tuple(name for name in MAPS if name in example)


def requested(fields: Collection[str]) -> tuple[str, ...]:
    """Returns those of some maps that a data set looks for only when it is asked for them, in the order of `MAPS`."""
    return tuple(name for name, spec in MAPS.items() if spec.on_request and name in fields)


def check_map(name: str, array: Any, where: str) -> None:
    """Raises a UserError for a map whose type or channels are not those of its row in `MAPS`."""
    spec, array = MAPS[name], np.asarray(array)
    channels = array.shape[2:] if spec.is_raster and array.ndim >= 2 else array.shape
    if array.dtype != spec.dtype or channels != spec.channels or (spec.is_raster and array.ndim < 2):
        words = "x".join(["H", "W"] * spec.is_raster + [str(n) for n in spec.channels]) or "one value"
        got = "x".join(map(str, array.shape)) or "one value"
        raise UserError(f"{where}: expected {np.dtype(spec.dtype)} of {words}, got {array.dtype} of {got}")


def is_value_of_image(name: str, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> bool:
    """Returns whether a map of some shape is one value for the whole of a larger image, as in classification."""
    return MAPS[name].per_image and shape[:2] == (1, 1) and image_shape[:2] != (1, 1)


class Dataset(Sequence):
    """A random-access sequence of frames (the contract of `uda_jax.data`).

    A subclass sets `label_space` and defines `__len__`, `name`, and either `__getitem__` or `read`; the other follows
    from it. All else has defaults, those of a data set that does not lie in files.

    Attributes:
      label_space: names and colours of the label values.
      label_size: (height, width) of labels that are no maps of their image; (1, 1): classes of whole images.
      table: uint8 `[256]` from stored ids to classes; None where `stored` gives classes.
      known: stored ids that are defined; others in a label are a sign of damage.
      problems: what is wrong with the files.
      passed_over: files beside them that are not read, and may have been meant to be.
      rule: whatever else decides which class or distance a stored value is: another text, another meaning.
      colours: {stored id: the colour that stands for it}, where a user gave both.
      painted: whether labels are read by colours, not by ids or by the indices of a palette.
      folder: where the data lies, unless that is its root.
      resized: what `uda prepare` resized it to: "size", None or [height, width], and the fields of a `Domain` that
        name the rules; None if it was not prepared.
    """

    label_space: LabelSpace
    label_size: tuple[int, int] | None = None
    table: np.ndarray | None = None
    problems: Sequence[Problem] = ()
    passed_over: Sequence[Problem] = ()
    rule: str = ""
    colours: Mapping[int, tuple[int, int, int]] | None = None
    painted: bool = False
    folder: Path | None = None
    resized: Mapping[str, Any] | None = None

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if cls.read is Dataset.read and cls.__getitem__ is Dataset.__getitem__:
            raise TypeError(f"{cls.__name__} must define __getitem__ or read")

    @classmethod
    def announced(cls, label_space: str, options: Mapping[str, Any]) -> Announced:
        """Returns what is known before it is opened; by default, the classes of a protocol.

        Args:
          label_space: as it would be opened with.
          options: further arguments of its constructor that are given.

        Raises:
          UserError: an unknown protocol.
        """
        del options
        return Announced(None if label_space == "own" else label_spaces.label_space(label_space), None)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index, MAPS)

    def name(self, index: int) -> str:
        """Returns the name of frame `index` without decoding it."""
        raise NotImplementedError

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns frame `index` with the maps in `fields` at most, sparing the decoding of others where it can.

        Raises:
          UserError: a file is missing or damaged; the frame holds a map that `MAPS` does not list.
        """
        example = self[index]
        maps = map_names(example, type(self).__name__)
        return {key: value for key, value in example.items() if key in fields or key not in maps}

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns frame `index` as `read` does, but its label as the ids that the data set stores."""
        return self.read(index, fields)

    @functools.cached_property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that the data set has; by default those of its first frame."""
        return map_names(self[0], type(self).__name__)

    @functools.cached_property
    def known(self) -> frozenset[int]:
        """The stored ids that are defined; by default the classes and "ignore"."""
        return frozenset((*range(len(self.label_space.names)), self.label_space.ignore))

    def missing(self, field: str) -> list[str]:
        """Returns the names of the frames without a map; by default, all frames have the same maps."""
        return [] if field in self.maps else self.names()

    def has(self, field: str) -> bool:
        """Returns whether any frame has a map."""
        return len(self.missing(field)) < len(self)

    def names(self) -> list[str]:
        """Returns the names of all frames, in order."""
        return [self.name(index) for index in range(len(self))]

    def files(self, index: int) -> Mapping[str, File]:
        """Returns {map: its file} of frame `index`; empty if the maps do not lie in files of their own."""
        del index
        return {}

    def record_files(self) -> list[Path]:
        """Returns the files that hold frames which have none of their own; by default all below `folder`."""
        if self.folder is None:
            return []
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        """Returns (height, width) of a raster of frame `index` without decoding it; None if that is not known.

        By default, what the header of its file says, if it has a picture's.

        Raises:
          UserError: the file is missing or damaged.
        """
        file = self.files(index).get(field)
        if file is None or not file.name.lower().endswith(IMAGE_ENDINGS):
            return None
        return stored_size(file, upright=MAPS[field].resampling == "image")

    def label_files(self) -> list[File | None] | None:
        """Returns the label file of each frame; None if labels do not lie in files of their own."""
        return None

    def sequence(self, index: int) -> tuple[str, int] | None:
        """Returns (which recording frame `index` belongs to, its number there); None if frames have no order in time.

        By default, the number is what a name ends with, and the recording what precedes it: folders, a city.
        """
        return moment(self.name(index))
