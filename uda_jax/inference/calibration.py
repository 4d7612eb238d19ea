"""Whether the probabilities of predictions say how often they are right: sums, made where the scores are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Equal bins of confidence from 0 to 1, as many as Guo et al. (ICML 2017) take.
BINS = 15


def row_sums(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Sums what a reliability diagram shows, over the labelled pixels of each row of pixels.

    Whole frames are to be summed on the host in float64: float32 is exact enough for a row alone.

    Args:
      scores: logits `[B, h, w, C]`.
      labels: integers `[B, h, w]`; what is no class counts nowhere.

    Returns:
      float32 `[B, h, 3, K]`: of each bin of confidence, which is the largest probability, the number of pixels, of
      those that are right, and the sum of confidences. A bin holds its upper bound.
    """
    confidence = jax.nn.softmax(scores.astype(jnp.float32)).max(axis=-1)
    right = jnp.argmax(scores, axis=-1) == labels
    labelled = (labels >= 0) & (labels < scores.shape[-1])
    position = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    inside = (position[..., None] == jnp.arange(BINS)) & labelled[..., None]
    terms = (jnp.ones_like(confidence), right.astype(jnp.float32), confidence)
    return jnp.stack([jnp.sum(jnp.where(inside, term[..., None], 0.0), axis=2) for term in terms], axis=2)


def summary(sums: np.ndarray) -> dict[str, Any]:
    """Returns the calibration of a split.

    Args:
      sums: float64 `[3, K]`, those of all rows.

    Returns:
      {"ece": fraction or None, "bins": [{"share", "accuracy", "confidence"}]}. The expected calibration error is the
      mean over pixels of |accuracy - mean confidence| of their bin; of empty bins the latter two are None.
    """
    count, right, confidence = np.asarray(sums, np.float64)
    total = count.sum()
    if not total:
        return {"ece": None, "bins": []}
    bins = [
        {"share": n / total, "accuracy": r / n if n else None, "confidence": c / n if n else None}
        for n, r, c in zip(count.tolist(), right.tolist(), confidence.tolist(), strict=True)
    ]
    return {"ece": float(np.abs(right - confidence).sum() / total), "bins": bins}
