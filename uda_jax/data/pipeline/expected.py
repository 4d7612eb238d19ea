"""What the examples of a domain will be like, from the config alone or from one frame."""

import os
from collections.abc import Mapping

import numpy as np

from uda_jax.data import reader
from uda_jax.data.base import MAPS, Announced
from uda_jax.data.pipeline.domains import Domain, members, open_domain
from uda_jax.data.pipeline.examples import DomainFrames, Shapes, augmented_shape
from uda_jax.errors import UserError


def announced(domain: Domain, path: str) -> Announced:
    """Returns the classes of a domain and the size (height, width) of its examples, as far as the config tells them.

    Raises:
      UserError: an unknown data set or protocol.
    """
    try:
        found = reader(domain.dataset).announced(domain.label_space, domain.options or {})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found._replace(size=domain.crop or domain.size or found.size)


def from_config(domain: Domain, path: str) -> Shapes | None:
    """Returns the shapes of the maps of a domain's examples; None where only its files tell the size.

    Raises:
      UserError: as `announced`.
    """
    size = announced(domain, path).size
    if size is None:
        return None
    shapes = {field: MAPS[field].shape(size) for field in domain.fields}
    of_images = reader(domain.dataset).label_size
    return shapes | ({"label": of_images} if of_images and "label" in shapes else {})


def from_data(domain: Domain, path: str) -> Shapes:
    """Returns the shapes of the maps of a domain's examples, after a look at its first frame.

    Raises:
      UserError: as `domains.open_domain`, and for a frame that cannot be read.
    """
    where, first = next(iter(members(domain, path).values()))
    frames = DomainFrames(open_domain(first, where), first, where, any_size=True)
    return {field: augmented_shape(field, frames.shapes, first.crop) for field in frames.shapes}


def is_there(domain: Domain) -> bool:
    """Whether the files of a domain can be looked at; what is drawn or rendered has none."""
    return domain.root is not None and os.path.exists(os.path.expanduser(domain.root))


def batch_arrays(shapes: Mapping[str, Shapes], batch: int) -> dict[str, dict[str, tuple[tuple[int, ...], type]]]:
    """Returns domain -> map -> (shape, type) of the arrays of a batch: those of `streams.train_stream`.

    Args:
      shapes: domain -> map -> shape of an example.
      batch: frames of each domain.
    """
    found = {}
    for name, maps in shapes.items():
        arrays = {field: ((batch, *shape), MAPS[field].dtype) for field, shape in maps.items()}
        found[name] = {**arrays, "index": ((batch,), np.int32)}
    return found
