"""Strong augmentation on the device: colour jitter and Gaussian blur.

Both follow kornia 0.4.1, with which DACS and CorDA were trained. Its jitter is not torchvision's: brightness is added,
contrast has no mean in it, and hue turns by up to a quarter of the circle.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def colour_jitter(images: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, in a given order.

    Brightness b adds b - 1 and contrast c multiplies by c, both clipped to [0, 1]. Saturation s multiplies the S of
    HSV, clipped to [0, 1], and hue h turns its angle by h of a full turn.

    Args:
      images: RGB `[B, H, W, 3]` in [0, 1].
      factors: (b, c, s, h) of each image `[B, 4]`; (1, 1, 1, 0) changes nothing.
      order: a permutation `[4]` of 0 .. 3, brightness to hue: entry k is applied as the k-th, to all images.

    Returns:
      float32 images `[B, H, W, 3]` in [0, 1].
    """
    b, c, s, h = (factors[:, k, None, None, None].astype(jnp.float32) for k in range(4))
    operations = (
        lambda x: jnp.clip(x + (b - 1.0), 0.0, 1.0),
        lambda x: jnp.clip(x * c, 0.0, 1.0),
        lambda x: _scale_saturation(x, s),
        lambda x: turn_hue(x, h),
    )
    images = images.astype(jnp.float32)
    for k in range(4):
        images = jax.lax.switch(order[k], operations, images)
    return images


def draw_jitter(
    key: jax.Array, count: int, *, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[jax.Array, jax.Array]:
    """Draws what `colour_jitter` takes.

    Args:
      key: PRNG key.
      count: number of images B.
      brightness, contrast, saturation, hue: largest deviation of each factor from the one that changes nothing.

    Returns:
      Uniform factors `[B, 4]` and a uniform order `[4]`.
    """
    factor_key, order_key = jax.random.split(key)
    factors = draw_factors(factor_key, count, (brightness, contrast, saturation, hue))
    return factors, jax.random.permutation(order_key, 4)


def draw_factors(key: jax.Array, count: int, spans: Sequence[float]) -> jax.Array:
    """Returns factors `[count, 4]` of brightness, contrast, saturation and hue, uniform around those of no change."""
    around = jax.random.uniform(key, (count, 4), minval=-1.0)
    return jnp.array([1.0, 1.0, 1.0, 0.0]) + jnp.array(spans, jnp.float32) * around


def gaussian_blur(images: jax.Array, sigmas: jax.Array, kernel_size: tuple[int, int]) -> jax.Array:
    """Convolves each image with a normalised Gaussian; the border is reflected without its own pixel.

    Args:
      images: `[B, H, W, C]`.
      sigmas: standard deviation of each image's Gaussian in pixels `[B]`, > 0.
      kernel_size: odd height and width of the kernel in pixels, static; at most 2 H - 1 and 2 W - 1.

    Returns:
      float32 images `[B, H, W, C]`.
    """
    images = images.astype(jnp.float32)
    # Tap by tap along each axis: one fused loop without intermediate arrays, on the CPU twice as fast as two products
    # with band matrices.
    for axis, size in zip((1, 2), kernel_size, strict=True):
        radius = size // 2
        distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
        kernels = jnp.exp(-jnp.square(distance) / (2.0 * jnp.square(sigmas[:, None])))
        kernels = kernels / jnp.sum(kernels, axis=1, keepdims=True)
        margins = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded, length = jnp.pad(images, margins, mode="reflect"), images.shape[axis]
        images = sum(
            kernels[:, k, None, None, None] * jax.lax.slice_in_dim(padded, k, k + length, axis=axis)
            for k in range(size)
        )
    return images


def blur_kernel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the kernel (height, width) for images of a size: the odd number at or just below a tenth of each side.

    The side's tenth is rounded up first: 512 pixels give 51.
    """
    tenths = [math.ceil(0.1 * side) for side in size]
    return tuple(tenth - 1 + tenth % 2 for tenth in tenths)


def _scale_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the saturation S = (max - min) / max of HSV and clips it to 1; hue and value stay."""
    value = jnp.max(images, axis=-1, keepdims=True)
    chroma = value - jnp.min(images, axis=-1, keepdims=True)
    # Each channel is value (1 - S w) with a w of the hue alone, so its distance from the value grows as S does.
    most = value / jnp.where(chroma > 0.0, chroma, 1.0)
    return value - (value - images) * jnp.minimum(factor, most)


def turn_hue(images: jax.Array, turn: jax.Array) -> jax.Array:
    """Adds `turn` of a full turn to the hue of HSV of RGB images `[..., 3]`; saturation and value stay."""
    value = jnp.max(images, axis=-1, keepdims=True)
    chroma = value - jnp.min(images, axis=-1, keepdims=True)
    red, green, blue = images[..., 0:1], images[..., 1:2], images[..., 2:3]
    # In sixths of a turn: the largest channel gives the sector's middle, the other two the position within.
    sixths = jnp.where(
        red == value, green - blue, jnp.where(green == value, 2.0 * chroma + blue - red, 4.0 * chroma + red - green)
    )
    sixths = sixths / jnp.where(chroma > 0.0, chroma, 1.0) + 6.0 * turn
    # A channel is at the value within 1 sixth of its own hue, at the minimum beyond 2, and in between linear.
    position = jnp.mod(sixths + jnp.array([5.0, 3.0, 1.0]), 6.0)
    return value - chroma * jnp.clip(jnp.minimum(position, 4.0 - position), 0.0, 1.0)
