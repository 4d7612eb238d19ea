"""ACDC: 4006 street frames in fog, at night, in rain and in snow, 1920x1080 pixels, labelled but for the test part.

Take it as a target of bad weather and night, behind a daylight source.

Layout: `<root>/rgb_anon/<condition>/<part>/<sequence>/<frame>_rgb_anon.png` and `<root>/gt/<condition>/<part>/...`
with `<frame>_gt_labelIds.png`, 8-bit Cityscapes ids; labels that were converted to `<frame>_gt_labelTrainIds.png` are
read where there are no others. The flat copy `rgb_anon/train/*`, `gt/train/*` of DAFormer is read, too.

A split is a part in all four conditions, such as "train", or in one of them: "night_train". Conditions that were not
downloaded are left out of the former, and `uda check` notes the count. The parts "train_ref", "val_ref" and "test_ref"
are frames of the same places in clear weather by day, `<frame>_rgb_ref_anon.png`, unlabelled.
"""

import os

from uda_jax.data.datasets.cityscapes import listed, listed_labels
from uda_jax.data.frames import FrameFiles, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.errors import UserError

CONDITIONS = ("fog", "night", "rain", "snow")
_PARTS = ("train", "val", "test", "train_ref", "val_ref", "test_ref")
SPLITS = (*_PARTS, *(f"{condition}_{part}" for condition in CONDITIONS for part in _PARTS))
# Frames of each split as published.
COUNTS = {
    "train": 1600,
    "val": 406,
    "test": 2000,
    **{f"{condition}_train": 400 for condition in CONDITIONS},
    **{f"{condition}_val": 106 if condition == "night" else 100 for condition in CONDITIONS},
    **{f"{condition}_test": 500 for condition in CONDITIONS},
}


class Acdc(FrameFiles):
    """One split of ACDC.

    Args:
      root: the folder that holds `rgb_anon` and `gt`, or one above them, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("acdc", split, SPLITS)
        tree = Tree("acdc", root)
        folders = _folders(tree, split)
        ending = "_rgb_ref_anon.png" if split.endswith("_ref") else "_rgb_anon.png"
        problems = tree.problems
        images = listed(tree, (tree.find(f"rgb_anon/{folder}") for folder in folders), ending, problems)
        locations = [tree.find(f"gt/{folder}") for folder in folders]
        labels, stored = listed_labels(tree, locations, "gt", label_space, problems)
        frames, unpaired = pair(images, label=labels)
        super().__init__("acdc", frames, label_space, problems=problems + unpaired, tree=tree, **stored)


def _folders(tree: Tree, split: str) -> list[str]:
    """Returns the folders of a split below `rgb_anon` and `gt` that have images."""
    condition, _, part = split.partition("_")
    if condition in CONDITIONS:
        folders = [f"{condition}/{part}"]
    else:
        # The flat copy is made beside the original folders, which say more and so come first.
        folders = [*(f"{condition}/{split}" for condition in CONDITIONS), split]
    found = [folder for folder in folders if tree.find(f"rgb_anon/{folder}") is not None]
    if not found:
        raise UserError(
            f"acdc: no folder {tree.where(f'rgb_anon/{folders[0]}')}; 'root' must hold rgb_anon, unpacked or in "
            "archives"
        )
    return found[:-1] if len(found) > 1 and found[-1] == split else found
