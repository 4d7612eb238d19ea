"""Ranking target images by the entropy of their predictions, to split them into easy and hard.

IntraDA (Pan et al., CVPR 2020, arXiv 2004.07703), in the form of its released code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.ops.self_information import self_information


def entropy_score(probabilities: jax.Array) -> jax.Array:
    """Mean self-information of each image, over classes and pixels; the lower, the easier.

    The paper's score sums over the classes and is therefore C times as large; the order is the same.

    Args:
      probabilities: `[B, H, W, C]`, summing to 1 over the last axis.

    Returns:
      float32 scores `[B]` in [0, 1 / C].
    """
    return jnp.mean(self_information(probabilities), axis=(1, 2, 3))


def rare_class_count(predictions: jax.Array, rare: Sequence[int], num_classes: int) -> jax.Array:
    """Number of distinct rare classes that each image is predicted to show; one pixel is enough.

    Args:
      predictions: integer classes `[B, H, W]`.
      rare: the rare classes, static; repetitions count once.
      num_classes: C, of which the rare classes must be members.

    Returns:
      int32 counts `[B]`, from 0 to the number of rare classes.

    Raises:
      ValueError: a rare class outside [0, C).
    """
    distinct = sorted(set(rare))
    if distinct and not 0 <= distinct[0] <= distinct[-1] < num_classes:
        raise ValueError(f"rare: expected classes in [0, {num_classes}), got {distinct}")
    present = jnp.any(predictions[..., None] == jnp.array(distinct, jnp.int32), axis=(1, 2))
    return jnp.sum(present, axis=-1, dtype=jnp.int32)


def rare_class_normaliser(count: jax.Array | np.ndarray, total: int) -> jax.Array | np.ndarray:
    """Factor on an image's score that favours images with rare classes, `(total - count) / total + 0.5`.

    The paper divides the score by the number of rare classes instead; this is the released code's factor.

    Args:
      count: how many rare classes an image shows, any shape.
      total: how many rare classes there are, at least 1.

    Returns:
      Factors of the same shape, from 1.5 without a rare class down to 0.5 with all of them.

    Raises:
      ValueError: there are no rare classes.
    """
    if total < 1:
        raise ValueError(f"total: expected at least one rare class, got {total}")
    return (total - count) / total + 0.5


def split_by_score(scores: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Ranks images by increasing score and cuts the ranking into easy and hard; on the host.

    Equal scores keep their order. The easy part has `int(N * fraction)` images, with the product in floating point as
    in the released code: 28 of 100 for 0.29.

    Args:
      scores: finite numbers `[N]`.
      fraction: lambda, the share of easy images in [0, 1]; 1 leaves no hard image, 0 no easy one.

    Returns:
      The positions of the easy images and those of the hard ones, int64, both by increasing score.

    Raises:
      ValueError: a fraction outside [0, 1], or a score that is not a finite number.
    """
    scores = np.asarray(scores)
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction: expected a number in [0, 1], got {fraction}")
    if not np.isfinite(scores).all():
        position = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"scores: expected finite numbers, got {scores[position]} at position {position}")
    order = np.argsort(scores, kind="stable")
    easy = int(len(scores) * fraction)
    return order[:easy], order[easy:]
