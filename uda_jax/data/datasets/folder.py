"""Any user's own images, labels and depth maps, described by one small file.

    <root>/dataset.yaml                          or one <root>/../dataset.yaml for several folders side by side
    <root>/<split>/images/<stem>.png|jpg|jpeg
    <root>/<split>/labels/<stem>.png             optional: a split or a frame without labels is unlabelled
    <root>/<split>/depth/<stem>.png              optional: 16-bit, one channel, 0 = no value
    <root>/<split>/<map>/<stem>.png|jpg|jpeg     optional: further pictures of a frame: image_right, image_previous, ...

`dataset.yaml` with everything it can say; only `classes` is required:

    classes: [road, sidewalk, car]       # class 0, 1, 2, ... in this order
    ids: [7, 8, [26, 29]]                # what the 8-bit label PNGs store for each class, one id or several;
                                         #   left out: 0, 1, 2, ...
    colours:                             # red, green, blue of each class. With `ids` they only colour pictures;
      - [128, 64, 128]                   #   without `ids`, the label PNGs are RGB pictures painted in them
      - [244, 35, 232]
      - [0, 0, 142]
    ignore: [0, 255]                     # ids (for painted labels: colours) of pixels without a class;
                                         #   left out: 255 (for painted labels: black)
    depth_unit: 0.01                     # metres per count of the depth PNGs; needed when there are any

A stored value that is neither listed nor ignored is an error: it is more often a wrong table than a class
that nobody wants.

Label space "own" keeps the classes as listed, 0 .. K-1. The Cityscapes protocols ("19", "16", ...) take the
classes whose names are Cityscapes names and ignore the others, which makes a folder comparable with the
published data sets.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from uda_jax.data.base import MAPS
from uda_jax.data.frames import IMAGE_ENDINGS, Frame, FrameFiles, Metres, by_name, pair
from uda_jax.data.io.archives import Tree
from uda_jax.data.io.images import read_image, read_label
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import CLASS_NAMES, IGNORE, PALETTE, LabelSpace
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a `dataset.yaml` says, checked.

    Attributes:
      path: the file.
      classes: K names.
      ids: K tuples of stored ids, or None where labels are painted in `colours`.
      colours: K colours, or None.
      ignore: ids, or colours where `ids` is None, of pixels without a class; None ignores whatever is in no class.
      depth_unit: metres per count, or None.
    """

    path: Path
    classes: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...] | None
    colours: tuple[Colour, ...] | None
    ignore: tuple | None
    depth_unit: float | None


class Folder(FrameFiles):
    """One split of a user's folder.

    Args:
      root: the folder that holds `dataset.yaml`.
      split: the name of a folder in it.
      label_space: "own", or a Cityscapes protocol: "19", "16", "13", "10", "7".
      require_labels: True makes an image without a label an error.

    Raises:
      UserError: whatever is wrong with the description or the folders; on access, with a frame.
    """

    def __init__(
        self, root: str | os.PathLike | None, split: str, label_space: str = "own", *, require_labels: bool = False
    ):
        tree = Tree("folder", root)
        description = read_description(_description_path(tree.root))
        images = f"{split}/images"
        if not tree.is_folder(images):
            splits = sorted(path.parent.name for path in tree.root.glob("*/images"))
            hint = did_you_mean(split, splits) if splits else "; put the images of a split into <split>/images"
            raise UserError(f"folder: no folder {tree.where(images)} for split '{split}'{hint}")
        problems = tree.problems
        found = by_name(tree.files(images, IMAGE_ENDINGS), IMAGE_ENDINGS, problems)
        if not found and not problems:
            raise UserError(
                f"{tree.where(images)}: expected images ({', '.join(IMAGE_ENDINGS)}), found none; check root and split"
            )
        maps = {
            field: by_name(tree.files(f"{split}/{folder}", (".png",)), ".png", problems, field)
            for field, folder in (("label", "labels"), ("depth", "depth"))
        }
        pictures = [field for field, spec in MAPS.items() if spec.resampling == "image" and field != "image"]
        for field in pictures:
            maps[field] = by_name(tree.files(f"{split}/{field}", IMAGE_ENDINGS), IMAGE_ENDINGS, problems, field)
        frames, unpaired = pair(found, optional=maps, **maps)
        unlabelled = [frame for frame in frames if frame.label is None]
        if require_labels and unlabelled:
            raise UserError(
                f"{tree.where(f'{split}/labels')}: {len(unlabelled)} of {len(frames)} images have no label, the first "
                f"is '{unlabelled[0].name}'; label or remove them"
            )
        if description.depth_unit is None and maps["depth"]:
            raise UserError(f"{description.path}: depth_unit: expected metres per count, since {split}/depth exists")
        depth = {"depth": Metres(description.depth_unit)} if description.depth_unit else {}
        space, targets = _target_classes(description, label_space)
        table = np.full(256, IGNORE, np.uint8)
        table[: len(targets)] = targets
        super().__init__(
            "folder",
            frames,
            space,
            decoders={"label": _decoder(description)} | depth,
            table=table,
            known=(*range(len(targets)), IGNORE),
            # A file of one's own without an image is a slip, not a part of a larger download.
            problems=problems + [problem._replace(orphan=False) for problem in unpaired],
        )


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
        picture = read_image(frame.label)
        stored = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        positions = np.minimum(np.searchsorted(self.packed, stored), len(self.packed) - 1)
        known = self.packed[positions] == stored
        if self.ignore_others:
            return np.where(known, self.classes[positions], np.uint8(IGNORE))
        if not known.all():
            colour = picture[~known][0].tolist()
            raise UserError(
                f"{frame.label}: colour {colour} is no class; list it in 'colours' or 'ignore' of {self.description}"
            )
        return self.classes[positions]


def _target_classes(description: Description, label_space: str) -> tuple[LabelSpace, np.ndarray]:
    """Returns the label space and, for each class of the folder, its value there: uint8 `[K]`."""
    names = description.classes
    if label_space == "own":
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


def _description_path(root: Path) -> Path:
    """Returns where the description of a folder lies: in it, or beside it, for source and target in one."""
    own, common = root / "dataset.yaml", root.resolve().parent / "dataset.yaml"
    return common if common.is_file() and not own.is_file() else own


def read_description(path: Path) -> Description:
    """Reads and checks a `dataset.yaml` (schema: this module's docstring).

    Raises:
      UserError: one line that names the file and the key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; write one that lists your classes, such as 'classes: [road, car]'"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    keys = ("classes", "ids", "colours", "ignore", "depth_unit")
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected the keys {', '.join(keys)}, got {values!r}")
    for key in values:
        if key not in keys:
            raise UserError(f"{path}: {key}: unknown key{did_you_mean(str(key), keys)}")
    classes = _names(values.get("classes"), path)
    colours = None
    if "colours" in values:
        colours = tuple(
            _colour(colour, path, "colours") for colour in _per_class(values["colours"], classes, path, "colours")
        )
    ids, ignore = _stored_values(values, classes, colours, path)
    unit = values.get("depth_unit")
    if unit is not None and (
        isinstance(unit, bool) or not isinstance(unit, (int, float)) or not 0 < unit < float("inf")
    ):
        raise UserError(f"{path}: depth_unit: expected metres per count, a number above 0, got {unit!r}")
    return Description(path, classes, ids, colours, ignore, unit)


def _stored_values(
    values: dict, classes: tuple, colours: tuple | None, path: Path
) -> tuple[tuple | None, tuple | None]:
    """Returns (ids or None, ignored ids or colours or None), and checks that no stored value has two meanings."""
    painted = colours is not None and "ids" not in values
    if painted:
        ids, stored = None, list(colours)
    else:
        entries = _per_class(values.get("ids", list(range(len(classes)))), classes, path, "ids")
        ids = tuple(
            tuple(_id(one, path, "ids") for one in (entry if isinstance(entry, list) else [entry])) for entry in entries
        )
        stored = [one for entry in ids for one in entry]
    default = [[0, 0, 0]] if painted else [IGNORE]
    given = values.get("ignore", default)
    if not isinstance(given, list) and given != "others":
        raise UserError(f"{path}: ignore: expected a list such as {default}, or others, got {given!r}")
    listed = [] if given == "others" else given
    ignore = [_colour(entry, path, "ignore") if painted else _id(entry, path, "ignore") for entry in listed]
    if "ignore" not in values:
        # The default gives way to a class that uses its value: black may well be a class.
        ignore = [entry for entry in ignore if entry not in stored]
    for entry in stored + ignore:
        if (stored + ignore).count(entry) > 1:
            key = "ignore" if entry in ignore else "colours" if painted else "ids"
            raise UserError(f"{path}: {key}: {entry} is listed twice; every stored value needs one meaning")
    return ids, None if given == "others" else tuple(ignore)


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise UserError(f"{path}: classes: expected a list of names such as [road, car], got {value!r}")
    if len(value) > IGNORE:
        raise UserError(f"{path}: classes: expected at most {IGNORE} names, got {len(value)}")
    for name in value:
        if value.count(name) > 1:
            raise UserError(f"{path}: classes: '{name}' is listed twice; give one class several ids instead")
    return tuple(value)


def _per_class(value: Any, classes: tuple[str, ...], path: Path, key: str) -> list:
    if not isinstance(value, list) or len(value) != len(classes):
        got = f"{len(value)}" if isinstance(value, list) else repr(value)
        raise UserError(f"{path}: {key}: expected a list with one entry for each of {len(classes)} classes, got {got}")
    return value


def _id(value: Any, path: Path, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise UserError(f"{path}: {key}: expected an id between 0 and 255, got {value!r}")
    return value


def _colour(value: Any, path: Path, key: str) -> Colour:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f"{path}: {key}: expected a colour as [red, green, blue], got {value!r}")
    return tuple(_id(part, path, key) for part in value)
