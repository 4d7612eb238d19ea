"""Lays out one street: which object stands where, in which colours, on what ground.

Every row of objects has its own random stream and is placed in order of z, so a longer street begins like a
shorter one of the same seed.
"""

import numpy as np

from uda_jax.data.rendering.looks import Look
from uda_jax.data.rendering.placement import Placer, steps
from uda_jax.data.rendering.sprites import NUM_PARTS
from uda_jax.data.rendering.traffic import cyclists, moving_cars, parked_bikes, parked_cars, people
from uda_jax.data.rendering.world import (
    ASPHALT,
    BLOCK,
    GRASS,
    KERB,
    MARKING,
    PATCH,
    SLABS,
    START,
    Ground,
    World,
    stream,
)  # fmt: skip

_FACADES = (
    "building_single_flat",
    "building_single_gable",
    "building_double_flat",
    "building_band_flat",
    "building_shutters_gable",
    "building_balcony_flat",
)


def build(look: Look, seed: int, *, length: float = 100.0, clear: float = 9.0) -> World:
    """Lays out the street of a seed.

    Args:
      look: the domain.
      seed: any non-negative integer.
      length: z in metres at which the street ends in a row of houses.
      clear: metres of the camera's own lane kept free of cars and people.
    """
    placer, layout = Placer(look, seed), look.layout
    rng = stream(look, seed, "street")
    parking = (bool(rng.random() < layout.parked), bool(rng.random() < layout.parked))
    half = rng.uniform(*layout.road_half) + 1.0 * sum(parking)
    sidewalk, crossing_draw = rng.uniform(*layout.sidewalk), rng.random()
    crossing = rng.uniform(9.0, 32.0) if crossing_draw < layout.crossing_share else np.nan
    line = half + sidewalk
    roofs, grown = _buildings(placer, line, length)
    blocks = int((length - START) / BLOCK) + 2
    # Each block of each side must keep its draw when the street gets longer.
    verge = (rng.random((blocks, 2)) < layout.verge_share).T
    colours = np.zeros((NUM_PARTS, 3), np.float32)
    for part, name in ((ASPHALT, "road"), (MARKING, "marking"), (SLABS, "sidewalk"), (GRASS, "terrain")):
        colours[part] = placer.pick(placer.paint, name)
    colours[KERB], colours[PATCH] = colours[SLABS] * 1.15, colours[ASPHALT] * placer.paint.uniform(0.75, 1.2)
    ground = Ground(half, sidewalk, verge, grown, crossing, parking, colours)
    pose = stream(look, seed, "pose")
    lane = (half - 2.1 * parking[1]) / 2
    height, pitch = pose.uniform(*layout.camera_height), np.radians(pose.uniform(*layout.camera_pitch))
    camera = (lane + pose.normal(0, 0.35), height, np.radians(layout.camera_yaw) * pose.normal(), pitch)
    _trees(placer, half, line, length)
    lamps = _furniture(placer, half, crossing, length)
    parked_bikes(placer, half, line, length)
    parked_cars(placer, half, parking, crossing, length)
    moving_cars(placer, half, parking, lane, clear, length)
    people(placer, half, line, crossing, clear, length)
    cyclists(placer, half, lane, clear, length)
    rows = np.array(placer.rows, np.float32)
    return World(
        look,
        seed,
        length,
        ground,
        rows[:, 0].astype(np.intp),
        rows[:, 1:3],
        rows[:, 3],
        rows[:, 4:7],
        np.stack(placer.colours),
        roofs,
        lamps,
        camera,
    )


def _buildings(placer: Placer, line: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Lines both sides with houses and open lots, and closes the far end. Returns roof heights and grown blocks."""
    rng, layout = stream(placer.look, placer.seed, "buildings"), placer.layout
    generators = rng.spawn(3)
    roofs = np.zeros((2, int(length - START) + 60), np.float32)
    grown = np.zeros((2, int((length - START) / BLOCK) + 2), bool)
    for side, rng in zip((0, 1), generators, strict=False):
        sign, z = 2 * side - 1, START
        while z < length:
            width = rng.uniform(*layout.building_width)
            if rng.random() < layout.lot_share:
                _lot(placer, rng, sign, line, z, width)
                grown[side, int((z - START) / BLOCK) : int((z + width - START) / BLOCK) + 1] = rng.random() < 0.7
            else:
                height, setback = 3.1 * round(rng.uniform(*layout.storeys)) + 0.6, 1.5 * (rng.random() < 0.25)
                _house(placer, rng, sign * (line + setback + 6.0), z + width / 2, (12.0, height, width))
                roofs[side, int(z - START) : int(z + width - START)] = height
            z += width + (rng.random() < 0.15) * 2.5
    rng = generators[2]
    for x in (-26.0, 0.0, 26.0):
        _house(placer, rng, x, length + 14.0, (26.0, 3.1 * round(rng.uniform(*layout.storeys)) + 0.6, 12.0))
    return roofs, grown


def _house(placer: Placer, rng: np.random.Generator, x: float, z: float, size: tuple[float, float, float]) -> None:
    kind = _FACADES[int(rng.random() * len(_FACADES))]
    colours = {"main": "facade", "second": "trim", "glass": "window", "third": "roof"}
    placer.put(
        kind,
        x,
        z,
        0.0,
        size,
        dark=placer.pick(rng, "roof") * 0.4,
        **{part: placer.pick(rng, name) for part, name in colours.items()},
    )


def _lot(placer: Placer, rng: np.random.Generator, sign: int, line: float, z: float, width: float) -> None:
    """An open lot: a wall, fence or hedge at the front, trees behind, sometimes a house at the back."""
    odds = np.cumsum(placer.layout.barriers)
    draw, x = rng.random() * max(1.0, odds[-1]), sign * (line + 0.25)
    middle, reach = z + width / 2, width / 2
    if draw < odds[0]:
        colour = placer.pick(rng, "barrier")
        placer.put("wall", x, middle, 0, (1, rng.uniform(1.0, 2.2), reach), main=colour, second=colour * 0.8)
    elif draw < odds[1]:
        colour = placer.pick(rng, "barrier")
        name = "fence_pickets" if rng.random() < 0.5 else "fence_railing"
        placer.put(name, x, middle, 0, (1, rng.uniform(1.0, 1.7), reach), main=colour, second=colour * 0.7)
    elif draw < odds[2]:
        colour = placer.pick(rng, "foliage")
        for k in range(int(reach)):
            placer.put("hedge", x, z + 1 + 2 * k, 0, (1, rng.uniform(1.1, 1.4), 1), main=colour, second=colour * 1.25)
    for _ in range(rng.integers(1, 4)):
        _tree(placer, rng, sign * (line + rng.uniform(2.5, 8.0)), z + rng.uniform(0.1, 0.9) * width)
    if rng.random() < 0.6:
        _house(
            placer,
            rng,
            sign * (line + 17.0),
            middle,
            (10.0, 3.1 * round(rng.uniform(*placer.layout.storeys)) + 0.6, width),
        )


def _tree(placer: Placer, rng: np.random.Generator, x: float, z: float) -> None:
    kinds = ("tree_round", "tree_broad", "tree_slim", "tree_sparse")
    size, colour = rng.uniform(0.8, 1.3), placer.pick(rng, "foliage")
    scale = (size, size * rng.uniform(0.9, 1.15), size)
    placer.put(
        kinds[int(rng.random() * 4)],
        x,
        z,
        rng.uniform(0, 6.3),
        scale,
        main=colour,
        second=colour * 1.35,
        dark=placer.pick(rng, "bark"),
    )


def _trees(placer: Placer, half: float, line: float, length: float) -> None:
    layout = placer.layout
    for sign, rng in zip((-1, 1), stream(placer.look, placer.seed, "trees").spawn(2), strict=True):
        # Trees come in avenues: half of the street sides have none, the others twice as many.
        avenue, bushes = 2.0 * layout.trees * (rng.random() < 0.5), rng.spawn(1)[0]
        for z in steps(rng, avenue, length, 1.0) if avenue else ():
            _tree(placer, rng, sign * (half + 0.8), z)
        for z in steps(bushes, layout.bushes, length):
            colour = placer.pick(bushes, "foliage")
            placer.put(
                "bush",
                sign * (line - 0.5),
                z,
                bushes.uniform(0, 6.3),
                (bushes.uniform(0.7, 1.1),) * 3,
                main=colour,
                second=colour * 1.3,
            )


def _furniture(placer: Placer, half: float, crossing: float, length: float) -> np.ndarray:
    """Lamps, traffic lights, signs, bollards. Returns where the lamps glow, `[L, 3]`."""
    layout, glow = placer.layout, []
    for sign, rng in zip((-1, 1), stream(placer.look, placer.seed, "furniture").spawn(2), strict=True):
        grey = placer.pick(rng, "pole")
        lamp, *rows = rng.spawn(4)
        z, spacing = lamp.uniform(4.0, 16.0), 100.0 / layout.lamps
        while z < length:
            placer.put("lamp", sign * (half + 0.45), z, 0.0, (sign, 1.0, 1.0), main=grey)
            glow.append((sign * (half + 0.45 - 1.5), 5.85, z))
            z += spacing * lamp.uniform(0.85, 1.15)
        kinds = ("sign_round", "sign_triangle", "sign_square", "sign_square", "sign_board")
        for z in steps(rows[0], layout.signs, length):
            colours = {
                "main": placer.pick(rows[0], "sign"),
                "second": np.full(3, 0.75),
                "third": placer.pick(rows[0], "pole"),
            }
            turn = rows[0].normal(0, 0.15)
            placer.put(
                kinds[int(rows[0].random() ** 1.5 * 5)], sign * (half + 0.6), z, turn, (1.1, 1.0, 1.0), **colours
            )
        crossings = [] if np.isnan(crossing) else [crossing + 2.2 * sign - 0.8]
        for z in (*crossings, *steps(rows[1], layout.traffic_lights, length, 12.0)):
            placer.put("traffic_light", sign * (half + 0.35), z, 0.0, main=np.full(3, 0.02), head=(0.02, 0.5, 0.12))
        for z in steps(rows[2], layout.bollards, length):
            for k in range(3):
                placer.put("bollard", sign * (half + 0.4), z + 1.6 * k, 0.0, main=grey)
    return np.array(glow, np.float32).reshape(-1, 3)
