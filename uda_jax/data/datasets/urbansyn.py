"""UrbanSyn: 7539 rendered street frames, 2048x1024 pixels, with the 19 training classes of Cityscapes.

Take it beside GTA5 and SYNTHIA as one more source: its looks are closer to a camera's.

Layout (arXiv 2312.12176): `<root>/rgb/rgb_<NNNN>.png` and `<root>/ss/ss_<NNNN>.png`. Labels hold the training ids of
Cityscapes; what has none is ignored. The one split, "train", holds all frames. Depth, instances and boxes are not read.
"""

import os

from uda_jax.data.frames import FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.errors import UserError

SPLITS = ("train",)
COUNTS = {"train": 7539}
IMAGES, LABELS, ENDING = "rgb", "ss", ".png"


class Urbansyn(FrameFiles):
    """All frames of UrbanSyn.

    Args:
      root: the folder that holds `rgb` and `ss`, or one above it.
      split: "train".
      label_space: a protocol of `label_spaces`.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("urbansyn", split, SPLITS)
        tree = Tree("urbansyn", root)
        problems = tree.problems
        images = _listed(tree, IMAGES, "image", problems)
        frames, unpaired = pair(images, label=_listed(tree, LABELS, "label", problems))
        super().__init__("urbansyn", frames, label_space, problems=problems + unpaired, tree=tree)


def _listed(tree: Tree, folder: str, field: str, problems: list[Problem]) -> dict[str, File]:
    """Returns the files of a map by the number of their frame; a file's name begins with its folder's."""
    location = tree.find(folder)
    if location is None:
        raise UserError(f"urbansyn: no folder {tree.where(folder)}; 'root' must hold {IMAGES} and {LABELS}")
    files, prefix = by_name(tree.files(location, (ENDING,)), ENDING, problems, field), f"{folder}_"
    if others := [file for name, file in files.items() if not name.startswith(prefix)]:
        message = f"{others[0]}: this and {len(others) - 1} more files do not begin with '{prefix}' and are not read"
        problems.append(Problem(None, field, message, note=True))
    return {name[len(prefix) :]: file for name, file in sorted(files.items()) if name.startswith(prefix)}
