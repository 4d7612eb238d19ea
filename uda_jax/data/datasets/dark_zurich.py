"""Dark Zurich: street frames by day, at twilight and at night, 1920x1080 pixels; 50 at night have labels.

Take it as a target at night, behind a daylight source.

Layout: `<root>/rgb_anon/<part>/<time>/<sequence>/<frame>_rgb_anon.png` and `<root>/gt/val/night/<sequence>/` with
`<frame>_gt_labelIds.png`, 8-bit Cityscapes ids; labels that were converted to `<frame>_gt_labelTrainIds.png` are read
where there are no others. The frames before their anonymisation, `rgb/...` and `<frame>_rgb.png`, are read as well.

Frames are called `<sequence>_frame_<number>`. "val" and "test" are at night; "val_ref" and "test_ref" show the same
places by day. Labels exist of "val" only.
"""

import os

from uda_jax.data.datasets.cityscapes import listed, listed_labels
from uda_jax.data.frames import FrameFiles, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.errors import UserError

SPLITS = {
    "train_day": "train/day",
    "train_twilight": "train/twilight",
    "train_night": "train/night",
    "val": "val/night",
    "val_ref": "val_ref/day",
    "test": "test/night",
    "test_ref": "test_ref/day",
}
# Frames of each split as published.
COUNTS = {"train_day": 3041, "train_twilight": 2920, "train_night": 2416, "val": 50, "test": 151}
_FOLDERS = ("rgb_anon", "rgb")
# Of the two that fit a reference frame the longer one comes first.
_ENDINGS = ("_ref_rgb_anon.png", "_rgb_anon.png", "_rgb.png")


class DarkZurich(FrameFiles):
    """One split of Dark Zurich.

    Args:
      root: the folder that holds `rgb_anon` and `gt`, or one above them, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("dark_zurich", split, SPLITS)
        folder = SPLITS[split]
        tree = Tree("dark_zurich", root)
        location = next(filter(None, (tree.find(f"{top}/{folder}") for top in _FOLDERS)), None)
        if location is None:
            raise UserError(
                f"dark_zurich: no folder {tree.where(f'rgb_anon/{folder}')}; 'root' must hold rgb_anon/{folder}, "
                "unpacked or in archives"
            )
        problems = tree.problems
        images = listed(tree, (location,), _ENDINGS, problems)
        labels, stored = listed_labels(tree, (tree.find(f"gt/{folder}"),), "gt", label_space, problems)
        frames, unpaired = pair(images, label=labels)
        super().__init__("dark_zurich", frames, label_space, problems=problems + unpaired, tree=tree, **stored)
