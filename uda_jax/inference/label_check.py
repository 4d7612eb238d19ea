"""A look at labels: those that teach nothing, or that nothing could be scored on, are told before the first step."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from uda_jax.data.base import Dataset
from uda_jax.data.checks import label_files
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
      ignored: pixels without a class.
      stored: int64 [256], of these, how many store each value, as far as files of ids were looked at.
    """

    frames: int
    total: int
    classes: np.ndarray
    ignored: int
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
        label = dataset.read(index, ("label",)).get("label")
        if label is not None:
            classes += np.bincount(np.ravel(label), minlength=256)
        if label is not None and seen <= len(first):
            stored += _ignored(dataset, index, label)
        if seen >= len(first) and classes[wanted].any():
            break
    return Sample(seen, total, classes[:count], int(classes[count:].sum()), stored)


def _ignored(dataset: Dataset, index: int, label: np.ndarray) -> np.ndarray:
    """Returns int64 [256], pixels of each stored value that is in no class, as far as that can be known.

    Args:
      dataset, index: the frame.
      label: uint8 [H, W], its classes.
    """
    counts, files = np.zeros(256, np.int64), dataset.label_files()
    if files is not None:
        # What a reader makes of a file may say no longer what it stores.
        found = label_files.stored_in(dataset, files[index], label)
        counts[list(found.ignored if found else ())] = list(found.ignored.values() if found else ())
    elif dataset.table is not None:
        values = dataset.stored(index, ("label",))["label"]
        counts += np.bincount(np.ravel(values)[np.ravel(label) == dataset.label_space.ignore], minlength=256)
    return counts


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
    ignored, pixels = found.ignored, found.ignored + found.classes.sum()
    value = int(found.stored.argmax()) if found.stored.any() else None
    wanted = range(len(names)) if wanted is None else list(wanted)
    if not found.classes[wanted].any():
        stored = "" if value is None else f", most are stored as {value}"
        raise UserError(
            f"{path}: none of the {found.total} frames has a labelled pixel of {[names[k] for k in wanted]}{stored}, "
            "so that nothing can be learnt from them or scored on them; list the stored values in the data set's ids, "
            "or take another split"
        )
    absent = [name for name, count in zip(names, found.classes, strict=True) if not count]
    if not absent or dataset.label_size == (1, 1):
        return None
    frames = f"the {found.total} frames" if found.frames == found.total else f"{found.frames} of {found.total} frames"
    many = "es" if len(absent) > 1 else ""
    note = f"note: {path}: no pixel of the class{many} {', '.join(absent)} in {frames}"
    if ignored < _MANY_IGNORED * pixels:
        return note
    note += f", and {100 * ignored / pixels:.0f} % of the pixels are ignored"
    return note if value is None else f"{note}, most of them stored as {value}; list that value in ids if it is a class"


def compare_palettes(sections: Mapping[str, Domain]) -> list[str]:
    """Returns a note if palettes of label files show one class here in the colour of another one there.

    Each domain may be consistent in itself, and no check of one data set sees it.

    Args:
      sections: domains with labels by the dotted names of their sections.
    """
    first: dict[tuple[int, ...], tuple[str, str]] = {}
    for path, section in sections.items():
        for where, member in domains.members(section, path).values():
            # A split may be without labels, and no worse for it.
            opened = domains.open_domain(dataclasses.replace(member, fields=("image",)), where)
            for name, (colour, file) in _class_colours(opened).items():
                other, before = first.setdefault(colour, (name, file))
                if other != name:
                    return [
                        f"note: {where}: the palette of {file} shows {name} in the colour of {other} in {before}, "
                        f"{list(colour)}; ids are read, not colours, so give 'colours' without 'ids' if these are right"
                    ]
    return []


def _class_colours(dataset: Dataset) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns {class: (its colour in the palettes of a few label files, the first of them)}, less shared colours."""
    files, found = dataset.label_files() or [], {}
    for index in range(min(len(files), SAMPLED_FRAMES)):
        example = dataset.read(index, ("label",)) if files[index] is not None else {}
        stored = label_files.stored_in(dataset, files[index], example["label"]) if "label" in example else None
        for value, colour in (stored.palette if stored else {}).items():
            target = value if dataset.table is None else int(dataset.table[value])
            if target < len(dataset.label_space.names):
                found.setdefault(dataset.label_space.names[target], (colour, str(files[index])))
    colours = [colour for colour, _ in found.values()]
    return {name: entry for name, entry in found.items() if colours.count(entry[0]) == 1}


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
