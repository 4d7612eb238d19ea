"""Whether an exported model says what the run says: both of them on the same frames."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from uda_jax.data.pipeline import domains, transforms
from uda_jax.errors import UserError
from uda_jax.inference.export.forms import Form
from uda_jax.inference.model import Model, Result

# Share of the pixels of the same class below which an export has gone wrong.
GOAL = 0.9999


def compare(run: Model, exported: Model, frames: Sequence[np.ndarray], outputs: str) -> dict[str, Any]:
    """Compares two models.

    Args:
      run, exported: the models; both take the frames as they are.
      frames: uint8 RGB [H, W, 3], at least one.
      outputs: what the exported one gives, one of `forms.OUTPUTS`.

    Returns:
      "frames", "equal_pixels" (share of all), "largest_difference" (of scores or of probabilities; None of labels),
      "milliseconds" per frame (median, without compilation) of both, and "device".
    """
    equal = total = 0
    largest, times = 0.0, {"run": [], "exported": []}
    known = set()
    for frame in frames:
        if frame.shape not in known:
            run(frame).labels, exported(frame).labels  # noqa: B018  compiles
            known.add(frame.shape)
        ours, theirs = (_timed(model, frame, times[name]) for name, model in (("run", run), ("exported", exported)))
        equal += int((ours.labels == theirs.labels).sum())
        total += ours.labels.size
        if outputs != "labels":
            scores = [_values(result, outputs) for result in (ours, theirs)]
            largest = max(largest, float(np.abs(scores[0] - scores[1]).max()))
    return {
        "frames": len(frames),
        "equal_pixels": equal / total,
        "largest_difference": None if outputs == "labels" else largest,
        "milliseconds": {name: round(1000 * float(np.median(found)), 3) for name, found in times.items()},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def fitting(frame: np.ndarray, form: Form, domain: domains.Domain, multiple: int) -> np.ndarray:
    """Returns a frame at a size that an exported model takes.

    Args:
      frame: uint8 RGB [H, W, 3].
      form: the exported model's.
      domain: how the run resizes; done here where the exported model does not.
      multiple: what the sides have to be multiples of, where any size is taken.

    Raises:
      UserError: a frame that is too small.
    """
    if form.resize == "none":
        frame = domains.resized({"image": frame}, domain)["image"]
    size = form.size or tuple(side // multiple * multiple for side in frame.shape[:2])
    if 0 in size:
        raise UserError(f"--frames: expected frames of at least {multiple}x{multiple}, got {frame.shape[:2]}")
    return transforms.resize({"image": frame}, size, resampling=domain.resampling)["image"]


def _timed(model: Callable[[np.ndarray], Result], frame: np.ndarray, times: list[float]) -> Result:
    start = time.perf_counter()
    result = model(frame)
    # What is asked for is waited for.
    _ = result.labels
    times.append(time.perf_counter() - start)
    return result


def _values(result: Result, outputs: str) -> np.ndarray:
    if outputs == "scores":
        return result.scores
    shifted = np.exp(result.scores - result.scores.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
