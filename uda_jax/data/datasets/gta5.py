"""GTA5 (Playing for Data): 24966 labelled frames of a game's streets, 1914x1052 pixels and a little less.

Take it as the source of the papers' main table, with all 19 classes of Cityscapes.

Layout: `<root>/images/<NNNNN>.png` and `<root>/labels/<NNNNN>.png`, into which all of the ten image and the ten label
archives unpack; the archives are read where they lie, too. Labels are palette PNGs whose indices are Cityscapes ids,
and 34 = license plate.

The one split, "train", holds all frames: every published adaptation method trains on all of them.

Known faults: frame 15188 is white and 17705 black all over, and `exclude` leaves them out. The published lists do not:
`exclude=()` gives their 24966 frames. The labels of 20801 .. 20860 have another size than the images and are fitted to
them. There is no depth; CorDA adds a folder `disparity` of its own monocular network.
"""

import os
import re
from collections.abc import Sequence

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, Frame, FrameFiles, by_name, check_names, check_split, pair
from uda_jax.data.io.archives import Problem, Tree
from uda_jax.data.io.depth import read_relative_disparity
from uda_jax.data.pairing import passed_over
from uda_jax.errors import UserError

SPLITS = ("train",)
FAULTY = ("15188", "17705")
MISMATCHED = frozenset(f"{number:05}" for number in range(20801, 20861))
# Frames as published, less those that `exclude` leaves out by default.
COUNTS = {"train": 24966 - len(FAULTY)}
_NAME = re.compile(r"[0-9]{5}")


class Gta5(FrameFiles):
    """All frames of GTA5.

    Args:
      root: the folder that holds `images` and `labels`, or the archives of both.
      split: "train".
      label_space: a protocol of `label_spaces`.
      exclude: names of frames to leave out.
      depth: None, or "monocular": CorDA's `disparity/<NNNNN>.png`, as `disparity`: the stored 16 bits divided by 256.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        exclude: Sequence[str] = FAULTY,
        depth: str | None = None,
    ):
        check_split("gta5", split, SPLITS)
        if depth not in (None, "monocular"):
            raise UserError(f"gta5: depth: expected 'monocular' or None, got {depth!r}")
        excluded = check_names("gta5", "exclude", exclude)
        tree = Tree("gta5", root)
        problems = tree.problems
        folders = {"image": "images", "label": "labels"} | ({"disparity": "disparity"} if depth else {})
        maps = {}
        for field, folder in folders.items():
            location = tree.find(folder)
            if location is None:
                raise UserError(
                    f"gta5: no folder {tree.where(folder)}; 'root' must hold {', '.join(folders.values())}, unpacked "
                    "or in archives"
                )
            endings = IMAGE_ENDINGS if field == "image" else LABEL_ENDINGS
            found = by_name(tree.files(location, endings), endings, problems, field)
            maps[field] = {name: file for name, file in found.items() if name not in excluded}
            problems += passed_over(tree.where(location), tree.passed_over(location), field, ())
        frames, unpaired = pair(maps.pop("image"), **maps)
        unexpected = [
            Problem(
                frame.name,
                "image",
                f"{frame.image}: unexpected name, frames of gta5 are five digits such as 00001.png; remove the file",
            )
            for frame in frames
            if not _NAME.fullmatch(frame.name)
        ]
        super().__init__(
            "gta5",
            frames,
            label_space,
            decoders={"disparity": _disparity},
            problems=problems + unpaired + unexpected,
            mismatched=MISMATCHED,
        )


def _disparity(frame: Frame) -> np.ndarray:
    return read_relative_disparity(frame.files["disparity"])
