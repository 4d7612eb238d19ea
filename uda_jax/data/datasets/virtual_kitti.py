"""Virtual KITTI, versions 1.3.1 and 2: 50 rendered drives, 1242x375 pixels, with classes and depth.

Take it as a source with depth whose layouts are those of KITTI.

Five worlds, each in ten variations. The layout tells the versions apart, and the tars need not be unpacked.

Version 1.3.1:
    vkitti_1.3.1_rgb/<world>/<variation>/<NNNNN>.png
    vkitti_1.3.1_depthgt/<world>/<variation>/<NNNNN>.png
    vkitti_1.3.1_scenegt/<world>/<variation>/<NNNNN>.png, its colours in <world>_<variation>_scenegt_rgb_encoding.txt
Version 2, of which the option `camera` chooses 0 (left) or 1 (right):
    Scene<NN>/<variation>/frames/rgb/Camera_<c>/rgb_<NNNNN>.jpg
    Scene<NN>/<variation>/frames/depth/Camera_<c>/depth_<NNNNN>.png
    Scene<NN>/<variation>/frames/classSegmentation/Camera_<c>/classgt_<NNNNN>.png
    Scene<NN>/<variation>/colors.txt, which is only compared with the colours known here

Labels are painted. Version 1.3.1 gives each instance a colour of its own, and a category another one in each drive, so
that a label means nothing without the table of its world and variation. A colour outside the table is "Undefined".

Depth is centimetres in 16 bits, distance to the camera plane. 655.35 m, the sky and all beyond, stays as it is.

What surrounds a frame, where a domain's fields ask for it: the frames before and after, which are in the drive itself;
`intrinsics`, the same for all; and of version 2, for camera 0, `image_right` from camera 1, and `baseline`.

A split is a variation, such as "clone" or "fog", of all worlds. "train" holds all ten, 21260 frames: the 50 drives that
GIO-Ada's source domain consists of. Frames are named "<world>/<variation>/<NNNNN>".
"""

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, Frame, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.cameras import calibrated
from uda_jax.data.io.images import read_counts, read_depth
from uda_jax.data.labels.label_tables import VIRTUAL_KITTI
from uda_jax.errors import UserError, printable
from uda_jax.schema import did_you_mean

VARIATIONS = (
    "clone",
    "15-deg-left",
    "15-deg-right",
    "30-deg-left",
    "30-deg-right",
    "fog",
    "morning",
    "overcast",
    "rain",
    "sunset",
)
SPLITS = {"train": VARIATIONS, **{variation: (variation,) for variation in VARIATIONS}}
COUNTS = {split: 2126 * len(variations) for split, variations in SPLITS.items()}

Colour = tuple[int, int, int]
CATEGORIES = tuple(row[0] for row in VIRTUAL_KITTI)
# Version 2 paints every instance of a category alike, in all drives.
COLOURS: dict[Colour, str] = {
    (0, 0, 0): "Undefined",
    (210, 0, 200): "Terrain",
    (90, 200, 255): "Sky",
    (0, 199, 0): "Tree",
    (90, 240, 0): "Vegetation",
    (140, 140, 140): "Building",
    (100, 60, 100): "Road",
    (250, 100, 255): "GuardRail",
    (255, 255, 0): "TrafficSign",
    (200, 200, 0): "TrafficLight",
    (255, 130, 0): "Pole",
    (80, 80, 80): "Misc",
    (160, 60, 60): "Truck",
    (255, 127, 80): "Car",
    (0, 139, 139): "Van",
}
_METRES_PER_COUNT = 0.01
# (height, width), and in pixels of it the focal length and the principal point from the centre of the first one.
_SIZE, _FOCAL_LENGTH, _CENTRE = (375, 1242), 725.0, (620.5, 187.0)
_BASELINE = 0.532725  # metres

# Stands for colours that the table does not have. It is no class, so that a check counts it among unknown ids.
_UNKNOWN = 255


class _Layout(NamedTuple):
    """Where a version keeps its frames: patterns with {world}, {variation} and {camera}, and starts of file names."""

    worlds: tuple[str, ...]
    folders: Mapping[str, str]
    prefixes: Mapping[str, str]
    colours: str


_NUMBERS = ("01", "02", "06", "18", "20")
_VERSION_1 = _Layout(
    tuple(f"00{number}" for number in _NUMBERS),
    {
        "image": "vkitti_1.3.1_rgb/{world}/{variation}",
        "label": "vkitti_1.3.1_scenegt/{world}/{variation}",
        "depth": "vkitti_1.3.1_depthgt/{world}/{variation}",
    },
    {"image": "", "label": "", "depth": ""},
    "vkitti_1.3.1_scenegt/{world}_{variation}_scenegt_rgb_encoding.txt",
)
_VERSION_2 = _Layout(
    tuple(f"Scene{number}" for number in _NUMBERS),
    {
        "image": "{world}/{variation}/frames/rgb/Camera_{camera}",
        "label": "{world}/{variation}/frames/classSegmentation/Camera_{camera}",
        "depth": "{world}/{variation}/frames/depth/Camera_{camera}",
    },
    {"image": "rgb_", "label": "classgt_", "depth": "depth_"},
    "{world}/{variation}/colors.txt",
)


class VirtualKitti(FrameFiles):
    """One variation of Virtual KITTI, or all of them.

    Args:
      root: the folder that holds the `vkitti_1.3.1_*` or `Scene*` folders, or their tars, or a folder above.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`; "10" is that of Virtual KITTI to KITTI.
      camera: 0 (left) or 1 (right), of version 2.
      views: maps on request that frames shall have, too (`data.base.requested`).

    Raises:
      UserError: unknown split, protocol or camera, a missing folder; on access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        camera: int = 0,
        views: Collection[str] = (),
    ):
        check_split("virtual_kitti", split, SPLITS)
        if camera not in (0, 1):
            raise UserError(f"virtual_kitti: camera: expected 0 or 1, got {camera!r}")
        tree = Tree("virtual_kitti", root)
        layout = _VERSION_1 if tree.find("vkitti_1.3.1_rgb") is not None else _VERSION_2
        if layout is _VERSION_1 and camera:
            raise UserError("virtual_kitti: camera: expected 0, since version 1.3.1 has one camera only, got 1")
        paired = layout is _VERSION_2 and camera == 0
        if paired and "image_right" in views:
            layout = layout._replace(
                folders={**layout.folders, "image_right": layout.folders["image"].replace("{camera}", "1")},
                prefixes={**layout.prefixes, "image_right": layout.prefixes["image"]},
            )
        locations = {field: _location(tree, layout, field, split, camera) for field in layout.folders}
        if locations["image"] is None:
            example = layout.folders["image"].format(world=layout.worlds[0], variation=SPLITS[split][0], camera=camera)
            raise UserError(
                f"virtual_kitti: no folder {tree.where(example)}, nor that of another world; 'root' must hold Scene01 "
                "... Scene20 of version 2, or vkitti_1.3.1_rgb"
            )
        frames, problems = [], tree.problems
        for world in layout.worlds:
            for variation in SPLITS[split]:
                found, wrong = _drive(tree, layout, locations, world, variation, camera)
                frames += found
                problems += wrong
        known = calibrated((_FOCAL_LENGTH, _FOCAL_LENGTH), _CENTRE, _SIZE)._replace(
            baseline=_BASELINE if paired else None
        )
        super().__init__(
            "virtual_kitti",
            frames,
            label_space,
            decoders={"label": _ids, "depth": _metres},
            constants={field: value for field, value in known.maps.items() if field in views},
            problems=problems,
            tree=tree,
        )


def _location(tree: Tree, layout: _Layout, field: str, split: str, camera: int) -> str | None:
    """Returns the folder below which a map's folders are, as the start of a path; None if there is none of them."""
    for variation in SPLITS[split]:
        for world in layout.worlds:
            folder = layout.folders[field].format(world=world, variation=variation, camera=camera)
            if (found := tree.find(folder)) is not None:
                return found.removesuffix(folder)
    return None


def _drive(
    tree: Tree, layout: _Layout, locations: Mapping[str, str | None], world: str, variation: str, camera: int
) -> tuple[list[Frame], list[Problem]]:
    """Lists one variation of one world; empty where it was not downloaded."""
    problems: list[Problem] = []
    drive = {"world": world, "variation": variation, "camera": camera}
    maps = {}
    for field, location in locations.items():
        if location is None:
            maps[field] = {}
            continue
        prefix, endings = layout.prefixes[field], IMAGE_ENDINGS if field.startswith("image") else LABEL_ENDINGS
        files = tree.files(f"{location}{layout.folders[field].format(**drive)}", endings)
        # The prefix tells nothing that the folder does not.
        named = {name[len(prefix) :]: file for name, file in files.items() if name.startswith(prefix)}
        if others := [file for name, file in files.items() if not name.startswith(prefix)]:
            message = (
                f"{others[0]}: this and {len(others) - 1} more files do not begin with '{prefix}' and are not read"
            )
            problems.append(Problem(None, field, message, note=True))
        maps[field] = by_name(
            {f"{world}/{variation}/{name}": file for name, file in named.items()}, endings, problems, field
        )
    images = maps.pop("image")
    colours = None
    if maps["label"]:
        colours, message = _drive_colours(tree, layout, f"{locations['label']}{layout.colours.format(**drive)}")
        if message:
            problems.append(Problem(None, "label", message))
    frames, unpaired = pair(images, context=dict.fromkeys(images, colours), **maps)
    return frames, problems + unpaired


@dataclasses.dataclass(frozen=True, eq=False)
class _Colours:
    """Colours, packed as red << 16 | green << 8 | blue and sorted, and their ids."""

    packed: np.ndarray
    ids: np.ndarray
    source: str


def _packed(colours: Mapping[Colour, str], source: str) -> _Colours:
    packed = np.array([red << 16 | green << 8 | blue for red, green, blue in colours], np.uint32)
    order = np.argsort(packed)
    ids = np.array([CATEGORIES.index(category) for category in colours.values()], np.uint8)
    return _Colours(packed[order], ids[order], source)


_FIXED = _packed(COLOURS, "the colours of Virtual KITTI 2")


def _drive_colours(tree: Tree, layout: _Layout, name: str) -> tuple[_Colours | None, str]:
    """Returns the colours of a drive, None if its table cannot be used, and what is wrong with the table."""
    file = tree.file(name)
    if layout.colours == _VERSION_2.colours and file is None:
        return _FIXED, ""
    if file is None:
        return None, f"{tree.where(name)}: no such file; without it the colours of these labels mean nothing: add it"
    try:
        colours = read_encoding(file)
    except UserError as error:
        return None, str(error)
    if layout.colours == _VERSION_1.colours:
        return _packed(colours, str(file)), ""
    for colour, category in colours.items():
        if COLOURS.get(colour) != category:
            message = f"{file}: {category} is painted {colour}, unlike in version 2 as published; download it again"
            return None, message
    return _FIXED, ""


def read_encoding(file: File) -> dict[Colour, str]:
    """Reads a table of colours: a header, then lines `<category>[:<instance>] <red> <green> <blue>`.

    Returns:
      {colour: category}, without the numbers of instances.

    Raises:
      UserError: one line naming file and line, where the table cannot be read or a line means nothing.
    """
    try:
        lines = file.read_bytes().decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable table of colours ({error}); copy it again") from None
    if not lines or not lines[0].lower().startswith("category"):
        raise UserError(f"{file}: expected the header 'Category r g b' in the first line; copy the file again")
    colours: dict[Colour, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        entry, *parts = line.split()
        category = entry.partition(":")[0]
        if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
            raise UserError(
                f"{file}, line {number}: expected a category and three numbers from 0 to 255, got "
                f"'{printable(line.strip())}'; copy the file again"
            )
        if category not in CATEGORIES:
            raise UserError(
                f"{file}, line {number}: unknown category '{printable(category)}'{did_you_mean(category, CATEGORIES)}"
            )
        colour = tuple(map(int, parts))
        if colours.setdefault(colour, category) != category:
            raise UserError(
                f"{file}, line {number}: {category} has the colour {colour} of {colours[colour]}; copy the file again"
            )
    if not colours:
        raise UserError(f"{file}: expected lines such as 'Road 100 60 100' below the header, found none; copy it again")
    return colours


def _ids(frame: Frame) -> np.ndarray:
    """Reads a painted label as the ids that `label_tables.VIRTUAL_KITTI` numbers."""
    colours = frame.context
    if colours is None:
        raise UserError(f"{frame.label}: the table of this drive's colours is missing or damaged; copy it again")
    # Unlike a picture, a label must not be converted: grey would become colours that nobody painted.
    picture = read_counts(frame.label, bits=(8,))
    if picture.ndim != 3:
        raise UserError(f"{frame.label}: expected a label of three colour channels, got one; copy it again")
    red, green, blue = (picture[..., k].astype(np.uint32).ravel() for k in range(3))
    painted = red << 16 | green << 8 | blue
    # Neighbours mostly share a colour, so only where it changes is it looked up.
    starts = np.flatnonzero(np.diff(painted, prepend=~painted[:1]))
    runs = painted[starts]
    positions = np.minimum(np.searchsorted(colours.packed, runs), len(colours.packed) - 1)
    known = colours.packed[positions] == runs
    if not known.any():
        raise UserError(f"{frame.label}: none of its colours is in {colours.source}; copy the label again")
    ids = np.where(known, colours.ids[positions], np.uint8(_UNKNOWN))
    return np.repeat(ids, np.diff(starts, append=painted.size)).reshape(picture.shape[:2])


def _metres(frame: Frame) -> np.ndarray:
    return read_depth(frame.depth, _METRES_PER_COUNT, bits=(16,))
