"""Mean feature of every class in an image: what semantic-level alignment compares between domains."""

import jax
import jax.numpy as jnp


def class_means(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    r"""Averages the features of each class's pixels, image by image.

    :math:`v_{bk} = \frac{1}{n_{bk}} \sum_{i: y_{bi} = k} f_{bi}`, so the gradient of a mean reaches its class's pixels
    with :math:`1 / n_{bk}` and no others. ASS (arXiv 2004.00794), its semantic-level features.

    Args:
      features: maps `[B, h, w, D]`, any float dtype; summed in float32.
      labels: integer classes `[B, h, w]` at the features' size (`resize_nearest_legacy`); everything outside
        [0, num_classes), 255 included, is ignored.
      num_classes: K, static.

    Returns:
      The means, float32 `[B, K, D]`, and the numbers of pixels, int32 `[B, K]`. A class without pixels has the count
      0, the mean 0 and no gradient.

    Raises:
      ValueError: the shapes do not fit together.
    """
    if features.ndim != 4 or labels.shape != features.shape[:3]:
        raise ValueError(f"labels: expected shape [B, h, w] of features {features.shape}, got {labels.shape}")
    chosen = labels.astype(jnp.int32)[..., None] == jnp.arange(num_classes)
    counts = jnp.sum(chosen, axis=(1, 2), dtype=jnp.int32)
    # A product instead of a scatter: its gradient is another product and the batch stays sharded. The precision is
    # pinned because accelerators would otherwise multiply float32 in bfloat16 or TF32.
    sums = jnp.einsum(
        "bhwk,bhwd->bkd",
        chosen.astype(jnp.float32),
        features.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return sums / jnp.maximum(counts, 1)[..., None], counts
