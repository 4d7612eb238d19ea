"""Runs that differ in nothing but the seed: one line of the curves, one column among the configs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax.report.runs import Run
from uda_jax.report.tables import Group


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Runs of one config, one or more for each seed.

    Attributes:
      title: the label of their table row, or the folder of the first one.
      benchmark: the benchmark's name, "" where it is not known.
      runs: by rising seed.
    """

    title: str
    benchmark: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> bool:
        """Whether any of the runs is."""
        return any(run.finished for run in self.runs)


def gather(runs: Sequence[Run], groups: Sequence[Group]) -> list[Repeats]:
    """Gathers runs, finished ones in the order of the tables and the unfinished after them.

    Args:
      runs: the runs.
      groups: the table rows that theirs belong to.
    """
    labels = {id(row): group.label for group in groups for row in group.rows}
    rows = ((row["benchmark"], group.label) for group in groups for row in group.rows)
    places = {key: i for i, key in enumerate(dict.fromkeys(rows))}
    gathered: dict[Any, list[Run]] = {}
    for run in runs:
        gathered.setdefault(_identity(run, labels), []).append(run)
    found = []
    for members in gathered.values():
        first = next((run for run in members if run.finished), members[0])
        title = labels[id(first.rows[-1])] if first.rows else first.folder.name
        benchmark = first.rows[-1]["benchmark"] if first.rows else first.config.get("benchmark")
        ordered = tuple(sorted(members, key=lambda run: (not run.finished, run.seed)))
        found.append(Repeats(title, benchmark if isinstance(benchmark, str) else "", ordered))
    found.sort(key=lambda each: (not each.finished, places.get((each.benchmark, each.title), len(places))))
    names = [(each.benchmark, each.title) for each in found]
    return [
        dataclasses.replace(each, title=f"{each.title} ({each.runs[0].folder.name})") if names.count(name) > 1 else each
        for each, name in zip(found, names, strict=True)
    ]


def by_benchmark(found: Sequence[Repeats]) -> dict[str, list[Repeats]]:
    """Returns them by benchmark; where only one is known, what does not say its own counts as of that one."""
    known = list(dict.fromkeys(each.benchmark for each in found if each.benchmark))
    default = known[0] if len(known) == 1 else ""
    sections: dict[str, list[Repeats]] = {}
    for each in found:
        sections.setdefault(each.benchmark or default, []).append(each)
    return sections


def _identity(run: Run, labels: Mapping[int, str]) -> Any:
    """What runs that differ in the seed alone have in common."""
    if run.config:
        return json.dumps({name: value for name, value in run.config.items() if name != "seed"}, sort_keys=True)
    if run.rows:
        return run.rows[-1]["benchmark"], labels[id(run.rows[-1])]
    return run.folder
