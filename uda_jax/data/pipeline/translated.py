"""A view of a data set whose images come from other files, such as those that a network translated."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from uda_jax.data.base import Dataset
from uda_jax.data.io.archives import File, Problem
from uda_jax.data.io.images import read_image
from uda_jax.data.pipeline.views import View
from uda_jax.errors import UserError


class Translated(View):
    """A data set whose images come from other files, of any size; its labels and other maps stay as they are.

    Args:
      dataset: gives everything but the images.
      folder: holds `<frame name>.png`, 8-bit colour or grey.

    Raises:
      UserError: a file is missing; on access, it is damaged.
    """

    def __init__(self, dataset: Dataset, folder: str):
        super().__init__(dataset)
        self._images = Path(folder).expanduser()
        missing = [file for file in map(self._file, self.names()) if not file.path.is_file()]
        if missing:
            raise UserError(
                f"images_from: {missing[0]}: no such file; {len(missing)} of {len(self)} frames have no "
                "<frame name>.png there, write them or leave these frames out with names_file"
            )

    @property
    def problems(self) -> list[Problem]:
        """The problems that do not concern the images of the data set itself."""
        return [problem for problem in self._dataset.problems if problem.field != "image"]

    def missing(self, field: str) -> list[str]:
        return [] if field == "image" else self._dataset.missing(field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        example = super().read(index, [field for field in fields if field != "image"])
        if "image" in fields:
            example["image"] = read_image(self._file(example["name"]))
        return example

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        example = super().stored(index, [field for field in fields if field != "image"])
        return example | self.read(index, ("image",)) if "image" in fields else example

    def files(self, index: int) -> Mapping[str, File]:
        return {**super().files(index), "image": self._file(self.name(index))}

    def _file(self, name: str) -> File:
        return File(self._images / f"{name}.png")
