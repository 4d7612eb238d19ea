"""Pictures of a structure before its background, as two devices see it: binary segmentation to generate and to adapt.

A frame holds one or two structures of smooth outline that are brighter and yellower than what surrounds them, and folds
of the background that are so, too. The devices differ in light, colour, contrast, texture, sharpness and noise; what is
a structure and what is not is the same for both.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

# Blur is counted in passes at this side in pixels, so that larger frames show the same picture.
SIDE = 64


class Look(NamedTuple):
    """How a device sees. Brightnesses and strengths are fractions of white.

    Attributes:
      ground, structure: RGB of both at full light.
      contrast: bounds of how much of their difference a frame shows.
      cells: grains of the texture along a side.
      texture: strength of the texture, relative to brightness.
      folds: brightness of folds, relative to the difference of structure and ground.
      blur: passes of a binomial filter of three taps.
      shadow: how dark it gets far from the lamp.
      noise: standard deviation.
      reflections: the most spots of reflected light.
    """

    ground: tuple[float, float, float]
    structure: tuple[float, float, float]
    contrast: tuple[float, float]
    cells: int
    texture: float
    folds: float
    blur: int
    shadow: float
    noise: float
    reflections: int


LOOKS = {
    "sharp": Look((0.56, 0.30, 0.27), (0.80, 0.55, 0.38), (0.7, 1.1), 24, 0.05, 0.25, 0, 0.15, 0.015, 0),
    "soft": Look((0.40, 0.33, 0.36), (0.62, 0.50, 0.43), (0.5, 0.9), 10, 0.07, 0.35, 4, 0.45, 0.035, 3),
}


def render(look: str, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> tuple[np.ndarray, np.ndarray]:
    """Draws the frame of a seed.

    Args:
      look: a key of `LOOKS`.
      seed: non-negative integer; both looks draw other structures.
      size: height and width in pixels.

    Returns:
      The image, uint8 `[H, W, 3]` RGB, and the label, uint8 `[H, W]`: 0 = background, 1 = structure.
    """
    device = LOOKS[look]
    generator = np.random.default_rng((list(LOOKS).index(look), seed))
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    cover = _structures(generator, rows, columns)
    difference = np.subtract(device.structure, device.ground)
    ridges = np.exp(-np.square(_smooth(generator, 4, size) / 0.2)) * (1 - cover)
    share = generator.uniform(*device.contrast) * (cover + device.folds * ridges)
    light = 1 + device.texture * _smooth(generator, device.cells, size)
    light *= 1 - device.shadow * _far_from_the_lamp(generator, rows, columns)
    picture = (device.ground + share[..., None] * difference) * light[..., None]
    picture += _reflections(generator, rows, columns, device.reflections)[..., None]
    for _ in range(round(device.blur * (min(size) / SIDE) ** 2)):
        picture = _blurred(picture)
    picture += generator.normal(0, device.noise, picture.shape)
    image = np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)
    return image, (cover >= 0.5).astype(np.uint8)


def _structures(generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the share of each pixel that structures cover, `[H, W]`: circles whose radius waves with the angle."""
    side, cover = min(rows.shape), np.zeros(rows.shape)
    for _ in range(generator.integers(1, 3)):
        down, right = (generator.uniform(0.2, 0.8) * length - 0.5 for length in rows.shape)
        angle, distance = np.arctan2(rows - down, columns - right), np.hypot(rows - down, columns - right)
        waves = sum(
            generator.normal(0, 0.3 / k) * np.cos(k * angle + generator.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
        )
        radius = side * generator.uniform(0.1, 0.24) * np.clip(1 + waves, 0.4, 1.6)
        cover = np.maximum(cover, np.clip(radius - distance + 0.5, 0, 1))
    return cover


def _smooth(generator: np.random.Generator, cells: int, size: tuple[int, int]) -> np.ndarray:
    """Returns normal noise of some cells along each side, interpolated: float32 `[H, W]`."""
    coarse = generator.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def _far_from_the_lamp(generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the squared distance from a place in the middle of the frame, 1 at about the corners."""
    down, right = (generator.uniform(0.35, 0.65) for _ in range(2))
    height, width = rows.shape
    return 2 * np.square(rows / height - down) + 2 * np.square(columns / width - right)


def _reflections(generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray, most: int) -> np.ndarray:
    """Returns the brightness of up to `most` small spots, `[H, W]`."""
    side, spots = min(rows.shape), np.zeros(rows.shape)
    for _ in range(generator.integers(0, most + 1)):
        down, right = (generator.uniform(0, length) for length in rows.shape)
        squares = np.square(rows - down) + np.square(columns - right)
        spots += 0.7 * np.exp(-squares / (2 * (0.025 * side) ** 2))
    return spots


def _blurred(picture: np.ndarray) -> np.ndarray:
    """Returns a picture `[H, W, C]` after the filter (1, 2, 1) / 4 along both sides."""
    for _ in range(2):
        padded = np.pad(picture, [(1, 1), (0, 0), (0, 0)], mode="edge")
        picture = np.swapaxes((padded[:-2] + 2 * picture + padded[2:]) / 4, 0, 1)
    return picture
