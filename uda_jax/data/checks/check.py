"""Checking a data set before training on it: every file opened, every frame decoded, everything wrong listed.

What listing the files found (`dataset.problems`) comes first. Then each frame is read as training reads it, and looked
at more closely than training would: whether its files are complete to the last byte, whether it is of the kind and
size of the others, which ids its label holds. One bad frame never hides the next.

A *problem* is something to fix, or to leave out of the run: `Report.good` are the names of the frames without any,
for the `names_file` of a domain. A *note* is worth knowing and may be meant.
"""

import collections
import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.data import open_dataset, published_counts
from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.checks import inspection
from uda_jax.data.checks.inspection import LISTED, Finding, Range
from uda_jax.data.checks.label_files import Stored, class_notes, palette_notes
from uda_jax.data.checks.splits import default_label_space
from uda_jax.data.io.archives import Problem, Tree
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pairing import folded_name
from uda_jax.data.pipeline.neighbours import with_neighbours
from uda_jax.data.pipeline.other_maps import OtherMap
from uda_jax.errors import UserError, printable

# What is wrong in one way differs in ids, colours and sizes.
_NUMBER = re.compile("[0-9]+")
# Data sets of the user's own files, which may be named and sized in any way.
_OWN_FILES = frozenset({"folder", "tfds", "video"})
# Data sets whose frames have several sizes as published.
_MANY_SIZES = _OWN_FILES | {"gta5", "kitti", "mapillary"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check of one split found.

    Attributes:
      dataset, split: as given.
      names: of all frames, in order.
      published: number of frames of the published split, None if unknown.
      problems: what is wrong, in the order of the frames; those of no single frame come first.
      notes: lines about what may be meant.
      maps: {map: how many frames have it readable}.
      sizes: {(height, width) of the images: how many}.
      label_space: classes of the labels; None if the split could not be opened.
      pixels: int64 `[256]`, how many label pixels have each value of the label space.
      ranges: of the maps of distances, such as "depth" in metres, where there are any.
      cameras: {map of a few numbers, such as "intrinsics": {its values: how many frames have them}}.
    """

    dataset: str
    split: str
    names: tuple[str, ...] = ()
    published: int | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    maps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sizes: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    label_space: LabelSpace | None = None
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    cameras: Mapping[str, Mapping[tuple[float, ...], int]] = dataclasses.field(default_factory=dict)

    @property
    def good(self) -> list[str]:
        """Names of the frames without a problem, in order."""
        bad = {name for problem in self.problems for name in problem.concerned}
        return [name for name in self.names if name not in bad]

    def __str__(self) -> str:
        published = "" if self.published is None else f" (published: {self.published})"
        lines = [f"{self.dataset} {self.split}: {len(self.names)} frames{published}, {len(self.good)} good"]
        sizes = sorted(self.sizes.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{height}x{width} ({count})" for (height, width), count in sizes[:LISTED])
        more = f" and {len(sizes) - LISTED} more" if len(sizes) > LISTED else ""
        width = max((9, *map(len, self.maps)))
        lines += [f"  {field:{width}} {self.maps[field]} frames" for field in MAPS if field in self.maps]
        lines += [f"  {'sizes':{width}} {listed}{more} (height x width)"] if sizes else []
        for field, spec in MAPS.items():
            if field in self.ranges:
                low, high, valid, pixels = self.ranges[field]
                values = f"{low:.4g} .. {high:.4g} {spec.unit}".rstrip() if valid else "no value"
                lines.append(f"  {field:{width}} {values}, {100 * valid / pixels:.1f} % of the pixels valid")
        for field, counts in self.cameras.items():
            common = sorted(counts.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{' '.join(f'{x:.4g}' for x in values)} ({n})" for values, n in common[:LISTED])
            rest = f" and {len(common) - LISTED} more" if len(common) > LISTED else ""
            lines.append(f"  {field:{width}} {shown}{rest}")
        if total := int(self.pixels.sum()):
            names = dict(enumerate(self.label_space.names)) | {self.label_space.ignore: "(ignored)"}
            shares = [(name, 100 * int(self.pixels[value]) / total) for value, name in names.items()]
            lines += ["  pixels of the labels, in percent"]
            lines += [f"    {printable(name):24} {share:7.3f}" for name, share in shares]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem.message}" for problem in self.problems]
        return "\n".join(lines)


def check_dataset(
    name: str,
    root: str | os.PathLike | None,
    split: str,
    label_space: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    images_from: str | os.PathLike | None = None,
    fields: Collection[str] = (),
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Reads all of a split and reports what is wrong with it.

    Args:
      name, root, split: as `uda_jax.data.get_dataset` takes them.
      label_space: a protocol; None takes the data set's own default.
      options: further ones that only this data set has.
      images_from: folder of pictures in place of the data set's images, as a `Domain` takes it.
      fields: maps to look at, too, that are looked for on request only, such as the images of a second camera.
      workers: processes that decode, since NumPy holds the interpreter's lock; 0 and 1 decode in this one. None takes
        one per core, and none for a few frames. They import the running script, whose work must be under `__main__`.
      progress: whether to show a progress bar on stderr.

    Raises:
      UserError: an unknown name, split, option or protocol, a missing or malformed folder, or workers that died.
    """
    if workers is not None and workers < 0:
        raise UserError(f"workers: expected an integer >= 0, got {workers}")
    for field in fields:
        if field not in MAPS:
            raise UserError(f"--fields: expected some of {', '.join(MAPS)}, got '{field}'")
    label_space = label_space or default_label_space(name)
    try:
        dataset = open_dataset(name, root, split, label_space, fields=fields, **(options or {}))
    except UserError as error:
        # A folder may be missing because the archive that holds it is damaged, or of a kind that is not read.
        archives = _odd_archives(name, root)
        if not archives:
            raise
        damaged = [problem for problem in archives if not problem.note]
        notes = tuple(problem.message for problem in archives if problem.note)
        return Report(name, split, problems=(*damaged, Problem(None, "image", str(error))), notes=notes)
    dataset = with_neighbours(dataset, fields)
    if lacking := [field for field in fields if not dataset.has(field)]:
        raise UserError(f"--fields: no frame of {name} {split} has {lacking[0]}; leave it out")
    if images_from is not None:
        dataset = OtherMap(dataset, images_from)
    bar = progress_bar(f"{name} {split}", len(dataset), "frames", shown=progress)
    indices = [(index,) for index in range(len(dataset))]
    with (
        contextlib.closing(bar),
        parallel_map(inspection.inspect_frame, indices, workers, shared=(dataset, name), title=name) as findings,
    ):
        builder = _ReportBuilder(dataset, name)
        for index, finding in enumerate(findings):
            builder.add(index, finding)
            bar.update()
    return builder.report(split, published_counts(name).get(split))


class _ReportBuilder:
    """The findings of a split, frame by frame."""

    def __init__(self, dataset: Dataset, name: str):
        self._dataset, self._name = dataset, name
        self._problems: dict[int, dict[str, str]] = {}
        self._notes: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
        self._kinds = {field: collections.defaultdict(list) for field in MAPS}
        self._sizes: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
        self._maps: collections.Counter[str] = collections.Counter()
        self._pixels = np.zeros(256, np.int64)
        self._ranges: dict[str, Range] = {}
        self._cameras: dict[str, collections.Counter[tuple[float, ...]]] = collections.defaultdict(collections.Counter)
        self._stored: list[tuple[str, Stored]] = []
        self._pictures: dict[tuple[int, int], list[int]] = collections.defaultdict(list)

    def add(self, index: int, finding: Finding) -> None:
        """Enters what frame `index` is like."""
        if finding.problems:
            self._problems[index] = finding.problems
        for note, field in finding.notes.items():
            self._notes[note, field].append(index)
        for field, kind in finding.kinds.items():
            self._kinds[field][kind].append(index)
        if "image" in finding.sizes:
            self._sizes[finding.sizes["image"]].append(index)
        self._maps.update(finding.sizes.keys())
        if finding.stored is not None:
            self._stored.append((str(self._dataset.files(index)["label"]), finding.stored))
        if finding.pixels is not None:
            self._pixels += finding.pixels
        for field, values in finding.cameras.items():
            self._cameras[field][values] += 1
        # Published sets, of digits or of video, are as they are.
        if finding.picture is not None and self._name == "folder":
            self._pictures[finding.picture].append(index)
        for field, found in finding.ranges.items():
            self._ranges[field] = self._ranges[field] | found if field in self._ranges else found

    def report(self, split: str, published: int | None) -> Report:
        """Returns the report of all frames that were added."""
        names = tuple(self._dataset.name(index) for index in range(len(self._dataset)))
        notes = self._compare_frames(names)
        self._look_at_names(names)
        listed = tuple(self._dataset.problems)
        found = self._found(names)
        self._look_for_missing_maps(names, {(problem.frame, problem.field) for problem in listed})
        if published is not None and len(names) != published:
            notes.append(f"{len(names)} frames listed, {published} published; the copy may be incomplete")
        notes += class_notes(self._dataset, self._pixels, self._stored) + palette_notes(self._stored)
        if (
            names
            and not self._pixels.any()
            and len(self._dataset.label_space.names)
            and not self._told("label", listed)
        ):
            notes.append("no frame has a label")
        notes += [problem.message for problem in self._dataset.passed_over]
        if same := sorted(index for frames in self._pictures.values() if len(frames) > 1 for index in frames):
            self._notes[inspection.SAME_IMAGE, "image"] = same
        notes += [
            f"{len(frames)} frames {note}: {self._examples(frames, names, field)}"
            for (note, field), frames in self._notes.items()
        ]
        return Report(
            self._name,
            split,
            names,
            published,
            tuple(sorted((*listed, *found), key=lambda problem: problem.frame is not None)),
            tuple(notes),
            dict(self._maps),
            {size: len(frames) for size, frames in self._sizes.items()},
            self._dataset.label_space,
            self._pixels,
            self._ranges,
            self._cameras,
        )

    def _compare_frames(self, names: Sequence[str]) -> list[str]:
        """Reports files and images unlike those of the other frames; returns notes about where frames vary."""
        notes = []
        for field, kinds in self._kinds.items():
            usual, exceptions = inspection.few_exceptions(kinds)
            for index, kind in exceptions.items():
                self._add(index, field, f"Pillow mode {kind}, unlike {usual} of the other {field} files; convert it")
            if len(kinds) > 1 and not exceptions:
                listed = ", ".join(f"{kind} ({len(frames)})" for kind, frames in kinds.items())
                notes.append(f"the {field} files have several Pillow modes: {listed}")
        usual, exceptions = inspection.few_exceptions(self._sizes)
        if self._name not in _MANY_SIZES:
            for index, (height, width) in exceptions.items():
                self._add(
                    index, "image", f"{height}x{width} (height x width), unlike {usual[0]}x{usual[1]} of the others"
                )
        elif self._name in _OWN_FILES and exceptions:
            what = f"are not {usual[0]}x{usual[1]} (height x width) as the others"
            notes.append(f"{len(exceptions)} frames {what}: {self._examples(sorted(exceptions), names)}")
        return notes

    def _look_at_names(self, names: Sequence[str]) -> None:
        """Reports names that lists of names cannot hold, and those that the published set cannot have."""
        often = {name for name, count in collections.Counter(names).items() if count > 1}
        folded = [folded_name(name) for name in names]
        alike = {name for name, count in collections.Counter(folded).items() if count > 1}
        for index, name in enumerate(names):
            if folded[index] in alike and name not in often:
                self._notes[inspection.ALIKE, "image"].append(index)
            if name in often:
                self._add(
                    index, "image", f"the name '{printable(name)}' belongs to several frames; rename or remove one"
                )
            elif any("\ud800" <= letter <= "\udfff" for letter in name):
                self._add(index, "image", "the name is not valid UTF-8; rename the files of this frame")
            elif [name] != [line.strip() for line in name.splitlines()]:
                self._add(index, "image", "the name begins or ends with a space, or holds a line break; rename it")
            elif not name.isascii() and self._name in _OWN_FILES:
                self._notes[inspection.NOT_ASCII, "image"].append(index)
            elif not name.isascii():
                self._add(
                    index, "image", f"unexpected name, those of {self._name} are ASCII; rename or remove the file"
                )

    def _look_for_missing_maps(self, names: Sequence[str], reported: set[tuple[str | None, str]]) -> None:
        """Notes frames without a map that others have, where the data set allows it."""
        for field in self._maps:
            missing: set[str] = set()
            # A data set may have to read its first frame for this, which may be damaged in a way it did not foresee.
            with contextlib.suppress(Exception):
                missing = {name for name in self._dataset.missing(field) if (name, field) not in reported}
            if missing:
                self._notes[f"have no {field}", "image"] = [
                    index for index, name in enumerate(names) if name in missing
                ]

    def _found(self, names: Sequence[str]) -> list[Problem]:
        """Returns the problems of frames; what is wrong alike with many of them is one."""
        groups: dict[tuple[str, str], list[tuple[str, str]]] = collections.defaultdict(list)
        for index, fields in sorted(self._problems.items()):
            for field, message in fields.items():
                reason = message.removeprefix(f"{self._dataset.files(index).get(field)}:")
                groups[field, _NUMBER.sub("", reason)].append((names[index], message))
        found = []
        for (field, _), alike in groups.items():
            if len(alike) > max(LISTED, inspection.EXCEPTIONS * len(names)):
                message = f"{alike[0][1]} (and likewise {len(alike) - 1} more {field} files)"
                found.append(Problem(None, field, message, frames=tuple(name for name, _ in alike)))
            else:
                found += [Problem(name, field, message) for name, message in alike]
        order = {name: number for number, name in enumerate(names)}
        return sorted(found, key=lambda problem: order[problem.concerned[0]])

    def _told(self, field: str, listed: Sequence[Problem]) -> bool:
        """Returns whether a problem concerns a map already."""
        return any(problem.field == field for problem in listed) or any(
            field in problems for problems in self._problems.values()
        )

    def _add(self, index: int, field: str, message: str) -> None:
        """Adds a problem of a frame unless the map has one already."""
        file = self._dataset.files(index).get(field)
        where = file or f"{self._name}: frame '{printable(self._dataset.name(index))}'"
        self._problems.setdefault(index, {}).setdefault(field, f"{where}: {message}")

    def _examples(self, frames: Sequence[int], names: Sequence[str], field: str = "image") -> str:
        listed = [str(self._dataset.files(index).get(field, printable(names[index]))) for index in frames[:LISTED]]
        return ", ".join(listed) + (" and others" if len(frames) > LISTED else "")


def _odd_archives(name: str, root: str | os.PathLike | None) -> list[Problem]:
    with contextlib.suppress(UserError):
        return Tree(name, root).problems
    return []
