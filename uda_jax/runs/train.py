"""The training loop: stages, streams, checkpoints, evaluation. It knows no method's inside.

    uda train --config advent:streets --workdir runs/advent

Running the same command again goes on where it stopped, bit for bit; `workdir` says what is kept.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import atomic, mirrors
from uda_jax.data.pipeline import domains, examples, streams
from uda_jax.errors import UserError
from uda_jax.inference import label_check
from uda_jax.inference.evaluate import protocols
from uda_jax.report.rows import KEYS
from uda_jax.runs import fingerprints, initial_weights, instruments, results, scoring, stages, states
from uda_jax.runs.checkpoints import Checkpoints, state_bytes
from uda_jax.runs.illustrations import Illustrator
from uda_jax.runs.label_watch import LabelWatch
from uda_jax.runs.stages import Context, Stage, Stopped, needs_workdir
from uda_jax.runs.workdir import Workdir, check_space, read_json
from uda_jax.training import sharding
from uda_jax.training.guard import Guard
from uda_jax.training.logging import MetricWriter, ProgressLine
from uda_jax.training.metrics import METRICS


def run(experiment: Experiment, workdir: str | Path, invocation: results.Invocation) -> list[dict[str, Any]]:
    """Trains an experiment to its end, or on from where it stopped, and scores it on the final splits.

    Args:
      experiment: the validated config.
      workdir: a local path, or an address in a bucket; made if absent; must hold the same experiment if it exists.
      invocation: how it was asked for, kept in the result rows.

    Returns:
      The result rows that `result.json` holds, one for each final split that has labels to score on.

    Raises:
      UserError: bad input of any kind, before anything is written where that can be known.
      Stopped: SIGTERM arrived; the state is saved.
    """
    with mirrors.opened(workdir) as folder:
        return _run(experiment, Workdir(folder), invocation)


def _run(experiment: Experiment, workdir: Workdir, invocation: results.Invocation) -> list[dict[str, Any]]:
    """Does what `run` says, in a local folder."""
    for field, size in (("train", experiment.train.batch_size), ("evaluation", experiment.evaluation.batch_size)):
        sharding.check_batch_size(size, f"config.{field}.batch_size")
    with domains.opened_once(), _stop_on_signals() as stop:
        space = stages.label_space(experiment)
        experiment = scoring.with_protocol(experiment, protocols(space))
        workdir.check(experiment, space.names)
        context = Context(experiment, sharding.data_mesh(), space, stop)
        recipe = stages.recipe(experiment, len(space.names))
        scoring.check_selection(recipe, experiment)
        for stage in recipe:
            stage.kind.validate(stage, context)
        # What finished stages were trained on is not read again; whether a score is still that of its data is asked.
        unfinished = [stage for stage in recipe if not workdir.stage(stage.name).finished.exists()]
        if not workdir.result.exists():
            _check_data(recipe[-1], unfinished, context)
        # A folder that is there already need not be a run's; one that is has passed this.
        if not workdir.config.exists():
            initial_weights.check_classes(recipe, space.names)
            states.check_initial(recipe)
        found = fingerprints.of_domains(recipe if workdir.result.exists() else unfinished)
        workdir.check_data(found)
        stop()
        with workdir.locked() if context.first_process else workdir.shared():
            # Another process may have begun here since the first look.
            workdir.check(experiment, space.names)
            if context.first_process:
                workdir.prepare(experiment, space, found)
            stage_results = stages.run_recipe(recipe, workdir, context)
            if workdir.result.exists():
                return _stored_rows(workdir)
            return scoring.score_final(recipe[-1], workdir, context, list(stage_results.values()), invocation)


def _check_data(last: Stage, unfinished: Sequence[Stage], context: Context) -> None:
    """Refuses frames that fit no batch and labels that teach or score nothing, and prints notes on others."""
    notes = scoring.check_references(last, context)
    seen, section = [], context.experiment.evaluation
    splits = {section.path("final", name): domain for name, domain in section.splits("final").items()}
    labelled = {path: domain for path, domain in splits.items() if "label" in domain.fields}
    notes += [note for path, domain in splits.items() for note in domains.passed_over(domain, path)]
    for stage in unfinished:
        ready = {name: domain for name, domain in stage.domains.items() if not needs_workdir(domain)}
        ready = {name: domain for name, domain in ready.items() if stage.kind.TRAINS and domain not in seen}
        seen += ready.values()
        for name, domain in ready.items():
            # Whatever is wrong with it would show once the workdir is written, and its cure is another config.
            examples.training_examples(domain, f"config.data.{name}", name)
            notes += domains.passed_over(domain, f"config.data.{name}")
        notes += label_check.check_domains(ready)
        labelled |= {
            f"config.data.{name}": domain for name, domain in ready.items() if label_check.teaches(name, domain)
        }
    notes += label_check.compare_palettes(labelled)
    _print_notes(notes, context)


def _print_notes(notes: Sequence[str], context: Context) -> None:
    for note in notes if context.first_process else ():
        print(note, file=sys.stderr)


def _stored_rows(workdir: Workdir) -> list[dict[str, Any]]:
    """Returns the rows of a run that is finished; raises a UserError if their file is damaged."""
    remedy = "delete it and rerun the same command, which scores the last state again"
    rows = read_json(workdir.result, remedy)
    required = {name for name, key in KEYS.items() if key.required}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and required <= row.keys() for row in rows):
        raise UserError(f"{workdir.result}: expected result rows, found other things; {remedy}")
    return rows


def train_stage(stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
    """Runs one training stage to its last step, and leaves its state in `context.trained`.

    Returns:
      {"step", "seconds", "best"}: seconds of training over all restarts, the best headline on dev.

    Raises:
      Stopped, NonFiniteLoss, UserError: as `run`.
    """
    stage_run = StageRun(stage, workdir, context)
    try:
        stage_run.loop()
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
        self.replicated = sharding.replicated(context.mesh)
        self.split = sharding.split_over_batch(context.mesh)
        self.headline = METRICS[context.experiment.evaluation.headline]
        self.domains = stage.domains_in(workdir)
        late = {name: self.domains[name] for name, domain in stage.domains.items() if needs_workdir(domain)}
        _print_notes(label_check.check_domains(late), context)
        self.iterator = _stream(self.domains, train_config, context.experiment.seed)
        self.checkpoints = Checkpoints(self.files, keep_latest=train_config.keep_latest)
        self.start, self.seconds_before, self.best = self.checkpoints.latest_step() or 0, 0.0, None
        self.first_row: dict[str, float] | None = {}
        self.state = self._restored() if self.start else self._initial(workdir)
        self.train_step = instruments.TrainStep(stage.method.train_step, self.replicated, self.split)
        self.profile = instruments.Profile(train_config.profiled_steps, self.files.profile)
        self.writer = MetricWriter(self.files.path, stage=stage.name, active=active)
        self.writer.resume_at(self.start)
        images = train_config.batch_size * len(stage.domains)
        self.progress = ProgressLine(train_config.steps, images, first_step=self.start, active=active)
        self.labels = LabelWatch(self.domains, train_config.batch_size, train_config.log_every)
        self.guard = Guard(self._frame_name, self.files.nonfinite, write=active)
        self.illustrator = Illustrator(
            stage.method,
            self.files.illustrations,
            context.palette,
            batch_sharding=self.split,
            replicated=self.replicated,
            write=active,
        )
        self.began = time.monotonic()

    def _restored(self) -> Any:
        """Returns the state of the last checkpoint, and goes on with the data where it was saved."""
        target = states.abstract(self.stage, self.context.mesh)
        state = self.checkpoints.restore(self.start, target, self.iterator, identity=self.context.identity)
        notes = self.checkpoints.notes(self.start)
        self.seconds_before, self.best = notes["seconds"], notes["best"]
        return state

    def _initial(self, workdir: Workdir) -> Any:
        """Returns the first state; writes its frozen networks and the table of its parameters."""
        log = (lambda text: print(text, file=sys.stderr)) if self.context.first_process else None
        seed, identity = self.context.experiment.seed, self.context.identity
        state = states.initial(self.stage, workdir, seed, self.context.mesh, log, identity)
        check_space(self.files.path, state_bytes(state.frozen))
        self.checkpoints.save_frozen(state)
        self.first_row["parameters/total"] = sum(instruments.parameter_counts(state.params).values())
        if log:
            log(f"stage {self.stage.name}: {instruments.parameter_line(state.params)}")
            atomic.write(self.files.parameters, instruments.parameter_table(state.params))
        return state

    def loop(self) -> None:
        """Trains from the first step that is not in a checkpoint to the last, logging, scoring and saving."""
        train_config = self.stage.train
        scoring.check(self.stage, self.state, self.context)
        has_dev = bool(scoring.evaluators(self.stage, "dev", self.context))
        for step in range(self.start + 1, train_config.steps + 1):
            with self.progress.waiting():
                batch = next(self.iterator)
            on_device = sharding.to_global(batch, self.split)
            self.profile.before(step)
            self.state, metrics = self.train_step(self.state, on_device)
            self.profile.after(step, metrics)
            self.labels.add(batch)
            self.guard.add(step, metrics, {name: maps["index"] for name, maps in batch.items()})
            last = step == train_config.steps
            stopping = self._stopping(step)
            evaluating = has_dev and (last or _due(step, train_config.evaluate_every))
            saving = last or stopping or evaluating or _due(step, train_config.checkpoint_every)
            if saving or _due(step, train_config.log_every):
                # Nothing is saved, scored or logged before every step up to here is known to be finite.
                scalars = self.guard.check()
                self.labels.check()
                speed = self.progress.update(step, _losses(scalars))
                self.writer.write_scalars(step, scalars | speed | self._first_row())
            if saving:
                self.guard.check_state(self.state)
            score = self.evaluate(step) if evaluating else None
            if evaluating or last:
                self.writer.write_images(step, self.illustrator.draw(self.state, on_device))
            if saving:
                self.save(step, score)
            if stopping and not last:
                self.checkpoints.wait()
                raise Stopped(f"stopped at step {step} of stage {self.stage.name}; the same command goes on from there")
        if self.train_step.traces > 1:
            raise AssertionError(
                f"stage {self.stage.name}: the step was traced {self.train_step.traces} times, not once"
            )

    def _first_row(self) -> dict[str, float]:
        """Returns what the first row of metrics says besides, and nothing from then on."""
        row, self.first_row = self.first_row, None
        return {} if row is None else row | {"speed/compile_seconds": self.train_step.compile_seconds}

    def _stopping(self, step: int) -> bool:
        """Whether the run is to stop after this step, on which all processes agree."""
        return self.context.stop() or (jax.process_count() > 1 and self.checkpoints.reached_preemption(step))

    def evaluate(self, step: int) -> float:
        """Scores the state on dev, logs it with a few pictures, and returns what is higher for a better state."""
        found = scoring.score_dev(self.stage, self.state, self.context)
        self.writer.write_scalars(step, found.scalars)
        self.writer.write_images(step, found.images)
        self.best = found.value if self.best is None else self.headline.better(self.best, found.value)
        return found.value if self.headline.higher_is_better else -found.value

    def save(self, step: int, score: float | None) -> None:
        """Starts writing a checkpoint, unless the disk is too full for one."""
        check_space(self.files.path, state_bytes(self.state.replace(frozen={})))
        about = {"identity": self.context.identity, "notes": self.notes(), "score": score}
        self.checkpoints.save(step, self.state, self.iterator, **about)

    def notes(self) -> dict[str, Any]:
        """Returns what outlives a restart beside the state."""
        return {"seconds": self.seconds_before + time.monotonic() - self.began, "best": self.best}

    def _frame_name(self, domain: str, index: int) -> str:
        return streams.open_domain(self.domains[domain]).name(index)

    def close(self) -> None:
        """Finishes what is being written."""
        self.profile.close()
        self.progress.close()
        self.iterator.close()
        self.writer.close()
        self.checkpoints.close()


def _due(step: int, every: int) -> bool:
    """Whether something happens after this step that happens every so many steps; never for 0."""
    return bool(every) and step % every == 0


def _losses(scalars: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("loss/"): value for name, value in scalars.items() if name.startswith("loss/")}


def _stream(domains: Mapping[str, streams.Domain], train_config: config.Train, seed: int) -> Iterator[dict]:
    return streams.train_stream(
        domains,
        global_batch=train_config.batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=train_config.workers,
    )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM arrived; the loop then saves and stops.

    It raises the KeyboardInterrupt of a Ctrl-C that was lost: Python drops what is raised in the callbacks of garbage
    collection and of C libraries. Several processes must stop at the same step, which their Orbax managers agree on
    instead; and only the main thread may set handlers.
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    arrived: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    def stop() -> bool:
        if signal.SIGINT in arrived:
            raise KeyboardInterrupt
        return signal.SIGTERM in arrived

    handlers = {signal.SIGTERM: lambda number, _: arrived.append(number)}
    # A shell's background job has it switched off, and a program around this one may have its own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
