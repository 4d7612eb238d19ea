"""Cityscapes: street frames, 2048x1024 pixels, 5000 finely and 19998 coarsely labelled, and video around them.

Take it as the target of the papers' tables, with GTA5 or SYNTHIA as the source.

Layout, unpacked or in the archives as downloaded, each folder at the root or a few folders below:

    leftImg8bit/<part>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png    part: train, val, test or train_extra
    gtFine/<part>/<city>/<...>_gtFine_labelIds.png                         8-bit ids; train_extra has gtCoarse instead
    leftImg8bit_sequence/<part>/<city>/<...>_leftImg8bit.png               30 video frames around each labelled one
    disparity/<part>/<city>/<...>_disparity.png                            16-bit stereo disparity
    camera/<part>/<city>/<...>_camera.json                                 baseline and intrinsics
    rightImg8bit/<part>/<city>/<...>_rightImg8bit.png                      the right camera; rightImg8bit_sequence, too
    depth/train/<city>/<...>_depth_stereoscopic.mat                        CorDA: completed stereo depth, metres
    disparity/train/<city>/<...>_leftImg8bit.png                           CorDA: output of a monocular network

Frames are called `<city>_<sequence>_<frame>`. Without any labels a split is unlabelled, which is enough for a target.
What surrounds a frame is looked for where a domain's fields ask for it: `image_right`; `image_previous` and
`image_next`, which "train" and the like take from leftImg8bit_sequence; `intrinsics` and `baseline` from the camera
file of the frame, or of the nearest one of its recording, or else the values that most frames have.

The labels of "test" are published as void throughout. The splits "train_sequence", "val_sequence" and "test_sequence"
are the video frames; of each snippet the one that was annotated has a label.

Known fault: frame troisdorf_000000_000073 of train_extra is black and has no disparity; `exclude` leaves it out.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.base import MAPS
from uda_jax.data.frames import Frame, FrameFiles, by_name, check_names, check_split, pair
from uda_jax.data.io import cameras
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.depth import metres_from_disparity, read_relative_disparity
from uda_jax.data.io.images import read_depth
from uda_jax.data.io.matlab import read_matrix
from uda_jax.data.labels.label_spaces import CLASS_NAMES, IGNORE, train19_table
from uda_jax.data.recordings import nearest, shifted
from uda_jax.errors import UserError, printable


class _Split(NamedTuple):
    folder: str
    part: str
    labels: str = "gtFine"


SPLITS = {
    "train": _Split("leftImg8bit", "train"),
    "val": _Split("leftImg8bit", "val"),
    "test": _Split("leftImg8bit", "test"),
    "train_extra": _Split("leftImg8bit", "train_extra", "gtCoarse"),
    "train_sequence": _Split("leftImg8bit_sequence", "train"),
    "val_sequence": _Split("leftImg8bit_sequence", "val"),
    "test_sequence": _Split("leftImg8bit_sequence", "test"),
}
FAULTY = ("troisdorf_000000_000073",)
# Frames as published, less those that `exclude` leaves out by default; a snippet of video has 30.
COUNTS = {
    "train": 2975,
    "val": 500,
    "test": 1525,
    "train_extra": 19998 - len(FAULTY),
    "train_sequence": 30 * 2975,
    "val_sequence": 30 * 500,
    "test_sequence": 30 * 1525,
}
_IMAGE = "_leftImg8bit.png"
_SEQUENCE = "leftImg8bit_sequence"
_PIXELS = 2048, 1024  # width and height of the frames that the camera files are about


class Cityscapes(FrameFiles):
    """One split of Cityscapes.

    Args:
      root: the folder that holds `leftImg8bit` and `gtFine`, or one above them, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`.
      depth: None, or which depth to read, too: "disparity", the published stereo disparity with each frame's camera
        file, and "stereo", CorDA's completed stereo depth, give `depth` in metres; "monocular", the output of CorDA's
        monocular network, gives `disparity`: the stored 16 bits divided by 256.
      exclude: names of frames to leave out.
      views: maps on request that frames shall have, too (`data.base.requested`).

    Raises:
      UserError: unknown split, protocol or depth, a missing folder; on access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        depth: str | None = None,
        exclude: Sequence[str] = FAULTY,
        views: Collection[str] = (),
    ):
        check_split("cityscapes", split, SPLITS)
        if depth is not None and depth not in DEPTHS:
            raise UserError(f"cityscapes: depth: expected one of {', '.join(DEPTHS)} or None, got {depth!r}")
        excluded = check_names("cityscapes", "exclude", exclude)
        folder, part, kind = SPLITS[split]
        tree = Tree("cityscapes", root)
        problems = tree.problems
        location = tree.find(f"{folder}/{part}")
        if location is None:
            raise UserError(
                f"cityscapes: no folder {tree.where(f'{folder}/{part}')}; 'root' must hold {folder}/{part}/<city>, "
                "unpacked or in archives"
            )
        images = listed(tree, (location,), _IMAGE, problems)
        labels, stored = listed_labels(tree, (tree.find(f"{kind}/{part}"),), kind, label_space, problems)
        maps = {"label": labels} | _listed_depth(tree, part, depth, problems)
        contexts = _listed_cameras(tree, part, maps["depth"], problems) if depth == "disparity" else {}
        optional = {*maps, *_CAMERA_MAPS} if folder == _SEQUENCE else _CAMERA_MAPS
        maps |= _listed_views(tree, folder, part, _without(images, excluded), views, problems)
        frames, unpaired = pair(
            _without(images, excluded),
            context=contexts,
            optional=optional,
            **{field: _without(files, excluded) for field, files in maps.items()},
        )
        super().__init__(
            "cityscapes",
            frames,
            label_space,
            problems=[problem for problem in problems + unpaired if problem.frame not in excluded],
            decoders={**_CAMERA_MAPS, **({DEPTHS[depth].field: DEPTHS[depth].decode} if depth else {})},
            constants={field: cameras.PUBLISHED["cityscapes"].maps[field] for field in _CAMERA_MAPS if field in views},
            tree=tree,
            **stored,
        )
        self._is_video = folder == _SEQUENCE

    def sequence(self, index: int) -> tuple[str, int] | None:
        """Returns the recording of a frame of video and its number; of the others, no two are neighbours."""
        return super().sequence(index) if self._is_video else None


def listed(
    tree: Tree, folders: Iterable[str], endings: str | Sequence[str], problems: list[Problem], field: str = "image"
) -> dict[str, File]:
    """Lists the files below some folders where the last part of the path names the frame.

    Args:
      tree: the data set.
      folders: as `Tree.find` gave them.
      endings: what follows the frame's name, as in `frames.by_name`.
      problems: where a second file of one frame is reported.
      field: the map that these files hold.

    Returns:
      {frame name: file}, folder by folder, each in order of path.
    """
    endings = (endings,) if isinstance(endings, str) else tuple(endings)
    found: dict[str, File] = {}
    for folder in folders:
        files = tree.files(folder, [ending.lower() for ending in endings], recursive=True)
        for path, file in by_name(files, endings, problems, field).items():
            name = path.rpartition("/")[2]
            if name in found:
                message = f"{file}: frame '{printable(name)}' has another file, {found[name]}; remove one"
                problems.append(Problem(name, field, message))
            found.setdefault(name, file)
    return found


def listed_labels(
    tree: Tree, folders: Iterable[str | None], kind: str, label_space: str, problems: list[Problem]
) -> tuple[dict[str, File], dict[str, Any]]:
    """Lists label files that are named in the manner of Cityscapes.

    They are `<frame>_<kind>_labelIds.png`; where there are none, `<frame>_<kind>_labelTrainIds.png`, which the
    published scripts make of them, stand in.

    Args:
      tree: the data set.
      folders: as `Tree.find` gave them; None is a folder that is not there.
      kind: such as "gtFine".
      label_space: the protocol of the labels.
      problems: where a second file of one frame is reported.

    Returns:
      {frame name: file}, empty if there are none; and the arguments of `FrameFiles` that say what the files store.
    """
    folders = [folder for folder in folders if folder is not None]
    if files := listed(tree, folders, f"_{kind}_labelIds.png", problems, "label"):
        return files, {}
    files = listed(tree, folders, f"_{kind}_labelTrainIds.png", problems, "label")
    if not files:
        return {}, {}
    return files, {"table": train19_table(label_space), "known": (*range(len(CLASS_NAMES)), IGNORE)}


def disparity_metres(frame: Frame) -> np.ndarray:
    """Reads the published stereo disparity and, from the frame's context, its camera file.

    A count p stands for a disparity of (p - 1) / 256 pixels; 0 is "no value", and 1, a disparity of zero, has no
    finite depth.

    Returns:
      float32 `[H, W]`, metres, 0 = invalid.

    Raises:
      UserError: either file is missing or damaged, or the camera file lacks a field.
    """
    counts = read_depth(frame.depth, 1, bits=(16,))
    if frame.context is None:
        raise UserError(
            f"{frame.depth}: there is no camera file {printable(frame.name)}_camera.json of this frame; add it"
        )
    baseline, focal_length = read_camera(frame.context)
    return metres_from_disparity((counts - 1) / 256, baseline=baseline, focal_length=focal_length)


def completed_metres(frame: Frame) -> np.ndarray:
    """Reads CorDA's completed stereo depth, the variable `depth_map` of a MATLAB 5 file.

    Returns:
      float32 `[H, W]`, metres, 0 where the file has zero, less, or no number.

    Raises:
      UserError: the file is missing or damaged, or of another kind.
    """
    values = read_matrix(frame.depth, "depth_map")
    with np.errstate(over="ignore", invalid="ignore"):
        metres = values.astype(np.float32)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


def relative_disparity(frame: Frame) -> np.ndarray:
    """Reads the output of CorDA's monocular network: float32 `[H, W]`, larger = nearer, 0 = invalid."""
    return read_relative_disparity(frame.files["disparity"])


def read_camera(file: File) -> tuple[float, float]:
    """Reads a camera file.

    Returns:
      Distance of the two cameras in metres, and horizontal focal length in pixels at full width.

    Raises:
      UserError: the file is missing, no JSON, or lacks one of the two.
    """
    return tuple(cameras.read_json_numbers(file, (("extrinsic", "baseline"), ("intrinsic", "fx"))))


def _intrinsics(frame: Frame) -> np.ndarray:
    fields = [("intrinsic", name) for name in ("fx", "fy", "u0", "v0")]
    values = cameras.read_json_numbers(frame.files["intrinsics"], fields)
    # Where the files count from is not said; the depth networks of CorDA take them as they are.
    return np.array(np.divide(values, _PIXELS * 2), np.float32)


def _baseline(frame: Frame) -> np.ndarray:
    return np.float32(read_camera(frame.files["baseline"])[0])


_CAMERA_MAPS = {"intrinsics": _intrinsics, "baseline": _baseline}


class _Depth(NamedTuple):
    """One kind of depth: its folder, the archives that may have been unpacked around it, and its files."""

    folder: str
    unpacked: tuple[str, ...]
    ending: str
    field: str
    decode: Callable[[Frame], np.ndarray]


_DISPARITY_ARCHIVES = ("disparity_trainvaltest", "disparity_trainextra")
DEPTHS = {
    "disparity": _Depth("disparity", _DISPARITY_ARCHIVES, "_disparity.png", "depth", disparity_metres),
    "stereo": _Depth("depth", (), "_depth_stereoscopic.mat", "depth", completed_metres),
    "monocular": _Depth("disparity", (), _IMAGE, "disparity", relative_disparity),
}


def _listed_depth(tree: Tree, part: str, depth: str | None, problems: list[Problem]) -> dict[str, dict[str, File]]:
    """Returns {field: {frame name: file}} of a kind of depth, empty for None."""
    if depth is None:
        return {}
    folder, archives, ending, field, _ = DEPTHS[depth]
    # CorDA's folder is called like the published one and may lie nearer to the root.
    for prefix in ("", *(f"{archive}/" for archive in archives)):
        location = tree.find(f"{prefix}{folder}/{part}")
        if location and (files := listed(tree, (location,), ending, problems, field)):
            return {field: files}
    raise UserError(
        f"cityscapes: depth: no file *{ending} in {tree.where(f'{folder}/{part}')}/<city>; add the folder, or leave "
        f"out the option depth={depth!r}"
    )


def _listed_cameras(tree: Tree, part: str, depth: dict[str, File], problems: list[Problem]) -> dict[str, File]:
    """Returns the camera file of each frame that has a disparity, and reports those that lack one."""
    location = tree.find(f"camera/{part}")
    if location is None:
        raise UserError(
            f"cityscapes: no folder {tree.where(f'camera/{part}')}; depth='disparity' needs the camera files, "
            "unpacked or in archives"
        )
    cameras = listed(tree, (location,), "_camera.json", problems, "depth")
    problems += [
        Problem(name, "depth", f"{file}: there is no camera file {printable(name)}_camera.json of this frame; add it")
        for name, file in depth.items()
        if name not in cameras
    ]
    return cameras


def _listed_views(
    tree: Tree, folder: str, part: str, images: dict[str, File], views: Collection[str], problems: list[Problem]
) -> dict[str, dict[str, File]]:
    """Returns {map: {frame name: file}} of what surrounds the frames of a folder, as far as `views` has it."""

    def found(where: str, ending: str, field: str) -> dict[str, File]:
        location = tree.find(f"{where}/{part}")
        if location is None:
            missing = tree.where(f"{where}/{part}")
            raise UserError(f"cityscapes: no folder {missing}, which {field} needs; add it, or leave out the map")
        return listed(tree, (location,), ending, problems, field)

    maps = {}
    if "image_right" in views:
        maps["image_right"] = found(folder.replace("left", "right"), "_rightImg8bit.png", "image_right")
    # The neighbours of a video are in it itself.
    offsets = {field: MAPS[field].offset for field in views if MAPS[field].offset and folder != _SEQUENCE}
    video = found(_SEQUENCE, _IMAGE, next(iter(offsets))) if offsets else {}
    maps |= {field: shifted(images, video, offset) for field, offset in offsets.items()}
    fields = [field for field in _CAMERA_MAPS if field in views]
    location = tree.find(f"camera/{part}") if fields else None
    if location is not None:
        files = listed(tree, (location,), "_camera.json", problems, fields[0])
        return maps | dict.fromkeys(fields, nearest(images, files))
    if fields:
        message = f"{tree.where(f'camera/{part}')}: no such folder; {' and '.join(fields)} are those of most frames"
        problems.append(Problem(None, fields[0], message, note=True))
    return maps


def _without(files: dict[str, File], names: frozenset[str]) -> dict[str, File]:
    return {name: file for name, file in files.items() if name not in names}
