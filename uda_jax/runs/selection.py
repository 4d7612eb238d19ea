"""`uda select`: runs and checkpoints measured on unlabelled target frames, and what was measured kept beside each run.

A score is known by the frames, by how they are prepared and predicted, by the checkpoint's own checksum and by the
version of the criteria; as long as none of them changes it is not computed again.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uda_jax.config import Experiment
from uda_jax.data.io import atomic
from uda_jax.data.pipeline import domains
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference import criteria
from uda_jax.inference.label_free import Frames, Measured
from uda_jax.runs import measuring, stages, states, target_frames
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.choice import Candidate
from uda_jax.runs.stages import Stage
from uda_jax.runs.target_frames import Streams
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

Tell = Callable[[str], None]


class Run(NamedTuple):
    """A run that may be chosen.

    Attributes:
      name: what the user called it by.
      workdir: its folder.
      experiment: its config.
      recipe: its stages, whose last one is measured.
      steps: of the checkpoints that are candidates.
    """

    name: str
    workdir: Workdir
    experiment: Experiment
    recipe: list[Stage]
    steps: list[int]


class Found(NamedTuple):
    """What a selection chooses from.

    Attributes:
      candidates: in the order of the runs and of their steps.
      classes: the names of their classes.
      frames: the target's data set and split, the number of frames, and what tells them from others.
      passed_over: why runs are no candidates, by their names.
    """

    candidates: list[Candidate]
    classes: tuple[str, ...]
    frames: dict[str, Any]
    passed_over: dict[str, str]


def measure_all(folders: Sequence[tuple[str, Path]], count: int, *, checkpoints: bool, tell: Tell) -> Found:
    """Measures runs on the frames of their target.

    Args:
      folders: each run's name and local folder.
      count: how many target frames, and source frames, at most.
      checkpoints: whether every kept checkpoint of the last stage is a candidate, and not only that of the run's row.
      tell: called with a line for what the user should know and for each candidate.

    Raises:
      UserError: runs of different targets or classes; no run that can be measured.
    """
    passed: dict[str, str] = {}
    with domains.opened_once():
        runs = [run for name, folder in folders if (run := _opened(name, folder, checkpoints, passed))]
        for name, why in passed.items():
            tell(f"note: {name} is passed over: {why}")
        if not runs:
            raise UserError("uda select: none of the runs can be measured, see above; name runs of 'uda train'")
        check_classes(runs)
        target, told = common_target(runs)
        if told:
            tell(told)
        candidates = []
        for run in runs:
            try:
                candidates += _measured(run, target, count, tell)
            except UserError as error:
                passed[run.name] = str(error)
                tell(f"note: {run.name} is passed over: {error}")
    if not candidates:
        raise UserError("uda select: none of the runs could be measured, see above")
    some = target_frames.as_scored(target, runs[0].experiment.evaluation, count)
    about = {"dataset": target.domain.dataset, "split": target.domain.split, "count": some.domain.count}
    return Found(candidates, runs[0].workdir.classes().names, about, passed)


def _opened(name: str, folder: Path, every_step: bool, passed: dict[str, str]) -> Run | None:
    """Returns a run that can be measured, or None and says why in `passed`."""
    try:
        workdir = Workdir(folder)
        experiment = workdir.experiment()
        recipe = stages.recipe(experiment, len(workdir.classes().names))
        files = workdir.stage(recipe[-1].name)
        if not files.checkpoints.is_dir():
            raise UserError(f"{files.path}: no checkpoint yet; train it to its end, or on")
        with _checkpoints(workdir, recipe) as kept:
            chosen = experiment.evaluation.chosen_step
            steps = kept.all_steps() if every_step else [kept.resolve(chosen)]
        if not steps:
            raise UserError(f"{files.path}: no checkpoint yet; train it to its end, or on")
    except UserError as error:
        passed[name] = str(error)
        return None
    return Run(name, workdir, experiment, recipe, steps)


def check_classes(runs: Sequence[Run]) -> None:
    """Raises a UserError unless all runs have the same classes."""
    first, *others = runs
    names = first.workdir.classes().names
    for run in others:
        if (found := run.workdir.classes().names) != names:
            raise UserError(
                f"uda select: expected runs of the same classes, got {len(names)} of {first.name} and {len(found)} "
                f"of {run.name}; name runs that share a label space"
            )


def common_target(runs: Sequence[Run]) -> tuple[Frames, str]:
    """Returns the target of all runs, and a line on it if it is no target stream.

    A run without a target, such as one of the source alone, is measured on that of the others. Where none has one, the
    images of the first run's dev split count, or of its final split.

    Raises:
      UserError: runs of different targets.
    """
    known: dict[str, tuple[Run, Frames]] = {}
    for run in runs:
        if (frames := target_frames.target(run.recipe)) is not None:
            still = dataclasses.replace(frames.domain, mix=None)
            opened = domains.open_domain(still, f"{run.name}: {frames.path}")
            known.setdefault(target_frames.digest(frames, opened), (run, frames))
    if len(known) > 1:
        (one, ours), (other, theirs) = list(known.values())[:2]
        name = lambda frames: f"{frames.domain.dataset}/{frames.domain.split}"  # noqa: E731
        raise UserError(
            f"uda select: expected runs that adapt to the same frames, got {name(ours)} of {one.name} and others, "
            f"{name(theirs)}, of {other.name}; name runs of one target"
        )
    if known:
        return next(iter(known.values()))[1], ""
    frames = target_frames.scored_on(runs[0].experiment.evaluation)
    return frames, f"note: no run has a target stream; measured on the images of {frames.path}, without labels"


def _measured(run: Run, target: Frames, count: int, tell: Tell) -> list[Candidate]:
    """Returns a run's candidates, of which only those are computed that nothing is stored of."""
    section, mesh, last = run.experiment.evaluation, sharding.data_mesh(), run.recipe[-1]
    streams = target_frames.streams(run.recipe, section, target, count, tell)
    with _checkpoints(run.workdir, run.recipe) as kept:
        keys = {step: _key(run, streams, kept.checksum(step)) for step in run.steps}
    stored, measurer, found = _stored(run.workdir), None, []
    for step, key in keys.items():
        if key not in stored:
            if measurer is None:
                measurer = measuring.measurer_of(last, section, streams, run.workdir.classes(), mesh, tell=tell)
            tell(f"{run.name}, step {step}: measuring")
            state = states.load(last, run.workdir, mesh, step, run.workdir.identity())
            stored[key] = {"step": step, **measurer.measure(state)._asdict()}
            _store(run.workdir, stored, tell)
        entry = stored[key]
        found.append(Candidate(run.name, step, Measured(entry["values"], entry["shares"], entry["prior"])))
    return found


def _checkpoints(workdir: Workdir, recipe: Sequence[Stage]) -> contextlib.closing:
    """Opens the checkpoints of a run's last stage for a block."""
    return contextlib.closing(Checkpoints(workdir.stage(recipe[-1].name)))


def _key(run: Run, streams: Streams, checksum: int) -> str:
    """Returns what a score of a checkpoint is known by."""
    section, about = run.experiment.evaluation, [criteria.VERSION, checksum, run.experiment.method]
    about += [section.batch_size == 1, dataclasses.asdict(section.inference)]
    for each in streams:
        if each is not None:
            prepared = [each.domain.size, each.domain.image_resampling]
            about += [target_frames.digest(each, domains.open_domain(each.domain, each.path)), prepared]
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _stored(workdir: Workdir) -> dict[str, Any]:
    """Returns the scores that are kept beside a run, by their keys; what cannot be read is computed again."""
    try:
        found = json.loads(workdir.unlabelled.read_text())
    except (OSError, ValueError):
        return {}
    known = found if isinstance(found, dict) else {}
    names = ("step", "values", "shares", "prior")
    return {key: entry for key, entry in known.items() if isinstance(entry, dict) and set(names) <= entry.keys()}


def _store(workdir: Workdir, scores: dict[str, Any], tell: Tell) -> None:
    """Keeps the scores beside the run; a folder that may not be written to costs no more than the time of a rerun."""
    try:
        with workdir.shared():
            atomic.write(workdir.unlabelled, json.dumps(scores, indent=1) + "\n")
    except OSError as error:
        tell(f"note: not kept: {os_error_line(error, workdir.unlabelled)}")
