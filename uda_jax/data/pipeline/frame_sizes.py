"""Sizes of the frames of a domain, from headers: what a batch cannot hold is told when the domain is opened."""

from collections.abc import Collection

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError

Size = tuple[int, ...]


def check(dataset: Dataset, domain: Domain, fields: Collection[str], path: str, alternative: str) -> None:
    """Raises a UserError if frames of different sizes would meet in a batch; no pixel is decoded.

    Args:
      dataset: the opened domain. What it does not know the size of is found out when it is read.
      domain: its section.
      fields: the maps that a batch holds.
      path: dotted name of the section.
      alternative: as in `differ`.
    """
    kept = [field for field in fields if MAPS[field].is_raster and _keeps_size(domain, field)]
    first: dict[str, tuple[str, Size]] = {}
    for index in range(len(dataset) if kept else 0):
        for field in kept:
            if (size := dataset.stored_size(index, field)) is None:
                continue
            other, expected = first.setdefault(field, (dataset.name(index), size))
            if size != expected:
                raise differ(domain, path, field, (dataset.name(index), size), (other, expected), alternative)


def differ(
    domain: Domain, path: str, field: str, found: tuple[str, Size], other: tuple[str, Size], alternative: str
) -> UserError:
    """Returns what to say of two frames whose map has different sizes.

    Args:
      domain, path: the section and its dotted name.
      field: the map.
      found, other: (name of the frame, size of its map).
      alternative: what else than a size makes frames of different sizes possible; empty if nothing does.
    """
    (name, (height, width, *_)), (before, (rows, columns, *_)) = found, other
    needed = ["size"] if domain.size is None else []
    needed += [] if domain.resize_label or MAPS[field].belongs_to_image else ["resize_label=True"]
    cures = [" and ".join(f"{path}.{field}" for field in needed), *([alternative] if alternative else [])]
    return UserError(
        f"{path}: {field} of frame '{name}' is {height}x{width} (height x width), but that of '{before}' is "
        f"{rows}x{columns}, and a batch holds one size; set {', or '.join(cures)}"
    )


def _keeps_size(domain: Domain, field: str) -> bool:
    """Returns whether frames keep their own size of a map; one that goes with the image is fitted to it."""
    return domain.size is None if MAPS[field].belongs_to_image else not domain.resize_label
