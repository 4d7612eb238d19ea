"""The guard against infinite and NaN losses."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from uda_jax.errors import UserError


class NonFiniteLoss(UserError):
    """A loss or gradient norm is infinite or NaN."""


class Guard:
    """Metrics of the steps since the last check, still on the device, with the frames they came from.

    Looking at metrics makes the host wait for the device, so those of several steps are looked at together,
    before anything that follows from them is logged or saved.

    Args:
      frame_name: (domain, frame index) -> the frame's name.
      where: file that the frames of a bad batch are written to.
      write: whether this process writes it.
    """

    def __init__(self, frame_name: Callable[[str, int], str], where: Path, *, write: bool):
        self._frame_name, self._where, self._write = frame_name, where, write
        self._steps: list[tuple[int, Mapping[str, jax.Array], Mapping[str, np.ndarray]]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array], indices: Mapping[str, np.ndarray]) -> None:
        """Keeps a step's metrics and the frame indices of its batch."""
        self._steps.append((step, metrics, indices))

    def check(self) -> dict[str, float]:
        """Returns the last step's metrics as floats.

        Raises:
          NonFiniteLoss: some step's metric is not finite. The message names the first such step and term, and
            the names of the frames of its batch are written to the file.
        """
        scalars: dict[str, float] = {}
        for step, metrics, indices in self._steps:
            scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            for name in sorted(scalars, key=_terms_first):
                if not np.isfinite(scalars[name]):
                    self._report(step, name, scalars[name], indices)
        self._steps.clear()
        return scalars

    def _report(self, step: int, term: str, value: float, indices: Mapping[str, np.ndarray]) -> None:
        frames = {domain: [self._frame_name(domain, int(i)) for i in array] for domain, array in indices.items()}
        if self._write:
            found = {"step": step, "term": term, "value": str(value), "frames": frames}
            self._where.write_text(json.dumps(found, indent=1) + "\n")
        raise NonFiniteLoss(
            f"step {step}: {term} is {value}; the frames of its batch are listed in {self._where}; no state beyond the "
            "last checkpoint was saved: lower the learning rate or look at those frames"
        )


def _terms_first(name: str) -> tuple[bool, bool, str]:
    """Orders metrics so that a single loss term is blamed before the total, and both before gradient norms."""
    return (not name.startswith("loss/"), name.endswith("/total"), name)
