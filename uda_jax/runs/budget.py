"""What labels of target frames are worth, and which ones to pay for next: the runs and choices of `uda budget`.

The folder of a budget holds

    seed0/, k10-both-seed0/ ...    the runs: without labels, and with k labelled frames on each line of the curve
    frames/                        pool.json, what the networks make of its frames, and a list for each choice
    rows.json, budget.json, budget.html      result rows, the curve's figures, the curve
    next_frames.txt                the names of the frames to label next, the first one first

What is there is not made again, so that the same command, broken off, goes on.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax import config, ops
from uda_jax.data.io import atomic
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.frame_lists import shuffled_positions
from uda_jax.errors import UserError
from uda_jax.report import tables
from uda_jax.runs import frame_measures, sweep
from uda_jax.runs.frame_measures import Measures
from uda_jax.schema import to_dict

ZERO = "without labels"
# Lines of the curve: name -> config and variant, what it is called in words.
LINES = {
    "labelled": ("source_only:{},labelled", "labels alone"),
    "both": ("source_only:{},both", "labels and source"),
    "ass": ("ass:{}", "ASS"),
}
RANDOM = "random"
# How frames may be chosen: name -> in words.
CRITERIA = {
    "both": "by entropy and diversity",
    "entropy": "by entropy",
    "diversity": "by diversity",
    RANDOM: "at random",
}
_LABELLED = "--config.data.labelled_target."


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a budget is made of.

    Attributes:
      reference: of the config without labels, a packaged one.
      words: overrides; each goes to the configs that have its field.
      labels: numbers of labelled frames, rising.
      seeds: of the runs.
      lines: keys of `LINES`.
      choices: by which frames are chosen that the runs are trained on, of `CRITERIA`.
      criterion: by which the next frames are chosen.
      count: of the next frames.
      folder: of the budget.
    """

    reference: str
    words: tuple[str, ...]
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    lines: tuple[str, ...]
    choices: tuple[str, ...]
    criterion: str
    count: int
    folder: Path


@dataclasses.dataclass(frozen=True)
class Point:
    """A run of the curve.

    Attributes:
      line: a key of `LINES`, or `ZERO`.
      choice: by which its frames were chosen; "" without labels.
      labels: how many.
      run: of the sweep.
    """

    line: str
    choice: str
    labels: int
    run: sweep.Run

    @property
    def title(self) -> str:
        """The name of its curve."""
        return ZERO if self.line == ZERO else f"{LINES[self.line][1]}, frames {CRITERIA[self.choice]}"


class Budget:
    """A budget under way; raises a UserError for configs, numbers and frames that do not go together.

    Args:
      asked: what it is made of.
      slots: as for `sweep.run_all`.
      say: called with one line when something begins or ends.
    """

    def __init__(self, asked: Asked, slots: Sequence[str | None], say: Callable[[str], None]):
        self.asked, self._slots, self._say = asked, slots, say
        self._frames = asked.folder / "frames"
        setting = _setting(asked.reference)
        self._references = {line: LINES[line][0].format(setting) for line in asked.lines}
        self._words = self._fitting_words()
        self.pool = self._pool()
        # The labels themselves are no part of the choice, but only frames that have some can be trained on.
        opened = domains.open_domain(dataclasses.replace(self.pool, fields=("image",)), "config.data.target")
        self.names, missing = opened.names(), set(opened.missing("label"))
        self.labelled = [name for name in self.names if name not in missing]
        if (most := max(asked.labels)) > len(self.labelled):
            raise UserError(
                f"--labels {most}: expected at most {len(self.labelled)}, the frames of the target's split "
                f"'{self.pool.split}' that have labels; label more of them, or give smaller numbers"
            )

    def run(self) -> tuple[list[Point], dict[str, str]]:
        """Trains what is not finished; returns the runs, and of those that failed the reasons."""
        zero = [self._point(ZERO, "", 0, seed) for seed in self.asked.seeds]
        points = [point for point in zero if 0 in self.asked.labels]
        needed = zero if self._measures_matter() else points
        failed = self._train(needed)
        if failed:
            return points, failed
        labelled = [
            self._point(line, choice, count, seed)
            for line in self.asked.lines
            for choice in self.asked.choices
            for count in self.asked.labels
            if count
            for seed in self.asked.seeds
        ]
        failed = self._train(labelled)
        return points + labelled, failed

    def next_frames(self) -> list[str]:
        """Returns the frames to label next, and writes them: of those without labels, the first ones by the criterion.

        Where all have labels, as in a benchmark, those count as labelled that the largest number of labels has chosen.
        """
        seed, most = self.asked.seeds[0], max(self.asked.labels)
        have = self.labelled
        if len(have) == len(self.names):
            have = self.chosen(self.asked.choices[0], most, seed) if most else []
        left = [name for name in self.names if name not in set(have)]
        if not left:
            raise UserError("--labels: all frames are labelled then, so that none is left to choose; ask for fewer")
        found = self._choose(self.asked.criterion, left, have, min(self.asked.count, len(left)), seed)
        atomic.write(self.asked.folder / "next_frames.txt", "".join(f"{name}\n" for name in found))
        return found

    def chosen(self, choice: str, count: int, seed: int) -> list[str]:
        """Returns the frames that a run with so many labels is trained on, and writes them into a list."""
        file = self._list(choice, count, seed)
        if not file.exists():
            found = self._choose(choice, self.labelled, [], count, seed)
            atomic.write(file, "".join(f"{name}\n" for name in found))
        return file.read_text().splitlines()

    def _list(self, choice: str, count: int, seed: int) -> Path:
        return self._frames / f"{choice}-{count}-seed{seed}.txt"

    def _choose(self, choice: str, among: Sequence[str], have: Sequence[str], count: int, seed: int) -> list[str]:
        measures = None if choice == RANDOM else self._measures(seed)
        return choose(choice, among, have, count, seed, measures)

    def _measures_matter(self) -> bool:
        return {self.asked.criterion, *self.asked.choices} != {RANDOM}

    def _measures(self, seed: int) -> Measures:
        """Returns what the network of a seed that saw no labels makes of the pool."""
        file = self._frames / f"measures-seed{seed}.npz"
        if not file.exists():
            self._say(f"measuring {len(self.names)} frames by the network of seed {seed}")
            run, slot = self._point(ZERO, "", 0, seed).run, self._slots[0]
            atomic.write(self._frames / "pool.json", json.dumps(to_dict(self.pool), indent=1) + "\n")
            environment = os.environ | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
            words = ["-m", "uda_jax.runs.frame_measures", run.workdir, self._frames / "pool.json", file]
            done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.splitlines() or ["no message"])[-1]
                raise UserError(f"{run.workdir}: its frames could not be measured: {last.removeprefix('uda: error: ')}")
        return frame_measures.load(file)

    def _point(self, line: str, choice: str, count: int, seed: int) -> Point:
        """Returns a run, with its list of frames written."""
        name, own = f"{line}-{choice}-k{count}-seed{seed}", ()
        if line == ZERO:
            name = f"seed{seed}"
        else:
            self.chosen(choice, count, seed)
            own = (f"{_LABELLED}split={self.pool.split}", f"{_LABELLED}names_file={self._list(choice, count, seed)}")
            own += (f"{_LABELLED}count={count}",)
        reference = self.asked.reference if line == ZERO else self._references[line]
        words = (*self._words[line], *own, f"--config.seed={seed}")
        config.experiment(config.load(reference, words))
        return Point(line, choice, count, sweep.Run(name, reference, words, self.asked.folder / name))

    def _train(self, points: Sequence[Point]) -> dict[str, str]:
        return sweep.run_all([point.run for point in points], self.asked.folder / "rows.json", self._slots, self._say)

    def _fitting_words(self) -> dict[str, tuple[str, ...]]:
        """Returns by line the overrides that its config has the fields of; raises UserError for one that none has."""
        references = {ZERO: self.asked.reference} | self._references
        found: dict[str, tuple[str, ...]] = {line: () for line in references}
        for word in self.asked.words:
            errors = {}
            for line, reference in references.items():
                try:
                    config.load(reference, [word])
                    found[line] += (word,)
                except UserError as error:
                    errors[line] = error
            if len(errors) == len(references):
                raise errors[ZERO]
        return found

    def _pool(self) -> Domain:
        """Returns the target's frames as the domain of labelled frames reads them."""
        plain = config.experiment(config.load(self.asked.reference, self._words[ZERO]))
        if "labelled_target" in plain.data:
            raise UserError(
                f"uda budget {self.asked.reference}: expected a config that reads no labels of the target, such as "
                "advent:streets, got one with the domain labelled_target"
            )
        line, reference = next(iter(self._references.items()))
        domain = config.experiment(config.load(reference, self._words[line])).data["labelled_target"]
        # A benchmark may have a split of its own for few labels, of which no other frames can be chosen.
        own = config.experiment(config.load(f"source_only:{_setting(self.asked.reference)},oracle"))
        split = plain.data.get("target", own.data["labelled_target"]).split
        return dataclasses.replace(domain, count=None, names_file=None, split=split)


def choose(
    choice: str, among: Sequence[str], have: Sequence[str], count: int, seed: int, measures: Measures | None
) -> list[str]:
    """Returns some frames by a criterion, the one to label first at the beginning.

    Args:
      choice: one of `CRITERIA`.
      among: names to choose from.
      have: names of the frames that are labelled.
      count: how many.
      seed: of the random choice, of which a smaller count has the same beginning.
      measures: of all of these frames; None for the random choice.
    """
    if choice == RANDOM:
        return [among[k] for k in shuffled_positions(among, seed)[:count]]
    row = {name: k for k, name in enumerate(measures.names)}
    at, centres = [row[name] for name in among], measures.features[[row[name] for name in have]]
    entropy, features = measures.entropy[at], measures.features[at]
    if choice == "entropy":
        positions = ops.most_uncertain(entropy)[:count]
    elif choice == "diversity":
        positions = ops.k_centre_greedy(features, count, centres)
    else:
        positions = ops.uncertain_and_diverse(entropy, features, count, centres)
    return [among[position] for position in np.asarray(positions).tolist()]


def curve(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Returns the figures of the runs that are finished, by line and number of labels.

    Returns:
      [{"title", "line", "choice", "labels", "values": {seed: headline}, "mean", "spread": sample deviation or None}].
    """
    gathered: dict[tuple[str, str, str, int], dict[int, float]] = {}
    for point in points:
        for row in (point.run.rows() or ())[:1]:
            key = (point.title, point.line, point.choice, point.labels)
            gathered.setdefault(key, {})[row["seed"]] = tables.figure(row, tables.headline_column(row))
    keys = ("title", "line", "choice", "labels")
    return [
        {**dict(zip(keys, key, strict=True)), "values": values, "mean": statistics.fmean(values.values())}
        | {"spread": statistics.stdev(values.values()) if len(values) > 1 else None}
        for key, values in gathered.items()
    ]


def _setting(reference: str) -> str:
    """Returns the benchmark of a packaged config's reference."""
    name, _, setting = reference.partition(":")
    if name not in config.names():
        config.load(reference)  # One that does not load says why.
        raise UserError(
            f"uda budget {reference}: expected a packaged config such as dacs:folder, whose settings those with labels "
            "have, too, got a file; set its fields by overrides"
        )
    return setting.partition(",")[0] or "streets"
