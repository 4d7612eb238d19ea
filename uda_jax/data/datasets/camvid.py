"""CamVid: 701 labelled frames of drives in Cambridge, by day and at dusk, in the 11-class packaging of SegNet.

Take it for a small real task, from day to dusk, that two cores train in minutes.

Layout: `<root>/{train,val,test}/{images,labels}/<stem>.{jpg,png}`, or as SegNet ships it, `<split>/` and
`<split>annot/`. Labels are 8-bit ids, 11 = void. 367 / 101 / 233 frames.

The start of a file's stem names its recording: 0001TP (dusk), 0006R0, 0016E5 and Seq05VD (day). The splits
"day_train", "day_val", "dusk_train" and "dusk_test" cut the data along them into a domain-shift task on real
frames: labelled day drives as source, the dusk drive as target.

Eleven of the 19 Cityscapes classes occur; the others are in no label and drop out of a mean over classes.
"""

import os
from typing import NamedTuple

from uda_jax.data.frames import IMAGE_ENDINGS, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.errors import UserError


class _Split(NamedTuple):
    folder: str
    recordings: tuple[str, ...] = ("",)  # starts of stems; "" is the start of all


SPLITS = {
    "train": _Split("train"),
    "val": _Split("val"),
    "test": _Split("test"),
    "day_train": _Split("train", ("0006R0", "0016E5")),
    "day_val": _Split("val", ("0016E5",)),
    "dusk_train": _Split("train", ("0001TP",)),
    "dusk_test": _Split("test", ("0001TP",)),
}


# Frames of each split as published, for `uda check`.
COUNTS = {"train": 367, "val": 101, "test": 233, "day_train": 305, "day_val": 101, "dusk_train": 62, "dusk_test": 62}


class Camvid(FrameFiles):
    """CamVid, one split.

    Args:
      root: the folder that holds train, val and test.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`, of which "camvid" keeps all 11 classes.

    Raises:
      UserError: unknown split or protocol; a missing folder, or no frame of the split.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("camvid", split, SPLITS)
        folder, recordings = SPLITS[split]
        tree = Tree("camvid", root)
        images, labels = f"{folder}/images", f"{folder}/labels"
        if not tree.is_folder(images):
            images, labels = folder, f"{folder}annot"
        for path in (images, labels):
            if not tree.is_folder(path):
                raise UserError(
                    f"camvid: no folder {tree.where(path)}; 'root' must hold {folder}/images and {folder}/labels"
                )
        problems = tree.problems
        found = by_name(tree.files(images, IMAGE_ENDINGS), IMAGE_ENDINGS, problems)
        stored = by_name(tree.files(labels, (".png",)), ".png", problems, "label")
        frames, unpaired = pair(
            {name: file for name, file in found.items() if name.startswith(recordings)},
            label={name: file for name, file in stored.items() if name.startswith(recordings)},
        )
        if not frames:
            raise UserError(
                f"{tree.where(images)}: no frame of the recordings {', '.join(recordings)}; the copy is incomplete"
            )
        super().__init__("camvid", frames, label_space, problems=problems + unpaired, tree=tree)
