"""The guard against infinite and NaN values, of losses and of the state that updates leave."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from uda_jax.errors import UserError
from uda_jax.training import sharding


class NonFiniteLoss(UserError):
    """A loss, a gradient norm or a value of the state is infinite or NaN."""


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
        self._last: tuple[int, Mapping[str, np.ndarray]] | None = None

    def add(self, step: int, metrics: Mapping[str, jax.Array], indices: Mapping[str, np.ndarray]) -> None:
        """Keeps a step's metrics and the frame indices of its batch."""
        self._steps.append((step, metrics, indices))
        self._last = (step, indices)

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

    def check_state(self, state: Any) -> None:
        """Looks at the state after the last step, which metrics do not: they tell of the losses before its update.

        Args:
          state: arrays; it is about to be scored or saved. Every process has to call this.

        Raises:
          NonFiniteLoss: a value is not finite; as `check`, with the array in place of the term.
        """
        if self._last is not None and (found := first_not_finite(state)) is not None:
            step, indices = self._last
            self._report(step, *found, indices)

    def _report(self, step: int, term: str, value: float, indices: Mapping[str, np.ndarray]) -> None:
        frames = {domain: [self._frame_name(domain, int(i)) for i in array] for domain, array in indices.items()}
        if self._write:
            found = {"step": step, "term": term, "value": str(value), "frames": frames}
            self._where.write_text(json.dumps(found, indent=1) + "\n")
        raise NonFiniteLoss(
            f"step {step}: {term} is {value}; the frames of its batch are listed in {self._where}; no state beyond the "
            "last checkpoint was saved, and the same command would end here again: look at those frames, or lower the "
            "learning rate in another workdir"
        )


def first_not_finite(tree: Any) -> tuple[str, float] | None:
    """Returns the path of the first array with an infinite or NaN value, and that value; None if all are finite.

    Each process looks at what its own devices hold. Of arrays that lie on several processes' devices all of them return
    the same, and all have to call this.

    Args:
      tree: arrays of NumPy or JAX.
    """
    leaves = jax.tree.leaves_with_path(tree)
    found = next(((k, value) for k, (_, leaf) in enumerate(leaves) if (value := _not_finite(leaf)) is not None), None)
    if any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for _, leaf in leaves):
        found = _first_of_all(found, len(leaves))
    if found is None:
        return None
    return jax.tree_util.keystr(leaves[found[0]][0], simple=True, separator="/"), found[1]


def _not_finite(leaf: Any) -> float | None:
    """Returns a value of an array that is not finite, of what this process's devices hold; None if there is none."""
    if not jax.numpy.issubdtype(leaf.dtype, np.inexact) or leaf.size == 0:
        return None
    # Both carry NaN through, and unlike np.isfinite they take no memory of the array's size.
    extremes = (float(extreme) for part in sharding.own_parts(leaf) for extreme in (part.min(), part.max()))
    return next((value for value in extremes if not np.isfinite(value)), None)


def _first_of_all(found: tuple[int, float] | None, count: int) -> tuple[int, float] | None:
    """Returns which of `count` arrays some process found first, and the value there."""
    position, value = found or (count, 0.0)
    positions, values = multihost_utils.process_allgather((np.int32(position), np.float32(value)))
    process = int(np.argmin(positions))
    return None if positions[process] == count else (int(positions[process]), float(values[process]))


def _terms_first(name: str) -> tuple[bool, bool, str]:
    """Orders metrics so that a single loss term is blamed before the total, and both before gradient norms."""
    return (not name.startswith("loss/"), name.endswith("/total"), name)
