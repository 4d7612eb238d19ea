"""The training loop: stages, streams, checkpoints, evaluation. It knows no method's inside.

    uda train --config advent:streets --workdir runs/advent

Running the same command again goes on where it stopped, bit for bit; `workdir` says what is kept.
"""

import contextlib
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax.config import Experiment
from uda_jax.data.io import atomic, mirrors
from uda_jax.data.pipeline import domains, streams
from uda_jax.inference import label_check
from uda_jax.inference.evaluate import protocols
from uda_jax.methods.parts import adapted
from uda_jax.runs import (
    admission,
    announcement,
    ending,
    fingerprints,
    first_look,
    initial_weights,
    instruments,
    receipts,
    results,
    reuse,
    scoring,
    stages,
    states,
)
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.illustrations import Illustrator
from uda_jax.runs.kinds.base import wait_for_all
from uda_jax.runs.label_watch import LabelWatch
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.signals import Stop, Stopped
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.unscored import Unscored, saved_line
from uda_jax.runs.workdir import Workdir, check_space
from uda_jax.training import sharding
from uda_jax.training.guard import Guard
from uda_jax.training.logging import MetricWriter, ProgressLine, losses
from uda_jax.training.metrics import METRICS
from uda_jax.training.programs import tree_bytes


def run(
    experiment: Experiment,
    workdir: str | Path,
    invocation: results.Invocation,
    stop: Stop | None = None,
    *,
    ignore_memory: bool = False,
) -> list[dict[str, Any]]:
    """Trains an experiment to its end, or on from where it stopped, and scores it on the final splits.

    Args:
      experiment: the validated config.
      workdir: a local path, or an address in a bucket; made if absent; must hold the same experiment if it exists.
      invocation: how it was asked for, kept in the result rows.
      stop: of a caller that handles signals; None handles them here, except in one of several processes, which Orbax
        tells of a SIGTERM.
      ignore_memory: whether to start steps all the same that take more memory than there is.

    Returns:
      The result rows that `result.json` holds, one for each final split that has labels to score on.

    Raises:
      UserError: bad input of any kind, before anything is written where that can be known.
      Stopped: SIGTERM arrived; the state is saved.
    """
    with mirrors.opened(workdir) as folder:
        return _run(experiment, Workdir(folder), invocation, stop, ignore_memory)


def _run(
    experiment: Experiment, workdir: Workdir, invocation: results.Invocation, stop: Stop | None, ignore_memory: bool
) -> list[dict[str, Any]]:
    """Does what `run` says, in a local folder."""
    sharding.check_batch_size(experiment.train.batch_size, "config.train.batch_size")
    sharding.check_batch_size(experiment.evaluation.batch_size, "config.evaluation.batch_size")
    with domains.opened_once(), contextlib.ExitStack() as handled:
        if stop is None:
            stop = Stop()
            handled.enter_context(stop.handled() if jax.process_count() == 1 else contextlib.nullcontext())
        space = stages.label_space(experiment)
        experiment = scoring.with_protocol(experiment, protocols(space))
        how = reuse.check(workdir, experiment, space.names)
        wait_for_all("the workdir is read")
        context = Context(experiment, sharding.data_mesh(), space, stop, ignore_memory=ignore_memory)
        recipe = stages.recipe(experiment, len(space.names))
        scoring.check_selection(recipe, experiment)
        for stage in recipe:
            stage.kind.validate(stage, context)
        # What finished stages were trained on is not read again; whether a score is still that of its data is asked.
        unfinished = [stage for stage in recipe if not reuse.is_done(stage, recipe, workdir, how)]
        scored = how == reuse.SAME and workdir.result.exists()
        head = [*announcement.header(experiment, recipe, workdir), *reuse.notes(workdir, experiment, recipe, how)]
        first_look.print_lines([announcement.FINISHED] if scored else head, context)
        if not scored:
            first_look.check_data(recipe[-1], unfinished, context)
        # A folder that is there already need not be a run's; one that is has passed this.
        if how == reuse.ANEW or not workdir.config.exists():
            initial_weights.check_classes(recipe, space.names)
            states.check_initial(recipe)
        found = fingerprints.of_domains(recipe if scored else unfinished)
        if how != reuse.ANEW:
            workdir.check_data(found)
        context.leave_if_asked()
        with workdir.locked() if context.first_process else workdir.shared():
            # Another process may have begun here.
            reuse.check(workdir, experiment, space.names)
            admission.compile_steps(unfinished, workdir, context)
            context.leave_if_asked()
            if context.first_process:
                reuse.begin(workdir, recipe, how)
                workdir.prepare(experiment, space, found)
            if how != reuse.SAME:
                wait_for_all("the workdir is ready", workdir.path, all_files=False)
            stage_results = stages.run_recipe(recipe, workdir, context, receipts.write_stage)
            return ending.rows(recipe[-1], workdir, context, stage_results, invocation)


def train_stage(stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
    """Runs one training stage to its last step, and leaves its state in `context.trained`.

    Returns:
      {"step", "seconds", "best"}: seconds of training over all restarts, the best headline on dev.

    Raises:
      Stopped, NonFiniteLoss, UserError: as `run`.
    """
    with contextlib.ExitStack() as protection:
        stage_run = StageRun(stage, workdir, context)
        try:
            stage_run.loop(protection)
        except BaseException:
            with contextlib.suppress(Exception):  # What broke the loop matters more than what breaks on the way out.
                stage_run.close()
            raise
        stage_run.close()
    context.trained[stage.name] = stage_run.state
    return {"step": stage.train.steps} | stage_run.notes()


class StageRun:
    """One training stage under way.

    Attributes:
      state: the TrainState; where its first one comes from is told in `states`.
      start: the step of the checkpoint that it goes on from, or 0.
      best: the best headline on the dev splits so far, or None.
    """

    def __init__(self, stage: Stage, workdir: Workdir, context: Context):
        self.stage, self.context, self.files = stage, context, workdir.stage(stage.name)
        train_config, active = stage.train, context.first_process
        self.split = sharding.split_over_batch(context.mesh)
        self.headline = METRICS[context.experiment.evaluation.headline]
        self.domains = stage.domains_in(workdir)
        late = {name: self.domains[name] for name in stage.domains if needs_workdir(stage.domains[name])}
        first_look.print_lines(label_check.check_domains(late), context)
        self.iterator = stage.stream(self.domains, context.experiment.seed)
        self.checkpoints = Checkpoints(self.files, keep_latest=train_config.keep_latest)
        self.unscored, self.stop = Unscored(self.files), context.guard
        checkpoint, unscored = self.checkpoints.latest_step() or 0, self.unscored.step() or 0
        self.to_score = unscored > checkpoint
        self.start = self.logged = self.saved = max(checkpoint, unscored)
        self.seconds_before, self.best, self.first_row = 0.0, None, {}
        self.state = self._restored() if self.start else self._initial(workdir)
        first_look.print_lines(instruments.placement_lines(stage.name, self.state, train_config.sharding), context)
        self.train_step = admission.step_of(stage, workdir, context)
        self.profile = instruments.Profile(train_config.profiled_steps, self.files.profile)
        self.writer = MetricWriter(self.files.path, stage=stage.name, active=active)
        self.writer.resume_at(self.start)
        images = train_config.batch_size * len(stage.domains)
        self.progress = ProgressLine(train_config.steps, images, first_step=self.start, active=active)
        self.labels = LabelWatch(self.domains, train_config.batch_size, train_config.log_every)
        self.guard = Guard(self._frame_name, self.files.nonfinite, write=active)
        folder = self.files.illustrations
        self.illustrator = Illustrator(stage.method, folder, context.palette, context.mesh, write=active)
        self.began = time.monotonic()

    def _restored(self) -> Any:
        """Returns the last state that was saved, and goes on with the data where it was saved."""
        target = states.abstract(self.stage, self.context.mesh)

        def read(checkpoints: Checkpoints) -> tuple[Any, dict[str, Any]]:
            state = checkpoints.restore(self.start, target, self.iterator, identity=self.context.identity)
            return state, checkpoints.notes(self.start)

        state, notes = self.unscored.restore(read) if self.to_score else read(self.checkpoints)
        self.seconds_before, self.best = notes["seconds"], notes["best"]
        return state

    def _initial(self, workdir: Workdir) -> Any:
        """Returns the first state; writes its frozen networks and the table of its parameters."""
        context = self.context
        log = (lambda text: print(text, file=sys.stderr)) if context.first_process else None
        state = states.initial(self.stage, workdir, context.experiment.seed, context.mesh, log, context.identity)
        check_space(self.files.path, tree_bytes(adapted.apart(state).frozen))
        self.checkpoints.save_frozen(state)
        self.first_row["parameters/total"] = sum(instruments.parameter_counts(state.params).values())
        if log:
            atomic.write(self.files.parameters, instruments.parameter_table(state.params))
        return state

    def loop(self, protection: contextlib.ExitStack) -> None:
        """Trains from the first step that is not saved to the last, logging, scoring and saving.

        Args:
          protection: held, from the first step on, while there is a state that is not on disk.
        """
        train_config, name = self.stage.train, self.stage.name
        self.stop.doing = f"before step {self.start + 1} of stage {name}"
        self.stop.saved = functools.partial(saved_line, self.files)
        first_look.print_lines([announcement.start_line(name, self.start)], self.context)
        scoring.check(self.stage, self.state, self.context)
        is_scored = scoring.is_scored(self.stage, self.context)
        if self.to_score:
            self._score_again()
        for step in range(self.start + 1, train_config.steps + 1):
            batch = self._next_batch(step)
            on_device = sharding.to_global(batch, self.split)
            if step == self.start + 1:
                self.illustrator.compile(self.state, on_device)
            self.profile.before(step)
            self.state, metrics = self.train_step(self.state, on_device)
            if step == self.start + 1:
                protection.enter_context(self.stop.protected())
                self.stop.doing = f"in stage {name}"
            self.profile.after(step, metrics)
            self.labels.add(batch)
            self.guard.add(step, metrics, {domain: maps["index"] for domain, maps in batch.items()})
            last = step == train_config.steps
            stopping = self._stopping(step)
            evaluating = is_scored and (last or _due(step, train_config.evaluate_every))
            saving = last or stopping or evaluating or _due(step, train_config.checkpoint_every)
            if saving or _due(step, train_config.log_every):
                self._log(step)
            if saving:
                self.guard.check_state(self.state)
            score = self._scored(step, on_device, evaluating=evaluating, last=last)
            if saving:
                self.save(step, score)
            if stopping and not last:
                self.checkpoints.wait()
                raise self.stop.leaving(f"at step {step} of stage {name}")

    def _next_batch(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Returns the batch of a step; a run that is asked to stop meanwhile saves the state before it and leaves."""
        try:
            with self.progress.waiting(), self.stop.anywhere():
                batch = next(self.iterator)
            if not self.stop.point():
                return batch
        except (Stopped, KeyboardInterrupt):
            if not self.stop.at_a_point:
                raise
        before = step - 1
        if self.saved < before:
            self.iterator.set_state({"step": before})  # The batch may have come, and is not used.
            self._log(before)
            self.guard.check_state(self.state)
            self.save(before, None)
        self.checkpoints.wait()
        raise self.stop.leaving(f"at step {before} of stage {self.stage.name}")

    def _log(self, step: int) -> None:
        """Writes the row of a step, once; nothing follows before every step up to it is known to be finite."""
        if step == self.logged:
            return
        scalars = self.guard.check()
        self.labels.check()
        speed = self.progress.update(step, losses(scalars))
        self.writer.write_scalars(step, scalars | speed | self._first_row())
        self.logged = step

    def _scored(self, step: int, batch: Any, *, evaluating: bool, last: bool) -> float | None:
        """Scores and illustrates the state where that is due; stopped meanwhile, it saves the state to be scored."""
        try:
            score = self.evaluate(step) if evaluating else None
        except (Stopped, KeyboardInterrupt):
            if not self.stop.at_a_point:
                raise
            self.unscored.save(step, self.state, self.iterator, identity=self.context.identity, notes=self.notes())
            raise self.stop.leaving(f"while scoring step {step} of stage {self.stage.name}") from None
        if evaluating or last:
            self.writer.write_images(step, self.illustrator.draw(self.state, batch))
        return score

    def _score_again(self) -> None:
        """Scores and saves the state at which the run was stopped while it scored."""
        self.iterator.set_state({"step": self.start - 1})
        batch = sharding.to_global(next(self.iterator), self.split)
        score = self._scored(self.start, batch, evaluating=True, last=False)
        self.save(self.start, score)
        self.checkpoints.wait()
        self.unscored.drop()

    def _first_row(self) -> dict[str, float]:
        """Returns what the first row of metrics says besides, and nothing from then on."""
        row, self.first_row = self.first_row, None
        return {} if row is None else row | {"speed/compile_seconds": self.train_step.compile_seconds}

    def _stopping(self, step: int) -> bool:
        """Whether the run is to stop after this step, on which all processes agree."""
        alone = self.stop.shared or jax.process_count() == 1
        return self.context.stop() or (not alone and self.checkpoints.reached_preemption(step))

    def evaluate(self, step: int) -> float | None:
        """Scores the state, logs it with a few pictures, and returns what is higher for a better state, if anything."""
        found = scoring.score(self.stage, self.state, self.context)
        self.writer.write_scalars(step, found.scalars)
        self.writer.write_images(step, found.images)
        if found.dev is not None:
            self.best = found.dev if self.best is None else self.headline.better(self.best, found.dev)
            self.progress.score = announcement.dev_score(self.context.experiment.evaluation.headline, found.dev)
        return found.best

    def save(self, step: int, score: float | None) -> None:
        """Starts writing a checkpoint, unless the disk is too full for one."""
        check_space(self.files.path, tree_bytes(self.state.replace(frozen={})))
        about = {"identity": self.context.identity, "notes": self.notes(), "score": score}
        self.checkpoints.save(step, self.state, self.iterator, **about)
        self.saved = step

    def notes(self) -> dict[str, Any]:
        """Returns what outlives a restart beside the state."""
        return {"seconds": self.seconds_before + time.monotonic() - self.began, "best": self.best}

    def _frame_name(self, domain: str, index: int) -> str:
        return streams.open_domain(self.domains[domain]).name(index)

    def close(self) -> None:
        """Finishes what is being written."""
        for part in (self.profile, self.progress, self.iterator, self.writer, self.checkpoints):
            part.close()


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0  # never for 0
