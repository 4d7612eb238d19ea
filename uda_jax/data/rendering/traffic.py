"""What moves on a street, or is parked there: cars, people, bicycles."""

import numpy as np

from uda_jax.data.rendering.placement import Placer, steps
from uda_jax.data.rendering.world import stream


def parked_bikes(placer: Placer, half: float, line: float, length: float) -> None:
    """Bicycles at the houses, motorcycles at the kerb."""
    layout = placer.layout
    for sign, rng in zip((-1, 1), stream(placer.look, placer.seed, "bikes").spawn(2), strict=True):
        motors = rng.spawn(1)[0]
        for z in steps(rng, layout.bicycles, length):
            turn = rng.choice((0.5, -0.6, 1.2, 1.57)) + rng.normal(0, 0.1)
            placer.put("bicycle", sign * (line - 0.9 * rng.random() - 0.5), z, turn, main=placer.pick(rng, "car"))
        for z in steps(motors, layout.motorcycles, length):
            colours = {"main": placer.pick(motors, "car"), "second": np.full(3, 0.3)}
            placer.put(
                "motorcycle",
                sign * (half + motors.choice((-0.8, 0.9))),
                z,
                motors.choice((0.15, 0.7, -0.8, 3.3)),
                **colours,
            )


def _car(placer: Placer, rng: np.random.Generator, x: float, z: float, yaw: float, heavy: float = 0.0) -> None:
    draw = rng.random()
    name = ("hatchback", "hatchback", "saloon", "saloon", "van")[int(rng.random() * 5)]
    if draw < heavy:
        name = "bus" if draw < heavy / 2 else "lorry"
    paint, extra = placer.pick(rng, "car"), placer.pick(rng, "car")
    second = extra if name in ("bus", "lorry") else np.full(3, 0.3)
    placer.put(
        name,
        x,
        z,
        yaw,
        (1.0, rng.uniform(0.96, 1.06), rng.uniform(0.95, 1.05)),
        main=paint,
        glass=np.full(3, 0.03),
        second=second,
        third=np.full(3, 0.5),
    )


def parked_cars(placer: Placer, half: float, parking: tuple[bool, bool], crossing: float, length: float) -> None:
    """Cars along the kerbs of the sides that have parking, but not at the crossing."""
    for side, rng in enumerate(stream(placer.look, placer.seed, "parked").spawn(2)):
        z = rng.uniform(-8.0, 4.0)
        while parking[side] and z < length:
            if np.isnan(crossing) or abs(z - crossing) > 5.5:
                facing = 0.0 if (side == 1) == (rng.random() < 0.92) else np.pi
                _car(placer, rng, (2 * side - 1) * (half - 1.05 + rng.normal(0, 0.06)), z, facing + rng.normal(0, 0.02))
            z += 5.3 + rng.uniform(*placer.layout.parked_gap) * rng.random()


def moving_cars(
    placer: Placer, half: float, parking: tuple[bool, bool], lane: float, clear: float, length: float
) -> None:
    """Cars, lorries and buses in both lanes; the camera's own is clear at first."""
    layout = placer.layout
    for side, rng in enumerate(stream(placer.look, placer.seed, "traffic").spawn(2)):
        x, z = (lane, clear + 4.0) if side else (-(half - 2.1 * parking[0]) / 2, 5.0)
        z += rng.exponential(60.0 / layout.traffic)
        while z < length:
            _car(placer, rng, x + rng.normal(0, 0.2), z, np.pi * (1 - side) + rng.normal(0, 0.02), layout.heavy)
            z += 11.5 + rng.exponential(100.0 / layout.traffic)


def _person(placer: Placer, rng: np.random.Generator, x: float, z: float, yaw: float) -> None:
    size = rng.uniform(0.9, 1.08) if rng.random() < 0.9 else rng.uniform(0.62, 0.8)
    colours = {
        "main": placer.pick(rng, "cloth"),
        "second": placer.pick(rng, "cloth"),
        "third": placer.pick(rng, "skin"),
    }
    name = f"person{int(rng.random() * 3)}"
    placer.put(name, x, z, yaw, (size * rng.uniform(1.0, 1.2), size, size), **colours)


def people(placer: Placer, half: float, line: float, crossing: float, clear: float, length: float) -> None:
    """Pedestrians along the sidewalks and on the crossing."""
    layout = placer.layout
    walkers = stream(placer.look, placer.seed, "people").spawn(3)
    for sign, rng in zip((-1, 1), walkers, strict=False):
        for z in steps(rng, layout.people, length, 2.0):
            x, yaw = sign * rng.uniform(half + 0.6, line - 0.4), rng.choice((0.0, np.pi)) + rng.normal(0, 0.3)
            for k in range(1 + (rng.random() < 0.3)):
                _person(placer, rng, x + 0.65 * k * -sign, z + 0.2 * k, yaw)
    rng = walkers[2]
    z = crossing if not np.isnan(crossing) else rng.uniform(12.0, 40.0)
    if z > clear:
        for _ in range(rng.poisson(0.25 * layout.people if not np.isnan(crossing) else 0.4)):
            _person(
                placer,
                rng,
                rng.uniform(-half, half),
                z + rng.uniform(-1.4, 1.4),
                rng.choice((1.57, -1.57)) + rng.normal(0, 0.2),
            )


def cyclists(placer: Placer, half: float, lane: float, clear: float, length: float) -> None:
    """Cyclists at the edge of the road and on the sidewalk."""
    for sign, rng in zip((-1, 1), stream(placer.look, placer.seed, "cyclists").spawn(2), strict=True):
        for z in steps(rng, placer.layout.riders, length, 4.0):
            x = sign * (lane + 0.9) if rng.random() < 0.5 else sign * (half + rng.uniform(0.5, 1.2))
            yaw = (0.0 if sign > 0 else np.pi) + rng.normal(0, 0.35)
            colours = {
                "main": placer.pick(rng, "cloth"),
                "second": placer.pick(rng, "cloth"),
                "third": placer.pick(rng, "skin"),
            }
            if sign < 0 or abs(x - lane) > 1.2 or z > clear:
                placer.put("cyclist", x, z, yaw, (1.1, 1.0, 1.0), **colours)
