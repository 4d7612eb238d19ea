"""Part maps: small drawings that say which part of an object a point of a surface belongs to.

A sprite is a `[128, 128]` uint8 map of `Part` numbers in surface coordinates (row 0 is the bottom edge), 0 where
the surface has a hole. Colours are no part of it: the same car side serves a red and a black car.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
MAIN, GLASS, DARK, SECOND, TAIL, HEAD, THIRD = range(1, 8)
NUM_PARTS = 8

Polygon = Sequence[tuple[float, float]]

# Side views, from the rear (0) to the front (1) and from the road (0) to the roof (1): first the outline without
# the wheels, then the windows, then the wheel centres, then the wheel radius as a fraction of length.
CAR_PROFILES: dict[str, tuple[Polygon, Sequence[Polygon], Sequence[float], float]] = {
    "hatchback": (
        [
            (0.01, 0.2),
            (0.0, 0.58),
            (0.1, 0.97),
            (0.2, 1.0),
            (0.55, 1.0),
            (0.73, 0.66),
            (0.96, 0.56),
            (1.0, 0.42),
            (0.99, 0.2),
        ],
        [
            [(0.08, 0.66), (0.14, 0.93), (0.33, 0.94), (0.33, 0.66)],
            [(0.36, 0.66), (0.36, 0.94), (0.53, 0.93), (0.67, 0.66)],
        ],
        (0.2, 0.8),
        0.085,
    ),
    "saloon": (
        [
            (0.01, 0.2),
            (0.0, 0.62),
            (0.13, 0.68),
            (0.27, 0.98),
            (0.54, 1.0),
            (0.7, 0.67),
            (0.97, 0.56),
            (1.0, 0.42),
            (0.99, 0.2),
        ],
        [
            [(0.2, 0.68), (0.29, 0.92), (0.4, 0.93), (0.4, 0.68)],
            [(0.42, 0.68), (0.42, 0.93), (0.53, 0.93), (0.65, 0.68)],
        ],
        (0.19, 0.8),
        0.078,
    ),
    "van": (
        [(0.0, 0.16), (0.0, 0.9), (0.04, 1.0), (0.7, 1.0), (0.84, 0.62), (0.98, 0.5), (1.0, 0.36), (0.99, 0.16)],
        [[(0.52, 0.62), (0.52, 0.9), (0.69, 0.9), (0.78, 0.62)]],
        (0.2, 0.81),
        0.078,
    ),
}


def _unit(points: Polygon) -> list[tuple[float, float]]:
    return [(x * SIZE - 0.5, y * SIZE - 0.5) for x, y in points]


class _Canvas:
    """Draws parts in unit coordinates with y up."""

    def __init__(self, background: int = 0):
        self.image = Image.new("L", (SIZE, SIZE), background)
        self.draw = ImageDraw.Draw(self.image)

    def rectangle(self, part: int, x0: float, y0: float, x1: float, y1: float) -> "_Canvas":
        self.draw.rectangle([x0 * SIZE, y0 * SIZE, x1 * SIZE - 1, y1 * SIZE - 1], fill=part)
        return self

    def polygon(self, part: int, points: Polygon) -> "_Canvas":
        self.draw.polygon(_unit(points), fill=part)
        return self

    def ellipse(self, part: int, x: float, y: float, rx: float, ry: float) -> "_Canvas":
        low, high = _unit([(x - rx, y - ry), (x + rx, y + ry)])
        self.draw.ellipse([*low, *high], fill=part)
        return self

    def line(self, part: int, points: Polygon, width: float) -> "_Canvas":
        self.draw.line(_unit(points), fill=part, width=max(1, round(width * SIZE)))
        return self

    def array(self) -> np.ndarray:
        return np.asarray(self.image, np.uint8)


def _car_side(profile: str, aspect: float) -> np.ndarray:
    outline, windows, wheels, radius = CAR_PROFILES[profile]
    canvas = _Canvas().polygon(MAIN, outline)
    canvas.rectangle(DARK, 0.01, outline[0][1], 0.99, outline[0][1] + 0.07)
    for window in windows:
        canvas.polygon(GLASS, window)
    canvas.rectangle(TAIL, 0.0, 0.5, 0.035, 0.6).rectangle(HEAD, 0.95, 0.44, 0.99, 0.52)
    for wheel in wheels:
        canvas.ellipse(DARK, wheel, radius * aspect, radius, radius * aspect)
        canvas.ellipse(SECOND, wheel, radius * aspect, radius * 0.5, radius * aspect * 0.5)
    return canvas.array()


def _vehicle_end(light: int, glass: bool) -> np.ndarray:
    canvas = _Canvas(MAIN).rectangle(DARK, 0.0, 0.0, 1.0, 0.3)
    canvas.rectangle(light, 0.04, 0.55, 0.24, 0.85).rectangle(light, 0.76, 0.55, 0.96, 0.85)
    canvas.rectangle(THIRD, 0.36, 0.4, 0.64, 0.6)
    return canvas.rectangle(GLASS, 0.08, 0.92, 0.92, 1.0).array() if glass else canvas.array()


def _bus_end(light: int) -> np.ndarray:
    canvas = _Canvas(MAIN).rectangle(GLASS, 0.06, 0.42, 0.94, 0.84).rectangle(DARK, 0.0, 0.0, 1.0, 0.12)
    canvas.rectangle(THIRD, 0.2, 0.88, 0.8, 0.97)
    return canvas.rectangle(light, 0.06, 0.18, 0.22, 0.28).rectangle(light, 0.78, 0.18, 0.94, 0.28).array()


def _bus_side() -> np.ndarray:
    canvas = _Canvas().rectangle(MAIN, 0.0, 0.1, 1.0, 1.0).rectangle(SECOND, 0.0, 0.3, 1.0, 0.4)
    for k in range(6):
        canvas.rectangle(GLASS, 0.03 + 0.16 * k, 0.48, 0.16 + 0.16 * k, 0.84)
    for wheel in (0.22, 0.78):
        canvas.ellipse(DARK, wheel, 0.15, 0.045, 0.15)
    return canvas.array()


def _lorry_side() -> np.ndarray:
    canvas = _Canvas().rectangle(SECOND, 0.0, 0.24, 0.74, 1.0).rectangle(DARK, 0.0, 0.14, 0.97, 0.24)
    canvas.polygon(MAIN, [(0.77, 0.16), (0.77, 0.78), (0.95, 0.78), (1.0, 0.46), (1.0, 0.16)])
    canvas.polygon(GLASS, [(0.84, 0.47), (0.84, 0.72), (0.94, 0.72), (0.975, 0.47)])
    for wheel in (0.12, 0.25, 0.87):
        canvas.ellipse(DARK, wheel, 0.13, 0.055, 0.13)
    return canvas.array()


def _facade(kind: str) -> np.ndarray:
    canvas = _Canvas(MAIN)
    if kind == "single":
        return (
            canvas.rectangle(SECOND, 0.26, 0.22, 0.74, 0.8)
            .rectangle(GLASS, 0.32, 0.28, 0.48, 0.75)
            .rectangle(GLASS, 0.53, 0.28, 0.69, 0.75)
            .array()
        )
    if kind == "double":
        for x in (0.12, 0.56):
            canvas.rectangle(SECOND, x, 0.24, x + 0.3, 0.28).rectangle(GLASS, x + 0.03, 0.28, x + 0.27, 0.8)
        return canvas.array()
    if kind == "band":
        return (
            canvas.rectangle(GLASS, 0.0, 0.34, 1.0, 0.8)
            .rectangle(SECOND, 0.47, 0.34, 0.53, 0.8)
            .rectangle(SECOND, 0.0, 0.3, 1.0, 0.36)
            .array()
        )
    if kind == "shutters":
        canvas.rectangle(THIRD, 0.16, 0.26, 0.3, 0.78).rectangle(THIRD, 0.7, 0.26, 0.84, 0.78)
        return canvas.rectangle(SECOND, 0.3, 0.22, 0.7, 0.8).rectangle(GLASS, 0.34, 0.28, 0.66, 0.76).array()
    # Balcony: a tall window behind a railing.
    canvas.rectangle(GLASS, 0.3, 0.08, 0.7, 0.8).rectangle(DARK, 0.16, 0.0, 0.84, 0.06).rectangle(
        DARK, 0.16, 0.3, 0.84, 0.34
    )
    for k in range(5):
        canvas.rectangle(DARK, 0.17 + 0.16 * k, 0.0, 0.2 + 0.16 * k, 0.32)
    return canvas.array()


def _ground_floor(kind: str) -> np.ndarray:
    canvas = _Canvas(MAIN)
    if kind == "door":
        canvas.rectangle(SECOND, 0.1, 0.0, 0.44, 0.74).rectangle(DARK, 0.14, 0.0, 0.4, 0.68)
        return canvas.rectangle(SECOND, 0.56, 0.28, 0.92, 0.76).rectangle(GLASS, 0.6, 0.33, 0.88, 0.72).array()
    canvas.rectangle(GLASS, 0.06, 0.12, 0.66, 0.68).rectangle(DARK, 0.74, 0.0, 0.94, 0.68)
    return canvas.rectangle(THIRD, 0.0, 0.74, 1.0, 0.94).rectangle(DARK, 0.0, 0.0, 0.7, 0.08).array()


def _sign(kind: str) -> np.ndarray:
    canvas = _Canvas()
    if kind == "round":
        return (
            canvas.ellipse(MAIN, 0.5, 0.5, 0.49, 0.49)
            .ellipse(SECOND, 0.5, 0.5, 0.34, 0.34)
            .rectangle(DARK, 0.36, 0.42, 0.64, 0.58)
            .array()
        )
    if kind == "triangle":
        return (
            canvas.polygon(MAIN, [(0, 0.05), (1, 0.05), (0.5, 1)])
            .polygon(SECOND, [(0.2, 0.17), (0.8, 0.17), (0.5, 0.75)])
            .array()
        )
    canvas.rectangle(MAIN, 0, 0, 1, 1).polygon(
        SECOND, [(0.25, 0.3), (0.6, 0.3), (0.6, 0.15), (0.85, 0.42), (0.6, 0.7), (0.6, 0.55), (0.25, 0.55)]
    )
    return canvas.array()


def _bicycle_frame() -> np.ndarray:
    canvas = _Canvas()
    for points in (
        [(0.22, 0.33), (0.42, 0.35), (0.68, 0.72), (0.35, 0.72), (0.22, 0.33)],
        [(0.42, 0.35), (0.33, 0.9)],
        [(0.8, 0.33), (0.67, 0.98)],
    ):
        canvas.line(MAIN, points, 0.05)
    canvas.rectangle(DARK, 0.24, 0.86, 0.43, 0.95).line(DARK, [(0.67, 0.96), (0.76, 0.98)], 0.05)
    return canvas.array()


def _motorcycle_side() -> np.ndarray:
    canvas = _Canvas().polygon(
        MAIN, [(0.05, 0.62), (0.1, 0.74), (0.45, 0.66), (0.55, 0.86), (0.78, 0.78), (0.72, 0.45), (0.3, 0.38)]
    )
    canvas.polygon(DARK, [(0.14, 0.74), (0.2, 0.82), (0.5, 0.76), (0.46, 0.68)]).polygon(
        DARK, [(0.3, 0.2), (0.3, 0.45), (0.68, 0.45), (0.62, 0.2)]
    )
    return canvas.line(SECOND, [(0.82, 0.28), (0.7, 0.98), (0.6, 1.0)], 0.05).array()


def _fence(kind: str) -> np.ndarray:
    canvas = _Canvas().rectangle(MAIN, 0, 0.14, 1, 0.24).rectangle(MAIN, 0, 0.74, 1, 0.84)
    if kind == "pickets":
        for k in range(4):
            canvas.rectangle(MAIN, 0.25 * k + 0.02, 0.0, 0.25 * k + 0.18, 0.96)
        return canvas.array()
    for k in range(6):
        canvas.rectangle(MAIN, k / 6 + 0.02, 0.02, k / 6 + 0.09, 0.98)
    return canvas.rectangle(SECOND, 0.0, 0.0, 0.08, 1.0).array()


def _traffic_light() -> np.ndarray:
    canvas = _Canvas(MAIN)
    for part, y in ((TAIL, 0.82), (DARK, 0.5), (HEAD, 0.18)):
        canvas.ellipse(part, 0.5, y, 0.3, 0.12)
    return canvas.array()


@functools.cache
def atlas() -> tuple[np.ndarray, dict[str, int]]:
    """Draws every sprite once per process.

    Returns:
      The maps, uint8 `[n, 128, 128]`, and the row of each name. "solid1" to "solid7" are wholly of one part.
    """
    maps = {f"solid{part}": np.full((SIZE, SIZE), part, np.uint8) for part in range(1, NUM_PARTS)}
    maps |= {
        "hatchback": _car_side("hatchback", 2.75),
        "saloon": _car_side("saloon", 3.2),
        "van": _car_side("van", 2.4),
    }
    maps |= {
        "car_rear": _vehicle_end(TAIL, False),
        "car_front": _vehicle_end(HEAD, False),
        "van_rear": _vehicle_end(TAIL, True),
    }
    maps |= {
        "bus_side": _bus_side(),
        "bus_front": _bus_end(HEAD),
        "bus_rear": _bus_end(TAIL),
        "lorry_side": _lorry_side(),
    }
    maps |= {f"facade_{kind}": _facade(kind) for kind in ("single", "double", "band", "shutters", "balcony")}
    maps |= {f"ground_{kind}": _ground_floor(kind) for kind in ("door", "shop")}
    maps |= {f"sign_{kind}": _sign(kind) for kind in ("round", "triangle", "square")}
    maps |= {"bicycle": _bicycle_frame(), "motorcycle": _motorcycle_side(), "traffic_light": _traffic_light()}
    maps |= {f"fence_{kind}": _fence(kind) for kind in ("pickets", "railing")}
    maps |= {"windscreen": _Canvas(MAIN).rectangle(GLASS, 0.05, 0.06, 0.95, 0.96).array()}
    maps |= {
        "gable": _Canvas().polygon(MAIN, [(0, 0), (1, 0), (0.5, 1)]).array(),
        "disc": _Canvas().ellipse(MAIN, 0.5, 0.5, 0.5, 0.5).array(),
    }
    names = {name: row for row, name in enumerate(maps)}
    return np.stack(list(maps.values())), names
