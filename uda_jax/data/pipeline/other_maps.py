"""A view of a data set one of whose maps comes from another folder: images that a CycleGAN drew, a network's depth."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.base import MAPS, Dataset, check_map
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.depth import read_relative_disparity
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image
from uda_jax.data.pairing import by_name
from uda_jax.data.pipeline.views import View
from uda_jax.errors import UserError, printable


class _Kind(NamedTuple):
    """A map that may come from elsewhere: the field of a domain that says where, its files' endings, their reader."""

    option: str
    endings: Sequence[str]
    read: Callable[[File], np.ndarray]


_KINDS = {
    "image": _Kind("images_from", IMAGE_ENDINGS, read_image),
    "disparity": _Kind("disparity_from", (".png",), read_relative_disparity),
}


class OtherMap(View):
    """A data set one of whose maps lies in other files; everything else is its own.

    Args:
      dataset: gives everything but the map.
      folder: holds `<frame name>.png`, or, of images, another picture of that name; or an archive of them. Their size
        may be another one than that of the data set's own: a stream resizes all of a frame's maps anyway.
      field: the map, "image" or "disparity".

    Raises:
      UserError: no such folder, a frame without a file; on access, a damaged one.
    """

    def __init__(self, dataset: Dataset, folder: str, field: str = "image"):
        super().__init__(dataset)
        self._field, kind = field, _KINDS[field]
        if not Path(folder).expanduser().exists():
            raise UserError(f"{kind.option}: {folder}: no such folder; set it to where the other {field}s lie")
        tree = Tree(kind.option, folder)
        # A frame with two pictures is reported as one without.
        files = by_name(tree.files("", kind.endings, recursive=True), kind.endings, problems := [])
        names = dataset.names()
        if missing := [name for name in names if name not in files]:
            reason = "".join(f" ({problem.message})" for problem in (*tree.problems, *problems)[:1])
            endings = " or ".join(kind.endings[:2])
            raise UserError(
                f"{kind.option}: {folder}: no picture of frame '{printable(missing[0])}'{reason}; {len(missing)} of "
                f"{len(names)} frames have no <frame name>{endings} there, add them or leave these frames out with "
                "names_file"
            )
        self._files = {name: files[name] for name in names}

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(field for field in MAPS if field == self._field or field in self._dataset.maps)

    @property
    def problems(self) -> list[Problem]:
        """The problems that do not concern the data set's own map."""
        return [problem for problem in self._dataset.problems if problem.field != self._field]

    def missing(self, field: str) -> list[str]:
        return [] if field == self._field else self._dataset.missing(field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().read(index, self._others(fields)) | self._other(index, fields)

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().stored(index, self._others(fields)) | self._other(index, fields)

    def files(self, index: int) -> Mapping[str, File]:
        return {**super().files(index), self._field: self._files[self.name(index)]}

    def _other(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        if self._field not in fields:
            return {}
        file = self._files[self.name(index)]
        array = _KINDS[self._field].read(file)
        check_map(self._field, array, str(file))
        return {self._field: array}

    def _others(self, fields: Collection[str]) -> list[str]:
        return [field for field in fields if field != self._field]
