"""Any user's own images, labels and depth maps, described by one small file.

Take it for frames of your own; `uda new` writes its description.

    <root>/dataset.yaml                          or one <root>/../dataset.yaml for several folders side by side
    <root>/<split>/images/<stem>.png|jpg|...     in any depth: a frame is named by its path without the ending
    <root>/<split>/labels/<stem>.png             optional: a split or a frame without labels is unlabelled
    <root>/<split>/depth/<stem>.png              optional: 16-bit, one channel, 0 = no value
    <root>/<split>/<map>/<stem>.png|jpg|...      optional: further pictures of a frame: image_right, image_previous, ...
    <root>/<split>/intrinsics.txt                optional: one line "fx fy cx cy width height", all in pixels, and, with
                                                 image_right, the distance of its camera in metres (`data.io.cameras`)

`dataset.yaml` lists the classes, and may say more: `uda_jax.data.labels.descriptions` has all of it.

Label space "own" keeps the classes as listed, 0 .. K-1. The Cityscapes protocols ("19", "16", ...) take the
classes whose names are Cityscapes names and ignore the others, which makes a folder comparable with the
published data sets.
"""

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from uda_jax.data.base import MAPS
from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, Frame, FrameFiles, Metres, by_name, pair
from uda_jax.data.io import cameras
from uda_jax.data.io.archives import Problem, Tree
from uda_jax.data.io.images import read_label, read_painted
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.descriptions import Description, description_path, read_description
from uda_jax.data.labels.label_spaces import CLASS_NAMES, IGNORE, PALETTE, LabelSpace
from uda_jax.data.pairing import masks_among, passed_over
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

_FOLDERS = {"label": "labels", "depth": "depth"}
# Further pictures of a frame, in folders of their maps' names.
_PICTURES = tuple(field for field, spec in MAPS.items() if spec.resampling == "image" and field != "image")


class Folder(FrameFiles):
    """One split of a user's folder.

    Args:
      root: the folder that holds `dataset.yaml`.
      split: the name of a folder in it.
      label_space: "own", or a Cityscapes protocol: "19", "16", "13", "10", "7".
      require_labels: True makes an image without a label an error.
      views: maps on request that frames shall have, too (`data.base.requested`).

    Raises:
      UserError: whatever is wrong with the description or the folders; on access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "own",
        *,
        require_labels: bool = False,
        views: Collection[str] = (),
    ):
        tree = Tree("folder", root)
        description = read_description(description_path(tree.root))
        images = f"{split}/images"
        if not tree.is_folder(images):
            splits = sorted(path.parent.name for path in tree.root.glob("*/images"))
            hint = did_you_mean(split, splits) if splits else "; put the images of a split into <split>/images"
            raise UserError(
                f"folder: no folder {tree.where(images)} for split '{split}'{_elsewhere(tree, split) or hint}"
            )
        problems = tree.problems
        found = by_name(tree.files(images, IMAGE_ENDINGS, recursive=True), IMAGE_ENDINGS, problems)
        if not found and not problems:
            raise UserError(
                f"{tree.where(images)}: expected images ({', '.join(IMAGE_ENDINGS)}), found none; check root and split"
            )
        maps = {
            field: by_name(tree.files(f"{split}/{folder}", LABEL_ENDINGS, recursive=True), ".png", problems, field)
            for field, folder in _FOLDERS.items()
        }
        for field in _PICTURES:
            listed = tree.files(f"{split}/{field}", IMAGE_ENDINGS, recursive=True)
            maps[field] = by_name(listed, IMAGE_ENDINGS, problems, field)
        frames, unpaired = pair(found, optional=maps, **maps)
        unlabelled = [frame for frame in frames if frame.label is None]
        if require_labels and unlabelled:
            raise UserError(
                f"{tree.where(f'{split}/labels')}: {len(unlabelled)} of {len(frames)} images have no label, the first "
                f"is '{unlabelled[0].name}'; label or remove them"
            )
        if description.depth_unit is None and maps["depth"]:
            raise UserError(f"{description.path}: depth_unit: expected metres per count, since {split}/depth exists")
        passed = _passed_over(tree, split, frames)
        depth = {"depth": Metres(description.depth_unit)} if description.depth_unit else {}
        space, targets = _target_classes(description, label_space)
        table = np.full(256, IGNORE, np.uint8)
        table[: len(targets)] = targets
        camera = _camera_maps(tree, split, views)
        super().__init__(
            "folder",
            frames,
            space,
            decoders={"label": _decoder(description)} | depth,
            table=table,
            known=(*range(len(targets)), IGNORE),
            constants=camera,
            # A file of one's own without an image is a slip, not a part of a larger download.
            problems=problems + [slip._replace(orphan=False) for slip in unpaired] + masks_among(found) + passed,
        )
        self.painted = description.ids is None
        self.rule = repr(dataclasses.replace(description, path=None)) + (repr(camera) if camera else "")
        if description.ids is not None and description.colours is not None:
            pairs = zip(description.ids, description.colours, strict=True)
            self.colours = {one: colour for ids, colour in pairs for one in ids}


def _camera_maps(tree: Tree, split: str, views: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the intrinsics and the baseline of a split, as far as they are asked for."""
    wanted = [field for field in ("intrinsics", "baseline") if field in views]
    if not wanted:
        return {}
    file, where = tree.file(f"{split}/{cameras.FILE}"), tree.where(f"{split}/{cameras.FILE}")
    if file is None:
        raise UserError(f"folder: no file {where}; write a line '{cameras.LINE}' into it, all in pixels")
    maps = cameras.read_line(file).maps
    if lacking := [field for field in wanted if field not in maps]:
        raise UserError(f"{where}: expected the {lacking[0]} in metres behind '{cameras.LINE}', found none; add it")
    return {field: maps[field] for field in wanted}


def _elsewhere(tree: Tree, split: str) -> str:
    """Says where the images of a split seem to lie; nothing if nowhere."""
    if files := tree.files(split, IMAGE_ENDINGS):
        return f"; found {len(files)} pictures in {tree.where(split)} itself, move the images into '{split}/images'"
    if found := [name for name in tree.folders(split) if tree.files(f"{split}/{name}", IMAGE_ENDINGS)]:
        return f"; expected the images in 'images', found pictures in {', '.join(map(repr, found))}"
    if tree.files(other := f"images/{split}", IMAGE_ENDINGS, recursive=True):
        return f"; found pictures in {tree.where(other)}, rename 'images/{split}' to '{split}/images', labels likewise"
    if deeper := sorted(tree.root.glob("*/*/images")):
        return f"; found {deeper[0]}, so set root one folder deeper, such as {deeper[0].parents[1]}"
    return ""


def _passed_over(tree: Tree, split: str, frames: Sequence[Frame]) -> list[Problem]:
    """Returns what lies in a split, but is not read."""
    folders = {"image": "images", **_FOLDERS}
    found = []
    for field, folder in folders.items():
        where, without = f"{split}/{folder}", [frame.name for frame in frames if field not in frame.files]
        found += passed_over(tree.where(where), tree.passed_over(where), field, without)
    for folder in tree.folders(split):
        if folder not in folders.values() and folder not in _PICTURES:
            files = tree.files(f"{split}/{folder}", IMAGE_ENDINGS, recursive=True)
            if files:
                message = (
                    f"{tree.where(f'{split}/{folder}')}: this folder with {len(files)} pictures is not read; labels "
                    "belong into 'labels', other maps into folders of their names"
                )
                field = "image" if all("label" in frame.files for frame in frames) else "label"
                found.append(Problem(None, field, message, note=True))
    return found


@dataclasses.dataclass(frozen=True)
class _IdLabels:
    """Maps stored ids to positions of classes by a uint8 `[256]` table; ids where `known` is False are errors."""

    table: np.ndarray
    known: np.ndarray
    description: Path

    def __call__(self, frame: Frame) -> np.ndarray:
        stored = read_label(frame.label)
        known = self.known[stored]
        if not known.all():
            raise UserError(
                f"{frame.label}: id {stored[~known][0]} is in no class; list it in 'ids' or 'ignore' of "
                f"{self.description}, or write 'ignore: others' there"
            )
        return self.table[stored]


@dataclasses.dataclass(frozen=True)
class _PaintedLabels:
    """Maps colours, packed as red << 16 | green << 8 | blue and sorted, to positions of classes."""

    packed: np.ndarray
    classes: np.ndarray
    description: Path
    ignore_others: bool

    def __call__(self, frame: Frame) -> np.ndarray:
        picture, transparent = read_painted(frame.label)
        stored = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        positions = np.minimum(np.searchsorted(self.packed, stored), len(self.packed) - 1)
        known = (self.packed[positions] == stored) & ~transparent
        classes = np.where(known, self.classes[positions], np.uint8(IGNORE))
        if not self.ignore_others and not (known | transparent).all():
            known |= transparent
            colour = picture[~known][0].tolist()
            raise UserError(
                f"{frame.label}: colour {colour} is no class; list it in 'colours' or 'ignore' of {self.description}, "
                "or write 'ignore: others' there if it is a blend at an edge"
            )
        return classes


def _target_classes(description: Description, label_space: str) -> tuple[LabelSpace, np.ndarray]:
    """Returns the label space and, for each class of the folder, its value there: uint8 `[K]`."""
    names = description.classes
    if label_space == "own":
        if len(names) < 2:
            raise UserError(
                f"{description.path}: classes: expected at least two, such as [background, {names[0]}], got one, which "
                "leaves nothing to tell apart"
            )
        spare = label_spaces.distinct_colours(len(names))
        colours = description.colours or tuple(
            tuple(PALETTE[CLASS_NAMES.index(name)].tolist()) if name in CLASS_NAMES else spare[k]
            for k, name in enumerate(names)
        )
        return LabelSpace(names, colours), np.arange(len(names), dtype=np.uint8)
    if label_space not in label_spaces.PROTOCOLS:
        known = ", ".join(("own", *label_spaces.PROTOCOLS))
        raise UserError(f"folder: label_space: unknown protocol '{label_space}'; known: {known}")
    targets = label_spaces.classes_by_name(names, label_space)
    if (targets == IGNORE).all():
        raise UserError(
            f"{description.path}: classes: no name is a class of label space '{label_space}'; use label_space 'own' "
            f"or Cityscapes names ({', '.join(CLASS_NAMES)})"
        )
    return label_spaces.label_space(label_space), targets


def _decoder(description: Description) -> _IdLabels | _PaintedLabels:
    """Returns what reads a label file into positions of classes, 255 = ignore."""
    others = description.ignore is None
    if description.ids is None:
        indices = range(len(description.classes))
        values = dict.fromkeys(description.ignore or (), IGNORE) | dict(zip(description.colours, indices, strict=True))
        packed = np.array([red << 16 | green << 8 | blue for red, green, blue in values], np.int32)
        order = np.argsort(packed)
        return _PaintedLabels(packed[order], np.array(list(values.values()), np.uint8)[order], description.path, others)
    table, known = np.full(256, IGNORE, np.uint8), np.full(256, others)
    known[list(description.ignore or ())] = True
    for index, ids in enumerate(description.ids):
        table[list(ids)] = index
        known[list(ids)] = True
    return _IdLabels(table, known, description.path)
