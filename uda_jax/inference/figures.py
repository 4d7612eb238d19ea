"""From a confusion matrix to the figures of a result row: protocols, what counts, means over classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.data.datasets import digits
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.inference.options import Evaluation
from uda_jax.training import metrics

# The protocol of classification: the share of pictures that are right.
ACCURACY = "accuracy"


def protocols(space: label_spaces.LabelSpace) -> dict[str, tuple[int, ...]]:
    """Returns the protocols that a confusion matrix of this label space answers: name -> classes that are averaged.

    A protocol is known by the names of its classes, in whichever order the space has them. The 19 and the 16 classes
    also answer the smaller protocols of SYNTHIA's papers. Digits are classes of whole pictures and answer
    "accuracy". Any other space answers "own", the mean over all of it.
    """
    if space.names == digits.CLASSES:
        return {ACCURACY: tuple(range(len(space.names)))}
    for family in (("19", "16", "13"), ("10",), ("7",), ("camvid",), ("idd_lite",)):
        for position, protocol in enumerate(family):
            if set(space.names) == set(label_spaces.label_space(protocol).names):
                names = {answered: label_spaces.label_space(answered).names for answered in family[position:]}
                return {answered: tuple(map(space.names.index, classes)) for answered, classes in names.items()}
    return {"own": tuple(range(len(space.names)))}


def foreground(space: label_spaces.LabelSpace, classes: Sequence[int]) -> list[int]:
    """Returns those of some classes that are not the background."""
    return [k for k in classes if space.names[k] != label_spaces.BACKGROUND]


def counted(
    matrix: np.ndarray, averaged: Sequence[int], void: np.ndarray | None = None, count_void_predictions: bool = True
) -> np.ndarray:
    """Returns the counts that IoU and Dice are made of: a last row and column for pixels without a class.

    A pixel of a class that is averaged, but predicted as one that is not, is an error; or, where void predictions do
    not count, left out. A pixel without a label is left out; or, where void labels count, an error of the class that
    it is predicted as.

    Args:
      matrix: int64 [C, C], rows = labels.
      averaged: the classes that the protocol averages.
      void: int64 [C], predictions at pixels without a label, where these count.
      count_void_predictions: see above.

    Returns:
      int64 [C + 1, C + 1], whose last column is empty.
    """
    found = np.zeros((len(matrix) + 1, len(matrix) + 1), np.int64)
    found[:-1, :-1] = matrix
    if not count_void_predictions:
        found[:-1, np.setdiff1d(np.arange(len(matrix)), averaged)] = 0
    if void is not None:
        found[-1, :-1] = void
    return found


def summarise(
    matrix: np.ndarray,
    space: label_spaces.LabelSpace,
    protocol: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    void: np.ndarray | None = None,
    count_void_predictions: bool = True,
) -> dict[str, Any]:
    """Turns a confusion matrix into the figures of a result row.

    Args:
      matrix: int64 [C, C], rows = labels.
      space: the label space of its rows.
      protocol: whose classes the metrics "miou" and "dice" average; None, or one that cannot be answered = the first.
      classes: those that the split has labels of; protocols of others are left out if that leaves any. None = all.
      void, count_void_predictions: see `counted`; by default what Cityscapes' own evaluation does.

    Returns:
      {"miou": {protocol: fraction}, "iou" and "dice": {class: fraction or None}, "pixel_accuracy": fraction, "metrics":
      {name: fraction or None}}. A protocol's mean covers its classes that are labelled in the split, the mean of Dice
      those but for the background; a class that is neither labelled nor predicted is None, and so is one outside of
      the protocol where void predictions do not count. "accuracy" is no mean, but the share of labels that are right;
      pixels without a label are no part of it.
    """
    labelled = np.flatnonzero(matrix.sum(axis=1))
    answered = answerable(space, classes)
    headed = protocol if protocol in answered else next(iter(answered))
    counts = {name: counted(matrix, averaged, void, count_void_predictions) for name, averaged in answered.items()}
    own = counts[headed]
    iou, dice = metrics.iou(own)[:-1], metrics.dice(own)[:-1]
    if not count_void_predictions:
        outside = np.setdiff1d(np.arange(len(matrix)), answered[headed])
        iou[outside] = dice[outside] = np.nan
    accuracy = float(metrics.pixel_accuracy(own[:-1, :-1]))
    means, found = {}, {"pixel_accuracy": accuracy if labelled.size else None}
    for name, averaged in answered.items():
        present = [c for c in averaged if c in labelled]
        score = accuracy if name == ACCURACY else metrics.mean_iou(counts[name], present)
        means[name] = score if present else None
        if name == headed and name != ACCURACY:
            shown = foreground(space, present)
            found |= {"miou": means[name], "dice": float(dice[shown].mean()) if shown else None}
    if ACCURACY in means:
        found[ACCURACY] = means[ACCURACY]
    return {
        "miou": means,
        "iou": _by_name(space, iou),
        "dice": _by_name(space, dice),
        "pixel_accuracy": accuracy,
        "metrics": found,
    }


def answerable(space: label_spaces.LabelSpace, classes: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Returns `protocols` without those of classes that a split has no labels of, unless that leaves none."""
    known = set(map(space.names.index, space.names if classes is None else classes))
    return {name: averaged for name, averaged in protocols(space).items() if known.issuperset(averaged)} or protocols(
        space
    )


def _by_name(space: label_spaces.LabelSpace, values: np.ndarray) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(space.names, values, strict=True)}


def headline(summary: Mapping[str, Any], section: Evaluation, path: str = "config.evaluation.final") -> float:
    """Returns the value of the headline metric.

    Args:
      summary: the figures of a split.
      section: names the metric, and the protocol of a mean IoU.
      path: dotted name of the split's section, for messages.

    Raises:
      UserError: the method or the label space has no such figure, or there was nothing to compare with.
    """
    if section.headline == "miou":
        field, name, figures = "protocol", section.protocol, summary["miou"]
    else:
        field, name, figures = "headline", section.headline, summary["metrics"]
    if name not in figures:
        raise UserError(f"config.evaluation.{field}: expected one of {sorted(figures)}, got {name!r}")
    value = figures[name]
    if value is None or np.isnan(value):
        kind = metrics.METRICS[section.headline].map
        what = f"label of protocol {name!r}" if field == "protocol" else f"valid {kind} for {name!r}"
        raise UserError(f"{path}: no frame of the split has a {what}")
    return value
