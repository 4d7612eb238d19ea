"""Figures of several splits together, for targets that consist of several data sets."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.inference.evaluate import Evaluator

Summary = Mapping[str, Any]
Totals = Mapping[str, np.ndarray]


def joint_summary(
    kind: str, evaluators: Sequence[Evaluator], totals: Sequence[Totals], summaries: Sequence[Summary]
) -> dict[str, Any]:
    """Returns the figures of all splits together, in the form of `evaluate.summarise`.

    Args:
      kind: "mean", see `mean_of`, so that each split counts alike; or "pixels": one confusion matrix (and one sum over
        all depths) holds the pixels of all splits, so that large ones count for more.
      evaluators: of the splits, which have the same classes.
      totals: the sums of each, from `Evaluator.totals`.
      summaries: the figures of each.
    """
    if kind == "mean":
        return mean_of(summaries)
    shared = [name for name in totals[0] if all(name in each for each in totals)]
    return evaluators[0].summary({name: np.sum([each[name] for each in totals], axis=0) for name in shared})


def mean_of(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Returns the mean of each figure over the splits.

    A figure that a split lacks is None, since a mean over the others would be of other data. Classes are an exception:
    one that is neither labelled nor predicted in a split has no IoU or Dice there, and its mean is that of the others.
    """
    found = {}
    for group in ("miou", "metrics"):
        names = [name for name in summaries[0][group] if all(name in each[group] for each in summaries)]
        found[group] = {name: _mean([each[group][name] for each in summaries]) for name in names}
    for group in ("iou", "dice"):
        classes = dict.fromkeys(name for each in summaries for name in each[group])
        values = {name: [each[group].get(name) for each in summaries] for name in classes}
        found[group] = {name: _mean([value for value in own if value is not None]) for name, own in values.items()}
    return found | {"pixel_accuracy": _mean([each["pixel_accuracy"] for each in summaries])}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else statistics.fmean(values)
