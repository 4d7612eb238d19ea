"""Colour jitter by torchvision's rules, with draws of its own for every image.

Brightness multiplies, contrast and saturation blend with grey, hue turns in HSV. `augment.colour_jitter` has the other
rules, those of kornia, with which DACS was trained.
"""

import jax
import jax.numpy as jnp

from uda_jax.ops.augment import draw_factors, turn_hue

# Red, green and blue in grey.
GREY = (0.2989, 0.587, 0.114)


def grey(images: jax.Array) -> jax.Array:
    """Returns the grey `[..., 1]` of RGB images `[..., 3]`."""
    return jnp.sum(images * jnp.array(GREY), axis=-1, keepdims=True)


def photometric_jitter(images: jax.Array, factors: jax.Array, orders: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, of every image in its own order.

    Args:
      images: RGB `[B, H, W, 3]` in [0, 1].
      factors: (brightness, contrast, saturation, hue) of each image `[B, 4]`; (1, 1, 1, 0) changes nothing. Contrast
        blends with the image's mean grey, saturation with each pixel's; hue turns by that share of a full turn.
      orders: a permutation of 0 .. 3 of each image `[B, 4]`: entry k is applied as the k-th.

    Returns:
      float32 images `[B, H, W, 3]` in [0, 1].
    """

    def one(image: jax.Array, factor: jax.Array, order: jax.Array) -> jax.Array:
        b, c, s, h = factor
        operations = (
            lambda x: b * x,
            lambda x: c * x + (1.0 - c) * jnp.mean(grey(x)),
            lambda x: s * x + (1.0 - s) * grey(x),
            lambda x: turn_hue(x, h),
        )
        for k in range(4):
            image = jnp.clip(jax.lax.switch(order[k], operations, image), 0.0, 1.0)
        return image

    return jax.vmap(one)(images.astype(jnp.float32), factors.astype(jnp.float32), orders)


def draw_photometric(
    key: jax.Array, count: int, *, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[jax.Array, jax.Array]:
    """Draws what `photometric_jitter` takes.

    Args:
      key: PRNG key.
      count: number of images B.
      brightness, contrast, saturation, hue: largest deviation of each factor from the one that changes nothing.

    Returns:
      Uniform factors `[B, 4]`, none below 0 but the hue's, and uniform orders `[B, 4]`.
    """
    factor_key, order_key = jax.random.split(key)
    factors = draw_factors(factor_key, count, (brightness, contrast, saturation, hue))
    orders = jax.vmap(lambda key: jax.random.permutation(key, 4))(jax.random.split(order_key, count))
    return jnp.maximum(factors, jnp.array([0.0, 0.0, 0.0, -1.0])), orders
