"""SYNTHIA-RAND-CITYSCAPES: 9400 rendered street frames, 1280x760 pixels, with classes and depth.

Take it as a source with depth, for 16 or 13 classes.

Layout: `<root>/[RAND_CITYSCAPES/]RGB/<NNNNNNN>.png`, the same names in `GT/LABELS`, and depth in `Depth/Depth` or
`Depth`. Labels are PNGs of three 16-bit channels: class, instance, nothing. Tools that know 8 bits only make all
zeros of them, which is an error here. Where `GT/LABELS` is absent, the 8-bit copies that adaptation code ships are
read: `synthia_mapped_to_cityscapes` or `parsed_LABELS`, which in spite of its name holds SYNTHIA's own ids, too.

Depth is centimetres in 16 bits, one channel or three equal ones. The sky has the largest value, 655.35 m.

The one split, "train", holds all frames. Train with label space "16" (whose classes are those that occur) or with "19";
the score on 13 classes comes from the same network.
"""

import os

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, Frame, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import Tree
from uda_jax.data.io.images import header, read_counts, read_depth
from uda_jax.errors import UserError

SPLITS = ("train",)
COUNTS = {"train": 9400}
_LABELS = ("GT/LABELS", "synthia_mapped_to_cityscapes", "parsed_LABELS")
_DEPTHS = ("Depth/Depth", "Depth")
_METRES_PER_COUNT = 0.01
_DESTROYED = "a tool for 8 bits has destroyed the ids; copy the original file again"


class Synthia(FrameFiles):
    """All frames of SYNTHIA-RAND-CITYSCAPES.

    Args:
      root: the folder `RAND_CITYSCAPES`, or one above it.
      split: "train".
      label_space: a protocol of `label_spaces`.

    Raises:
      UserError: unknown split or protocol, a missing folder; on access, with a frame.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, label_space: str = "19"):
        check_split("synthia", split, SPLITS)
        tree = Tree("synthia", root)
        images = tree.find("RGB")
        labels = next(filter(None, map(tree.find, _LABELS)), None)
        if images is None or labels is None:
            missing = tree.where("RGB" if images is None else _LABELS[0])
            raise UserError(f"synthia: no folder {missing}; 'root' must hold RGB and {' or '.join(_LABELS)}")
        depth = next(filter(None, map(tree.find, _DEPTHS)), None)
        problems = tree.problems
        frames, unpaired = pair(
            by_name(tree.files(images, IMAGE_ENDINGS), IMAGE_ENDINGS, problems),
            label=by_name(tree.files(labels, LABEL_ENDINGS), LABEL_ENDINGS, problems, "label"),
            depth=by_name(tree.files(depth, LABEL_ENDINGS), LABEL_ENDINGS, problems, "depth") if depth else None,
        )
        decoders = {"label": _ids, "depth": _metres}
        super().__init__("synthia", frames, label_space, decoders=decoders, problems=problems + unpaired, tree=tree)


def _metres(frame: Frame) -> np.ndarray:
    return read_depth(frame.depth, _METRES_PER_COUNT, bits=(16,))


def _ids(frame: Frame) -> np.ndarray:
    """Reads the class channel of a 16-bit label, or the one channel of an 8-bit copy."""
    file = frame.label
    counts = read_counts(file)
    if counts.ndim == 3 and header(file.read_bytes())[1] == 8:
        raise UserError(
            f"{file}: expected a PNG with channels of 16 bits, or one of 8 bits, got 8 bits in three; {_DESTROYED}"
        )
    classes = counts if counts.ndim == 2 else counts[..., 0]
    if classes.max() > 255:
        raise UserError(
            f"{file}: class id {classes.max()} in the first channel, expected 0 to 22; copy the original file again"
        )
    if not classes.any():
        raise UserError(
            f"{file}: expected ids of classes, got void (0) in every pixel, as in no frame of SYNTHIA; {_DESTROYED}"
        )
    return classes.astype(np.uint8)
