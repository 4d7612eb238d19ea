"""A look at labels: those that teach nothing, or that nothing could be scored on, are told before the first step."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from uda_jax.data.base import Dataset
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError

# Frames of a domain whose labels are counted; more only if none of these has a labelled pixel.
SAMPLED_FRAMES = 8
# Share of ignored pixels from which on a note says how many there are.
_MANY_IGNORED = 0.2


class Sample(NamedTuple):
    """The labels of some frames.

    Attributes:
      frames: how many were looked at.
      total: how many there are.
      classes: int64 [K], pixels of each class.
      stored: int64 [256], pixels of each stored value that is ignored.
    """

    frames: int
    total: int
    classes: np.ndarray
    stored: np.ndarray


def sample(dataset: Dataset, wanted: Iterable[int] | None = None) -> Sample:
    """Counts the pixels of a few frames, evenly spaced, and of all others too while none has a class.

    Args:
      dataset: an opened one that has labels.
      wanted: label values of which one has to be found; None = any class.
    """
    total, count = len(dataset), len(dataset.label_space.names)
    wanted = list(range(count) if wanted is None else wanted)
    first = np.linspace(0, total, min(SAMPLED_FRAMES, total), endpoint=False, dtype=int).tolist()
    classes, stored, seen = np.zeros(256, np.int64), np.zeros(256, np.int64), 0
    for seen, index in enumerate((*first, *sorted(set(range(total)) - set(first))), start=1):
        label = dataset.stored(index, ("label",)).get("label")
        if label is not None:
            values = np.bincount(np.ravel(label), minlength=256)
            table = np.arange(256) if dataset.table is None else dataset.table
            np.add.at(classes, table, values)
            stored += np.where(table >= count, values, 0)
        if seen >= len(first) and classes[wanted].any():
            break
    return Sample(seen, total, classes[:count], stored)


def check(dataset: Dataset, path: str, wanted: Iterable[int] | None = None) -> str | None:
    """Looks at the labels of a domain.

    Args:
      dataset: an opened one that has labels.
      path: dotted name of its section, for messages.
      wanted: label values of which one has to be found; None = any class.

    Returns:
      A note on classes without a pixel, if there are any.

    Raises:
      UserError: no frame has a pixel of a class.
    """
    found, names = sample(dataset, wanted), dataset.label_space.names
    ignored, pixels = found.stored.sum(), found.stored.sum() + found.classes.sum()
    value = int(found.stored.argmax())
    wanted = range(len(names)) if wanted is None else list(wanted)
    if not found.classes[wanted].any():
        stored = f", most are stored as {value}" if ignored else ""
        raise UserError(
            f"{path}: none of the {found.total} frames has a labelled pixel of {[names[k] for k in wanted]}{stored}, "
            "so that nothing can be learnt from them or scored on them; list the stored values in the data set's ids, "
            "or take another split"
        )
    absent = [name for name, count in zip(names, found.classes, strict=True) if not count]
    if not absent or dataset.label_size == (1, 1):
        return None
    frames = f"the {found.total} frames" if found.frames == found.total else f"{found.frames} of {found.total} frames"
    note = f"note: {path}: no pixel of {', '.join(absent)} in {frames}"
    if ignored < _MANY_IGNORED * pixels:
        return note
    return (
        f"{note}, and {100 * ignored / pixels:.0f} % of the pixels are ignored, most of them stored as {value}; list "
        "that value in ids if it is a class"
    )


def check_domains(sections: Mapping[str, Domain], path: str = "config.data") -> list[str]:
    """Looks at the labels of the domains that a method learns labels from; returns notes, raises as `check`."""
    notes = []
    for name, domain in sections.items():
        if teaches(name, domain):
            for where, member in domains.members(domain, f"{path}.{name}").values():
                notes.append(check(domains.open_domain(member, where), where))
    return [note for note in notes if note]


def teaches(name: str, domain: Domain) -> bool:
    """Whether a method learns from the labels of a domain of that name."""
    return "label" in domain.fields and name.partition("_")[0] != "target"
