"""What `uda evaluate` tells of a split beside the figures of a result row."""

import math
from typing import Any

import numpy as np

from uda_jax.inference import calibration
from uda_jax.inference.evaluate import Details, Evaluator
from uda_jax.inference.figures import counted
from uda_jax.inference.options import Evaluation, Inference
from uda_jax.training import metrics


def scorecard(evaluator: Evaluator, details: Details, section: Evaluation, worst: int = 0) -> dict[str, Any]:
    """Returns the further figures of a split.

    Args:
      evaluator: of the split.
      details: from `Evaluator.details`.
      section: the config section of the evaluation.
      worst: how many frames to name, those of the lowest mean IoU.

    Returns:
      "protocol", what the figures stand for in one sentence; and where classes are predicted and labelled,
      "frequency_weighted_iou", "calibration", see `calibration.summary`, and if wanted "worst_frames", [{"name",
      "miou"}], the lowest first.
    """
    found: dict[str, Any] = {"protocol": protocol_text(evaluator, section)}
    if "confusion" not in details.totals:
        return found
    _, averaged = evaluator.averaged
    matrix = counted(details.totals["confusion"], averaged, details.totals.get("void"), section.count_void_predictions)
    found["frequency_weighted_iou"] = frequency_weighted_iou(matrix, averaged)
    if details.calibration is not None:
        found["calibration"] = calibration.summary(details.calibration)
    if worst:
        scores = [
            {"name": name, "miou": frame_iou(one, averaged, section.count_void_predictions)}
            for name, one in details.frames
        ]
        scored = [entry for entry in scores if entry["miou"] is not None]
        found["worst_frames"] = sorted(scored, key=lambda entry: (entry["miou"], entry["name"]))[:worst]
    return found


def frequency_weighted_iou(matrix: np.ndarray, averaged: tuple[int, ...]) -> float | None:
    """Returns the IoU of the protocol's classes, each weighed by how many pixels are labelled as it.

    Args:
      matrix: from `figures.counted`.
      averaged: the classes.
    """
    classes = list(averaged)
    weights, iou = matrix.sum(axis=1)[classes], metrics.iou(matrix)[classes]
    return float(np.nansum(weights * iou) / weights.sum()) if weights.sum() else None


def frame_iou(matrix: np.ndarray, averaged: tuple[int, ...], count_void_predictions: bool = True) -> float | None:
    """Returns the mean IoU of one frame over the protocol's classes that are labelled in it; None if none is.

    Pixels without a label do not count. A mean of these over frames is not the mean IoU of the split.
    """
    present = [c for c in averaged if matrix[c].any()]
    found = metrics.mean_iou(counted(matrix, averaged, None, count_void_predictions), present) if present else math.nan
    return None if math.isnan(found) else found


def protocol_text(evaluator: Evaluator, section: Evaluation) -> str:
    """Returns what the figures of a split stand for, in one sentence."""
    name, averaged = evaluator.averaged
    domain = evaluator.domain
    size = "at their own size" if domain.size is None else f"resized to {domain.size[1]}x{domain.size[0]}"
    if domain.size is not None and domain.fit == "pad":
        size += " with padding"
    labels = "as stored" if domain.size is None or not domain.resize_label else "resized alike"
    outside = "count as errors" if section.count_void_predictions else "are left out"
    void = "are errors of the predicted class" if section.count_void_labels else "are left out"
    frames = f"{domain.dataset}/{domain.split}, {len(evaluator.dataset)} frames {size}, labels {labels}"
    classes = f"{section.headline} of protocol {name}, {len(averaged)} classes, those labelled in the split averaged"
    counts = f"labelled pixels predicted as a class outside it {outside}, pixels without a label {void}"
    return "; ".join((frames, classes, counts, _inference_text(section.inference)))


def _inference_text(section: Inference) -> str:
    parts = ["whole image"]
    if section.window is not None:
        window, stride = section.window, section.stride or section.window
        parts = [f"windows of {window[1]}x{window[0]} every {stride[1]}x{stride[0]} pixels"]
    if section.flip:
        parts.append("mirrored as well")
    if section.scales != (1.0,):
        parts.append(f"scales {', '.join(map(str, section.scales))}")
    averages = section.window is not None or len(parts) > 1
    return ", ".join([*parts, f"mean of {section.average}"] if averages else parts)
