"""The frames that a run is measured on without labels of the target, and the source frames that are its guard."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from uda_jax.config import Evaluation
from uda_jax.data.base import Dataset
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.label_free import Frames
from uda_jax.runs import fingerprints
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.stages import Stage

# How many frames a run is measured on unless something else is asked for.
COUNT = 64
# Options of data sets that change how frames look for training's random crops: digits get black borders.
_FOR_CROPS = ("margin",)


class Streams(NamedTuple):
    """What states of one run are measured on.

    Attributes:
      target: its frames.
      source: labelled source frames; None if the run has none.
    """

    target: Frames
    source: Frames | None


def streams(
    recipe: Sequence[Stage], section: Evaluation, found: Frames, count: int, tell: Callable[[str], None]
) -> Streams:
    """Returns what the states of a run are measured on; a source that is not there any more is told and left out.

    Args:
      recipe: its stages.
      section: how it is scored.
      found: the target, its own or another run's.
      count: how many frames of each domain.
      tell: called with a line if the source cannot be read.
    """
    labelled, scored = source(recipe), as_scored(found, section, count)
    if labelled is None:
        return Streams(scored, None)
    try:
        return Streams(scored, as_trained(labelled, count))
    except UserError as error:
        tell(f"note: measured without the source: {error}")
        return Streams(scored, None)


def target(recipe: Sequence[Stage]) -> Frames | None:
    """Returns the stream of the first stage that has one of target images as they are; None if there is none."""
    return _first(recipe, "target", ("image",))


def source(recipe: Sequence[Stage]) -> Frames | None:
    """Returns the stream of the first stage that has labelled source images as they are; None if there is none."""
    return _first(recipe, "source", ("image", "label"))


def scored_on(section: Evaluation) -> Frames:
    """Returns the images of the first dev split, or without one those of the first final split."""
    which = "dev" if section.dev is not None else "final"
    name, domain = next(iter(section.splits(which).items()))
    return Frames(dataclasses.replace(domain, fields=("image",)), section.path(which, name))


def as_scored(frames: Frames, section: Evaluation, count: int) -> Frames:
    """Returns some target frames, prepared as those that the run is scored on, without labels and random changes.

    Args:
      frames: of the target; of a mixture, those of its first data set count.
      section: says by its first final split how frames are prepared.
      count: how many, or all if there are fewer. They are chosen by `Domain.count_seed`.
    """
    like = next(iter(section.splits("final").values()))
    prepared = {"size": like.size, "image_resampling": like.image_resampling, "labels_from": None}
    return _some(_still(frames.domain, ("image",), **prepared), frames.path, count)


def as_trained(frames: Frames, count: int) -> Frames:
    """Returns some source frames with their labels, at the size that they are trained at, without random changes."""
    return _some(_still(frames.domain, ("image", "label")), frames.path, count)


def digest(frames: Frames, dataset: Dataset) -> str:
    """Returns what tells frames from others: the data set, names, sizes of files; not how they are prepared."""
    domain = frames.domain
    about = [domain.dataset, domain.split, domain.options, domain.label_space if "label" in domain.fields else None]
    about.append(fingerprints.of_datasets([dataset], domain.fields)["digest"])
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _first(recipe: Sequence[Stage], kind: str, fields: tuple[str, ...]) -> Frames | None:
    for stage in recipe:
        for name in sorted(stage.domains, key=lambda name: (name != kind, name)):
            domain = stage.domains[name]
            if name != kind and not name.startswith(f"{kind}_"):
                continue
            if needs_workdir(domain) or not set(fields) <= set(domain.fields):
                continue
            path = f"config.data.{name}" if len(recipe) == 1 else f"stage {stage.name}: {name}"
            options = {key: value for key, value in (domain.options or {}).items() if key not in _FOR_CROPS}
            return Frames(dataclasses.replace(domain, fields=fields, options=options or None), path)
    return None


def _still(domain: Domain, fields: tuple[str, ...], **changes: object) -> Domain:
    """Returns a domain whose frames are always the same, each once."""
    still = {"scale": None, "short_side": None, "crop": None, "crop_max_share": 1.0, "flip": False, "mix": None}
    still |= {"rare_classes": None, "margins": None, "distrust": None, "resize_label": True}
    # What is padded would count as pixels of the target.
    return dataclasses.replace(domain, fields=fields, fit="stretch", **(still | changes))


def _some(domain: Domain, path: str, count: int) -> Frames:
    there = len(domains.open_domain(domain, path))
    return Frames(dataclasses.replace(domain, count=min(count, there)), path)
