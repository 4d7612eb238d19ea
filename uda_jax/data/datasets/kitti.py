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
"""

import os
import re

import numpy as np

from uda_jax.data.frames import Frame, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.depth import metres_from_disparity
from uda_jax.data.io.images import read_depth
from uda_jax.errors import UserError

SPLITS = ("train", "test", "depth_train", "depth_val")
COUNTS = {"train": 200, "test": 200}
# Metres, and pixels at the width that most frames have.
BASELINE = 0.5327
FOCAL_LENGTH = 721.5377
_WIDTH = 1242
# Frame 10 of each scene is the one with labels; scene flow adds frame 11 to the same folder.
_ANNOTATED = "_10.png"
_SPARSE = re.compile(r"(?:.*/)?(train|val)/([^/]+_sync)/proj_depth/groundtruth/image_02/(\d{10})\.png")
_CAMERA = re.compile(r"(?:.*/)?([^/]+_sync)/(?:.+/)?image_02/(?:.+/)?(\d{10})\.png")


class Kitti(FrameFiles):
    """One split of KITTI.

    Args:
      root: the folder that holds `training` and `testing`, or one above it, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`; "10" is that of Virtual KITTI to KITTI.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("kitti", split, SPLITS)
        tree = Tree("kitti", root)
        if split.startswith("depth_"):
            frames, problems = _sparse_frames(tree, split.removeprefix("depth_"))
            super().__init__(
                "kitti", frames, label_space, decoders={"depth": _sparse_metres}, problems=problems, tree=tree
            )
        else:
            frames, problems = _semantic_frames(tree, {"train": "training", "test": "testing"}[split])
            super().__init__(
                "kitti", frames, label_space, decoders={"depth": _stereo_metres}, problems=problems, tree=tree
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


def _sparse_frames(tree: Tree, part: str) -> tuple[list[Frame], list[Problem]]:
    """Lists the frames of "train" or "val" of `data_depth_annotated` whose camera image is there, too."""
    files = tree.files("", (".png",), recursive=True)
    depths, images, others = {}, {}, []
    for name, file in files.items():
        if match := _SPARSE.fullmatch(name):
            if match[1] == part:
                depths[f"{match[2]}/{match[3]}"] = file
        elif (match := _CAMERA.fullmatch(name)) and "proj_depth" not in name:
            images[f"{match[1]}/{match[2]}"] = file
        elif "image_02/" in name and not match:
            others.append(file)
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
    frames, problems = pair(both, depth={name: depths[name] for name in both})
    if others:
        message = (
            f"{others[0]}: this and {len(others) - 1} more files are not read, since their names are not ten digits"
        )
        problems.append(Problem(None, "image", message, note=True))
    if alone := [file for name, file in depths.items() if name not in both]:
        message = f"{alone[0]}: this and {len(alone) - 1} more depth maps have no image of their drive and number"
        problems.append(Problem(None, "depth", message, note=True))
    return frames, tree.problems + problems


def _sparse_metres(frame: Frame) -> np.ndarray:
    return read_depth(frame.depth, 1 / 256, bits=(16,))


def _stereo_metres(frame: Frame) -> np.ndarray:
    """Reads stereo disparity as depth. The few frames of another width get the focal length in proportion to it."""
    disparity = read_depth(frame.depth, 1 / 256, bits=(16,))
    focal_length = FOCAL_LENGTH * disparity.shape[1] / _WIDTH
    return metres_from_disparity(disparity, baseline=BASELINE, focal_length=focal_length)
