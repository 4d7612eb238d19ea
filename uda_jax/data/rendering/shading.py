"""From what a pixel sees to its colour: surface texture, light, shadows, haze, and the camera's sensor."""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

from uda_jax.data.rendering import objects, textures
from uda_jax.data.rendering.looks import OVERCAST, SUNNY, WEATHERS, Look
from uda_jax.data.rendering.raster import GROUND_ROW, SKY_ROW, Camera, Hits, Surfaces, dot, quad_fragments
from uda_jax.data.rendering.sprites import GLASS, HEAD, TAIL
from uda_jax.data.rendering.world import START, World, linear, stream


@dataclasses.dataclass(frozen=True)
class Lighting:
    """The light of one frame; colours are linear RGB, `sun` is the unit direction towards the sun or moon."""

    condition: str
    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float
    haze: float  # extinction per metre
    lamps: float  # strength of street lamps, lit windows and head lights
    lit_share: float  # share of windows with light
    gain: np.ndarray  # exposure and white balance
    noise: float
    blur: float


def light(look: Look, seed: int, condition: str | None = None) -> Lighting:
    """Draws the light of a frame.

    Args:
      condition: one of the look's conditions, or None to draw it with its share.
    """
    rng = stream(look, seed, "condition")
    names, shares = zip(*look.conditions, strict=True)
    drawn = names[int(np.searchsorted(np.cumsum(shares), rng.random()).clip(0, len(names) - 1))]
    condition = condition or drawn
    cover, bearing, rise = rng.random() ** 1.5, rng.uniform(0, 2 * np.pi), rng.random()
    thickness, exposure = rng.uniform(0.7, 1.3), np.exp(rng.uniform(*np.log(look.exposure)))
    balance = look.white_balance * rng.normal(size=2)
    noise, blur = rng.uniform(*look.noise), rng.uniform(*look.blur)
    first, second = (SUNNY, OVERCAST) if condition == "day" else (WEATHERS[condition],) * 2

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((1 - cover) * a + cover * b).astype(np.float32)

    low, high = np.radians(first.sun_height)
    height = low + rise * (high - low)
    sun = np.array([np.sin(bearing) * np.cos(height), np.sin(height), np.cos(bearing) * np.cos(height)])
    return Lighting(
        condition=condition,
        sun=sun.astype(np.float32),
        sun_colour=between(np.array(first.sun), np.array(second.sun)),
        ambient=between(np.array(first.ambient), np.array(second.ambient)),
        zenith=between(linear(first.zenith), linear(second.zenith)),
        horizon=between(linear(first.horizon), linear(second.horizon)),
        clouds=look.clouds * first.clouds,
        haze=first.haze * thickness,
        lamps=first.lamps,
        lit_share=first.lit_share,
        gain=(exposure * np.exp([balance[0], 0.0, balance[1]])).astype(np.float32),
        noise=noise * first.noise,
        blur=blur,
    )


def _decals(
    world: World, lighting: Lighting, camera: Camera, shift: float, hits: Hits, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (contact darkness, cast shadow) in [0, 1] on the ground pixels, from soft ellipses under every object."""
    radius, low, high = objects.library().shadow[world.template].T
    kept = np.flatnonzero(radius > 0)
    radius, low, high = (value[kept] * world.scale[kept, axis] for value, axis in ((radius, 0), (low, 1), (high, 1)))
    base = np.stack([world.position[kept, 0], np.zeros(len(kept)), world.position[kept, 1]], -1)
    long_ = world.scale[kept, 2] * np.where(np.isin(world.template[kept], _vehicle_rows()), 2.5 * radius, 1.3 * radius)
    sine, cosine = np.sin(world.yaw[kept])[:, None], np.cos(world.yaw[kept])[:, None]
    zero = np.zeros_like(sine)
    right, ahead = (
        np.concatenate([cosine, zero, -sine], 1) * radius[:, None] * 1.15,
        np.concatenate([sine, zero, cosine], 1) * long_[:, None],
    )
    contact = np.stack([base - right - ahead, 2 * right, 2 * ahead], 1)[low == 0]
    result = []
    decals = [contact]
    if world.look.shadows > 0 and lighting.sun_colour[0] > 0.05:
        away = -lighting.sun[[0, 2]] / max(lighting.sun[1], 0.3)
        along = np.stack([away[0] * (high - low), np.zeros(len(kept)), away[1] * (high - low)], -1) / 2
        centre = base + np.stack([away[0] * low, np.zeros(len(kept)), away[1] * low], -1) + along
        length = np.sqrt(np.square(along).sum(-1, keepdims=True))
        unit = along / np.maximum(length, 1e-6)
        along = unit * (length + radius[:, None])
        beside = np.stack([-unit[:, 2], np.zeros(len(kept)), unit[:, 0]], -1) * radius[:, None]
        decals.append(np.stack([centre - along - beside, 2 * along, 2 * beside], 1))
    for corners in decals:
        strength = np.zeros(len(hits.row), np.float32)
        which, pixel, _, s, r = quad_fragments(corners, camera, shift, grid)
        on_ground = np.flatnonzero(hits.row[pixel] == GROUND_ROW)
        distance = np.square(2 * s[on_ground] - 1) + np.square(2 * r[on_ground] - 1)
        np.maximum.at(strength, pixel[on_ground], np.clip(2.2 * (1 - distance), 0, 1))
        result.append(strength)
    return result[0], result[1] if len(result) > 1 else np.zeros_like(result[0])


def _vehicle_rows() -> list[int]:
    index = objects.library().index
    return [index[name] for name in ("hatchback", "saloon", "van", "bus", "lorry")]


def _behind_roofs(world: World, lighting: Lighting, hits: Hits) -> np.ndarray:
    """Returns which points the houses keep from the sun: the line towards it passes below the roof's edge."""
    across = lighting.sun[0]
    if abs(across) < 1e-3:
        return np.zeros(len(hits.row), bool)
    line = float(np.sign(across) * (world.ground.road_half + world.ground.sidewalk + 1.0))
    way = (line - hits.position[:, 0]) / across
    z, y = hits.position[:, 2] + way * lighting.sun[2], hits.position[:, 1] + way * lighting.sun[1]
    roofs = world.roofs[int(across > 0)]
    index = np.clip((z - START).astype(np.intp), 0, len(roofs) - 1)
    return (way > 0.5) & (y < roofs[index])


def _sky(lighting: Lighting, ray: np.ndarray) -> np.ndarray:
    """Returns the colours of the sky along rays, `[S, 3]`: a gradient and clouds on a plane at infinity."""
    unit = ray / np.sqrt(dot(ray, ray))[:, None]
    height = np.clip(unit[:, 1], 0.0, 1.0)
    rise = np.clip(height / 0.45, 0, 1)[:, None] ** 0.7
    colour = lighting.horizon * (1 - rise) + lighting.zenith * rise
    if lighting.clouds > 0:
        plane = 14.0 / (height + 0.12)
        field = textures.blotch_lookup(unit[:, 0] * plane + 31, unit[:, 2] * plane + 7) + 0.4 * textures.blotch_lookup(
            unit[:, 0] * plane * 3, unit[:, 2] * plane * 3
        )
        cover = np.clip(0.5 + 0.45 * field, 0, 1)[:, None] * lighting.clouds
        bright = 0.75 * lighting.horizon + 0.35 * lighting.ambient + 0.2 * lighting.sun_colour
        colour = colour * (1 - 0.8 * cover) + 0.8 * cover * bright
    return colour


def shade(world: World, surfaces: Surfaces, lighting: Lighting, camera: Camera, hits: Hits, shift: float) -> np.ndarray:
    """Returns the linear colours `[S, 3]` of traced pixels."""
    look = world.look
    grid = camera.size if shift == 0 else (camera.size[0] + 1, camera.size[1] + 1)
    material = surfaces.material[hits.row, hits.part]
    colour = surfaces.colour[hits.row, hits.part]
    on_ground = hits.row == GROUND_ROW
    glass = (hits.part == GLASS) & (surfaces.label[hits.row, hits.part] == objects.BUILDING)
    variety = ((hits.cell * 2654435761 >> 12) & 1023).astype(np.float32) / 1024.0

    # A texture finer than a pixel averages out, as it does on a real sensor's area.
    footprint = hits.depth / camera.intrinsics[0, 0] * textures.SIZE / textures.PERIOD[material]
    fade = np.minimum(1.0, 2.5 / np.maximum(footprint, 1e-3))
    pattern = textures.texture_lookup(material, hits.surface[:, 0], hits.surface[:, 1]) * fade
    blotch = textures.blotch_lookup(hits.surface[:, 0] * 1.7, hits.surface[:, 1] * 1.7)
    factor = np.maximum(1 + look.texture * pattern + look.stains * np.where(glass, 0.3, 1.0) * blotch, 0.08)
    factor *= np.where(glass, 1 + look.window_variety * 1.6 * (variety - 0.4), 1.0)

    contact, cast = _decals(world, lighting, camera, shift, hits, grid)
    facing = np.clip(hits.normal @ lighting.sun.astype(np.float32), 0, 1)
    if look.shadows > 0:
        cast = np.maximum(cast, _behind_roofs(world, lighting, hits))
    sunlit = facing * (1 - look.shadows * cast)
    openness = 0.72 + 0.28 * hits.normal[:, 1]
    openness *= 1 - look.contact * contact
    irradiance = openness[:, None] * lighting.ambient + sunlit[:, None] * lighting.sun_colour
    if lighting.lamps > 0:
        irradiance = irradiance + lighting.lamps * _lamp_light(world, camera, hits)
    colour = colour * factor[:, None] * irradiance

    if lighting.lamps > 0:
        lit = glass & (variety < lighting.lit_share)
        colour[lit] += min(1.0, 1.5 * lighting.lamps) * np.array([0.75, 0.5, 0.22]) * (0.3 + variety[lit] * 2)[:, None]
        shining = ((hits.part == HEAD) | (hits.part == TAIL)) & ~on_ground
        colour[shining] += 1.6 * lighting.lamps * surfaces.colour[hits.row[shining], hits.part[shining]]
    clear = np.exp(-lighting.haze * hits.depth)[:, None]
    colour = colour * clear + lighting.horizon * (1 - clear)
    empty = hits.row == SKY_ROW
    colour[empty] = _sky(lighting, hits.ray[empty])
    return colour


def _lamp_light(world: World, camera: Camera, hits: Hits) -> np.ndarray:
    """Returns the light of the street lamps and of the own head lights on every point, `[S, 3]`."""
    offset = hits.position - camera.position.astype(np.float32)
    ahead = camera.rotation[2].astype(np.float32)
    distance = np.sqrt(dot(offset, offset)) + 1e-3
    cone = np.clip((offset @ ahead) / distance, 0, 1) ** 14
    beam = 12.0 * cone / (20.0 + 0.16 * np.square(distance))
    total = beam[:, None] * np.array([1.0, 0.95, 0.82], np.float32)
    for lamp in world.lamps[world.lamps[:, 2] < 75.0]:
        gap = lamp - hits.position
        square = dot(gap, gap)
        down = np.clip(gap[:, 1], 0.0, None) / np.sqrt(square + 0.05)
        facing = np.clip(dot(gap, hits.normal) / np.sqrt(square + 0.05), 0.1, 1)
        total += (16.0 * down * facing / (6.0 + square))[:, None] * np.array([1.0, 0.74, 0.4], np.float32)
    return total


def develop(world: World, lighting: Lighting, linear_image: np.ndarray, sensor_seed: int) -> np.ndarray:
    """Turns linear light into the bytes of a photograph: glow, vignette, blur, exposure, tone curve, noise.

    Args:
      linear_image: `[H, W, 3]`.
      sensor_seed: noise differs between the two eyes of a stereo pair.

    Returns:
      uint8 `[H, W, 3]`.
    """
    look = world.look
    height, width = linear_image.shape[:2]
    if look.vignette > 0:
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        linear_image = linear_image * (1 - look.vignette * np.square(np.square(x) + np.square(y)) / 2.6)[..., None]
    linear_image = linear_image * lighting.gain
    if lighting.lamps > 0:
        bright = np.clip((linear_image - 0.75) * 120, 0, 255).astype(np.uint8)
        halo = np.asarray(Image.fromarray(bright).filter(ImageFilter.GaussianBlur(width / 60)), np.float32) / 120
        linear_image = linear_image + 0.8 * lighting.lamps * halo
    if look.clouds >= 1:
        # A photographic shoulder: highlights roll off instead of clipping.
        linear_image = linear_image * (1 + 0.25 * linear_image) / (1 + linear_image * 0.55)
    image = np.sqrt(np.clip(linear_image, 0, 1)).astype(np.float32)
    if lighting.blur > 0:
        image = (
            np.asarray(
                Image.fromarray((image * 255).astype(np.uint8)).filter(
                    ImageFilter.GaussianBlur(lighting.blur * width / 192)
                ),
                np.float32,
            )
            / 255
        )
    if lighting.noise > 0:
        rng = np.random.default_rng((look.key, world.seed, 77, sensor_seed))
        grain = rng.standard_normal(image.shape, np.float32)
        grain = 0.7 * grain + 0.7 * grain.mean(-1, keepdims=True)
        image = image + grain * (lighting.noise * np.sqrt(0.35 + image))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
