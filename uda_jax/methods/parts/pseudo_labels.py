"""Pseudo-labels from two views of an image, as it is and mirrored.

Source: VFM-UDA (arXiv 2406.09896) with its released code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PseudoLabels(NamedTuple):
    """What a teacher says of a batch.

    Attributes:
      label: int32 `[B, H, W]`, the most probable class.
      confidence: its probability, float32 `[B, H, W]`.
      weight: float32 `[B, H, W]`, how far a pixel's label counts.
    """

    label: jax.Array
    confidence: jax.Array
    weight: jax.Array


def flip_averaged(
    logits: jax.Array, mirrored: jax.Array, *, threshold: float, distrust: jax.Array | None = None
) -> PseudoLabels:
    """Averages the probabilities of an image and of its mirror image.

    Every pixel weighs the share of all pixels of the batch whose confidence reaches the threshold, distrusted ones
    included, and 0 where it is distrusted.

    Args:
      logits: of the images, `[B, H, W, C]` at their size.
      mirrored: of the mirrored images, not yet mirrored back.
      threshold: confidence at which a pixel is counted.
      distrust: `[B, H, W]`, above 0 where labels do not count; None = nowhere.
    """
    both = (jax.nn.softmax(x.astype(jnp.float32)) for x in (logits, mirrored[:, :, ::-1]))
    found = 0.5 * sum(both)
    confidence = jnp.max(found, axis=-1)
    weight = jnp.full(confidence.shape, jnp.mean((confidence >= threshold).astype(jnp.float32)))
    if distrust is not None:
        weight = jnp.where(distrust > 0, 0.0, weight)
    return PseudoLabels(jnp.argmax(found, axis=-1).astype(jnp.int32), confidence, weight)
