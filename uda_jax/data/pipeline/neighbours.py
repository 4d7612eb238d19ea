"""Frames of a video together with those before and after them."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.io.archives import File, Problem
from uda_jax.data.pipeline.views import View
from uda_jax.errors import UserError, printable

# Frames that a note names.
_LISTED = 3


class Neighbours(View):
    """A video with the frames before and after as further images of each frame.

    Frames are neighbours if they are as many frames of the recording apart as the offset says: their numbers (see
    `Dataset.sequence`) differ by that many steps, where a step is the smallest difference of two numbers in the
    recording. Frames without a neighbour, such as the first and the last, are left out, and `passed_over` says so.

    Args:
      dataset: the video.
      offsets: {map to add: frames that the neighbour lies ahead, negative before}, such as {"image_previous": -1}.

    Raises:
      UserError: no frame has its neighbours.
    """

    def __init__(self, dataset: Dataset, offsets: Mapping[str, int]):
        super().__init__(dataset)
        self._offsets = dict(offsets)
        self._rows = _neighbours(dataset, tuple(offsets.values()))
        if not self._rows:
            raise UserError(
                f"no frame has neighbours in time for {', '.join(offsets)}; expected names that number the frames of a "
                "recording, such as drive/000017"
            )
        self.passed_over = [*dataset.passed_over, *self._left_out()]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(field for field in MAPS if field in self._offsets or field in self._dataset.maps)

    @property
    def problems(self) -> list[Problem]:
        """The problems of the frames that are shown, and of the images of their neighbours."""
        shown = set(self.names())
        beside = {self._dataset.name(position) for _, *others in self._rows for position in others}
        return [
            problem
            for problem in self._dataset.problems
            if problem.frame is None or problem.frame in shown or (problem.frame in beside and problem.field == "image")
        ]

    def missing(self, field: str) -> list[str]:
        if field in self._offsets:
            return []
        shown = set(self.names())
        return [name for name in self._dataset.missing(field) if name in shown]

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().read(index, self._own(fields)) | self._beside(index, fields)

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().stored(index, self._own(fields)) | self._beside(index, fields)

    def files(self, index: int) -> Mapping[str, File]:
        """Returns {map: its file} of frame `index`, also of its neighbours."""
        images = {
            field: self._dataset.files(position).get("image")
            for field, position in zip(self._offsets, self._rows[index][1:], strict=True)
        }
        return {**super().files(index), **{field: file for field, file in images.items() if file is not None}}

    def _left_out(self) -> list[Problem]:
        """Returns a note on the frames that have no neighbours, if there are any."""
        shown = {row[0] for row in self._rows}
        alone = [position for position in range(len(self._dataset)) if position not in shown]
        if not alone:
            return []
        listed = ", ".join(printable(self._dataset.name(position)) for position in alone[:_LISTED])
        message = (
            f"{len(alone)} of {len(self._dataset)} frames are left out, since they have no neighbours in time for "
            f"{', '.join(self._offsets)}, as the first and the last of a recording: {listed}"
            f"{' and others' if len(alone) > _LISTED else ''}"
        )
        return [Problem(None, next(iter(self._offsets)), message, note=True)]

    def _own(self, fields: Collection[str]) -> list[str]:
        return [field for field in fields if field not in self._offsets]

    def _beside(self, index: int, fields: Collection[str]) -> dict[str, np.ndarray]:
        """Returns the images of the neighbours that `fields` asks for."""
        positions = dict(zip(self._offsets, self._rows[index][1:], strict=True))
        return {
            field: self._dataset.read(position, ("image",))["image"]
            for field, position in positions.items()
            if field in fields
        }

    def _position(self, index: int) -> int:
        return self._rows[index][0]


def with_neighbours(dataset: Dataset, fields: Collection[str]) -> Dataset:
    """Returns a data set whose frames have the images of other times that `fields` names, from a video if need be."""
    offsets = {field: MAPS[field].offset for field in fields if field in MAPS and MAPS[field].offset}
    lacking = {field: offset for field, offset in offsets.items() if not dataset.has(field)}
    return Neighbours(dataset, lacking) if lacking else dataset


def _neighbours(dataset: Dataset, offsets: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns (position, positions of its neighbours) of each frame that has all of them, in order."""
    moments = [dataset.sequence(position) for position in range(len(dataset))]
    recordings: dict[str, dict[int, int]] = {}
    for position, moment in enumerate(moments):
        if moment is not None:
            recordings.setdefault(moment[0], {})[moment[1]] = position
    steps = {}
    for recording, positions in recordings.items():
        numbers = sorted(positions)
        steps[recording] = min((later - number for number, later in itertools.pairwise(numbers)), default=1)
    rows = []
    for position, moment in enumerate(moments):
        if moment is not None:
            found = [recordings[moment[0]].get(moment[1] + offset * steps[moment[0]]) for offset in offsets]
            rows += [(position, *found)] if None not in found else []
    return rows
