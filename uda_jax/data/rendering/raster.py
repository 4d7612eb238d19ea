"""What each pixel sees, and where: exact intersections of pixel rays with flat pieces, ellipsoids and the ground.

For a camera at the origin and a ray d = ((j - cx) / fx, (i - cy) / fy, 1), the intersection with a parallelogram
o + s u + r v is by Cramer's rule t = o.(u x v) / d.(u x v), s = d.(v x o) / d.(u x v), r = d.(o x u) / d.(u x v), so
all three are ratios of functions linear in the pixel. As d ends in 1, t is the depth along the optical axis.
"""

import dataclasses

import numpy as np

from uda_jax.data.rendering import objects, sprites
from uda_jax.data.rendering.sprites import GLASS, NUM_PARTS
from uda_jax.data.rendering.textures import volume_lookup
from uda_jax.data.rendering.world import ASPHALT, GRASS, KERB, MARKING, PATCH, SLABS, World

NEAR, FAR = 0.3, 400.0  # metres
SKY_ROW, GROUND_ROW, FIRST_QUAD = 0, 1, 2  # rows of the surface table
_GROUND_LABELS = {
    ASPHALT: objects.ROAD,
    MARKING: objects.ROAD,
    PATCH: objects.ROAD,
    KERB: objects.SIDEWALK,
    SLABS: objects.SIDEWALK,
    GRASS: objects.TERRAIN,
}
_GROUND_MATERIALS = {
    ASPHALT: objects.ASPHALT,
    MARKING: objects.ASPHALT,
    PATCH: objects.ASPHALT,
    KERB: objects.CONCRETE,
    SLABS: objects.PAVING,
    GRASS: objects.GRASS,
}


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera. Pixel (row i, column j) has its centre at exactly (i, j); depth runs along the optical axis."""

    size: tuple[int, int]
    intrinsics: np.ndarray  # [3, 3]
    position: np.ndarray  # [3] world
    rotation: np.ndarray  # [3, 3] world -> camera (x right, y down, z forward)

    def rays(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y of the rays (z = 1) through pixels, float32."""
        k = self.intrinsics
        return ((columns - k[0, 2]) / k[0, 0]).astype(np.float32), ((rows - k[1, 2]) / k[1, 1]).astype(np.float32)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the inner products of rows, `[S, 3]` -> `[S]`; faster than a sum over a short axis."""
    return np.einsum("ij,ij->i", a, b)


def rotation(yaw: float, pitch: float) -> np.ndarray:
    """Returns world -> camera axes, `[3, 3]`, for a yaw to the right and a pitch downwards, in radians."""
    (sy, cy), (sp, cp) = (np.sin(yaw), np.cos(yaw)), (np.sin(pitch), np.cos(pitch))
    return np.array([[cy, 0.0, -sy], [-sy * sp, -cp, -cy * sp], [sy * cp, -sp, cy * cp]])


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """All pieces of a world before a camera looks at them; rows of the tables: sky, ground, quads, ellipsoids."""

    corners: np.ndarray  # [Q, 3, 3] world origin, u, v
    facing: np.ndarray  # [Q]
    sprite: np.ndarray  # [Q, 2]
    tiles: np.ndarray  # [Q, 2]
    centre: np.ndarray  # [E, 3]
    axes: np.ndarray  # [E, 3, 3] columns
    to_sphere: np.ndarray  # [E, 3, 3] inverse of axes
    porosity: np.ndarray  # [E]
    part: np.ndarray  # [E]
    label: np.ndarray  # [rows, 8] by part
    material: np.ndarray  # [rows, 8] by part
    colour: np.ndarray  # [rows, 8, 3] by part


def _expand(template: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every piece of every instance (its instance, its row in the library)."""
    counts = start[template + 1] - start[template]
    instance = np.repeat(np.arange(len(template)), counts)
    first = np.cumsum(counts) - counts
    return instance, np.arange(len(instance)) - first[instance] + start[template][instance]


def place(world: World) -> Surfaces:
    """Puts every object's pieces into the world."""
    library = objects.library()
    sine, cosine = np.sin(world.yaw), np.cos(world.yaw)
    zero, one = np.zeros_like(sine), np.ones_like(sine)
    turn = np.stack(
        [np.stack([cosine, zero, sine], -1), np.stack([zero, one, zero], -1), np.stack([-sine, zero, cosine], -1)], 1
    )
    turn = turn * world.scale[:, None, :]  # [I, 3, 3], own axes -> world axes
    at = np.stack([world.position[:, 0], zero, world.position[:, 1]], -1)

    instance, row = _expand(world.template, library.quad_start)
    corners = np.einsum("nij,nkj->nki", turn[instance], library.corners[row])
    corners[:, 0] += at[instance]
    lengths = np.sqrt(np.square(corners[:, 1:]).sum(-1))
    tile = library.quad_tile[row]
    tiles = np.where(tile > 0, np.maximum(1, np.round(lengths / np.maximum(tile, 0.1))), 1).astype(np.float32)
    mirrored = np.sign(np.prod(world.scale, axis=1))[instance]

    blob_instance, blob = _expand(world.template, library.ellipsoid_start)
    centre = np.einsum("nij,nj->ni", turn[blob_instance], library.centre[blob]) + at[blob_instance]
    rows = FIRST_QUAD + len(row) + len(blob)
    label, material = np.full((rows, NUM_PARTS), objects.SKY, np.uint8), np.zeros((rows, NUM_PARTS), np.intp)
    colour = np.zeros((rows, NUM_PARTS, 3), np.float32)
    for part in range(1, NUM_PARTS - 1):
        label[GROUND_ROW, part], material[GROUND_ROW, part] = _GROUND_LABELS[part], _GROUND_MATERIALS[part]
    colour[GROUND_ROW] = world.ground.colours
    label[FIRST_QUAD:] = np.concatenate([library.quad_label[row], library.ellipsoid_label[blob]])[:, None]
    material[FIRST_QUAD:] = np.concatenate([library.quad_material[row], library.ellipsoid_material[blob]])[:, None]
    material[FIRST_QUAD:, GLASS] = objects.WINDOW
    colour[FIRST_QUAD:] = world.colours[np.concatenate([instance, blob_instance])]
    axes = turn[blob_instance] @ library.axes[blob]
    return Surfaces(
        corners=corners,
        facing=library.quad_facing[row] * mirrored,
        sprite=library.quad_sprite[row],
        tiles=tiles,
        centre=centre,
        axes=axes,
        to_sphere=np.linalg.inv(axes),
        porosity=library.porosity[blob],
        part=library.ellipsoid_part[blob],
        label=label,
        material=material,
        colour=colour,
    )


@dataclasses.dataclass(frozen=True)
class Hits:
    """What each pixel of a grid sees, all `[S]` or `[S, k]`, pixels in row-major order."""

    row: np.ndarray  # row of the surface table
    part: np.ndarray
    depth: np.ndarray  # metres, 0 = sky
    ray: np.ndarray  # [S, 3] world direction whose component along the optical axis is 1
    position: np.ndarray  # [S, 3] world
    normal: np.ndarray  # [S, 3] world, towards the camera
    surface: np.ndarray  # [S, 2] metres along the surface, for textures
    cell: np.ndarray  # [S] number of the window tile


def _pixels(
    low_x, high_x, low_y, high_y, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lists the pixels of many boxes: (which box, row, column, row-major number), clipped to the image."""
    height, width = size
    limit = 1e6  # a piece next to the camera plane projects to huge numbers, which int32 cannot hold
    low_x, high_x, low_y, high_y = (np.clip(bound, -limit, limit) for bound in (low_x, high_x, low_y, high_y))
    x0, x1 = np.maximum(np.ceil(low_x), 0).astype(np.int64), np.minimum(np.floor(high_x), width - 1).astype(np.int64)
    y0, y1 = np.maximum(np.ceil(low_y), 0).astype(np.int64), np.minimum(np.floor(high_y), height - 1).astype(np.int64)
    span = np.maximum(x1 - x0 + 1, 0)
    area = span * np.maximum(y1 - y0 + 1, 0)
    which = np.repeat(np.arange(len(area)), area)
    local = np.arange(len(which)) - (np.cumsum(area) - area)[which]
    down = local // span[which]
    rows = down + y0[which]
    columns = local - down * span[which] + x0[which]
    return which, rows, columns, rows * width + columns


def quad_fragments(corners: np.ndarray, camera: Camera, shift: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Intersects parallelograms with the pixel rays of a grid.

    Args:
      corners: `[Q, 3, 3]` world origin, u, v.
      camera: its intrinsics and pose.
      shift: the grid's pixel (0, 0) lies at row and column `shift` of the image.
      size: height and width of the grid.

    Returns:
      One row per pixel inside: (quad, pixel number, depth, s, r).
    """
    local = corners.astype(np.float64)
    local[:, 0] -= camera.position
    o, u, v = np.moveaxis(local @ camera.rotation.T, 1, 0)
    k = camera.intrinsics
    points = np.stack([o, o + u, o + u + v, o + v], 1)
    following = np.roll(points, -1, axis=1)
    # Edges that cross the near plane contribute the crossing point; corners behind it contribute nothing.
    step = following[..., 2] - points[..., 2]
    share = (NEAR - points[..., 2]) / np.where(np.abs(step) < 1e-9, 1e-9, step)
    crossing = points + share[..., None] * (following - points)
    valid = np.concatenate([points[..., 2] >= NEAR, (share > 0) & (share < 1)], axis=1)
    points = np.concatenate([points, crossing], axis=1)
    depth = np.where(valid, points[..., 2], 1.0)
    x, y = points[..., 0] / depth * k[0, 0] + k[0, 2] - shift, points[..., 1] / depth * k[1, 1] + k[1, 2] - shift
    bounds = [
        np.where(valid, x, np.inf).min(1),
        np.where(valid, x, -np.inf).max(1),
        np.where(valid, y, np.inf).min(1),
        np.where(valid, y, -np.inf).max(1),
    ]
    which, rows, columns, pixel = _pixels(*bounds, size)

    normal = np.cross(u, v)
    lines = np.stack([normal, np.cross(v, o), np.cross(o, u)], 1)  # denominators, numerators of s, numerators of r
    slope_x, slope_y = lines[..., 0] / k[0, 0], lines[..., 1] / k[1, 1]
    constant = lines[..., 2] + slope_x * (shift - k[0, 2]) + slope_y * (shift - k[1, 2])
    table = np.concatenate([slope_x, slope_y, constant, (o * normal).sum(-1)[:, None]], axis=1).astype(np.float32)
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    value = table.T.take(which, axis=1)
    inverse = value[0] * columns + value[3] * rows + value[6]
    inverse = 1.0 / np.where(inverse == 0, np.float32(1e-12), inverse)
    s = (value[1] * columns + value[4] * rows + value[7]) * inverse
    r = (value[2] * columns + value[5] * rows + value[8]) * inverse
    t = value[9] * inverse
    inside = np.flatnonzero((s >= 0) & (s < 1) & (r >= 0) & (r < 1) & (t > NEAR) & (t < FAR))
    return which[inside], pixel[inside], t[inside], s[inside], r[inside]


def _ellipsoid_fragments(
    surfaces: Surfaces, camera: Camera, shift: float, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """Intersects ellipsoids with pixel rays: (ellipsoid, pixel number, depth, point on the unit sphere `[F, 3]`).

    Bounds: the outline of an ellipsoid is the conic whose dual is c c^T - E E^T (columns of E: half axes).
    """
    c = (surfaces.centre - camera.position) @ camera.rotation.T
    e = camera.rotation @ surfaces.axes
    k = camera.intrinsics
    dual = c[:, :, None] * c[:, None, :] - e @ np.swapaxes(e, 1, 2)
    front = (dual[:, 2, 2] > 0) & (c[:, 2] > NEAR)
    scale = np.where(front, dual[:, 2, 2], 1.0)
    bounds = []
    for axis in (0, 1):
        middle = dual[:, axis, 2] / scale
        reach = np.sqrt(np.maximum(np.square(middle) - dual[:, axis, axis] / scale, 0))
        for edge in (middle - reach, middle + reach):
            bounds.append(np.where(front, edge * k[axis, axis] + k[axis, 2] - shift, 0.0))
    bounds[1] = np.where(front, bounds[1], -1.0)
    which, rows, columns, pixel = _pixels(*bounds, size)
    to_sphere = surfaces.to_sphere @ camera.rotation.T
    p = np.einsum("nij,nj->ni", to_sphere, c)
    slope_x, slope_y = to_sphere[:, :, 0] / k[0, 0], to_sphere[:, :, 1] / k[1, 1]
    constant = to_sphere[:, :, 2] + slope_x * (shift - k[0, 2]) + slope_y * (shift - k[1, 2])
    table = np.concatenate([slope_x, slope_y, constant, p, (np.square(p).sum(-1) - 1)[:, None]], axis=1).astype(
        np.float32
    )
    value = table.T.take(which, axis=1)
    q = value[0:3] * columns.astype(np.float32) + value[3:6] * rows.astype(np.float32) + value[6:9]
    qq, qp = np.square(q).sum(0), (q * value[9:12]).sum(0)
    root = np.square(qp) - qq * value[12]
    hit = np.flatnonzero(root > 0)
    t = (qp[hit] - np.sqrt(root[hit])) / qq[hit]
    kept = np.flatnonzero((t > NEAR) & (t < FAR))
    hit, t = hit[kept], t[kept]
    return which[hit], pixel[hit], t, (q[:, hit] * t - value[9:12, hit]).T


def _outward(surfaces: Surfaces, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices of quads not seen from behind, unit normals of all quads towards the camera `[Q, 3]`)."""
    corners = surfaces.corners
    normal = np.cross(corners[:, 1], corners[:, 2])
    towards = ((camera.position - corners[:, 0]) * normal).sum(-1)
    normal *= (np.sign(towards) / np.maximum(np.sqrt(np.square(normal).sum(-1)), 1e-9))[:, None]
    return np.flatnonzero(surfaces.facing * towards >= 0), normal


def trace(world: World, surfaces: Surfaces, camera: Camera, shift: float = 0.0) -> Hits:
    """Finds what every pixel of a grid sees.

    Args:
      shift: 0 for the image's own pixel centres; -0.5 for the corners around them, one row and column more.
    """
    grid = camera.size if shift == 0 else (camera.size[0] + 1, camera.size[1] + 1)
    pixels = grid[0] * grid[1]
    rows, columns = np.divmod(np.arange(pixels), grid[1])
    x, y = camera.rays(rows + shift, columns + shift)
    ray = np.stack([x, y, np.ones_like(x)], -1) @ camera.rotation.astype(np.float32)
    ground_depth = np.where(ray[:, 1] < -1e-6, -camera.position[1] / np.minimum(ray[:, 1], -1e-6), np.inf).astype(
        np.float32
    )
    ground_depth[ground_depth > FAR] = np.inf

    seen, quad_normals = _outward(surfaces, camera)
    quad, pixel_q, depth_q, s, r = quad_fragments(surfaces.corners[seen], camera, shift, grid)
    quad = seen[quad]
    across, up = s * surfaces.tiles[quad, 0], r * surfaces.tiles[quad, 1]
    column, storey = across.astype(np.intp), up.astype(np.intp)
    maps = sprites.atlas()[0]
    scale = sprites.SIZE
    sprite = surfaces.sprite[quad, (storey == 0).astype(np.intp)]
    part_q = maps[sprite, ((up - storey) * scale).astype(np.intp), ((across - column) * scale).astype(np.intp)]

    blob, pixel_e, depth_e, sphere = _ellipsoid_fragments(surfaces, camera, shift, grid)
    # Holes depend on the world position alone, so that two views see the same ones.
    at = camera.position.astype(np.float32) + ray[pixel_e] * depth_e[:, None]
    solid = volume_lookup(at) >= surfaces.porosity[blob]

    depth = np.concatenate([ground_depth, depth_q, np.where(solid, depth_e, np.inf)])
    depth[pixels : pixels + len(quad)][part_q == 0] = np.inf
    owner = np.concatenate([np.arange(pixels), pixel_q, pixel_e])
    # One atomic minimum over (depth, number): the bits of positive floats order as the floats do.
    key = (depth.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(len(owner), dtype=np.uint64)
    best = key[:pixels].copy()
    np.minimum.at(best, owner[pixels:], key[pixels:])
    winner = (best & np.uint64(0xFFFFFFFF)).astype(np.intp)
    return _gather(
        world, surfaces, camera, ray, depth, winner, (quad, part_q, s, r, column, storey, quad_normals), (blob, sphere)
    )


def _gather(world: World, surfaces: Surfaces, camera: Camera, ray, depth, winner, quads: tuple, blobs: tuple) -> Hits:
    """Reads out the winning fragment of every pixel."""
    quad, part_q, s, r, column, storey, quad_normals = quads
    blob, sphere = blobs
    pixels = len(ray)
    depth = depth[winner]
    is_sky = np.isinf(depth)
    depth = np.where(is_sky, np.float32(0), depth)
    position = camera.position.astype(np.float32) + ray * depth[:, None]
    row = np.full(pixels, GROUND_ROW)
    part = np.zeros(pixels, np.uint8)
    bare = np.flatnonzero((winner < pixels) & ~is_sky)
    part[bare] = world.ground.parts(position[bare, 0], position[bare, 2])
    normal = np.zeros((pixels, 3), np.float32)
    normal[:, 1] = 1.0
    surface = position[:, [0, 2]].copy()
    cell = np.zeros(pixels, np.intp)

    flat = np.flatnonzero((winner >= pixels) & (winner < pixels + len(quad)))
    k = winner[flat] - pixels
    edges = surfaces.corners[quad[k], 1:]
    lengths = np.sqrt(np.einsum("nij,nij->ni", edges, edges))
    row[flat], part[flat] = quad[k] + FIRST_QUAD, part_q[k]
    normal[flat] = quad_normals[quad[k]]
    surface[flat] = np.stack([s[k], r[k]], -1) * lengths + ((quad[k] & 15) * np.float32(0.31))[:, None]
    cell[flat] = quad[k] * 131 + column[k] * 7 + storey[k] * 17

    round_ = np.flatnonzero(winner >= pixels + len(quad))
    k = winner[round_] - pixels - len(quad)
    row[round_], part[round_] = blob[k] + FIRST_QUAD + len(surfaces.corners), surfaces.part[blob[k]]
    outward = np.einsum("nij,ni->nj", surfaces.to_sphere[blob[k]], sphere[k])
    normal[round_] = outward / np.sqrt(dot(outward, outward))[:, None]
    # Longitude and height: unlike a projection along one direction, this does not smear where the surface turns away.
    surface[round_, 0] = np.arctan2(outward[:, 0], outward[:, 2]) * 0.9 + (blob[k] & 15) * np.float32(0.31)
    surface[round_, 1] = position[round_, 1]
    row[is_sky] = SKY_ROW
    return Hits(row, part, depth, ray, position, normal, surface, cell)
