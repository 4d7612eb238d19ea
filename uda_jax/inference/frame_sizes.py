"""Sizes of the frames of a split, from the headers of their files: what a batch cannot hold is told before a run."""

from collections.abc import Collection

import jax

from uda_jax.data.base import Dataset
from uda_jax.data.io.images import IMAGE_ENDINGS, stored_size
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError


def check(dataset: Dataset, domain: Domain, references: Collection[str], batch_size: int, path: str) -> None:
    """Raises a UserError if frames of different sizes would meet in a batch; no pixel is decoded.

    Args:
      dataset: the opened split. Of one whose frames are no files of their own, nothing is known before they are read.
      domain: its section.
      references: the maps that are compared with.
      batch_size: the global one; one frame at a time may have any size.
      path: dotted name of the section.
    """
    if batch_size == 1 or (domain.size is not None and domain.resize_label):
        return
    fields = [] if domain.size is not None else ["image"]
    fields += [] if domain.resize_label else references
    first: dict[str, tuple[str, tuple[int, int]]] = {}
    for index in range(len(dataset)):
        files = dataset.files(index)
        for field in fields:
            if field not in files or not files[field].name.lower().endswith(IMAGE_ENDINGS):
                continue
            name, size = dataset.name(index), stored_size(files[field])
            other, expected = first.setdefault(field, (name, size))
            if size != expected:
                cure = f"{path}.{'size' if domain.size is None else 'resize_label=True'}"
                single = "config.evaluation.batch_size=1, which scores each frame at its own size, or "
                raise UserError(
                    f"{path}: {field} of frame '{name}' is {size[0]}x{size[1]} (height x width), but that of '{other}' "
                    f"is {expected[0]}x{expected[1]}, and a batch of {batch_size} holds one size; set "
                    f"{single if jax.device_count() == 1 else ''}{cure}"
                )
