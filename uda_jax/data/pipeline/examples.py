"""The training examples of one domain: frames prepared, drawn at random, augmented, mixed with those of other sets.

All of it is a grain pipeline that depends on the domain and its seed alone. What is drawn for an element depends on its
position in the stream and on nothing before it, so that any process can make any element.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from uda_jax.data.base import MAPS, Dataset, check_map, is_value_of_image, map_names
from uda_jax.data.pipeline import frame_sizes, rare_class_sampling, transforms
from uda_jax.data.pipeline.domains import NO_MAP, Domain, members, open_domain, resized
from uda_jax.errors import UserError

Shapes = dict[str, tuple[int, ...]]


class DomainFrames:
    """The frames of an opened domain, with exactly its fields, resized, and of one shape unless crops follow.

    Args:
      dataset: the opened domain.
      domain: its section.
      path: the section's dotted name, for messages.
      any_size: whether frames may differ in size all the same, since each is a batch of its own.
      alternative: what else than a size makes frames of different sizes possible, for messages.

    Raises:
      UserError: the first frame cannot be read, or headers show frames of different sizes.

    Attributes:
      first: the first frame, which is read at once.
      shapes: of its maps.
    """

    def __init__(
        self, dataset: Dataset, domain: Domain, path: str, *, any_size: bool = False, alternative: str | None = None
    ):
        self._dataset = dataset
        self._domain = domain
        self._path = path
        self._any_size = any_size or domain.crop is not None
        self._alternative = f"{path}.crop" if alternative is None else alternative
        # Reading one frame now turns most mistakes into an error at the start of a run instead of inside it.
        self.first = self._read(0)
        self.shapes = {field: self.first[field].shape for field in domain.fields}
        if not self._any_size:
            frame_sizes.check(dataset, domain, domain.fields, path, self._alternative)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._read(index)
        for field, shape in self.shapes.items():
            if not self._any_size and example[field].shape != shape:
                found, first = (example["name"], example[field].shape), (self._dataset.name(0), shape)
                raise frame_sizes.differ(self._domain, self._path, field, found, first, self._alternative)
        return example

    def _read(self, index: int) -> dict[str, Any]:
        domain = self._domain
        example = self._dataset.read(index, domain.fields)
        present = map_names(example, self._path)
        for field in domain.fields:
            if field not in present:
                raise UserError(f"{self._path}.fields: frame '{example['name']}' has no {field}; {NO_MAP}")
            check_map(field, example[field], f"{self._path}: {field} of frame '{example['name']}'")
        return resized(example, domain)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Applies transforms in order, all drawing from one generator."""

    steps: tuple[Callable[[dict, np.random.Generator], dict], ...]

    def __call__(self, example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        for step in self.steps:
            example = step(example, generator)
        return example


@dataclasses.dataclass(frozen=True)
class _Renumber:
    """Turns the index of a frame in its data set into that in a mixture."""

    start: int

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        return example | {"index": example["index"] + self.start}


def training_examples(domain: Domain, path: str, seed: str) -> grain.MapDataset:
    """Returns the endless, shuffled, augmented examples of one domain.

    Args:
      domain: the section.
      path: its dotted name, for messages.
      seed: any text that no other domain has; with one and the same, domains would draw the same shuffles and crops.

    Raises:
      UserError: from opening the domain; examples of different shapes in a mixture.
    """
    dataset = open_domain(domain, path)
    if not domain.mix:
        return _examples(dataset, domain, path, seed)[0]
    parts, weights, expected = [], [], {}
    for number, (name, (where, member)) in enumerate(members(domain, path).items()):
        examples, shapes = _examples(dataset.parts[number], member, where, f"{seed}/{name}" if number else seed)
        expected = expected or shapes
        for field, shape in shapes.items():
            if shape != expected[field]:
                raise UserError(
                    f"{where}: {field} is {_hxw(shape)} (height x width), but that of '{path}' is "
                    f"{_hxw(expected[field])}; give both the same 'size' or 'crop'"
                )
        parts.append(examples.map(_Renumber(dataset.starts[number])))
        weights.append(member.weight)
    return grain.MapDataset.mix(parts, weights)


def _examples(dataset: Dataset, domain: Domain, path: str, seed: str) -> tuple[grain.MapDataset, Shapes]:
    """Returns the examples of one data set, and the shapes of their maps."""
    frames = DomainFrames(dataset, domain, path)
    augment = augmentation(domain)
    seeded = zlib.crc32(seed.encode())
    if domain.rare_classes is None:
        # Every epoch is shuffled and augmented anew, since grain's `repeat` seeds each epoch by itself.
        examples = grain.MapDataset.source(frames).seed(seeded).shuffle().repeat().random_map(augment)
    else:
        draw = _rare_class_frames(dataset, domain, path, frames, augment)
        # One element for ever: which frame it becomes is drawn for each position in the stream.
        examples = grain.MapDataset.range(1).seed(seeded).repeat().random_map(draw)
    return examples, {field: augmented_shape(field, frames.shapes, domain.crop) for field in frames.shapes}


def augmentation(domain: Domain) -> Augment:
    """Returns the random steps that a domain asks for, in the order of the methods' own code."""
    crop = [transforms.RandomCrop(domain.crop, domain.crop_max_share)] if domain.crop is not None else []
    flip = [transforms.HorizontalFlip()] if domain.flip else []
    if domain.short_side is not None:
        return Augment((transforms.RandomShortSide(*domain.short_side, domain.resampling), *flip, *crop))
    scale = [transforms.RandomScale(*domain.scale, domain.resampling)] if domain.scale is not None else []
    return Augment((*scale, *crop, *flip))


def _rare_class_frames(
    dataset: Dataset, domain: Domain, path: str, frames: DomainFrames, augment: Augment
) -> rare_class_sampling.RareClassFrames:
    section = domain.rare_classes
    try:
        counts = rare_class_sampling.class_counts(dataset, (domain.dataset, domain.root, domain.split, domain.options))
    except UserError as error:
        raise UserError(f"{path}.rare_classes: {error}") from None
    sampler = rare_class_sampling.RareClassSampler(counts, section, dataset.label_space.names, f"{path}.rare_classes")
    # Without a crop, all views of a frame show the same.
    attempts = 1 + section.retries if domain.crop is not None else 1
    return rare_class_sampling.RareClassFrames(
        frames, sampler, augment, section.min_pixels * section.crop_share, attempts
    )


def augmented_shape(field: str, shapes: Shapes, crop: tuple[int, int] | None) -> tuple[int, ...]:
    """Returns the shape of a map after cropping, from the shapes of a frame's maps before it."""
    shape = shapes[field]
    if crop is None or not MAPS[field].is_raster or is_value_of_image(field, shape, shapes["image"]):
        return shape
    return MAPS[field].shape(crop)


def _hxw(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
