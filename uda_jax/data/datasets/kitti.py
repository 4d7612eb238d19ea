"""KITTI's semantic benchmark of 2015: 200 labelled and 200 unlabelled street frames, mostly 1242x375 pixels.

Take it as the target of Virtual KITTI, with 10 classes.

Layout: `<root>/[data_semantics/]training/{image_2,semantic}/<NNNNNN>_10.png` and `testing/image_2`. Labels are 8-bit
Cityscapes ids. There is no official validation split: "train" are the labelled frames, "test" the unlabelled ones, and
a list of names cuts "train" further.

Depth, where it lies beside:
- `training/disp_occ_0/<NNNNNN>_10.png`, the stereo disparity of the labelled frames: it gives "train" a depth.
- `[data_depth_annotated/]{train,val}/<drive>_sync/proj_depth/groundtruth/image_02/<NNNNNNNNNN>.png`, sparse depth of
  other frames, those of the raw drives: splits "depth_train" and "depth_val", without labels. Each frame whose camera
  image `<drive>_sync/.../image_02/.../<NNNNNNNNNN>.png` is somewhere below `root`, too, belongs to them.

The raw drives by themselves are the split "raw": all frames of their left colour camera, PNGs or JPEGs. In it and in
those of sparse depth, a domain's fields may ask for what surrounds a frame: `image_right` from `image_03`,
`image_previous` and `image_next`, and, from `<date>/calib_cam_to_cam.txt`, `intrinsics` and `baseline`; without that
file those that Monodepth2 takes for all.
"""

import os
import re
from collections.abc import Collection

import numpy as np

from uda_jax.data.base import MAPS
from uda_jax.data.frames import Frame, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.cameras import PUBLISHED, read_kitti
from uda_jax.data.io.depth import metres_from_disparity
from uda_jax.data.io.images import read_depth
from uda_jax.data.recordings import shifted
from uda_jax.errors import UserError

SPLITS = ("train", "test", "depth_train", "depth_val", "raw")
COUNTS = {"train": 200, "test": 200}
# Metres, and pixels at the width that most frames have.
BASELINE = 0.5327
FOCAL_LENGTH = 721.5377
_WIDTH = 1242
# Frame 10 of each scene is the one with labels; scene flow adds frame 11 to the same folder.
_ANNOTATED = "_10.png"
_SPARSE = re.compile(r"(?:.*/)?(train|val)/([^/]+_sync)/proj_depth/groundtruth/image_02/(\d{10})\.png")
_CAMERA = re.compile(r"(?:.*/)?([^/]+_sync)/(?:.+/)?image_0([23])/(?:.+/)?(\d{10})\.(?:png|jpe?g)")
_CALIBRATION = re.compile(r"(?:.*/)?([^/]+)/calib_cam_to_cam\.txt")
_DAY = "2011_09_26"
_EXAMPLE = f"{_DAY}_drive_0001"
_PICTURES = (".png", ".jpg", ".jpeg")


class Kitti(FrameFiles):
    """One split of KITTI.

    Args:
      root: the folder that holds `training` and `testing`, or one above it, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`; "10" is that of Virtual KITTI to KITTI.
      views: maps on request that frames of raw drives shall have, too (`data.base.requested`).

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(
        self, root: str | os.PathLike | None, split: str, label_space: str = "19", *, views: Collection[str] = ()
    ):
        check_split("kitti", split, SPLITS)
        tree = Tree("kitti", root)
        constants = {}
        if split in ("train", "test"):
            frames, problems = _semantic_frames(tree, {"train": "training", "test": "testing"}[split])
            decoders = {"depth": _stereo_metres}
        else:
            frames, problems = _drive_frames(tree, split, views)
            decoders = {"depth": _sparse_metres, "intrinsics": _intrinsics, "baseline": _baseline}
            constants = {field: value for field, value in PUBLISHED["kitti"].maps.items() if field in views}
        super().__init__(
            "kitti", frames, label_space, decoders=decoders, constants=constants, problems=problems, tree=tree
        )


def _semantic_frames(tree: Tree, part: str) -> tuple[list[Frame], list[Problem]]:
    """Lists "training" or "testing"."""
    problems = tree.problems

    def annotated(folder: str, field: str) -> dict[str, File] | None:
        location = tree.find(f"{part}/{folder}")
        if location is None:
            return None
        return by_name(tree.files(location, (_ANNOTATED,)), ".png", problems, field)

    images = annotated("image_2", "image")
    if images is None:
        raise UserError(
            f"kitti: no folder {tree.where(f'{part}/image_2')}; 'root' must hold training and testing of data_semantics"
        )
    maps = {}
    if part == "training":
        maps = {"label": annotated("semantic", "label"), "depth": annotated("disp_occ_0", "depth")}
    frames, unpaired = pair(images, **maps)
    return frames, problems + unpaired


def _drive_frames(tree: Tree, split: str, views: Collection[str]) -> tuple[list[Frame], list[Problem]]:
    """Lists the frames of all raw drives, or those with sparse depth, with the views that are asked for."""
    left, right, depths, problems = _drives(tree)
    if split == "raw":
        images, maps = left, {}
        if not images:
            raise UserError(
                f"kitti: no file {tree.where('*_sync/image_02')}/*.png; 'root' must hold the raw drives, such as "
                f"{_DAY}/{_EXAMPLE}_sync/image_02/data"
            )
    else:
        depth = depths[split.removeprefix("depth_")]
        images = _with_depth(tree, split.removeprefix("depth_"), left, depth, problems)
        maps = {"depth": {name: depth[name] for name in images}}
        # The first and the last of all frames are in no list of the depth's.
        maps |= {field: shifted(images, left, MAPS[field].offset) for field in views if MAPS[field].offset}
    if "image_right" in views:
        maps["image_right"] = {name: right[name] for name in images if name in right}
    fields = [field for field in ("intrinsics", "baseline") if field in views]
    calibrations = _calibrations(tree) if fields else {}
    days = {name: calibrations[name[: len(_DAY)]] for name in images if name[: len(_DAY)] in calibrations}
    if fields and len(days) < len(images):
        lone = next(name for name in images if name not in days)
        message = f"{images[lone]}: there is no calib_cam_to_cam.txt of this day; {' and '.join(fields)} are estimates"
        problems.append(Problem(None, fields[0], message, note=True))
    frames, unpaired = pair(images, optional=fields, **maps, **dict.fromkeys(fields, days))
    return frames, tree.problems + problems + unpaired


def _drives(tree: Tree) -> tuple[dict[str, File], dict[str, File], dict[str, dict[str, File]], list[Problem]]:
    """Lists the left and the right images of all raw drives and, by part, sparse depths: {drive/number: file} each."""
    depths, images, others = {"train": {}, "val": {}}, {"2": {}, "3": {}}, []
    for name, file in tree.files("", _PICTURES, recursive=True).items():
        if match := _SPARSE.fullmatch(name):
            depths[match[1]][f"{match[2]}/{match[3]}"] = file
        elif (match := _CAMERA.fullmatch(name)) and "proj_depth" not in name:
            images[match[2]][f"{match[1]}/{match[3]}"] = file
        elif "image_02/" in name and not match:
            others.append(file)
    problems = []
    if others:
        message = (
            f"{others[0]}: this and {len(others) - 1} more files are not read, since their names are not ten digits"
        )
        problems.append(Problem(None, "image", message, note=True))
    return dict(sorted(images["2"].items())), images["3"], depths, problems


def _with_depth(
    tree: Tree, part: str, images: dict[str, File], depths: dict[str, File], problems: list[Problem]
) -> dict[str, File]:
    """Returns the images that have a sparse depth in "train" or "val" of `data_depth_annotated`."""
    if not depths:
        raise UserError(
            f"kitti: no file {tree.where(part)}/*_sync/proj_depth/groundtruth/image_02/*.png; 'root' must hold "
            "data_depth_annotated, and the raw drives with the images"
        )
    both = {name: images[name] for name in sorted(depths) if name in images}
    if not both:
        raise UserError(
            f"kitti: none of the {len(depths)} depth maps has its image *_sync/image_02/*.png below {tree.root}; add "
            "the raw drives"
        )
    if alone := [file for name, file in depths.items() if name not in both]:
        message = f"{alone[0]}: this and {len(alone) - 1} more depth maps have no image of their drive and number"
        problems.append(Problem(None, "depth", message, note=True))
    return both


def _calibrations(tree: Tree) -> dict[str, File]:
    """Returns the calibration of the cameras of each day, which drives' names begin with."""
    files = tree.files("", (".txt",), recursive=True)
    return {match[1]: file for name, file in files.items() if (match := _CALIBRATION.fullmatch(name))}


def _intrinsics(frame: Frame) -> np.ndarray:
    return read_kitti(frame.files["intrinsics"]).maps["intrinsics"]


def _baseline(frame: Frame) -> np.ndarray:
    return read_kitti(frame.files["baseline"]).maps["baseline"]


def _sparse_metres(frame: Frame) -> np.ndarray:
    return read_depth(frame.depth, 1 / 256, bits=(16,))


def _stereo_metres(frame: Frame) -> np.ndarray:
    """Reads stereo disparity as depth. The few frames of another width get the focal length in proportion to it."""
    disparity = read_depth(frame.depth, 1 / 256, bits=(16,))
    focal_length = FOCAL_LENGTH * disparity.shape[1] / _WIDTH
    return metres_from_disparity(disparity, baseline=BASELINE, focal_length=focal_length)
