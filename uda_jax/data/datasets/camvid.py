"""CamVid: 701 labelled frames of drives in Cambridge, by day and at dusk, in the 11-class packaging of SegNet.

Layout: `<root>/{train,val,test}/{images,labels}/<stem>.{jpg,png}`, or as SegNet ships it, `<root>/<split>/`
and `<root>/<split>annot/`. Labels are 8-bit ids, 11 = void. 367 / 101 / 233 frames.

The start of a file's stem names its recording: 0001TP (dusk), 0006R0, 0016E5 and Seq05VD (day). The splits
"day_train", "day_val", "dusk_train" and "dusk_test" cut the data along them into a domain-shift task on real
frames: labelled day drives as source, the dusk drive as target.

Eleven of the 19 Cityscapes classes occur; the others are in no label and drop out of a mean over classes.
"""

import os
from typing import NamedTuple

from uda_jax.data import label_spaces
from uda_jax.data.frames import FrameFiles, IdTable, pair_files, require_root
from uda_jax.errors import UserError
from uda_jax.sections import closest


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


class Camvid(FrameFiles):
    """CamVid, one split.

    Args:
      root: the folder that holds train, val and test.
      split: one of `SPLITS`.
      label_space: "19", "16", "13", "10" or "7".

    Raises:
      UserError: unknown split or protocol; a missing folder, no frame of the split, or a frame without label.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        if split not in SPLITS:
            raise UserError(f"camvid: unknown split '{split}'{closest(split, SPLITS)}")
        folder, recordings = SPLITS[split]
        root = require_root("camvid", root)
        images, labels = root / folder / "images", root / folder / "labels"
        if not images.is_dir():
            images, labels = root / folder, root / f"{folder}annot"
        for path in (images, labels):
            if not path.is_dir():
                raise UserError(f"camvid: no folder {path}; 'root' must hold {folder}/images and {folder}/labels")
        frames = [frame for frame in pair_files(images, labels) if frame.name.startswith(recordings)]
        if not frames:
            raise UserError(f"{images}: no frame of the recordings {', '.join(recordings)}; the copy is incomplete")
        table = label_spaces.lookup_table("camvid", label_space)
        super().__init__(frames, IdTable(table), label_spaces.label_space(label_space))
        if self.lacking("label"):
            raise UserError(f"{labels}: no label for '{self.lacking('label')[0]}'; the copy is incomplete")
