"""The built-in binary data set: structures before a background as two devices see them, generated, no download.

Take it to try binary masks and Dice scores without any data.

A stand-in for medical images of two hospitals, on which a binary task can be tried from end to end; scores on it say
nothing about polyps or tumours. The look "sharp" is the source, "soft" the target. Frames are drawn when they are read.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from uda_jax.data.base import Announced, Dataset
from uda_jax.data.frames import check_split
from uda_jax.data.labels.label_spaces import BACKGROUND, LabelSpace
from uda_jax.data.rendering import blobs
from uda_jax.errors import UserError


class _Split(NamedTuple):
    look: str
    first_seed: int
    frames: int


SPLITS = {
    "sharp_train": _Split("sharp", 0, 500),
    "sharp_dev": _Split("sharp", 100_000, 100),
    "soft_train": _Split("soft", 0, 500),
    "soft_dev": _Split("soft", 100_000, 100),
    "soft_test": _Split("soft", 200_000, 200),
}

CLASSES = (BACKGROUND, "structure")
LABEL_SPACE = LabelSpace(CLASSES, ((70, 70, 70), (250, 170, 30)))
SIZE = (blobs.SIDE, blobs.SIDE)


class Blobs(Dataset):
    """One split of the generated pictures: images uint8 `[H, W, 3]` RGB, labels uint8 `[H, W]`, 1 = structure.

    Args:
      root: not used.
      split: a key of `SPLITS`.
      label_space: "own", the two classes.
      size: height and width in pixels.
      limit: only the first frames of the split.

    Raises:
      UserError: an unknown split or label space, a size below 8x8, or a limit below 1.
    """

    maps = ("image", "label")

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "own",
        *,
        size: tuple[int, int] = SIZE,
        limit: int | None = None,
    ):
        del root
        check_split("blobs", split, SPLITS)
        if label_space != "own":
            raise UserError(f"blobs: label_space: expected 'own', since it has classes of its own, got '{label_space}'")
        if min(size) < 8:
            raise UserError(f"blobs: size: expected at least 8x8 pixels, got {size[0]}x{size[1]}")
        if limit is not None and limit < 1:
            raise UserError(f"blobs: limit: expected an integer >= 1, got {limit!r}")
        self.label_space = LABEL_SPACE
        self._split, self._size = split, (int(size[0]), int(size[1]))
        self._length = min(SPLITS[split].frames, limit or SPLITS[split].frames)
        # Other pictures would be other frames, though they bear the same names.
        self.rule = repr((blobs.LOOKS[SPLITS[split].look], SPLITS[split].first_seed, self._size))

    @classmethod
    def announced(cls, label_space: str, options: Mapping[str, Any]) -> Announced:
        """Returns both classes and the size of pictures, without drawing any."""
        del label_space
        return Announced(LABEL_SPACE, tuple(options.get("size", SIZE)))

    def __len__(self) -> int:
        return self._length

    def name(self, index: int) -> str:
        """Returns the name of frame `index`, such as "soft_train_00042"."""
        return f"{self._split}_{range(len(self))[index]:05d}"

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Draws frame `index` and returns it with the maps in `fields` at most."""
        index = range(len(self))[index]
        look, first_seed, _ = SPLITS[self._split]
        drawn = zip(self.maps, blobs.render(look, first_seed + index, self._size), strict=True)
        return {field: array for field, array in drawn if field in fields} | {"name": self.name(index), "index": index}

    def sequence(self, index: int) -> None:
        """Returns None: frames have no order in time."""
        del index
