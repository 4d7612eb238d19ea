"""Synscapes: 25000 rendered street frames, 1440x720 pixels, with Cityscapes classes and depth.

Take it as a source closer to Cityscapes than GTA5, with depth.

Layout: `<root>/[Synscapes/]img/{rgb,rgb-2k,class,depth}/<N>.{png,exr}`, N = 1 .. 25000. Labels are 8-bit Cityscapes
ids. The one split, "train", holds all frames.

Depth is an OpenEXR picture of metres. Reading it takes the package OpenEXR: pip install 'uda_jax[exr]'.
"""

import importlib.util
import io
import os

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS, LABEL_ENDINGS, Frame, FrameFiles, by_name, check_split, pair
from uda_jax.data.io.archives import File, Tree
from uda_jax.errors import UserError

SPLITS = ("train",)
COUNTS = {"train": 25000}
IMAGES = ("rgb", "rgb-2k")


class Synscapes(FrameFiles):
    """All frames of Synscapes.

    Args:
      root: the folder that holds `img`, or one above it.
      split: "train".
      label_space: a protocol of `label_spaces`.
      images: "rgb" (1440x720), or "rgb-2k" (2048x1024), to which labels and depth of another size are fitted by
        nearest neighbour.
      depth: True adds `img/depth/<N>.exr`.

    Raises:
      UserError: unknown split, protocol or images, a missing folder, the package OpenEXR is wanted and missing; on
        access, with a frame.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        images: str = "rgb",
        depth: bool = False,
    ):
        check_split("synscapes", split, SPLITS)
        if images not in IMAGES:
            raise UserError(f"synscapes: images: expected one of {', '.join(IMAGES)}, got {images!r}")
        if depth and importlib.util.find_spec("OpenEXR") is None:
            raise UserError("synscapes: depth: the package OpenEXR is missing; run pip install 'uda_jax[exr]'")
        tree = Tree("synscapes", root)
        problems = tree.problems

        def listed(folder: str, field: str, endings: tuple[str, ...]) -> dict[str, File]:
            location = tree.find(f"img/{folder}")
            if location is None:
                raise UserError(f"synscapes: no folder {tree.where(f'img/{folder}')}; 'root' must hold img/{folder}")
            return by_name(tree.files(location, endings), endings, problems, field)

        found = listed(images, "image", IMAGE_ENDINGS)
        frames, unpaired = pair(
            {name: found[name] for name in sorted(found, key=lambda name: (len(name), name))},
            label=listed("class", "label", LABEL_ENDINGS),
            depth=listed("depth", "depth", (".exr",)) if depth else None,
        )
        super().__init__(
            "synscapes",
            frames,
            label_space,
            decoders={"depth": _metres},
            problems=problems + unpaired,
            tree=tree,
            mismatched=frozenset(found) if images == "rgb-2k" else frozenset(),
        )


def _metres(frame: Frame) -> np.ndarray:
    """Reads an OpenEXR picture with one channel, or several equal ones, of metres; 0 = invalid."""
    import OpenEXR

    file = frame.depth
    try:
        # Loader processes are parallel already, so that threads of its own would only be in the way.
        with OpenEXR.File(io.BytesIO(file.read_bytes()), separate_channels=True, num_threads=0) as picture:
            channels = [np.array(channel.pixels, np.float32) for channel in picture.channels().values()]
    # What the library raises depends on where the damage is.
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise UserError(f"{file}: damaged OpenEXR picture ({' '.join(str(error).split())}); copy it again") from None
    first, *others = channels or [None]
    if first is None or not all(np.array_equal(first, other, equal_nan=True) for other in others):
        raise UserError(f"{file}: expected a depth map with one channel, got {len(channels)} that differ; replace it")
    return np.where(np.isfinite(first) & (first > 0), first, np.float32(0))
