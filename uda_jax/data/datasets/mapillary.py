"""Mapillary Vistas 1.2: 25000 street photographs from all over the world, of many sizes, with 66 classes.

Take it as a large and varied target.

Layout: `<root>/{training,validation,testing}/images/<22 characters>.jpg` with labels in `<part>/labels` (the archive of
version 1.2) or in `<part>/v1.2/labels` (the later archive of both versions). 18000 / 2000 / 5000 frames, the last
without labels. Labels are palette PNGs; the index is the class, and colours are not, since classes share them.

The 124 classes of version 2.0 have no table here, and its labels are refused.
"""

import json
import os

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.data.labels import label_spaces, label_tables
from uda_jax.errors import UserError

_PARTS = {"train": "training", "val": "validation", "test": "testing"}
# The usual words, and those of the folders.
SPLITS = _PARTS | {part: part for part in _PARTS.values()}
COUNTS = {"train": 18000, "val": 2000, "test": 5000}
# From the option's value to the key of the table in `label_spaces`.
MAPPINGS = {"recommended": "mapillary", "strict": "mapillary_strict", "mseg": "mapillary_mseg"}


class Mapillary(FrameFiles):
    """One split of Mapillary Vistas.

    Args:
      root: the folder that holds `training`, `validation`, `testing`, or one above it, or the archive.
      split: "train", "val" or "test", or the name of its folder.
      label_space: a protocol of `label_spaces`; "7" is DADA's.
      mapping: how the 66 classes become Cityscapes classes: "recommended" counts ground markings, curbs and all riders
        to theirs; "strict" takes classes of equal names only; "mseg" follows the MSeg taxonomy. Label space "7" has a
        table of its own under "recommended".

    Raises:
      UserError: unknown split, protocol or mapping, a missing folder, labels of version 2.0; on access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        mapping: str = "recommended",
    ):
        check_split("mapillary", split, SPLITS)
        if mapping not in MAPPINGS:
            raise UserError(f"mapillary: mapping: expected one of {', '.join(MAPPINGS)}, got {mapping!r}")
        tree = Tree("mapillary", root)
        part = SPLITS[split]
        images = tree.find(f"{part}/images")
        if images is None:
            raise UserError(
                f"mapillary: no folder {tree.where(f'{part}/images')}; 'root' must hold {', '.join(_PARTS.values())}"
            )
        labels = _label_folder(tree, part)
        problems = tree.problems
        frames, unpaired = pair(
            by_name(tree.files(images, IMAGE_ENDINGS), IMAGE_ENDINGS, problems),
            label=by_name(tree.files(labels, LABEL_ENDINGS), LABEL_ENDINGS, problems, "label") if labels else None,
        )
        super().__init__(
            "mapillary",
            frames,
            label_space,
            table=label_spaces.lookup_table(MAPPINGS[mapping], label_space),
            problems=problems + unpaired,
            tree=tree,
        )


def _label_folder(tree: Tree, part: str) -> str | None:
    """Returns where the labels of version 1.2 are; None if the part has no labels at all."""
    if (named := tree.find(f"{part}/v1.2/labels")) is not None:
        return named
    if (plain := tree.find(f"{part}/labels")) is None:
        if tree.find(f"{part}/v2.0/labels") is not None:
            raise UserError(
                f"mapillary: {tree.where(part)} holds labels of version 2.0 only, expected v1.2/labels or labels with "
                "66 classes; add version 1.2"
            )
        return None
    _check_version(tree, plain.removesuffix(f"{part}/labels"))
    return plain


def _check_version(tree: Tree, base: str) -> None:
    """Raises a UserError if `config.json` beside the parts describes other classes than those of version 1.2."""
    if (file := tree.file(f"{base}config.json")) is None:
        return
    expected = len(label_tables.MAPILLARY)
    try:
        count = len(json.loads(file.read_bytes())["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: labels: expected a list of {expected} classes ({reason}); copy it again") from None
    if count != expected:
        raise UserError(
            f"{file}: labels: expected the {expected} classes of Mapillary Vistas 1.2, got {count}; use the labels of "
            "version 1.2"
        )
