"""Metrics by name, and what they are computed from, on the host in float64.

Of segmentations they come from a confusion matrix: the functions take counts `[C, C]` (rows = labels, columns =
predictions, NumPy or JAX) of a whole evaluation split and return fractions. A class that neither the labels nor the
predictions contain has no score: it is NaN and is left out of means. A class that is predicted but never labelled
scores 0 and counts.

Of depths they come from sums of errors over all valid pixels of the split, see `DEPTH_SUMS`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

# NumPy or JAX.
Counts = npt.ArrayLike


class Metric(NamedTuple):
    """What a metric is, without its value.

    Attributes:
      map: the map of a frame that it compares predictions with, "label" or "depth".
      higher_is_better: whether more is better.
      unit: "fraction", which tables print in percent, "m", or "" for a plain number.
    """

    map: str
    higher_is_better: bool
    unit: str = "fraction"

    def better(self, one: float, other: float) -> float:
        """Returns the better one of two values."""
        return max(one, other) if self.higher_is_better else min(one, other)


METRICS: dict[str, Metric] = {
    "miou": Metric("label", True),
    "dice": Metric("label", True),
    "accuracy": Metric("label", True),
    "pixel_accuracy": Metric("label", True),
    "abs_rel": Metric("depth", False, ""),
    "sq_rel": Metric("depth", False, "m"),
    "rmse": Metric("depth", False, "m"),
    "rmse_log": Metric("depth", False, ""),
    "delta1": Metric("depth", True),
    "delta2": Metric("depth", True),
    "delta3": Metric("depth", True),
}
# The same of depths that have been put into metres by the median of each frame, see `inference.depth.median_scale`.
SCALED = "_scaled"
METRICS |= {f"{name}{SCALED}": known for name, known in METRICS.items() if known.map == "depth"}

# Sums over the pixels with a valid depth d and prediction p: their number, |p - d| / d, (p - d)^2 / d, (p - d)^2,
# (ln p - ln d)^2, and how many have max(p / d, d / p) below 1.25, 1.25^2 and 1.25^3.
DEPTH_SUMS = ("count", "abs_rel", "sq_rel", "squares", "log_squares", "delta1", "delta2", "delta3")


def metric(name: str, path: str) -> Metric:
    """Returns what is known of a metric; raises a UserError that names the field `path` for an unknown one."""
    if name not in METRICS:
        raise UserError(f"{path}: unknown metric '{name}'{did_you_mean(name, METRICS)}")
    return METRICS[name]


def depth_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of depth, as Eigen et al. (NeurIPS 2014) define them; NaN where no pixel is valid.

    All pixels of the split weigh the same, where monocular papers often average over each image first.

    Args:
      sums: the entries of `DEPTH_SUMS`.
    """
    means = {name: float(_ratio(np.float64(sums[name]), np.float64(sums["count"]))) for name in DEPTH_SUMS[1:]}
    roots = {"rmse": np.sqrt(means.pop("squares")), "rmse_log": np.sqrt(means.pop("log_squares"))}
    found = means | {name: float(value) for name, value in roots.items()}
    return {name: found[name] for name in METRICS if name in found}


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


def kappa(confusion: Counts) -> float:
    r"""Returns Cohen's kappa of two predictions, :math:`(p_o - p_e) / (1 - p_e)`, their agreement beyond chance.

    p_o is the share of pixels that both give one class, :math:`p_e = \sum_c p(c) q(c)` what two predictions of the same
    class shares would have by chance (Cohen, 1960). Two that give all pixels one class agree on nothing else: 0.

    That two networks or views agree as often as they are right is measured by Jiang et al. (ICLR 2022) and Baek et al.
    (NeurIPS 2022). SAC (Araslanov and Roth, CVPR 2021) learns from mirrored and scaled views of the target, MIC (Hoyer
    et al., CVPR 2023) from masked ones, a mean teacher (Tarvainen and Valpola, NeurIPS 2017) gives a second network.

    Args:
      confusion: counts `[C, C]`, rows = one prediction, columns = the other.
    """
    correct, rows, columns = _marginals(confusion)
    total = max(rows.sum(), 1.0)
    by_chance = float((rows / total) @ (columns / total))
    return 0.0 if by_chance >= 1 else float((correct.sum() / total - by_chance) / (1 - by_chance))


def _marginals(confusion: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.asarray(confusion, np.float64)
    return np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
