"""IDD-Lite: 1607 labelled street frames of Indian drives, 320x227 pixels, in seven classes; 404 more have no labels.

Take it as a second small real camera, of roads that are less tidy than CamVid's.

Layout, as published: `<root>/leftImg8bit/<split>/<sequence>/<frame>_image.jpg` and
`<root>/gtFine/<split>/<sequence>/<frame>_label.png`; or in the form of a `folder` data set,
`<root>/<split>/images/<sequence>_<frame>.jpg` and `<root>/<split>/labels/<sequence>_<frame>.png`. Labels are 8-bit ids
of the first level of IDD's classes, 255 = none. Frames are called `<sequence>_<frame>` in both.

"val_dev" and "val_test" are every other frame of "val", by the order of names, from the first and from the second on:
one to choose settings on, one to score.
"""

import os

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Tree
from uda_jax.errors import UserError

# Split -> its folder, and which of the sorted frames are its.
SPLITS = {
    "train": ("train", slice(None)),
    "val": ("val", slice(None)),
    "test": ("test", slice(None)),
    "val_dev": ("val", slice(0, None, 2)),
    "val_test": ("val", slice(1, None, 2)),
}
# Frames of each split as published.
COUNTS = {"train": 1403, "val": 204, "test": 404, "val_dev": 102, "val_test": 102}
_INSTANCES = "_inst_label.png"


class IddLite(FrameFiles):
    """One split of IDD-Lite.

    Args:
      root: the folder that holds leftImg8bit and gtFine, or train, val and test.
      split: one of `SPLITS`.
      label_space: "idd_lite", its seven classes, which no smaller ones can be told in.

    Raises:
      UserError: unknown split or other classes, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "idd_lite"):
        check_split("idd_lite", split, SPLITS)
        if label_space != "idd_lite":
            raise UserError(
                f"idd_lite: label_space: expected idd_lite, since the labels merge the classes of others, got "
                f"{label_space!r}"
            )
        folder, chosen = SPLITS[split]
        tree = Tree("idd_lite", root)
        problems = tree.problems
        if tree.is_folder(f"{folder}/images"):
            images = by_name(tree.files(f"{folder}/images", IMAGE_ENDINGS), IMAGE_ENDINGS, problems)
            has_labels = tree.is_folder(f"{folder}/labels")
            listed = tree.files(f"{folder}/labels", LABEL_ENDINGS) if has_labels else {}
            labels = by_name(listed, LABEL_ENDINGS, problems, "label")
        elif location := tree.find(f"leftImg8bit/{folder}"):
            images = by_name(_joined(tree, location), ("_image.jpg", "_image.png"), problems)
            location = tree.find(f"gtFine/{folder}")
            labels = by_name(_joined(tree, location) if location else {}, "_label.png", problems, "label")
        else:
            raise UserError(
                f"idd_lite: no folder {tree.where(f'leftImg8bit/{folder}')}; 'root' must hold leftImg8bit and gtFine, "
                f"or {folder}/images and {folder}/labels"
            )
        names = sorted(images)[chosen]
        # Labels of the other half of a split are no files without an image.
        labels = {name: file for name, file in labels.items() if name in names or name not in images}
        frames, unpaired = pair({name: images[name] for name in names}, label=labels)
        super().__init__("idd_lite", frames, label_space, problems=problems + unpaired, tree=tree)


def _joined(tree: Tree, folder: str) -> dict[str, File]:
    """Lists the sequences of a folder, and calls each file by its sequence and its own name."""
    files = tree.files(folder, (".jpg", ".png"), recursive=True)
    return {path.replace("/", "_"): file for path, file in files.items() if not path.endswith(_INSTANCES)}
