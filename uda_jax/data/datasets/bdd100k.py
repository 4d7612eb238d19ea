"""BDD100K, the 10K set for segmentation: 10000 street frames, 1280x720 pixels, 8000 of them labelled.

Take it as a target of other cities and cameras than Cityscapes.

Layout: `<root>/images/10k/<split>/<id>.jpg` and `<root>/labels/sem_seg/masks/<split>/<id>.png`; or that of the older
archive, `seg/images/<split>/<id>.jpg` and `seg/labels/<split>/<id>_train_id.png`. Labels hold the 19 training ids of
Cityscapes, not its ids, and 255. "test" has no labels.
"""

import os
from typing import NamedTuple

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.errors import UserError


class _Layout(NamedTuple):
    images: str
    labels: str
    label_ending: str


SPLITS = ("train", "val", "test")
# Frames of each split as published.
COUNTS = {"train": 7000, "val": 1000, "test": 2000}
_LAYOUTS = (
    _Layout("images/10k", "labels/sem_seg/masks", ".png"),
    _Layout("seg/images", "seg/labels", "_train_id.png"),
)


class Bdd100k(FrameFiles):
    """One split of BDD100K.

    Args:
      root: the folder that holds `images` and `labels`, or `seg`, or one above them, or the archives.
      split: one of `SPLITS`.
      label_space: a protocol of `label_spaces`.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("bdd100k", split, SPLITS)
        tree = Tree("bdd100k", root)
        layout = next((layout for layout in _LAYOUTS if tree.find(f"{layout.images}/{split}")), None)
        if layout is None:
            raise UserError(
                f"bdd100k: no folder {tree.where(f'images/10k/{split}')}; 'root' must hold images/10k, or seg/images "
                "of the older archive, unpacked or in archives"
            )
        problems = tree.problems
        folder = tree.find(f"{layout.images}/{split}")
        images = tree.files(folder, IMAGE_ENDINGS)
        location = tree.find(f"{layout.labels}/{split}")
        labels = tree.files(location, LABEL_ENDINGS) if location else {}
        frames, unpaired = pair(
            by_name(images, IMAGE_ENDINGS, problems),
            label=by_name(labels, layout.label_ending, problems, "label"),
        )
        super().__init__("bdd100k", frames, label_space, problems=problems + unpaired, tree=tree)
