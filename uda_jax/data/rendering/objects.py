"""The objects of a street, built once from flat pieces and ellipsoids, in metres.

An object's own axes: x to its right, y up from the ground, z forward. A `Library` stores all pieces of all objects
in a few arrays, so that placing three hundred objects in a street is a handful of NumPy gathers.
"""

import dataclasses
import functools

import numpy as np

from uda_jax.data.rendering import sprites
from uda_jax.data.rendering.sprites import DARK, HEAD, MAIN, SECOND, TAIL, THIRD

# Cityscapes train ids (Cordts et al. 2016, the 19 evaluated classes).
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = range(11)
PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)

# Surface materials: rows of the texture bank in textures.py.
(PLAIN, BRICK, PLASTER, FOLIAGE, CLOTH, ASPHALT, PAVING, GRASS, METAL, CONCRETE, BARK, WINDOW) = range(12)


@dataclasses.dataclass
class Template:
    """The pieces of one kind of object. `shadow` is (radius, lower height, upper height) of what casts its shadow."""

    name: str
    shadow: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quads: list[tuple] = dataclasses.field(default_factory=list)
    ellipsoids: list[tuple] = dataclasses.field(default_factory=list)

    def quad(
        self, label, origin, u, v, sprite="solid1", *, material=PLAIN, tile=(0.0, 0.0), base=None, closed=True
    ) -> "Template":
        """Adds the parallelogram origin + s u + r v, s and r in [0, 1].

        Args:
          tile: metres after which the sprite repeats along u and v; 0 = stretched over the whole length once.
          base: sprite of the lowest row of tiles, by default the same.
          closed: part of a closed body, seen from outside only.
        """
        self.quads.append((label, origin, u, v, sprite, base or sprite, tile, material, closed))
        return self

    def ellipsoid(self, label, centre, radii, part=MAIN, *, material=CLOTH, tilt=0.0, porosity=0.0) -> "Template":
        """Adds an ellipsoid; `tilt` leans its top forward (radians), `porosity` is its share of holes."""
        self.ellipsoids.append((label, centre, radii, part, material, tilt, porosity))
        return self

    def box(
        self, label, low, high, sprite="solid1", *, material=PLAIN, tile=(0.0, 0.0), base=None, top=None
    ) -> "Template":
        """Adds the four upright faces of a box and its top."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        up, options = (0, y1 - y0, 0), {"material": material, "tile": tile, "base": base}
        for x in (x0, x1):
            self.quad(label, (x, y0, z0), (0, 0, z1 - z0), up, sprite, **options)
        for z in (z0, z1):
            self.quad(label, (x0, y0, z), (x1 - x0, 0, 0), up, sprite, **options)
        return self.quad(label, (x0, y1, z0), (x1 - x0, 0, 0), (0, 0, z1 - z0), top or "solid1", material=material)


def _car(profile: str, length: float, width: float, height: float) -> Template:
    """A body with the profile's outline: two flat sides and one strip across per edge of the outline."""
    template = Template(profile, (1.0, 0.0, height))
    outline = sprites.CAR_PROFILES[profile][0]
    # The sides stand a little inside and above the strips: drawn outlines are a texel rough, and no gap may show.
    for x in (0.03 - width / 2, width / 2 - 0.03):
        template.quad(CAR, (x, 0, -length / 2), (0, 0, length), (0, height, 0), profile, material=METAL)
    for k, ((z0, y0), (z1, y1)) in enumerate(zip(outline[:-1], outline[1:], strict=True)):
        slanted = abs(y1 - y0) > 0.15 and y0 + y1 > 1.25
        sprite = "windscreen" if slanted else "solid1"
        if k == 0:
            sprite = "van_rear" if profile == "van" else "car_rear"
        elif k == len(outline) - 2:
            sprite = "car_front"
        start, step = (-width / 2, y0 * height - 0.03, (z0 - 0.5) * length), (0, (y1 - y0) * height, (z1 - z0) * length)
        if step[1] < 0:
            start, step = (start[0], start[1] + step[1], start[2] + step[2]), (0, -step[1], -step[2])
        template.quad(CAR, start, (width, 0, 0), step, sprite, material=METAL)
    for x in (-width / 2 + 0.14, width / 2 - 0.14):
        for z in sprites.CAR_PROFILES[profile][2]:
            template.ellipsoid(CAR, (x, 0.3, (z - 0.5) * length), (0.14, 0.3, 0.3), DARK, material=PLAIN)
    return template


def _bus() -> Template:
    template = Template("bus", (1.5, 0.0, 3.0))
    for x in (-1.25, 1.25):
        template.quad(BUS, (x, 0, -5), (0, 0, 10), (0, 3.0, 0), "bus_side", material=METAL)
    template.quad(BUS, (-1.25, 0.3, -5), (2.5, 0, 0), (0, 2.7, 0), "bus_rear", material=METAL)
    template.quad(BUS, (-1.25, 0.3, 5), (2.5, 0, 0), (0, 2.7, 0), "bus_front", material=METAL)
    return template.quad(BUS, (-1.25, 3, -5), (2.5, 0, 0), (0, 0, 10), material=METAL)


def _lorry() -> Template:
    template = Template("lorry", (1.4, 0.0, 3.2))
    for x in (-1.2, 1.2):
        template.quad(TRUCK, (x, 0, -3.6), (0, 0, 7.2), (0, 3.2, 0), "lorry_side", material=METAL)
    template.quad(TRUCK, (-1.2, 0.75, -3.6), (2.4, 0, 0), (0, 2.45, 0), "solid4", material=METAL)
    template.quad(TRUCK, (-1.2, 0.4, -3.59), (2.4, 0, 0), (0, 0.4, 0), "car_rear", material=METAL)
    template.quad(TRUCK, (-1.2, 0.75, 1.7), (2.4, 0, 0), (0, 2.45, 0), "solid4", material=METAL)
    template.quad(TRUCK, (-1.2, 0.45, 3.6), (2.4, 0, 0), (0, 2.1, 0), "bus_front", material=METAL)
    return template.quad(TRUCK, (-1.2, 2.5, 1.9), (2.4, 0, 0), (0, 0, 1.4), material=METAL)


def _body(template: Template, label: int, lift: float, lean: float, stride: float, bend: float) -> Template:
    """Head, hair, trunk, arms and legs of a person `lift` metres above the ground, leaning forward by `lean`."""
    reach = np.sin(lean)
    template.ellipsoid(label, (0, 1.63 + lift, 0.75 * reach), (0.12, 0.145, 0.13), THIRD)
    template.ellipsoid(label, (0, 1.685 + lift, 0.75 * reach - 0.035), (0.128, 0.11, 0.13), DARK)
    template.ellipsoid(label, (0, 1.2 + lift, 0.3 * reach), (0.245, 0.36, 0.16), MAIN, tilt=lean)
    template.ellipsoid(label, (0, 0.92 + lift, 0.0), (0.2, 0.2, 0.17), SECOND)
    for side in (-1, 1):
        swing = side * stride
        template.ellipsoid(
            label,
            (side * 0.29, 1.14 + lift, 0.3 * reach - 0.28 * np.sin(swing) + 0.2 * bend),
            (0.075, 0.34, 0.085),
            MAIN,
            tilt=-swing - bend,
        )
        template.ellipsoid(
            label,
            (side * 0.11, 0.5 + lift, 0.3 * np.sin(swing) + 0.12 * bend),
            (0.11, 0.48, 0.125),
            SECOND,
            tilt=-swing - 0.4 * bend,
        )
        if not bend:
            template.ellipsoid(label, (side * 0.11, 0.07, 0.75 * np.sin(swing) + 0.06), (0.07, 0.07, 0.15), DARK)
    return template


def _bicycle(template: Template) -> Template:
    """Wheels count as solid discs, as in the annotation rules of Cityscapes."""
    for z in (-0.52, 0.52):
        template.ellipsoid(BICYCLE, (0, 0.35, z), (0.045, 0.35, 0.35), DARK, material=PLAIN)
    template.quad(BICYCLE, (0.05, 0, -0.9), (0, 0, 1.8), (0, 1.08, 0), "bicycle", closed=False)
    template.quad(BICYCLE, (-0.05, 0, -0.9), (0, 0, 1.8), (0, 1.08, 0), "bicycle", closed=False)
    return template.quad(BICYCLE, (-0.28, 1.0, 0.35), (0.56, 0, 0), (0, 0.08, 0), "solid3", closed=False)


def _motorcycle() -> Template:
    template = Template("motorcycle", (0.6, 0.0, 1.1))
    for z in (-0.68, 0.68):
        template.ellipsoid(MOTORCYCLE, (0, 0.32, z), (0.09, 0.32, 0.32), DARK, material=PLAIN)
    for x in (-0.12, 0.12):
        template.quad(MOTORCYCLE, (x, 0, -1.0), (0, 0, 2.0), (0, 1.15, 0), "motorcycle", closed=False)
    template.ellipsoid(MOTORCYCLE, (0, 0.72, 0.05), (0.2, 0.2, 0.55), MAIN, material=METAL)
    template.ellipsoid(MOTORCYCLE, (0, 0.62, -0.72), (0.13, 0.1, 0.16), TAIL, material=METAL)
    return template.quad(MOTORCYCLE, (-0.38, 1.05, 0.4), (0.76, 0, 0), (0, 0.09, 0), "solid3", closed=False)


def _crossed(
    template: Template,
    label: int,
    x: float,
    z: float,
    y0: float,
    y1: float,
    width: float,
    sprite="solid1",
    material=METAL,
) -> Template:
    """A thin upright bar: two plates that cross, visible from everywhere."""
    template.quad(
        label, (x - width / 2, y0, z), (width, 0, 0), (0, y1 - y0, 0), sprite, material=material, closed=False
    )
    return template.quad(
        label, (x, y0, z - width / 2), (0, 0, width), (0, y1 - y0, 0), sprite, material=material, closed=False
    )


def _tree(name: str, seed: int, blobs: int, base: float, top: float, radius: float, porosity: float) -> Template:
    """A trunk and a crown of overlapping porous ellipsoids, scattered by `seed`, narrower towards the top."""
    rng = np.random.default_rng(seed)
    template = _crossed(
        Template(name, (radius, base, top)), VEGETATION, 0, 0, 0, base + 0.35 * (top - base), 0.3, "solid3", BARK
    )
    for k in range(blobs):
        share = (k + 0.5) / blobs
        ring = radius * (0.62 - 0.4 * share) * min(1.0, 0.4 + 2 * share)
        angle = 2.4 * k + rng.uniform(0, 0.8)
        size = radius * (0.72 - 0.28 * share) * rng.uniform(0.85, 1.15)
        centre = (ring * np.cos(angle), base + size * 0.6 + share * (top - base - 1.1 * size), ring * np.sin(angle))
        part = (MAIN, MAIN, SECOND)[k % 3]
        template.ellipsoid(VEGETATION, centre, (size, size * 0.85, size), part, material=FOLIAGE, porosity=porosity)
    return template


def _hedge() -> Template:
    template = Template("hedge", (0.5, 0.0, 0.9)).box(VEGETATION, (-0.35, 0, -1.0), (0.35, 0.85, 1.0), material=FOLIAGE)
    for k, (x, z) in enumerate([(-0.1, -0.8), (0.1, -0.3), (-0.05, 0.25), (0.1, 0.8)]):
        template.ellipsoid(
            VEGETATION, (x, 0.8, z), (0.42, 0.3, 0.42), (MAIN, SECOND)[k % 2], material=FOLIAGE, porosity=0.12
        )
    return template


def _bush() -> Template:
    template = Template("bush", (0.8, 0.0, 1.0))
    for k, (x, y, z, r) in enumerate(
        [(0, 0.5, 0, 0.75), (0.5, 0.35, 0.3, 0.55), (-0.5, 0.4, -0.2, 0.6), (0.1, 0.75, -0.3, 0.5)]
    ):
        template.ellipsoid(
            VEGETATION, (x, y, z), (r, r * 0.85, r), (MAIN, SECOND)[k % 2], material=FOLIAGE, porosity=0.18
        )
    return template


def _building(facade: str, ground: str, material: int, gabled: bool) -> Template:
    """A house one metre in each direction, to be scaled; windows repeat every 2.7 m, storeys every 3.1 m."""
    template = Template(f"building_{facade}_{'gable' if gabled else 'flat'}")
    template.box(
        BUILDING,
        (-0.5, 0, -0.5),
        (0.5, 1, 0.5),
        f"facade_{facade}",
        material=material,
        tile=(2.7, 3.1),
        base=f"ground_{ground}",
    )
    if gabled:
        for x in (-0.53, 0.53):
            template.quad(BUILDING, (x, 0.98, -0.5), (0, 0, 1), (-x, 0.3, 0), "solid7", material=BRICK)
        for z in (-0.5, 0.5):
            template.quad(BUILDING, (-0.5, 1, z), (1, 0, 0), (0, 0.28, 0), "gable", material=material)
    else:
        template.box(BUILDING, (-0.52, 0.985, -0.503), (0.52, 1.03, 0.503), "solid4", material=CONCRETE)
    return template


def _street_furniture() -> list[Template]:
    lamp = _crossed(Template("lamp", (0.12, 0.0, 6.0)), POLE, 0, 0, 0, 6.0, 0.17)
    lamp.quad(POLE, (-1.5, 5.9, 0), (1.5, 0, 0), (0, 0.13, 0), material=METAL, closed=False)
    lamp.ellipsoid(POLE, (-1.5, 5.85, 0), (0.4, 0.12, 0.2), HEAD, material=PLAIN)
    bollard = _crossed(Template("bollard", (0.12, 0.0, 0.9)), POLE, 0, 0, 0, 0.95, 0.16)
    light = _crossed(Template("traffic_light", (0.2, 0.0, 3.0)), POLE, 0, 0, 0, 2.3, 0.16)
    light.box(LIGHT, (-0.2, 2.25, -0.15), (0.2, 3.35, 0.15), "solid1", material=PLAIN)
    light.quad(LIGHT, (-0.2, 2.25, -0.17), (0.4, 0, 0), (0, 1.1, 0), "traffic_light", closed=False)
    signs = []
    for kind, size in (("round", 0.8), ("triangle", 0.95), ("square", 0.8)):
        sign = _crossed(Template(f"sign_{kind}", (0.12, 0.0, 2.5)), POLE, 0, 0, 0, 2.4, 0.11, "solid7")
        signs.append(sign.quad(SIGN, (-size / 2, 2.0, -0.07), (size, 0, 0), (0, size, 0), f"sign_{kind}", closed=False))
    board = Template("sign_board", (0.3, 0.0, 3.5))
    for x in (-1.0, 1.0):
        _crossed(board, POLE, x, 0, 0, 2.5, 0.13, "solid7")
    board.quad(SIGN, (-1.3, 2.4, -0.08), (2.6, 0, 0), (0, 1.2, 0), "sign_square", closed=False)
    fences = [
        Template(f"fence_{kind}", (0.05, 0.0, 1.0)).quad(
            FENCE, (0, 0, -1), (0, 0, 2), (0, 1, 0), f"fence_{kind}", material=BARK, tile=(tile, 0), closed=False
        )
        for kind, tile in (("pickets", 0.9), ("railing", 1.6))
    ]
    wall = Template("wall", (0.2, 0.0, 1.5)).box(WALL, (-0.15, 0, -1), (0.15, 1, 1), material=CONCRETE, top="solid4")
    return [lamp, bollard, light, *signs, board, *fences, wall]


def _templates() -> list[Template]:
    result = [
        _car("hatchback", 4.0, 1.74, 1.48),
        _car("saloon", 4.6, 1.8, 1.43),
        _car("van", 4.9, 1.95, 2.05),
        _bus(),
        _lorry(),
    ]
    for k, stride in enumerate((0.0, 0.3, -0.36)):
        result.append(_body(Template(f"person{k}", (0.25, 0.0, 1.7)), PERSON, 0.0, 0.04, stride, 0.0))
    result.append(_body(_bicycle(Template("cyclist", (0.5, 0.0, 1.7))), RIDER, 0.18, 0.4, 0.35, 0.75))
    result += [_bicycle(Template("bicycle", (0.5, 0.0, 1.0))), _motorcycle()]
    result += [_tree("tree_round", 1, 8, 1.9, 5.6, 2.0, 0.16), _tree("tree_broad", 2, 10, 2.1, 6.8, 2.7, 0.2)]
    result += [_tree("tree_slim", 3, 12, 1.2, 7.0, 1.35, 0.14), _tree("tree_sparse", 4, 8, 2.0, 6.2, 2.1, 0.45)]
    result += [_hedge(), _bush(), *_street_furniture()]
    result += [
        _building("single", "door", PLASTER, False),
        _building("single", "door", BRICK, True),
        _building("double", "shop", BRICK, False),
    ]
    result += [
        _building("band", "shop", CONCRETE, False),
        _building("shutters", "door", PLASTER, True),
        _building("balcony", "shop", PLASTER, False),
    ]
    return result


@dataclasses.dataclass(frozen=True)
class Library:
    """All templates in flat arrays: Q quads and E ellipsoids; template k owns a contiguous run of each."""

    index: dict[str, int]
    shadow: np.ndarray  # [T, 3]
    quad_start: np.ndarray  # [T + 1]
    ellipsoid_start: np.ndarray  # [T + 1]
    corners: np.ndarray  # [Q, 3, 3]: origin, u, v
    quad_label: np.ndarray
    quad_sprite: np.ndarray  # [Q, 2]: usual, lowest row
    quad_tile: np.ndarray  # [Q, 2] metres
    quad_material: np.ndarray
    quad_facing: np.ndarray  # [Q]: sign that turns u x v outward; 0 = seen from both sides
    centre: np.ndarray  # [E, 3]
    axes: np.ndarray  # [E, 3, 3]: columns are the half axes
    ellipsoid_label: np.ndarray
    ellipsoid_part: np.ndarray
    ellipsoid_material: np.ndarray
    porosity: np.ndarray


@functools.cache
def library() -> Library:
    """Builds the arrays of every object once per process."""
    templates, names = _templates(), sprites.atlas()[1]
    quads = [quad for template in templates for quad in template.quads]
    blobs = [blob for template in templates for blob in template.ellipsoids]
    corners = np.array([[quad[1], quad[2], quad[3]] for quad in quads], np.float32)
    facing = []
    for template in templates:
        middle = (
            np.mean([np.add(q[1], np.add(q[2], q[3]) / 2) for q in template.quads], axis=0) if template.quads else 0
        )
        for _, origin, u, v, *_, closed in template.quads:
            outward = np.dot(np.cross(u, v), np.add(origin, np.add(u, v) / 2) - middle)
            facing.append(np.sign(outward) if closed else 0.0)
    axes = np.zeros((len(blobs), 3, 3), np.float32)
    for k, (_, _, radii, _, _, tilt, _) in enumerate(blobs):
        turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        axes[k] = turn * np.asarray(radii)
    return Library(
        index={template.name: k for k, template in enumerate(templates)},
        shadow=np.array([template.shadow for template in templates], np.float32),
        quad_start=np.cumsum([0] + [len(template.quads) for template in templates]),
        ellipsoid_start=np.cumsum([0] + [len(template.ellipsoids) for template in templates]),
        corners=corners,
        quad_label=np.array([quad[0] for quad in quads], np.uint8),
        quad_sprite=np.array([[names[quad[4]], names[quad[5]]] for quad in quads]),
        quad_tile=np.array([quad[6] for quad in quads], np.float32),
        quad_material=np.array([quad[7] for quad in quads]),
        quad_facing=np.array(facing, np.float32),
        centre=np.array([blob[1] for blob in blobs], np.float32),
        axes=axes,
        ellipsoid_label=np.array([blob[0] for blob in blobs], np.uint8),
        ellipsoid_part=np.array([blob[3] for blob in blobs], np.uint8),
        ellipsoid_material=np.array([blob[4] for blob in blobs]),
        porosity=np.array([blob[6] for blob in blobs], np.float32),
    )
