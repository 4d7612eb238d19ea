"""One street as data: the ground and the objects that stand on it.

World axes: x to the right across the street (0 = its middle), y up (0 = the ground), z along the street in metres.
"""

import dataclasses

import numpy as np

from uda_jax.data.rendering.looks import Look

START = -14.0  # the street begins behind the camera, for side views and shadows
BLOCK = 9.0  # length of one block of ground: verge or not, lot surface
ASPHALT, MARKING, KERB, SLABS, GRASS, PATCH = range(1, 7)  # parts of the ground
_STREAMS = (
    "street",
    "paint",
    "pose",
    "condition",
    "buildings",
    "trees",
    "furniture",
    "parked",
    "bikes",
    "traffic",
    "people",
    "cyclists",
    "drive",
)


@dataclasses.dataclass(frozen=True)
class Ground:
    """The flat ground y = 0: bands along the street. Index 0 of a pair is the left side (x < 0)."""

    road_half: float
    sidewalk: float
    verge: np.ndarray  # bool [2, blocks]: grass at the kerb
    grown: np.ndarray  # bool [2, blocks]: grass, not slabs, beyond the sidewalk
    crossing: float  # z of the zebra crossing; NaN = none
    parking: tuple[bool, bool]
    colours: np.ndarray  # [8, 3] linear

    def parts(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Returns the ground part (uint8) at points of the plane; x and z are arrays of one shape, in metres."""
        side, across = (x > 0).astype(np.intp), np.abs(x)
        block = np.clip(((z - START) / BLOCK).astype(np.intp), 0, self.verge.shape[1] - 1)
        edge = self.road_half
        result = np.where(across > edge + self.sidewalk, np.where(self.grown[side, block], GRASS, SLABS), SLABS).astype(
            np.uint8
        )
        result[(across > edge + 0.25) & (across < edge + 1.1) & self.verge[side, block]] = GRASS
        result[across < edge + 0.25] = KERB
        on_road = across < edge
        dashed = (across < 0.09) & ((z - START) % 6.0 < 3.0)
        lane_edge = edge - 2.15 * np.where(x > 0, self.parking[1], self.parking[0]) - 0.2
        markings = dashed | (np.abs(across - lane_edge) < 0.07)
        if not np.isnan(self.crossing):
            near = np.abs(z - self.crossing)
            markings = np.where(near < 1.6, (x % 1.0) < 0.5, markings & (near > 3.2)) | (
                (np.abs(z - self.crossing + 2.6) < 0.2) & (x > 0)
            )
        result[on_road] = ASPHALT
        result[on_road & ((np.floor(z / 5.0) * 7 + np.floor(x / 1.7) * 13) % 11 < 1.5)] = PATCH
        result[on_road & markings] = MARKING
        return result


@dataclasses.dataclass(frozen=True)
class World:
    """One street with I placed objects."""

    look: Look
    seed: int
    length: float
    ground: Ground
    template: np.ndarray  # int [I]
    position: np.ndarray  # [I, 2]: x, z
    yaw: np.ndarray  # [I] radians, 0 = facing along +z, positive turns right
    scale: np.ndarray  # [I, 3]
    colours: np.ndarray  # [I, 8, 3] linear albedo per part
    roofs: np.ndarray  # [2, metres]: height of the buildings on either side, per metre from START
    lamps: np.ndarray  # [L, 3]: where street lamps glow
    camera: tuple[float, float, float, float]  # x, height in metres; yaw, pitch in radians


def stream(look: Look, seed: int, name: str) -> np.random.Generator:
    """Returns the random stream of one concern of one frame."""
    return np.random.default_rng((look.key, seed, _STREAMS.index(name)))


def linear(colour: object) -> np.ndarray:
    """Returns sRGB bytes as linear intensities with a gamma of 2, which `shading.develop` undoes."""
    return np.square(np.asarray(colour, np.float32) / 255.0)
