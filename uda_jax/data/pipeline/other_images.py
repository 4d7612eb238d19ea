"""A view of a data set whose images come from another folder, such as those that a CycleGAN has translated."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from uda_jax.data.base import Dataset, check_map
from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image
from uda_jax.data.pairing import by_name
from uda_jax.data.pipeline.views import View
from uda_jax.errors import UserError, printable


class OtherImages(View):
    """A data set whose images are other pictures of the same frames; labels and everything else are its own.

    Args:
      dataset: gives everything but the images.
      folder: holds `<frame name>.png` or another picture of that name, or an archive of them. Their size may be
        another one than that of the data set's images: labels are then resized from theirs, as a stream does anyway.

    Raises:
      UserError: no such folder, a frame without a picture; on access, a damaged one.
    """

    def __init__(self, dataset: Dataset, folder: str):
        super().__init__(dataset)
        if not Path(folder).expanduser().exists():
            raise UserError(f"images_from: {folder}: no such folder; set it to where the other images lie")
        tree = Tree("images_from", folder)
        # A frame with two pictures is reported as one without.
        files = by_name(tree.files("", IMAGE_ENDINGS, recursive=True), IMAGE_ENDINGS, problems := [])
        names = dataset.names()
        if missing := [name for name in names if name not in files]:
            reason = "".join(f" ({problem.message})" for problem in (*tree.problems, *problems)[:1])
            raise UserError(
                f"images_from: {folder}: no picture of frame '{printable(missing[0])}'{reason}; {len(missing)} of "
                f"{len(names)} frames have no <frame name>.png or .jpg there, add them or leave these frames out with "
                "names_file"
            )
        self._files = {name: files[name] for name in names}

    @property
    def problems(self) -> list[Problem]:
        """The problems that do not concern the data set's own images."""
        return [problem for problem in self._dataset.problems if problem.field != "image"]

    def missing(self, field: str) -> list[str]:
        return [] if field == "image" else self._dataset.missing(field)

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().read(index, _others(fields)) | self._image(index, fields)

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        return super().stored(index, _others(fields)) | self._image(index, fields)

    def files(self, index: int) -> Mapping[str, File]:
        return {**super().files(index), "image": self._files[self.name(index)]}

    def _image(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        if "image" not in fields:
            return {}
        file = self._files[self.name(index)]
        image = read_image(file)
        check_map("image", image, str(file))
        return {"image": image}


def _others(fields: Collection[str]) -> list[str]:
    return [field for field in fields if field != "image"]
