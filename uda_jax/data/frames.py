"""Data sets whose frames are files: listing them, decoding on access, naming the file when it is wrong.

A reader of a published data set pairs its files by frame name, says how labels are stored, and is done:

    class Kitti(FrameFiles):
        def __init__(self, root, split, label_space="19"):
            tree = Tree("kitti", root)
            images = by_name(tree.files("training/image_2", (".png",)), ".png")
            labels = by_name(tree.files("training/semantic", (".png",)), ".png")
            frames, problems = pair(images, label=labels)
            super().__init__("kitti", frames, label_space, problems=tree.problems + problems, tree=tree)

Any map of `base.MAPS` may lie in files: `pair(images, image_right=...)` pairs those of a second camera.

Depth and disparity may have another size than the image, to which they are resized; labels and further images may not.

Listing never stops at an unreadable frame: it goes into `problems`, for `uda check` to print and for `open_dataset` to
raise where the frame is wanted.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from uda_jax.data.base import MAPS, Dataset, check_map, is_value_of_image
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.images import IMAGE_ENDINGS, LABEL_ENDINGS, read_depth, read_image, read_label
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pairing import Frame, by_name, other_kinds, pair
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

__all__ = ["IMAGE_ENDINGS", "LABEL_ENDINGS", "Frame", "FrameFiles", "by_name", "pair"]

Decoder = Callable[[Frame], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Picture:
    """Reads the file of a map of colours, such as the image itself."""

    field: str

    def __call__(self, frame: Frame) -> np.ndarray:
        return read_image(frame.files[self.field])


def stored_ids(frame: Frame) -> np.ndarray:
    """Reads a label file that holds ids, one channel of 8 bits: what most data sets store."""
    return read_label(frame.label)


@dataclasses.dataclass(frozen=True)
class Metres:
    """Reads a depth file of whole counts."""

    per_count: float

    def __call__(self, frame: Frame) -> np.ndarray:
        return read_depth(frame.depth, self.per_count)


class FrameFiles(Dataset):
    """A random-access sequence of decoded frames (the contract of `uda_jax.data`).

    Args:
      dataset: name of the data set, the key of its table of ids.
      frames: in order.
      label_space: a protocol; or a `LabelSpace` together with `table`.
      decoders: {map: function from a frame to the map as `base.MAPS` describes it}, but a label as stored ids, uint8
        `[H, W]`. Without one, pictures are read as they are and labels by `stored_ids`; other maps need theirs.
      table: uint8 `[256]` from stored ids to classes; None looks up that of data set and protocol.
      known: stored ids that the data set defines; None looks them up. Others are ignored in training and reported
        by `uda check`.
      problems: what listing found.
      mismatched: names of frames whose label is known to have another size than the image. It is fitted to the image
        by nearest neighbour, unless a stream resizes both anyway.
      constants: {map: its value} in the frames without a file of it, such as the intrinsics of the one camera.
      tree: where the frames of a published data set were listed; pictures of other kinds in it are noted.

    Attributes:
      dataset, frames, table, known: as given or looked up.
      problems, passed_over: what listing found that is wrong, and what may be meant.
      label_space: names and colours of the label values.
    """

    def __init__(
        self,
        dataset: str,
        frames: Iterable[Frame],
        label_space: str | LabelSpace,
        *,
        decoders: Mapping[str, Decoder] | None = None,
        table: np.ndarray | None = None,
        known: Iterable[int] | None = None,
        problems: Iterable[Problem] = (),
        mismatched: frozenset[str] = frozenset(),
        constants: Mapping[str, np.ndarray] | None = None,
        tree: Tree | None = None,
    ):
        self.dataset = dataset
        self.frames = tuple(frames)
        listed = (*problems, *(other_kinds(tree, self.frames) if tree is not None else ()))
        self.problems = tuple(problem for problem in listed if not problem.note)
        self.passed_over = tuple(problem for problem in listed if problem.note)
        self.label_space = label_spaces.label_space(label_space) if isinstance(label_space, str) else label_space
        self.table = label_spaces.lookup_table(dataset, label_space) if table is None else table
        self.known = frozenset(label_spaces.known_ids(dataset) if known is None else known)
        pictures = {field: Picture(field) for field, spec in MAPS.items() if spec.resampling == "image"}
        self._decoders = {**pictures, "label": stored_ids, **(decoders or {})}
        self._mismatched = mismatched
        self._constants = dict(constants or {})
        if not self.frames and not self.problems:
            beside = "".join(f" ({note.message})" for note in self.passed_over)
            raise UserError(f"{dataset}: the split holds no frame{beside}; check root and split")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return fitted(self.read(index, MAPS))

    def name(self, index: int) -> str:
        """Returns the name of frame `index` without decoding it."""
        return self.frames[index].name

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes frame `index`, of its maps only those named in `fields` and present.

        Raises:
          UserError: a file is missing or damaged, or the sizes of image and label differ.
        """
        example = self.stored(index, fields)
        if "label" in example:
            # Three times as fast as indexing the table.
            example["label"] = self.table.take(example["label"])
        return example

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes as `read` does, but leaves the label as the ids that the data set stores."""
        index = range(len(self.frames))[index]
        frame = self.frames[index]
        example: dict[str, Any] = {"name": frame.name, "index": index}
        sizes = {}
        for field, spec in MAPS.items():
            if field in fields and field in frame.files:
                example[field] = self._decoders[field](frame)
                check_map(field, example[field], str(frame.files[field]))
                if spec.is_raster:
                    sizes[field] = example[field].shape[:2]
            elif field in fields and field in self._constants:
                example[field] = self._constants[field]
        if frame.name not in self._mismatched:
            _check_sizes(self.dataset, sizes, frame.files)
        return example

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that any frame has."""
        return tuple(
            field for field in MAPS if field in self._constants or any(field in frame.files for frame in self.frames)
        )

    def missing(self, field: str) -> list[str]:
        """Returns the names of the frames that have no file for a map, which is no constant either."""
        if field in self._constants:
            return []
        return [frame.name for frame in self.frames if field not in frame.files]

    def files(self, index: int) -> Mapping[str, File]:
        """Returns {map: its file} of frame `index`."""
        return self.frames[index].files

    def label_files(self) -> list[File | None]:
        """Returns the label file of each frame, None where there is none."""
        return [frame.label for frame in self.frames]


def fitted(example: dict[str, Any]) -> dict[str, Any]:
    """Returns an example whose rasters all have the image's size: others are fitted to it by nearest neighbour.

    A label of one pixel, the class of the whole image, stays as it is.
    """
    if "image" not in example:
        return example
    shape = example["image"].shape
    size = shape[:2]
    odd = [
        field
        for field, spec in MAPS.items()
        if spec.is_raster
        and field in example
        and example[field].shape[:2] != size
        and not is_value_of_image(field, example[field].shape, shape)
    ]
    return example | {field: _nearest(example[field], size) for field in odd}


def check_split(dataset: str, split: str, splits: Collection[str]) -> None:
    """Raises a UserError if a data set has no such split."""
    if split not in splits:
        raise UserError(f"{dataset}: unknown split '{split}'{did_you_mean(split, splits)}")


def check_names(dataset: str, option: str, names: Any) -> frozenset[str]:
    """Returns the frame names that an option of a data set lists; raises a UserError if it is no list of names."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{dataset}: {option}: expected a list of frame names, got {names!r}")
    return frozenset(names)


def _nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map by Pillow's rule: the source pixel of i is floor((i + 1/2) * in / out)."""
    rows, columns = (np.int64((np.arange(n) + 0.5) * have / n) for n, have in zip(size, array.shape, strict=False))
    return array[rows[:, None], columns]


def _check_sizes(dataset: str, sizes: Mapping[str, tuple[int, int]], files: Mapping[str, File]) -> None:
    """Raises a UserError for maps `{name: size}` of a frame that do not fit together."""
    # Tools that do not know of EXIF draw labels on the picture as it is stored, and turned depth is no smaller depth.
    fixed = [(field, size) for field, size in sizes.items() if not MAPS[field].may_differ_in_size]
    first, expected = next(iter(fixed), (None, None))
    for field, size in sizes.items() if fixed else ():
        turned = size == expected[::-1]
        if size != expected and (turned or not MAPS[field].may_differ_in_size):
            side = " (images are turned as their EXIF orientation says, labels not)" if turned else ""
            raise UserError(
                f"{files[field]}: {size[0]}x{size[1]} (height x width), but {files[first]} is "
                f"{expected[0]}x{expected[1]}{side}; make the sizes equal, or leave the frame out with a list from "
                f"'uda check {dataset} --fix-list'"
            )
