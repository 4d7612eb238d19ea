"""Pictures of what a method makes of its training batches, where it has some to show."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax.data.io import atomic
from uda_jax.methods.parts.state import ILLUSTRATED_IMAGES, Pairs
from uda_jax.report import pictures
from uda_jax.training import sharding
from uda_jax.training.precision import at_precision


class Illustrator:
    """Draws `method.illustrate`, which is compiled once, for the log and for the report.

    Args:
      method: a method, with or without illustrations.
      folder: the pictures of the last call lie in its `<name>/<i>.png`.
      palette: uint8 [C, 3], the classes' colours.
      mesh: the device mesh, over which batches are split.
      write: whether this process writes the files (the first one does).
    """

    def __init__(
        self,
        method: Any,
        folder: Path,
        palette: np.ndarray,
        mesh: jax.sharding.Mesh,
        *,
        write: bool,
    ):
        self._folder, self._palette, self._write = folder, palette, write
        self._compute = None
        if function := getattr(method, "illustrate", None):
            self._compute = sharding.Compiled(at_precision(method, function), mesh)

    def compile(self, state: Any, batch: Any) -> None:
        """Compiles what `draw` calls with the same arguments, at a time when a compilation may be interrupted."""
        if self._compute is not None:
            self._compute = self._compute.lower(state, batch).compile()

    def draw(self, state: Any, batch: Any) -> dict[str, np.ndarray]:
        """Draws a batch and writes the pictures; every process has to call it.

        Args:
          state: the method's state.
          batch: a global training batch.

        Returns:
          Name of an illustration and number of the image -> uint8 RGB [H, W, 3]; empty for a method without any.
        """
        if self._compute is None:
            return {}
        found = {}
        for name, shown in jax.device_get(self._compute(state, batch)).items():
            images = self._joined(shown) if isinstance(shown, Pairs) else shown[:ILLUSTRATED_IMAGES]
            found |= {f"{name}/{i}": image for i, image in enumerate(images)}
        for name, image in found.items() if self._write else ():
            atomic.write(self._folder / f"{name}.png", pictures.png(image))
        return found

    def _joined(self, pairs: Pairs) -> list[np.ndarray]:
        colours = pictures.colourise(pairs.classes.astype(np.uint8), self._palette)
        each = zip(
            *(array[:ILLUSTRATED_IMAGES] for array in (pairs.left, pairs.right, pairs.points, colours)), strict=True
        )
        return [pictures.joined(*image) for image in each]
