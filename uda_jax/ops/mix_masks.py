"""Masks for mixed images that do not look at labels: CutMix's boxes and CowMix's blots.

Source: the mask functions of DACS's released code (arXiv 2007.08702). What draws them is not among its scripts; bounds
and proportions are those of ClassMix's (arXiv 2007.07936), by the same authors.
"""

import jax
import jax.numpy as jnp


def box_masks(key: jax.Array, count: int, size: tuple[int, int]) -> jax.Array:
    """Draws a mask for each image that leaves out one box of half the image's area (CutMix, arXiv 1905.04899).

    A box is uniformly half as wide as the image up to as wide, as high as its area wants, and anywhere in the image.

    Args:
      key: PRNG key; the draw of an image depends on its position in the batch.
      count: number of images B.
      size: (height, width) in pixels.

    Returns:
      bool `[B, *size]`, False in the box.
    """
    height, width = size

    def mask(key: jax.Array) -> jax.Array:
        width_key, top_key, left_key = jax.random.split(key, 3)
        wide = jax.random.randint(width_key, (), max(1, width // 2), width + 1)
        high = jnp.minimum(jnp.round(height * width / 2 / wide).astype(jnp.int32), height)
        top = jax.random.randint(top_key, (), 0, height - high + 1)
        left = jax.random.randint(left_key, (), 0, width - wide + 1)
        return ~_box(size, top, left, high, wide)

    return jax.vmap(mask)(_keys(key, count))


def bounded_boxes(
    key: jax.Array, count: int, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> jax.Array:
    """Draws a box for each image, of uniform area and aspect, anywhere in the image.

    Source: the CutMix of UniMatch V2 (arXiv 2410.10777). That a box which is higher or wider than the image is cut to
    it is a choice.

    Args:
      key: PRNG key; the draw of an image depends on its position in the batch.
      count: number of images B.
      size: (height, width) in pixels.
      area: bounds of the box's share of the image.
      aspect: bounds of its height by its width.

    Returns:
      bool `[B, *size]`, True in the box.
    """
    height, width = size

    def mask(key: jax.Array) -> jax.Array:
        area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
        pixels = height * width * jax.random.uniform(area_key, minval=area[0], maxval=area[1])
        ratio = jax.random.uniform(aspect_key, minval=aspect[0], maxval=aspect[1])
        high = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)).astype(jnp.int32), 1, height)
        wide = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)).astype(jnp.int32), 1, width)
        top = jax.random.randint(top_key, (), 0, height - high + 1)
        left = jax.random.randint(left_key, (), 0, width - wide + 1)
        return _box(size, top, left, high, wide)

    return jax.vmap(mask)(_keys(key, count))


def cow_masks(key: jax.Array, count: int, size: tuple[int, int], sigmas: tuple[float, float]) -> jax.Array:
    """Draws a mask of irregular blots for each image, of about half its area (CowMix, arXiv 2003.12022).

    It is where white noise, blurred by a Gaussian, is above its mean.

    Args:
      key: PRNG key; the draw of an image depends on its position in the batch.
      count: number of images B.
      size: (height, width) in pixels.
      sigmas: bounds of the Gaussian's standard deviation in pixels, whose logarithm is uniform.

    Returns:
      bool `[B, *size]`.
    """

    def mask(key: jax.Array) -> jax.Array:
        sigma_key, noise_key = jax.random.split(key)
        low, high = jnp.log(jnp.asarray(sigmas, jnp.float32))
        sigma = jnp.exp(jax.random.uniform(sigma_key, (), minval=low, maxval=high))
        smooth = _blurred(jax.random.normal(noise_key, size), sigma)
        return smooth > jnp.mean(smooth)

    return jax.vmap(mask)(_keys(key, count))


def _box(size: tuple[int, int], top: jax.Array, left: jax.Array, high: jax.Array, wide: jax.Array) -> jax.Array:
    """Returns bool `[*size]`, True in a box."""
    rows, columns = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    return (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)


def _blurred(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Convolves a map `[H, W]` with a Gaussian; beyond its border it is mirrored, the border's own pixels included.

    Cosines are what such a map consists of, and the Gaussian damps each by itself, so that a wide one costs no more.
    """
    rows, columns = (jnp.pi * jnp.arange(n) / n for n in x.shape)
    damping = jnp.exp(-0.5 * jnp.square(sigma) * (jnp.square(rows)[:, None] + jnp.square(columns)))
    return jax.scipy.fft.idctn(jax.scipy.fft.dctn(x, norm="ortho") * damping, norm="ortho")


def _keys(key: jax.Array, count: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
