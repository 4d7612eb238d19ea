"""A bank of tileable surface textures, drawn once per process from fixed random numbers.

Row m of the bank is the texture of material m of objects.py: 128 x 128 brightness deviations in [-1, 1], which repeat
every `PERIOD[m]` metres of surface.
"""

import functools

import numpy as np

from uda_jax.data.rendering import objects

SIZE = 128
VOLUME = 64
# Metres that one repeat of the texture covers, by material.
PERIOD = np.array([4.0, 4.0, 8.0, 4.0, 1.6, 6.0, 4.8, 5.0, 6.0, 6.0, 2.5, 8.0], np.float32)


def _smooth_noise(rng: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """Returns tileable value noise with `cells` lattice points per side, about standard normal, `[128, 128]`."""
    coarse = rng.standard_normal(cells)
    result = coarse
    for axis in (0, 1):
        n = cells[axis]
        position = np.arange(SIZE) * n / SIZE
        low, share = position.astype(int) % n, position % 1.0
        share = share * share * (3 - 2 * share)
        share = share[:, None] if axis == 0 else share[None]
        result = np.take(result, low, axis) * (1 - share) + np.take(result, (low + 1) % n, axis) * share
    return result / result.std()


def _octaves(seed: int, cells: list[tuple[int, int]], weights: list[float]) -> np.ndarray:
    rng = np.random.default_rng((71, seed))
    total = sum(weight * _smooth_noise(rng, cell) for cell, weight in zip(cells, weights, strict=True))
    return total / total.std()


def _courses(seed: int, rows: int, columns: int, joint: float, contrast: float) -> np.ndarray:
    """Bricks or slabs: every other course shifted by half, dark joints, each stone of its own shade."""
    rng = np.random.default_rng((72, seed))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    course = (y * rows).astype(int)
    along = x * columns + 0.5 * (course % 2)
    stone = along.astype(int) % columns
    shade = contrast * rng.standard_normal((rows, columns))[course, stone]
    in_joint = ((y * rows) % 1.0 < joint * rows / columns * 1.6) | (along % 1.0 < joint)
    return np.where(in_joint, -1.0, 0.25 + shade)


@functools.cache
def bank() -> np.ndarray:
    """Returns all textures, float32 `[12, 128, 128]`."""
    fine, medium, coarse = (128, 128), (40, 40), (12, 12)
    rows = {
        objects.PLAIN: np.zeros((SIZE, SIZE)),
        objects.BRICK: 0.5 * _courses(1, 20, 10, 0.14, 0.35) + 0.12 * _octaves(1, [fine, coarse], [1, 1]),
        objects.PLASTER: 0.16 * _octaves(2, [fine, medium, (4, 16)], [0.6, 0.5, 1.0]),
        objects.FOLIAGE: 0.42 * _octaves(3, [(64, 64), (24, 24)], [1.0, 0.8]),
        objects.CLOTH: 0.22 * _octaves(4, [(32, 8), coarse], [0.7, 1.0]),
        objects.ASPHALT: 0.2 * _octaves(5, [fine, (64, 64), (6, 3)], [0.8, 0.5, 0.9]),
        objects.PAVING: 0.24 * _courses(6, 8, 8, 0.1, 0.4) + 0.12 * _octaves(6, [fine, coarse], [1, 1]),
        objects.GRASS: 0.32 * _octaves(7, [fine, (48, 48), coarse], [0.8, 0.8, 0.7]),
        objects.METAL: 0.1 * _octaves(8, [(3, 6), coarse], [1.0, 0.4]),
        objects.CONCRETE: 0.16 * _octaves(9, [fine, medium, (3, 8)], [0.5, 0.6, 1.0]),
        objects.BARK: 0.35 * _octaves(10, [(12, 64), fine], [1.0, 0.5]),
        objects.WINDOW: 0.3 * _octaves(11, [(10, 6), medium], [1.0, 0.3]),
    }
    return np.stack([rows[k] for k in range(len(rows))]).astype(np.float32)


@functools.cache
def _blotches() -> np.ndarray:
    return _octaves(12, [(32, 32), (16, 16), (8, 8)], [0.8, 1.0, 0.9]).astype(np.float32)


@functools.cache
def _volume() -> np.ndarray:
    """Tileable noise in space, `[64, 64, 64]`, whose values are spread evenly over [0, 1): the share below p is p."""
    noise = np.random.default_rng(74).standard_normal((VOLUME,) * 3)
    for axis in (0, 1, 2):
        for _ in range(3):
            noise = noise + np.roll(noise, 1, axis)
    ranks = np.argsort(np.argsort(noise.ravel()))
    return (ranks / noise.size).reshape(noise.shape).astype(np.float32)


def _sample(table: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return table[np.floor(b).astype(np.int64) & (SIZE - 1), np.floor(a).astype(np.int64) & (SIZE - 1)]


def volume_lookup(position: np.ndarray) -> np.ndarray:
    """Returns evenly spread noise in [0, 1) at world positions `[S, 3]` in metres; lumps of about 0.3 m."""
    x, y, z = (np.floor(position * 11.0).astype(np.int64) & (VOLUME - 1)).T
    return _volume()[z, y, x]


def blotch_lookup(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns smooth noise of unit variance at texel coordinates, interpolated."""
    table = _blotches()
    low_a, low_b = np.floor(a), np.floor(b)
    share_a, share_b = (a - low_a).astype(np.float32), (b - low_b).astype(np.float32)
    top = _sample(table, low_a, low_b) * (1 - share_a) + _sample(table, low_a + 1, low_b) * share_a
    return (
        top * (1 - share_b)
        + (_sample(table, low_a, low_b + 1) * (1 - share_a) + _sample(table, low_a + 1, low_b + 1) * share_a) * share_b
    )


def texture_lookup(material: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the brightness deviation of materials at surface coordinates in metres."""
    scale = SIZE / PERIOD[material]
    row = np.floor(b * scale).astype(np.int64) & (SIZE - 1)
    column = np.floor(a * scale).astype(np.int64) & (SIZE - 1)
    return bank()[material, row, column]
