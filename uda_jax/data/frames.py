"""Data sets whose frames are files: listing folders, decoding on access, naming the file when it is wrong.

A reader of a published data set lists its `Frame`s, chooses how labels are decoded, and is done:

    class Camvid(FrameFiles):
        def __init__(self, root, split, protocol="19"):
            frames = pair_files(require_root("camvid", root) / split / "images", ...)
            super().__init__(frames, IdTable(lookup_table("camvid", protocol)), label_space(protocol))
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.images import read_depth, read_image, read_label
from uda_jax.data.label_spaces import LabelSpace
from uda_jax.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LABEL_SUFFIXES = (".png",)
MAPS = ("image", "label", "depth")


class Frame(NamedTuple):
    """One frame: its name and its files."""

    name: str
    image: Path
    label: Path | None = None
    depth: Path | None = None


@dataclasses.dataclass(frozen=True)
class IdTable:
    """Reads a label file of stored ids and maps it by a uint8 `[256]` table; unlisted ids are ignored."""

    table: np.ndarray

    def __call__(self, path: Path) -> np.ndarray:
        return self.table[read_label(path)]


class FrameFiles:
    """A random-access sequence of decoded frames (the contract of `uda_jax.data`).

    Args:
      frames: the frames in order; at least one.
      decode_label: reads one label file into uint8 `[H, W]` values of `label_space`, 255 = ignore.
      label_space: names and colours of the label values.
      metres_per_count: unit of the depth files; None where there are none.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        decode_label: Callable[[Path], np.ndarray],
        label_space: LabelSpace,
        metres_per_count: float | None = None,
    ):
        self.frames = tuple(frames)
        self.label_space = label_space
        self._decode_label = decode_label
        self._metres_per_count = metres_per_count

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index, MAPS)

    def name(self, index: int) -> str:
        """Returns the name of frame `index` without decoding it."""
        return self.frames[index].name

    def read(self, index: int, fields: Iterable[str]) -> dict[str, Any]:
        """Decodes frame `index`, of its maps only those named in `fields` and present.

        Raises:
          UserError: a file is missing or damaged, or the sizes of the frame's maps differ.
        """
        index = range(len(self.frames))[index]
        frame = self.frames[index]
        readers = {
            "image": read_image,
            "label": self._decode_label,
            "depth": lambda path: read_depth(path, self._metres_per_count),
        }
        example: dict[str, Any] = {"name": frame.name, "index": index}
        sizes = {}
        for field in MAPS:
            path = getattr(frame, field)
            if field in fields and path is not None:
                example[field] = readers[field](path)
                sizes[path] = example[field].shape[:2]
        _check_sizes(sizes)
        return example

    def lacking(self, field: str) -> list[str]:
        """Returns the names of the frames that have no file for "label" or "depth"."""
        return [frame.name for frame in self.frames if getattr(frame, field) is None]


def list_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Returns {stem: path} of the files in a folder with one of the suffixes, sorted by name.

    Raises:
      UserError: two files share a stem, so that frames could not be told apart.
    """
    files: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        # A leading dot marks what file managers leave behind, such as "._a.png".
        if suffix.lower() not in suffixes or name.startswith("."):
            continue
        if stem in files:
            raise UserError(f"{folder}: two files share the stem '{stem}': {files[stem].name} and {name}; rename one")
        files[stem] = folder / name
    return files


def pair_files(images: Path, labels: Path | None = None, depths: Path | None = None) -> list[Frame]:
    """Lists the frames of a split by matching stems.

    Args:
      images: folder of the images; must hold at least one.
      labels, depths: folders of the label and depth PNGs; None, or a folder that does not exist, means that
        the split has none.

    Raises:
      UserError: no image at all, a label or depth file without its image, or a shared stem.
    """
    image_files = list_files(images, IMAGE_SUFFIXES)
    if not image_files:
        raise UserError(f"{images}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none; check root and split")
    others = []
    for folder in (labels, depths):
        files = list_files(folder, LABEL_SUFFIXES) if folder is not None and folder.is_dir() else {}
        for stem in files:
            if stem not in image_files:
                raise UserError(f"{files[stem]}: no image '{stem}' in {images}; add it or remove this file")
        others.append(files)
    return [Frame(stem, path, others[0].get(stem), others[1].get(stem)) for stem, path in image_files.items()]


def require_root(dataset: str, root: str | os.PathLike | None) -> Path:
    """Returns the root folder of a data set as a path, or raises a UserError that names the field."""
    if root is None:
        raise UserError(f"{dataset}: root: expected the folder of the data set, got None; set the domain's 'root'")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"{dataset}: root: no folder {path}; set the domain's 'root' to where the data set lies")
    return path


def _check_sizes(sizes: dict[Path, tuple[int, int]]) -> None:
    (first, expected), *others = sizes.items() or [(None, None)]
    for path, size in others:
        if size != expected:
            raise UserError(
                f"{path}: {size[0]}x{size[1]} (height x width), but {first} is {expected[0]}x{expected[1]}; "
                "make the sizes equal or remove the frame"
            )
