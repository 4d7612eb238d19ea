"""One frame of either look, a stereo pair, the frames before and after, or a drive through a street."""

import dataclasses
import zlib

import numpy as np

from uda_jax.data.rendering import layout, shading
from uda_jax.data.rendering.looks import LOOKS, Look
from uda_jax.data.rendering.raster import Camera, place, rotation, trace
from uda_jax.data.rendering.world import World, stream
from uda_jax.errors import UserError

# Part of the key under which rendered data sets are stored: raise it whenever any pixel of any frame changes.
RENDERER_VERSION = "streets-1"
# The same for the frames before and after, of which frames themselves know nothing.
DRIVE_VERSION = "drive-1"
SPEED = (0.5, 1.0)  # bounds, metres per frame
TURN = 0.4  # degrees to either side per frame, standard deviation
FOCAL = 0.8  # focal length in image widths: a horizontal field of view of 64 degrees


@dataclasses.dataclass(frozen=True)
class Frame:
    """A rendered view.

    Attributes:
      image: uint8 `[H, W, 3]` RGB.
      label: uint8 `[H, W]`, Cityscapes train ids.
      depth: float32 `[H, W]`, metres along the optical axis at the pixel's centre, 0 = invalid (sky).
      intrinsics: float64 `[3, 3]`, pixels; the centre of the pixel in row i, column j is (i, j).
      condition: "clean", "day", "dusk", "fog" or "night".
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    condition: str


def intrinsics(size: tuple[int, int]) -> np.ndarray:
    """Returns the camera matrix `[3, 3]` (pixels) of frames of a size (height, width); the same for both looks."""
    height, width = size
    focal = FOCAL * width
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def render(
    look: str,
    seed: int,
    size: tuple[int, int] = (96, 192),
    *,
    camera_offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    yaw_offset: float = 0.0,
    condition: str | None = None,
) -> Frame:
    """Renders the street of a seed.

    Args:
      look: "simulator" or "camera".
      seed: non-negative integer; equal arguments give equal bytes.
      size: height and width in pixels, any.
      camera_offset: metres to the right, down and forward along the camera's own axes (before `yaw_offset`).
      yaw_offset: radians to the right about the vertical.
      condition: one of the look's conditions, by default the one that the seed draws.

    Raises:
      UserError: unknown look or condition, or a size below 2x2.
    """
    domain = _look(look, condition, size)
    street = layout.build(domain, seed)
    x, height, yaw, pitch = street.camera
    offset = rotation(yaw, pitch).T @ np.asarray(camera_offset, float)
    position = np.array([x, height, 0.0]) + offset
    eye = zlib.crc32(np.array([*camera_offset, yaw_offset], "<f8").tobytes())
    return _views(street, [(position, rotation(yaw + yaw_offset, pitch), eye)], size, condition)[0]


def render_stereo(
    look: str, seed: int, size: tuple[int, int] = (96, 192), baseline: float = 0.22, *, condition: str | None = None
) -> tuple[Frame, Frame]:
    """Renders a rectified pair (left, right): disparity in pixels = fx * baseline / depth; noise is per eye."""
    right = render(look, seed, size, camera_offset=(baseline, 0.0, 0.0), condition=condition)
    return render(look, seed, size, condition=condition), right


def render_drive(
    look: str,
    seed: int,
    size: tuple[int, int] = (96, 192),
    frames: int = 30,
    speed: float = 0.5,
    *,
    condition: str | None = None,
) -> list[Frame]:
    """Renders a drive straight along the street, `speed` metres per frame; the street lasts as long as the drive.

    The first frame is not always that of `render`: the own lane is kept clear for the length of the drive.
    """
    way = frames * speed
    street = layout.build(_look(look, condition, size), seed, length=100.0 + way, clear=9.0 + way)
    x, height, yaw, pitch = street.camera
    poses = [(np.array([x, height, k * speed]), rotation(yaw, pitch), k) for k in range(frames)]
    return _views(street, poses, size, condition)


def render_neighbours(
    look: str, seed: int, size: tuple[int, int] = (96, 192), *, condition: str | None = None
) -> tuple[Frame, Frame]:
    """Renders the frames before and after that of `render`, from a camera that drives through the very same street.

    Each seed has its own speed within `SPEED` straight along the street, and turns to one side by about `TURN`. All
    else stands still. Noise is that of another moment.
    """
    street = layout.build(_look(look, condition, size), seed)
    poses = [(*_pose(street, offset), zlib.crc32(f"drive {offset}".encode())) for offset in (-1, 1)]
    previous, following = _views(street, poses, size, condition)
    return previous, following


def motion(look: str, seed: int, offset: int) -> np.ndarray:
    """Returns how the camera has moved between `render` and a frame of `render_neighbours`.

    Args:
      look, seed: of the frame.
      offset: -1 for the frame before, 1 for the frame after.

    Returns:
      float64 `[4, 4]`: from coordinates of the frame's camera to those of the camera of its neighbour.
    """
    street = layout.build(_look(look, None, (2, 2)), seed)
    (here, axes), (there, other) = _pose(street, 0), _pose(street, offset)
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = other @ axes.T, other @ (here - there)
    return moved


def _pose(street: World, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the camera is in the world, and its axes, so many frames after that of `render`."""
    rng = stream(street.look, street.seed, "drive")
    speed, turn = rng.uniform(*SPEED), np.radians(TURN) * rng.normal()
    x, height, yaw, pitch = street.camera
    return np.array([x, height, offset * speed]), rotation(yaw + offset * turn, pitch)


def _look(name: str, condition: str | None, size: tuple[int, int]) -> Look:
    if name not in LOOKS:
        raise UserError(f"streets: unknown look {name!r}; known: {', '.join(sorted(LOOKS))}")
    known = [entry for entry, _ in LOOKS[name].conditions]
    if condition is not None and condition not in known:
        raise UserError(f"streets: look {name!r} has no condition {condition!r}; known: {', '.join(known)}")
    if min(size) < 2:
        raise UserError(f"streets: expected a size of at least 2x2 pixels, got {size[0]}x{size[1]}")
    return LOOKS[name]


def _views(
    street: World, poses: list[tuple[np.ndarray, np.ndarray, int]], size: tuple[int, int], condition: str | None
) -> list[Frame]:
    """Renders views (position, rotation, sensor seed) of one street."""
    surfaces, lighting = place(street), shading.light(street.look, street.seed, condition)
    matrix, (height, width) = intrinsics(size), size
    result = []
    for position, axes, eye in poses:
        camera = Camera(size, matrix, position, axes)
        hits = trace(street, surfaces, camera)
        centres = shading.shade(street, surfaces, lighting, camera, hits, 0.0).reshape(height, width, 3)
        # Antialiasing by quincunx: half from the centre, half from the four corners, which neighbours share.
        corner_hits = trace(street, surfaces, camera, -0.5)
        corners = shading.shade(street, surfaces, lighting, camera, corner_hits, -0.5).reshape(height + 1, width + 1, 3)
        mean = (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]) * 0.125 + 0.5 * centres
        image = shading.develop(street, lighting, mean, eye)
        label = surfaces.label[hits.row, hits.part].reshape(size)
        result.append(Frame(image, label, hits.depth.reshape(size), matrix, lighting.condition))
    return result
