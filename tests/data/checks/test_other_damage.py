"""Damage of other kinds than in `test_damaged_inputs`, to all layouts: named, or without effect on what is learnt.

One case of each kind, whose layout, packing and place are drawn by a seed.
"""

import hashlib
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from damages import KINDS, UNSEEN, archives, descriptions, names, pictures, sets  # noqa: F401
from layouts import LAYOUTS, Case, Layout, packed, write_layout
from more_layouts import MORE_LAYOUTS

from uda_jax.data import get_dataset
from uda_jax.data.base import Dataset
from uda_jax.data.checks.check import check_dataset
from uda_jax.data.checks.splits import default_label_space
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError

ALL = LAYOUTS | MORE_LAYOUTS
SEED = 1
# What may be packed behind a damage: that of files which archives can hold.
PACKABLE = {name for name, (function, _) in KINDS.items() if function.__module__ in (pictures.__name__, names.__name__)}
NOT_PACKED = {"pipe_instead", "socket_instead", "folder_instead", "folder_of_one_map_doubled"}


class Drawn(NamedTuple):
    """One case: the kind of damage, the layout, what to pack it into afterwards ("" for nothing), and a seed."""

    kind: str
    layout: str
    packing: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.layout}-{self.packing or 'plain'}-{self.seed}"


def draw(seed: int, count: int) -> list[Drawn]:
    """Returns cases of all kinds in turn, until there are as many as asked for."""
    generator = np.random.default_rng(seed)
    drawn = []
    kinds = sorted(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        suitable = [name for name, layout in ALL.items() if KINDS[kind][1](layout)]
        layout = suitable[generator.integers(len(suitable))]
        packing = ("", "", "zip", "tar")[generator.integers(4)] if kind in PACKABLE - NOT_PACKED else ""
        drawn.append(Drawn(kind, layout, packing, int(generator.integers(2**31))))
    return drawn


def opened(layout: Layout, folder: Path) -> Dataset:
    return get_dataset(layout.dataset, folder / layout.root, layout.split, space(layout), **layout.options)


def space(layout: Layout) -> str:
    return "19" if layout.dataset in ("tfds", "video") else default_label_space(layout.dataset)


def learnt(dataset: Dataset) -> Counter[str]:
    """Returns how often a data set holds each frame, by what training sees of it."""

    def digest(index: int) -> str:
        example = dataset[index]
        maps = [(key, np.shape(value), np.asarray(value).tobytes()) for key, value in sorted(example.items())]
        return hashlib.sha256(repr([row for row in maps if row[0] not in ("name", "index")]).encode()).hexdigest()

    return Counter(digest(index) for index in range(len(dataset)))


class Sound:
    """The undamaged folders of all layouts, written when they are first asked for, and what they hold."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._learnt: dict[str, Counter[str]] = {}

    def folder(self, name: str) -> Path:
        folder = self._folder / name.replace(" ", "_")
        return folder if folder.exists() else write_layout(ALL[name], folder)

    def learnt(self, name: str) -> Counter[str]:
        if name not in self._learnt:
            self._learnt[name] = learnt(opened(ALL[name], self.folder(name)))
        return self._learnt[name]


def lines_of(layout: Layout, root: Path, names_file: Path) -> list[str]:
    """Returns all that is said of a damaged data set: by its check, and by reading its good frames as training does."""
    where = (layout.dataset, root, layout.split, space(layout))
    try:
        report = check_dataset(*where, options=layout.options, workers=0)
    except UserError as error:
        return [str(error)]
    lines = [*(problem.message for problem in report.problems), *report.notes]
    str(report)
    listed = names_file.exists()
    if not listed:
        names_file.write_text("".join(f"{name}\n" for name in report.good), encoding="utf-8")
    if not report.good and not listed:
        return lines
    with_labels = "label" in report.maps and report.maps["label"] >= len(report.good)
    domain = Domain(
        fields=("image", "label") if with_labels else ("image",),
        dataset=layout.dataset,
        root=str(root),
        split=layout.split,
        label_space=space(layout),
        names_file=str(names_file),
        options=dict(layout.options),
    )
    try:
        dataset = open_domain(domain)
        for index in range(len(dataset)):
            dataset[index]
        assert listed or dataset.names() == report.good
    except UserError as error:
        assert listed, f"the fix list cannot be read: {error}"
        lines.append(str(error))
    return lines


def verdict(case: Drawn, sound: Sound, folder: Path) -> str:
    """Damages a copy of a data set and returns "named", "harmless", "unseen" (see `UNSEEN`), or what is wrong."""
    layout, (function, _) = ALL[case.layout], KINDS[case.kind]
    root = Path(shutil.copytree(sound.folder(case.layout), folder / "data"))
    named = function(Case(root, layout, np.random.default_rng(case.seed)))
    if case.packing:
        packed(root, case.packing)
    named = (named,) if isinstance(named, str) else named
    with warnings.catch_warnings():
        # Pillow warns of what it reads all the same.
        warnings.simplefilter("ignore")
        lines = lines_of(layout, root / layout.root, folder / "names.txt")
    if long := [line for line in lines if "\n" in line or not line.isprintable() or len(line) > 1500]:
        return f"not one clear line: {long[0][:300]!r}"
    if failed := [line for line in lines if "the reader failed" in line]:
        return f"unforeseen: {failed[0]}"
    if any(word in line for word in named for line in lines):
        return "named"
    try:
        same = learnt(opened(layout, root)) == sound.learnt(case.layout)
    except UserError as error:
        return f"unnamed: {error}, expected {named}, got {lines}"
    if not same and UNSEEN.get(case.kind, lambda layout: False)(layout):
        return "unseen"
    return "harmless" if same else f"silent: expected {named}, got {lines}"


def installed(name: str) -> Layout:
    """Returns a layout, or skips the test if reading it takes a package that is not there."""
    if ALL[name].package:
        pytest.importorskip(ALL[name].package)
    return ALL[name]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return Sound(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("name", MORE_LAYOUTS)
def test_undamaged(name, sound):
    layout = installed(name)
    report = check_dataset(
        layout.dataset, sound.folder(name) / layout.root, layout.split, space(layout), layout.options, workers=0
    )
    assert not report.problems and len(report.good) == len(report.names) >= 6
    # That there are fewer frames than were published, and not all classes, is true.
    harmless = ("frames listed, ", "no label has a pixel of ", "no frame has a label")
    assert not [note for note in report.notes if not any(words in note for words in harmless)]


@pytest.mark.parametrize("case", draw(SEED, len(KINDS)), ids=str)
def test_damage_is_named(case, sound, tmp_path):
    installed(case.layout)
    assert verdict(case, sound, tmp_path) in ("named", "harmless", "unseen")
