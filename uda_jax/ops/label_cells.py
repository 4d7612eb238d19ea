"""Labels at the resolution of a network's features: the class that fills most of each cell.

Source: DAFormer (arXiv 2111.14887), section 3.3, with its released code.
"""

import math

import jax
import jax.numpy as jnp


def majority_labels(
    labels: jax.Array, size: tuple[int, int], num_classes: int, *, least_share: float, ignore_label: int = 255
) -> jax.Array:
    """Returns the most frequent label of each cell, of equals the lowest, where it is frequent enough.

    Args:
      labels: integer maps `[B, H, W]`; what is outside of [0, num_classes) is ignored, and takes its share.
      size: (height, width) of the result. Cells are squares of as many pixels as cover the image with so many of them;
        beyond the image they are ignored.
      num_classes: number of classes.
      least_share: of a cell's pixels that its class has to fill.
      ignore_label: the label of other cells, and of those that are mostly ignored.

    Returns:
      int32 `[B, *size]`.
    """
    labels = labels.astype(jnp.int32)
    side = max(math.ceil(have / cells) for have, cells in zip(labels.shape[1:], size, strict=True))
    missing = [(0, cells * side - have) for have, cells in zip(labels.shape[1:], size, strict=True)]
    labels = jnp.pad(labels, [(0, 0), *missing], constant_values=ignore_label)
    labels = jnp.where((labels >= 0) & (labels < num_classes), labels, num_classes)
    cells = labels.reshape(-1, size[0], side, size[1], side)
    # Class by class: one-hot maps of all classes would be as large as logits at full resolution.
    counts = jnp.stack([jnp.sum(cells == k, axis=(2, 4)) for k in range(num_classes + 1)], axis=-1)
    winner = jnp.argmax(counts, axis=-1)
    enough = jnp.max(counts, axis=-1) >= math.ceil(least_share * side**2)
    return jnp.where(enough & (winner < num_classes), winner, ignore_label)
