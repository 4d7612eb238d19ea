"""Placing single objects of a street: their colours, sizes and random steps along it."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from uda_jax.data.rendering import objects
from uda_jax.data.rendering.looks import Look, Palette
from uda_jax.data.rendering.sprites import DARK, GLASS, HEAD, MAIN, NUM_PARTS, SECOND, TAIL, THIRD
from uda_jax.data.rendering.world import linear, stream

_PART_NAMES = {"main": MAIN, "glass": GLASS, "dark": DARK, "second": SECOND, "tail": TAIL, "head": HEAD, "third": THIRD}


class Placer:
    """Collects the instances of one street."""

    def __init__(self, look: Look, seed: int):
        self.look, self.seed, self.layout, self.palette = look, seed, look.layout, look.palette
        self.index = objects.library().index
        self.paint = stream(look, seed, "paint")
        self.tables = {
            field.name: linear(getattr(look.palette, field.name))
            for field in dataclasses.fields(Palette)
            if field.name != "jitter"
        }
        self.rows: list[tuple] = []
        self.colours: list[np.ndarray] = []

    def pick(self, rng: np.random.Generator, name: str) -> np.ndarray:
        """Draws one colour of the palette."""
        table = self.tables[name]
        draws = rng.random(5)
        jitter = self.palette.jitter
        return table[int(draws[0] * len(table))] * (
            1 + 2 * jitter * (draws[1] - 0.5) + 0.5 * jitter * (draws[2:] - 0.5)
        )

    def put(
        self, name: str, x: float, z: float, yaw: float = 0.0, scale=(1.0, 1.0, 1.0), **colours: np.ndarray
    ) -> None:
        """Places one object; colours by part name, unnamed parts are dark grey, lamps their usual colour."""
        table = np.full((NUM_PARTS, 3), 0.012, np.float32)
        table[TAIL], table[HEAD] = (0.35, 0.01, 0.01), (0.7, 0.7, 0.62)
        for part, colour in colours.items():
            table[_PART_NAMES[part]] = colour
        self.rows.append((self.index[name], x, z, yaw, *scale))
        self.colours.append(table)


def steps(rng: np.random.Generator, density: float, length: float, start: float = 3.0) -> Iterator[float]:
    """Yields z values of a Poisson process of `density` per 100 m."""
    z = start + rng.exponential(100.0 / max(density, 1e-6))
    while z < length:
        yield z
        z += 0.8 + rng.exponential(100.0 / density)
