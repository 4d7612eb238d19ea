"""Transforms of one example: NumPy and Pillow on uint8, before any batching. Normalisation is done on device.

A transform is a small frozen dataclass, called with (example, generator). It returns a new dict in which the
maps "image", "label" and "depth", as far as they are there, have all undergone the same geometry; other keys
pass through. How many random numbers it draws does not depend on which maps there are, so a labelled and an
unlabelled view of one stream see the same crops.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from uda_jax.data.label_spaces import IGNORE

Example = dict[str, Any]
Size = tuple[int, int]

# What fills the area outside a frame: black, ignored, invalid.
FILL = {"image": 0, "label": IGNORE, "depth": 0}
_RESAMPLING = {
    "image": Image.Resampling.BICUBIC,
    "label": Image.Resampling.NEAREST,
    "depth": Image.Resampling.NEAREST,
}


def resize(example: Example, size: Size, *, maps: tuple[str, ...] = ("image", "label", "depth")) -> Example:
    """Resizes an example as the reference implementations of the papers do, with Pillow.

    Args:
      example: a dict with "image" uint8 `[H, W, 3]` and perhaps "label" uint8 and "depth" float32 `[H, W]`.
      size: (height, width) of the result.
      maps: which of the maps to resize. Evaluation leaves labels alone: scores are interpolated to them.

    Returns:
      The example with its image resized bicubically (antialiased when shrinking) and its label and depth by
      nearest neighbour; maps that have the size already are passed on as they are.
    """
    height, width = size

    def resized(name: str, array: np.ndarray) -> np.ndarray:
        if name not in maps or array.shape[:2] == (height, width):
            return array
        return np.asarray(Image.fromarray(array).resize((width, height), _RESAMPLING[name]))

    return _each_map(example, resized)


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """Resizes by one factor drawn uniformly from [low, high]; the aspect ratio stays."""

    low: float
    high: float

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        factor = generator.uniform(self.low, self.high)
        height, width = example["image"].shape[:2]
        return resize(example, (max(1, round(height * factor)), max(1, round(width * factor))))


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Cuts a window of `size` = (height, width) at a position drawn uniformly.

    A frame smaller than the window is first extended at the bottom and the right: image black, label ignored
    (255), depth invalid (0).
    """

    size: Size

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        top = int(generator.integers(max(0, height - self.size[0]) + 1))
        left = int(generator.integers(max(0, width - self.size[1]) + 1))

        def cropped(name: str, array: np.ndarray) -> np.ndarray:
            window = array[top : top + self.size[0], left : left + self.size[1]]
            missing = [(0, self.size[0] - window.shape[0]), (0, self.size[1] - window.shape[1])]
            if missing == [(0, 0), (0, 0)]:
                return window
            return np.pad(window, missing + [(0, 0)] * (array.ndim - 2), constant_values=FILL[name])

        return _each_map(example, cropped)


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with probability one half."""

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        if generator.random() < 0.5:
            return example
        return _each_map(example, lambda name, array: array[:, ::-1])


def _each_map(example: Example, function: Callable[[str, np.ndarray], np.ndarray]) -> Example:
    return {name: function(name, value) if name in FILL else value for name, value in example.items()}
