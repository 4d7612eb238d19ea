"""Losses of few labels and of consistency: hard pixels alone, confident pseudo-labels alone, features kept in place.

Source: UniMatch V2 (arXiv 2410.10777) and VFM-UDA++ (arXiv 2503.10685) with their released code.
"""

import jax
import jax.numpy as jnp

from uda_jax.losses.segmentation import cross_entropy_map


@jax.named_scope("ohem_cross_entropy")
def ohem_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, min_kept: int, threshold: float = 0.7, ignore_label: int = 255
) -> jax.Array:
    """Cross entropy of the hard pixels: those whose own class has a low probability (online hard example mining).

    A pixel counts if that probability is at most `threshold`, or at most the `min_kept`-th smallest one of the batch,
    whichever is larger. With fewer labelled pixels than that, all of them count.

    Args:
      logits: `[B, H, W, C]`, computed in float32.
      labels: integer classes `[B, H, W]`; `ignore_label` and everything outside [0, C) is ignored.
      min_kept: pixels of the whole batch that count at least (UniMatch V2: 200,000), static.
      threshold: probability up to which a pixel is hard.
      ignore_label: the label of unlabelled pixels.

    Returns:
      The mean over the pixels that count, a float32 scalar; 0 if there are none.
    """
    losses = cross_entropy_map(logits, labels, ignore_label=ignore_label)
    labels = labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < logits.shape[-1]) & (labels != ignore_label)
    # Ignored pixels are sorted as if they were sure.
    probabilities = jnp.where(valid, jnp.exp(-jax.lax.stop_gradient(losses)), 1.0)
    place = min(min_kept, probabilities.size) - 1
    limit = jnp.maximum(jnp.sort(probabilities.reshape(-1))[max(place, 0)], threshold)
    counted = valid & ((probabilities <= limit) | (jnp.sum(valid) < min_kept))
    count = jnp.sum(counted)
    return jnp.sum(jnp.where(counted, losses, 0.0)) / jnp.maximum(count, 1)


@jax.named_scope("confident_cross_entropy")
def confident_cross_entropy(
    logits: jax.Array, labels: jax.Array, confidence: jax.Array, padding: jax.Array, *, threshold: float
) -> jax.Array:
    """Cross entropy of pseudo-labels that are sure enough, over all pixels that are no padding.

    Args:
      logits: `[B, H, W, C]`.
      labels: pseudo-labels `[B, H, W]`.
      confidence: their probabilities `[B, H, W]`.
      padding: bool `[B, H, W]`, True where there is no image.
      threshold: probability from which a pseudo-label counts.

    Returns:
      A float32 scalar; 0 if all is padding.
    """
    trusted = (confidence >= threshold) & ~padding
    losses = cross_entropy_map(logits, labels)
    return jnp.sum(jnp.where(trusted, losses, 0.0)) / jnp.maximum(jnp.sum(~padding), 1)


@jax.named_scope("frozen_feature_distance")
def frozen_feature_distance(features: jax.Array, frozen: jax.Array) -> jax.Array:
    """Distance of features to those of a network that never learns: 0.1 smooth L1 and 0.9 (1 - cosine).

    Args:
      features, frozen: maps `[B, h, w, D]`, computed in float32.

    Returns:
      float32 `[B, h, w]`; its mean, times 0.1, is the loss of VFM-UDA++ for each domain.
    """
    features, frozen = features.astype(jnp.float32), jax.lax.stop_gradient(frozen.astype(jnp.float32))
    difference = jnp.abs(features - frozen)
    smooth = jnp.mean(jnp.where(difference < 1.0, 0.5 * jnp.square(difference), difference - 0.5), axis=-1)
    # A map of zeros has no direction and no gradient.
    squares = jnp.sum(jnp.square(features), axis=-1), jnp.sum(jnp.square(frozen), axis=-1)
    lengths = jnp.sqrt(jnp.maximum(squares[0] * squares[1], 1e-16))
    cosine = jnp.sum(features * frozen, axis=-1) / lengths
    return 0.1 * smooth + 0.9 * (1.0 - cosine)
