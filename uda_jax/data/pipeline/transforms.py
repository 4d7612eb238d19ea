"""Transforms of one example: NumPy and Pillow on uint8, before any batching. Normalisation is done on device.

A transform is a small frozen dataclass, called with (example, generator). It returns a new dict in which all maps have
undergone the same geometry, each as its row in `base.MAPS` says; name and index pass through. How many random numbers
it draws does not depend on which maps there are, so a labelled and an unlabelled view of one stream see the same crops.

A label of 1x1 beside a larger image is the class of the whole image. It has no geometry and passes through, too.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uda_jax.data.base import MAPS, is_value_of_image, map_names
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.data.pipeline import opencv

Example = dict[str, Any]
Size = tuple[int, int]

RULES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Of images, beside the keys of `RULES`.
OPENCV = "opencv"
# Times that a crop of few classes is drawn anew (mmsegmentation).
REDRAWN = 10


class Resampling(NamedTuple):
    """Pillow's rules, keys of `RULES`, for the maps where the papers differ; `base.MAPS` fixes those of all others.

    Attributes:
      image: "bicubic" is the rule of AdaptSegNet, ADVENT and those that build on them. "opencv", that of mmsegmentation
        and DAFormer, is bilinear without antialiasing and goes for all other maps, too: see `opencv`.
      disparity: "bilinear" is what CorDA has for GTA5, if with Pillow's antialiasing in place of OpenCV's two taps; it
        blurs invalid values into their neighbours.
    """

    image: str = "bicubic"
    disparity: str = "nearest"

    def apply(self, name: str, array: np.ndarray, size: Size) -> np.ndarray:
        """Returns the map of a name at a size (height, width)."""
        own = {"image": self.image, "disparity": self.disparity}
        rule = own.get(MAPS[name].resampling, MAPS[name].resampling)
        if self.image == OPENCV:
            return opencv.nearest(array, size) if rule == "nearest" else opencv.linear(array, size)
        return np.asarray(Image.fromarray(array).resize((size[1], size[0]), RULES[rule]))


_DEFAULT = Resampling()


def resize(
    example: Example,
    size: Size,
    *,
    maps: Collection[str] | None = None,
    resampling: Resampling = _DEFAULT,
    fit: str = "stretch",
) -> Example:
    """Resizes an example as the reference implementations of the papers do, with Pillow.

    Args:
      example: a dict with "image" uint8 `[H, W, 3]` and perhaps other maps. Each raster is resized from the size that
        it has; a camera is that of the image.
      size: (height, width) of the result.
      maps: which of the maps to resize; None: all. Evaluation leaves labels alone: scores are interpolated to them.
      resampling: the rules of images (antialiased when shrinking) and of disparity.
      fit: "stretch", or "inside" to keep the aspect ratio of the image: the frame is as large as fits (mmsegmentation);
        or "pad": the same at the top left, and the rest is black, ignored and invalid (DADA's rule for Mapillary).

    Returns:
      The example with its maps resized; those that have the size already are passed on as they are.
    """
    have = example["image"].shape[:2]
    inner = fitted(have, size, fit)
    whole = size if fit == "pad" else inner

    def resized(name: str, array: np.ndarray) -> np.ndarray:
        if array.shape[:2] == tuple(whole):
            return array
        if array.shape[:2] != tuple(inner):
            array = resampling.apply(name, array, inner)
        return extended(array, whole, name)

    return _each_map(example, resized, _Line(inner[1] / whole[1]), _Line(inner[0] / whole[0]), maps)


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

    A frame smaller than the window is first extended at the bottom and the right by what `base.MAPS` fills each map
    with: image black, label ignored (255), depth and disparity invalid (0).

    Attributes:
      size: of the window.
      max_share: below 1, a window is drawn anew, up to ten times, where a class fills that share of its labelled pixels
        or is the only one (mmsegmentation). How often then depends on the labels.
    """

    size: Size
    max_share: float = 1.0

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        window = self._window(example, generator)
        for _ in range(REDRAWN if self.max_share < 1 and "label" in example else 0):
            if _is_varied(window["label"], self.max_share):
                break
            window = self._window(example, generator)
        return window

    def _window(self, example: Example, generator: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        top = int(generator.integers(max(0, height - self.size[0]) + 1))
        left = int(generator.integers(max(0, width - self.size[1]) + 1))

        def cropped(name: str, array: np.ndarray) -> np.ndarray:
            window = array[top : top + self.size[0], left : left + self.size[1]]
            return extended(window, self.size, name)

        (rows, columns) = self.size
        return _each_map(example, cropped, _Line(width / columns, -left / columns), _Line(height / rows, -top / rows))


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with probability one half.

    A camera is then that of the mirrored scene: the point (X, Y, Z) has become (-X, Y, Z), and right is left.
    """

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        if generator.random() < 0.5:
            return example
        return _each_map(example, lambda name, array: array[:, ::-1], _Line(-1.0, 1.0), _Line(1.0))


class _Line(NamedTuple):
    """Where places along a side of an image, as shares of it, are in the changed image: place * scale + start."""

    scale: float
    start: float = 0.0


def _each_map(
    example: Example,
    raster: Callable[[str, np.ndarray], np.ndarray],
    across: _Line,
    down: _Line,
    maps: Collection[str] | None = None,
) -> Example:
    """Returns an example whose maps have undergone one change of geometry.

    Args:
      example: the frame.
      raster: (name, array) to the changed array.
      across, down: what becomes of places along the width and along the height; a negative scale mirrors.
      maps: which maps to change; None: all.
    """
    shape = example["image"].shape
    changed = dict(example)
    for name in map_names(example, "transforms"):
        spec, value = MAPS[name], example[name]
        if maps is not None and name not in maps:
            continue
        if spec.geometry == "camera":
            changed[name] = _moved_camera(value, across, down)
        elif spec.geometry == "lateral":
            changed[name] = spec.dtype(np.sign(across.scale) * value)
        elif spec.is_raster and not is_value_of_image(name, value.shape, shape):
            changed[name] = raster(name, value)
    return changed


def _moved_camera(camera: np.ndarray, across: _Line, down: _Line) -> np.ndarray:
    """Returns (fx, fy, u0, v0), as shares of the image's sides, after a change of the image."""
    fx, fy, u0, v0 = camera.astype(np.float64)
    focal = fx * abs(across.scale), fy * abs(down.scale)
    centre = u0 * across.scale + across.start, v0 * down.scale + down.start
    return np.array([*focal, *centre], np.float32)


def _is_varied(label: np.ndarray, max_share: float) -> bool:
    """Whether labels show two classes or more, none of which fills a share of the labelled pixels."""
    counts = np.bincount(label[label != IGNORE])
    return np.count_nonzero(counts) > 1 and counts.max() < max_share * counts.sum()


def _scaled(example: Example, factor: float, resampling: Resampling) -> Example:
    height, width = example["image"].shape[:2]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return resize(example, size, resampling=resampling)


def fitted(have: Size, size: Size, fit: str) -> Size:
    """Returns the size that `resize` gives to a frame, before it is padded.

    What fits "inside" may lie on its side: mmsegmentation compares the longer sides, and the shorter ones.
    """
    if fit == "stretch":
        return tuple(size)
    lying = (have[0] < have[1]) != (size[0] < size[1])
    return inside(have, size[::-1] if fit == "inside" and lying else size)


def inside(have: Size, size: Size) -> Size:
    """Returns the largest size of the same aspect ratio within `size`, its sides rounded to whole pixels."""
    factor = min(size[0] / have[0], size[1] / have[1])
    return tuple(max(1, int(side * factor + 0.5)) for side in have)


def extended(array: np.ndarray, size: Size, name: str) -> np.ndarray:
    """Extends a raster at the bottom and the right up to a size, by what `base.MAPS` fills the map of its name with."""
    missing = [(0, size[0] - array.shape[0]), (0, size[1] - array.shape[1])]
    if missing == [(0, 0), (0, 0)]:
        return array
    return np.pad(array, missing + [(0, 0)] * (array.ndim - 2), constant_values=MAPS[name].fill)
