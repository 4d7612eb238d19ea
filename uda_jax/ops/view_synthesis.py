"""What a frame would look like, rebuilt from another view by its depth, the cameras and their motion.

Cameras look along z, x is to the right and y down. Pixels are counted from the centre of the first one, (0, 0);
`camera_matrix` gets there from the `intrinsics` of a batch. Everything is computed in float32.

Source: T. Zhou et al., Unsupervised Learning of Depth and Ego-Motion from Video, CVPR 2017; the constants are those of
C. Godard et al., Digging Into Self-Supervised Monocular Depth Estimation, ICCV 2019 (Monodepth2).
"""

import jax
import jax.numpy as jnp

# What is added to a distance before it divides.
_OFFSET = 1e-7
# Radians squared below which a rotation is computed from its series.
_SMALL = 1e-4


def depth_from_disparity(disparity: jax.Array, *, nearest: float = 0.1, farthest: float = 100.0) -> jax.Array:
    """Turns what a depth network ends with, a sigmoid, into depth, linear in the inverse depth.

    Args:
      disparity: in [0, 1], any shape; 0 = farthest, 1 = nearest.
      nearest, farthest: the range of depths, in metres or whatever unit the motion is in.

    Returns:
      float32 depth of the same shape.

    Raises:
      ValueError: no range.
    """
    if not 0 < nearest < farthest:
        raise ValueError(f"nearest and farthest: expected 0 < nearest < farthest, got {nearest} and {farthest}")
    far, near = 1.0 / farthest, 1.0 / nearest
    return 1.0 / (far + (near - far) * disparity.astype(jnp.float32))


def camera_matrix(intrinsics: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Turns the `intrinsics` of a batch into camera matrices for images of a size, its own or another scale of it.

    Args:
      intrinsics: (fx / W, fy / H, u0 / W, v0 / H) of the images `[B, 4]`, where (u0, v0) is counted from the outer
        corner of the first pixel.
      size: height and width in pixels.

    Returns:
      float32 `[B, 3, 3]`, in pixels, (0, 0) = centre of the first one.
    """
    height, width = size
    fx, fy, u0, v0 = jnp.moveaxis(intrinsics.astype(jnp.float32), -1, 0)
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [width * fx, zero, width * u0 - 0.5, zero, height * fy, height * v0 - 0.5, zero, zero, one]
    return jnp.stack(rows, axis=-1).reshape(*fx.shape, 3, 3)


def rigid_motion(axis_angle: jax.Array, translation: jax.Array, *, inverse: bool = False) -> jax.Array:
    """Returns matrices that rotate points, then move them.

    The gradient is exact at rest, too. In Monodepth2, which divides by the angle, no gradient reaches a rotation of 0.

    Args:
      axis_angle: axes of rotation times the angles in radians, `[B, 3]`.
      translation: `[B, 3]`.
      inverse: whether to return the motions that undo these.

    Returns:
      float32 `[B, 4, 4]`.
    """
    x, y, z = jnp.moveaxis(axis_angle.astype(jnp.float32), -1, 0)
    zero = jnp.zeros_like(x)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    squared = x**2 + y**2 + z**2
    small = squared < _SMALL
    # The branch that is not taken must have a finite gradient, which the root of 0 has not.
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    half = 0.5 * angle
    sine = jnp.where(small, 1.0 - squared / 6.0, jnp.sin(angle) / angle)
    versine = jnp.where(small, 0.5 - squared / 24.0, 0.5 * jnp.square(jnp.sin(half) / half))
    turned = sine[..., None, None] * cross + versine[..., None, None] * _times(cross, cross)
    rotation = jnp.eye(3) + turned
    moved = translation.astype(jnp.float32)[..., None]
    if inverse:
        rotation = rotation.swapaxes(-1, -2)
        moved = -_times(rotation, moved)
    last = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*x.shape, 1, 4))
    return jnp.concatenate([jnp.concatenate([rotation, moved], axis=-1), last], axis=-2)


def back_project(depth: jax.Array, intrinsics: jax.Array) -> jax.Array:
    """Returns the points in space that the pixels of a camera show.

    Args:
      depth: distances along z `[B, H, W]`.
      intrinsics: camera matrices in pixels `[B, 3, 3]`, upper triangular with 1 in the last place.

    Returns:
      float32 points (x, y, z) of the camera `[B, H, W, 3]`.
    """
    height, width = depth.shape[1:]
    camera = intrinsics.astype(jnp.float32)[:, :, :, None, None]
    row = jnp.arange(height, dtype=jnp.float32)[:, None]
    column = jnp.arange(width, dtype=jnp.float32)[None, :]
    y = (row - camera[:, 1, 2]) / camera[:, 1, 1]
    x = (column - camera[:, 0, 2] - camera[:, 0, 1] * y) / camera[:, 0, 0]
    x, y = jnp.broadcast_arrays(x, y)
    return depth.astype(jnp.float32)[..., None] * jnp.stack([x, y, jnp.ones_like(x)], axis=-1)


def project(points: jax.Array, intrinsics: jax.Array, motion: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns where another camera sees points.

    Args:
      points: `[B, H, W, 3]`, as from `back_project`.
      intrinsics: matrices of the other camera in pixels `[B, 3, 3]`.
      motion: matrices `[B, 4, 4]` from the points' coordinates to those of the other camera.

    Returns:
      Pixels (x, y) `[B, H, W, 2]` and distances along z `[B, H, W]`, both float32. Of points that are not in front of
      the camera the pixel means nothing, but it and its gradient are finite.
    """
    motion = motion.astype(jnp.float32)
    seen = _turned(motion[:, :3, :3], points.astype(jnp.float32)) + motion[:, None, None, :3, 3]
    pixels = _turned(intrinsics.astype(jnp.float32), seen)
    depth = seen[..., 2]
    divisor = depth + _OFFSET
    divisor = jnp.where(jnp.abs(divisor) < _OFFSET, _OFFSET, divisor)
    return pixels[..., :2] / divisor[..., None], depth


def in_view(pixels: jax.Array, depth: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns which points lie in front of a camera and on its image, up to the outer edges of the border's pixels.

    Args:
      pixels, depth: from `project`.
      size: height and width of the camera's image.

    Returns:
      bool `[B, H, W]`.
    """
    upper = jnp.array([size[1] - 0.5, size[0] - 0.5])
    return (depth > 0) & jnp.all((pixels >= -0.5) & (pixels <= upper), axis=-1)


def sample_bilinear(images: jax.Array, pixels: jax.Array) -> jax.Array:
    """Reads images between their pixels; what lies outside reads the border, without a gradient to where it lies.

    In PyTorch's terms `grid_sample` with border padding and aligned corners, but for the unit of the places.

    Args:
      images: `[B, H, W, C]`.
      pixels: places (x, y) `[B, h, w, 2]`, (0, 0) = centre of the first pixel.

    Returns:
      float32 `[B, h, w, C]`.
    """
    height, width, channels = images.shape[1:]
    last = jnp.array([width - 1, height - 1], jnp.float32)
    pixels = pixels.astype(jnp.float32)
    inside = (pixels > 0) & (pixels < last)
    pixels = jnp.where(inside, pixels, jax.lax.stop_gradient(jnp.clip(pixels, 0.0, last)))
    # Blocks of 2x2 pixels, read by one gather. At the far border the block ends, rather than starts, with the place.
    rows, columns = max(height, 2), max(width, 2)
    grown = ((0, 0), (0, rows - height), (0, columns - width), (0, 0))
    images = jnp.pad(images.astype(jnp.float32), grown, mode="edge")
    low = jnp.clip(jnp.floor(pixels).astype(jnp.int32), 0, jnp.array([columns - 2, rows - 2]))
    right, down = jnp.moveaxis(pixels - low, -1, 0)[..., None]

    def block(image: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (place[1], place[0], 0), (2, 2, channels))

    over_rows = jax.vmap(jax.vmap(block, (None, 0)), (None, 0))
    blocks = jax.vmap(over_rows)(images, low)
    upper, lower = (
        (1.0 - right) * blocks[..., row, 0, :] + right * blocks[..., row, 1, :] for row in range(2)
    )  # each row of the blocks at the place's x
    return (1.0 - down) * upper + down * lower


def synthesise_view(
    view: jax.Array,
    depth: jax.Array,
    intrinsics: jax.Array,
    motion: jax.Array,
    *,
    view_intrinsics: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Rebuilds a frame from another view of the same, still scene.

    Args:
      view: the images to read from `[B, H, W, C]`.
      depth: of the frame to rebuild `[B, h, w]`.
      intrinsics: its camera matrices `[B, 3, 3]`, as in `back_project`.
      motion: matrices `[B, 4, 4]` from the frame's camera to that of the view.
      view_intrinsics: camera matrices of the view; by default the frame's.

    Returns:
      The frame, float32 `[B, h, w, C]`, and which of its pixels lie in the view, bool `[B, h, w]`: the others show the
      view's border. Points that something hides in the view are not found out.
    """
    camera = intrinsics if view_intrinsics is None else view_intrinsics
    pixels, distance = project(back_project(depth, intrinsics), camera, motion)
    return sample_bilinear(view, pixels), in_view(pixels, distance, view.shape[1:3])


def _times(one: jax.Array, other: jax.Array) -> jax.Array:
    # Accelerators would otherwise multiply float32 in bfloat16 or TF32.
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)


def _turned(matrix: jax.Array, points: jax.Array) -> jax.Array:
    """Returns matrices `[B, 3, 3]` times points `[B, H, W, 3]`: as a sum, which is fused with what surrounds it."""
    return jnp.sum(matrix[:, None, None] * points[..., None, :], axis=-1)
