"""Segmentation scores from a confusion matrix, on the host in float64.

Every function takes counts `[C, C]` (rows = labels, columns = predictions, NumPy or JAX) of a whole evaluation split
and returns fractions. A class that neither the labels nor the predictions contain has no score: it is NaN and is left
out of means. A class that is predicted but never labelled scores 0 and counts.
"""

from collections.abc import Sequence

import jax
import numpy as np

Counts = np.ndarray | jax.Array


def iou(confusion: Counts) -> np.ndarray:
    """Returns each class's intersection over union `[C]`, tp / (tp + fp + fn)."""
    correct, labelled, predicted = _marginals(confusion)
    return _ratio(correct, labelled + predicted - correct)


def mean_iou(confusion: Counts, classes: Sequence[int] | None = None) -> float:
    """Returns the mean IoU.

    Args:
      confusion: counts `[C, C]`.
      classes: the rows that enter the mean, all by default. The IoUs still come from the full matrix, so that the
        13-class score of a 16-class network counts confusions with the other three (SYNTHIA's two protocols).

    Returns:
      A fraction; NaN if no class of the selection has a score.
    """
    scores = iou(confusion)
    scores = scores if classes is None else scores[np.asarray(classes, np.int64)]
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if scores.size else float("nan")


def dice(confusion: Counts) -> np.ndarray:
    """Returns each class's Dice score `[C]`, 2 tp / (2 tp + fp + fn)."""
    correct, labelled, predicted = _marginals(confusion)
    return _ratio(2.0 * correct, labelled + predicted)


def pixel_accuracy(confusion: Counts) -> float:
    """Returns the fraction of labelled pixels that are right; NaN if there are none."""
    correct, labelled, _ = _marginals(confusion)
    return float(_ratio(correct.sum(), labelled.sum()))


def _marginals(confusion: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.asarray(confusion, np.float64)
    return np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
