"""Transforms of one example: NumPy and Pillow on uint8, before any batching. Normalisation is done on device.

A transform is a small frozen dataclass, called with (example, generator). It returns a new dict in which the
maps "image", "label", "depth" and "disparity", as far as they are there, have all undergone the same geometry; other
keys pass through. How many random numbers it draws does not depend on which maps there are, so a labelled and an
unlabelled view of one stream see the same crops.

A label of 1x1 beside a larger image is the class of the whole image. It has no geometry and passes through, too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uda_jax.data.labels.label_spaces import IGNORE

Example = dict[str, Any]
Size = tuple[int, int]

# What fills the area outside a frame: black, ignored, invalid.
FILL = {"image": 0, "label": IGNORE, "depth": 0, "disparity": 0}
DTYPES = {"image": np.uint8, "label": np.uint8, "depth": np.float32, "disparity": np.float32}
RULES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Resampling(NamedTuple):
    """Pillow's rules, keys of `RULES`, for the maps where the papers differ; labels and depth are always "nearest".

    Attributes:
      image: "bicubic" is the rule of AdaptSegNet, ADVENT and those that build on them.
      disparity: "bilinear" is what CorDA has for GTA5, if with Pillow's antialiasing in place of OpenCV's two taps; it
        blurs invalid values into their neighbours.
    """

    image: str = "bicubic"
    disparity: str = "nearest"


_DEFAULT = Resampling()


def resize(
    example: Example,
    size: Size,
    *,
    maps: tuple[str, ...] = tuple(FILL),
    resampling: Resampling = _DEFAULT,
    fit: str = "stretch",
) -> Example:
    """Resizes an example as the reference implementations of the papers do, with Pillow.

    Args:
      example: a dict with "image" uint8 `[H, W, 3]` and perhaps "label" uint8, "depth" and "disparity" float32
        `[h, w]`. Each map is resized from the size that it has.
      size: (height, width) of the result.
      maps: which of the maps to resize. Evaluation leaves labels alone: scores are interpolated to them.
      resampling: the rules of images (antialiased when shrinking) and of disparity.
      fit: "stretch", or "pad" to keep the aspect ratio of the image: the frame is as large as fits, at the top left,
        and the rest is black, ignored and invalid (DADA's rule for Mapillary).

    Returns:
      The example with its maps resized; those that have the size already are passed on as they are.
    """
    inner = _inside(example["image"].shape[:2], size) if fit == "pad" else size

    def resized(name: str, array: np.ndarray) -> np.ndarray:
        if name not in maps or array.shape[:2] == tuple(size):
            return array
        if array.shape[:2] != tuple(inner):
            rule = getattr(resampling, name, "nearest")
            array = np.asarray(Image.fromarray(array).resize((inner[1], inner[0]), RULES[rule]))
        return _extended(array, size, FILL[name])

    return _each_map(example, resized)


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """Resizes by one factor drawn uniformly from [low, high]; the aspect ratio stays."""

    low: float
    high: float
    resampling: Resampling = _DEFAULT

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        factor = generator.uniform(self.low, self.high)
        return _scaled(example, factor, self.resampling)


@dataclasses.dataclass(frozen=True)
class RandomShortSide:
    """Resizes the shorter side to a whole number drawn uniformly from low .. high, both included; the aspect stays.

    Source: PLCA's input, 760 .. 988 pixels.
    """

    low: int
    high: int
    resampling: Resampling = _DEFAULT

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        short = int(generator.integers(self.low, self.high, endpoint=True))
        return _scaled(example, short / min(example["image"].shape[:2]), self.resampling)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Cuts a window of `size` = (height, width) at a position drawn uniformly.

    A frame smaller than the window is first extended at the bottom and the right: image black, label ignored
    (255), depth and disparity invalid (0).
    """

    size: Size

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        top = int(generator.integers(max(0, height - self.size[0]) + 1))
        left = int(generator.integers(max(0, width - self.size[1]) + 1))

        def cropped(name: str, array: np.ndarray) -> np.ndarray:
            window = array[top : top + self.size[0], left : left + self.size[1]]
            return _extended(window, self.size, FILL[name])

        return _each_map(example, cropped)


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with probability one half."""

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        if generator.random() < 0.5:
            return example
        return _each_map(example, lambda name, array: array[:, ::-1])


def is_class_of_image(name: str, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> bool:
    """Returns whether a map of some shape is one class for the whole of a larger image, as in classification."""
    return name == "label" and shape[:2] == (1, 1) and image_shape[:2] != (1, 1)


def _each_map(example: Example, function: Callable[[str, np.ndarray], np.ndarray]) -> Example:
    shape = example["image"].shape
    return {
        name: function(name, value) if name in FILL and not is_class_of_image(name, value.shape, shape) else value
        for name, value in example.items()
    }


def _scaled(example: Example, factor: float, resampling: Resampling) -> Example:
    height, width = example["image"].shape[:2]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return resize(example, size, resampling=resampling)


def _inside(have: Size, size: Size) -> Size:
    """Returns the largest size of the same aspect ratio within `size`, its sides rounded to whole pixels."""
    factor = min(size[0] / have[0], size[1] / have[1])
    return tuple(max(1, int(side * factor + 0.5)) for side in have)


def _extended(array: np.ndarray, size: Size, value: int) -> np.ndarray:
    """Extends a map at the bottom and the right up to a size."""
    missing = [(0, size[0] - array.shape[0]), (0, size[1] - array.shape[1])]
    if missing == [(0, 0), (0, 0)]:
        return array
    return np.pad(array, missing + [(0, 0)] * (array.ndim - 2), constant_values=value)
