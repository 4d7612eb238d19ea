"""Margins of frames whose pseudo-labels are not to be relied on: the bonnet of a car, what rectification left.

Source: DAFormer (arXiv 2111.14887), whose code gives labels of a few rows of Cityscapes no weight, and HRDA, whose code
crops such a map with the image.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from uda_jax.data.base import Dataset
from uda_jax.data.pipeline.views import View

NAME = "distrust"


class Margins(View):
    """A data set whose frames have the map "distrust", 1 in margins and 0 elsewhere.

    Args:
      dataset: gives everything else.
      margins: pixels at the top, the bottom, the left and the right of a frame of the size, or, as floats, shares of
        its height and width, rounded down to whole pixels (VFM-UDA).
      size: from the (height, width) of an image to that of the map.
    """

    def __init__(
        self,
        dataset: Dataset,
        margins: tuple[int, int, int, int] | tuple[float, float, float, float],
        size: Callable[[tuple[int, int]], tuple[int, int]],
    ):
        super().__init__(dataset)
        self._margins, self._size = margins, size

    @property
    def maps(self) -> tuple[str, ...]:
        return (*self._dataset.maps, NAME)

    def missing(self, field: str) -> list[str]:
        return [] if field == NAME else super().missing(field)

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        return super().stored_size(index, "image" if field == NAME else field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return self._with_map(super().read(index, self._others(fields)), fields)

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return self._with_map(super().stored(index, self._others(fields)), fields)

    def _others(self, fields: Collection[str]) -> list[str]:
        """Returns the maps to read; the image, whose size matters, is among them."""
        return ["image", *(field for field in fields if field not in ("image", NAME))]

    def _with_map(self, example: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
        if NAME not in fields:
            return example
        height, width = self._size(example["image"].shape[:2])
        sides = (height, height, width, width)
        top, bottom, left, right = (
            int(margin * side) if isinstance(margin, float) else margin
            for margin, side in zip(self._margins, sides, strict=True)
        )
        distrust = np.ones((height, width), np.float32)
        distrust[top : max(top, height - bottom), left : max(left, width - right)] = 0.0
        return example | {NAME: distrust}
