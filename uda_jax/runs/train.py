"""The training loop: stages, streams, checkpoints, evaluation. It knows no method's inside.

    uda train --config advent:streets --workdir runs/advent

A workdir holds config.json, one folder per stage (checkpoints/, metrics.jsonl, TensorBoard events,
finished.json), pictures/ and, once everything is done, result.json. Running the same command again goes on
where it stopped, bit for bit.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import atomic
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.inference.evaluate import Evaluator, protocols
from uda_jax.report import pictures
from uda_jax.runs import initial_weights, ranking, results, stages
from uda_jax.runs import workdir as workdirs
from uda_jax.runs.checkpoints import Checkpoints, state_bytes
from uda_jax.runs.illustrations import Illustrator
from uda_jax.runs.stages import Stopped
from uda_jax.training import sharding
from uda_jax.training.guard import Guard
from uda_jax.training.logging import MetricWriter, ProgressLine


@dataclasses.dataclass(frozen=True)
class Context:
    """What the stages of one run share."""

    experiment: Experiment
    mesh: jax.sharding.Mesh
    palette: np.ndarray
    stop: Callable[[], bool]

    @property
    def first_process(self) -> bool:
        """Whether this process writes the logs."""
        return jax.process_index() == 0


def run(experiment: Experiment, workdir: Path, origin: results.Origin) -> dict[str, Any] | None:
    """Trains an experiment to its end, or on from where it stopped, and scores it on the final split.

    Args:
      experiment: the validated config.
      workdir: made if absent; must hold the same experiment if it exists.
      origin: how it was asked for, kept in the result row.

    Returns:
      The result row that `result.json` holds; None where the final split has no labels to score on.

    Raises:
      UserError: bad input of any kind, before anything is written where that can be known.
      Stopped: SIGTERM arrived; the state is saved.
    """
    workdir = Path(workdir)
    for field, size in (("train", experiment.train.batch_size), ("evaluation", experiment.evaluation.batch_size)):
        sharding.check_batch_size(size, f"config.{field}.batch_size")
    space = workdirs.label_space(experiment)
    experiment = _with_protocol(experiment, protocols(space))
    workdirs.check(workdir, experiment)
    with _stop_on_sigterm() as stop:
        context = Context(experiment, sharding.data_mesh(), space.palette, stop)
        ranker = ranking.Ranker(experiment.rank, space, context.mesh, stop)
        runners = {"train": lambda *job: train_stage(*job, context), "rank": ranker.run}
        recipe = stages.recipe(experiment, runners, len(space.names))
        for stage in recipe:
            ranker.check(stage)
        final = _evaluator(recipe[-1].method, "final", context)
        # A folder that is there already need not be a run's; one that is has passed this.
        if not (workdir / "config.json").exists():
            _check_weights(recipe)
        if context.first_process:
            workdirs.prepare(workdir, experiment, space)
        said = stages.run_recipe(recipe, workdir, write=context.first_process)
    if (workdir / "result.json").exists():
        return json.loads((workdir / "result.json").read_text())[0]
    state = workdirs.last_state(recipe[-1], workdir, context.mesh)
    row = results.row(experiment, final.score(state), list(said.values()), origin) if final.labelled else None
    for frame in final.pictures(state, experiment.evaluation.pictures):
        pictures.save_frame(workdir / "pictures", palette=space.palette, **frame)
    if row and context.first_process:
        atomic.write(workdir / "result.json", json.dumps([row], indent=1) + "\n")
    return row


def train_stage(stage: stages.Stage, workdir: Path, context: Context) -> dict[str, Any]:
    """Runs one training stage to its last step.

    Returns:
      {"step", "seconds", "best_miou"}: seconds of training over all restarts, the best score on dev.

    Raises:
      Stopped, NonFiniteLoss, UserError: as `run`.
    """
    job = Job(stage, workdir, context)
    try:
        job.loop()
    except BaseException:
        with contextlib.suppress(Exception):  # What broke the loop matters more than what breaks on the way out.
            job.close()
        raise
    job.close()
    return {"step": stage.train.steps} | job.notes()


class Job:
    """One training stage under way.

    Its state comes, in this order, from: fresh initialisation; the files of weights named in `init_from`; the
    networks of earlier stages named in `start_from`; the stage's own last checkpoint, which replaces all of them.
    """

    def __init__(self, stage: stages.Stage, workdir: Path, context: Context):
        self.stage, self.context = stage, context
        self.folder, plan = stage.folder(workdir), stage.train
        self.everywhere = sharding.replicated(context.mesh)
        self.batch_sharding = sharding.split_over_batch(context.mesh)
        self.dev = _evaluator(stage.method, "dev", context)
        self.domains = stage.domains(workdir)
        self.iterator = _stream(self.domains, stage.train, context.experiment.seed)
        initialise = jax.jit(stage.initialise, out_shardings=self.everywhere)
        self.state = initialise(jax.random.key(context.experiment.seed))
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep_latest=plan.keep_latest)
        self.start, self.seconds_before, self.best = self.checkpoints.latest_step() or 0, 0.0, None
        if self.start:
            target = sharding.abstract(self.state, self.everywhere)
            self.state = self.checkpoints.restore(self.start, target, self.iterator)
            notes = self.checkpoints.notes(self.start)
            self.seconds_before, self.best = notes["seconds"], notes["best_miou"]
        else:
            say = (lambda text: print(text, file=sys.stderr)) if context.first_process else None
            self.state = initial_weights.start(self.state, stage, say)
            self.state = _start_from(stage, self.state, workdir)
        self.writer = MetricWriter(self.folder, stage=stage.name, active=context.first_process)
        self.writer.resume_at(self.start)
        images = plan.batch_size * len(stage.streams)
        self.progress = ProgressLine(plan.steps, images, first_step=self.start, active=context.first_process)
        self.guard = Guard(self._frame_name, self.folder / "nonfinite.json", write=context.first_process)
        self.illustrator = Illustrator(
            stage.method,
            self.folder,
            context.palette,
            batch_sharding=self.batch_sharding,
            everywhere=self.everywhere,
            write=context.first_process,
        )
        self.began = time.monotonic()

    def loop(self) -> None:
        """Trains from the first step that is not in a checkpoint to the last, logging, scoring and saving."""
        plan = self.stage.train
        traces = []

        def traced_step(state, batch):
            traces.append(None)
            return self.stage.method.train_step(state, batch)

        train_step = jax.jit(
            traced_step,
            donate_argnums=0,
            in_shardings=(self.everywhere, self.batch_sharding),
            out_shardings=(self.everywhere, self.everywhere),
        )
        # One batch is scored before the first step: a mistake there shows now, not after hours.
        (self.dev or _evaluator(self.stage.method, "final", self.context)).confusion(self.state, max_batches=1)
        for step in range(self.start + 1, plan.steps + 1):
            with self.progress.waiting():
                batch = next(self.iterator)
            on_device = sharding.to_global(batch, self.batch_sharding)
            self.state, metrics = train_step(self.state, on_device)
            self.guard.add(step, metrics, {name: maps["index"] for name, maps in batch.items()})
            last = step == plan.steps
            stopping = self.context.stop() or (jax.process_count() > 1 and self.checkpoints.reached_preemption(step))
            evaluating = self.dev and (last or (plan.evaluate_every and step % plan.evaluate_every == 0))
            saving = last or stopping or evaluating or step % plan.checkpoint_every == 0
            if saving or step % plan.log_every == 0:
                # Nothing is saved, scored or told before every step up to here is known to be finite.
                scalars = self.guard.check()
                self.writer.write_scalars(step, scalars | self.progress.update(step, _losses(scalars)))
            miou = self.evaluate(step) if evaluating else None
            if evaluating or last:
                self.writer.write_images(step, self.illustrator.draw(self.state, on_device))
            if saving:
                self.save(step, miou)
            if stopping and not last:
                self.checkpoints.wait()
                raise Stopped(f"stopped at step {step} of stage {self.stage.name}; the same command goes on from there")
        if len(traces) > 1:
            raise AssertionError(f"stage {self.stage.name}: the step was traced {len(traces)} times, not once")

    def evaluate(self, step: int) -> float:
        """Scores the state on dev, logs it with a few pictures, and returns the headline mean IoU."""
        section = self.context.experiment.evaluation
        summary = self.dev.score(self.state)
        miou = results.headline(summary, section.protocol)
        scalars = {"evaluation/miou": miou, "evaluation/pixel_accuracy": summary["pixel_accuracy"]}
        self.writer.write_scalars(step, scalars)
        frames = self.dev.pictures(self.state, section.pictures)
        panels = {f"dev/{frame['name']}": _panel(frame, self.context.palette) for frame in frames}
        self.writer.write_images(step, panels)
        self.best = miou if self.best is None else max(self.best, miou)
        return miou

    def save(self, step: int, miou: float | None) -> None:
        """Starts writing a checkpoint, unless the disk is too full for one."""
        workdirs.check_space(self.folder, state_bytes(self.state))
        plain = config.to_plain(self.context.experiment)
        self.checkpoints.save(step, self.state, self.iterator, config=plain, notes=self.notes(), miou=miou)

    def notes(self) -> dict[str, Any]:
        """Returns what outlives a restart beside the state."""
        return {"seconds": self.seconds_before + time.monotonic() - self.began, "best_miou": self.best}

    def _frame_name(self, domain: str, index: int) -> str:
        return streams.open_domain(self.domains[domain]).name(index)

    def close(self) -> None:
        """Finishes what is being written."""
        self.progress.close()
        self.iterator.close()
        self.writer.close()
        self.checkpoints.close()


def _with_protocol(experiment: Experiment, known: Mapping[str, Any]) -> Experiment:
    """Returns the experiment with a headline protocol among those that its label space answers."""
    section = experiment.evaluation
    if section.protocol == "own":
        # All of a folder's own classes may happen to be those of a protocol, and then bear its name.
        section = dataclasses.replace(section, protocol=next(iter(known)))
    if section.protocol not in known:
        raise UserError(f"config.evaluation.protocol: expected one of {sorted(known)}, got {section.protocol!r}")
    return dataclasses.replace(experiment, evaluation=section)


def _losses(scalars: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("loss/"): value for name, value in scalars.items() if name.startswith("loss/")}


def _stream(domains: Mapping[str, streams.Domain], plan: config.Train, seed: int) -> Iterator[dict]:
    return streams.train_stream(
        domains,
        global_batch=plan.batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=plan.workers,
    )


def _check_weights(recipe: list[stages.Stage]) -> None:
    """Raises a UserError if first weights do not fit, a file's or an earlier stage's, before anything is written."""
    first = {}
    # What ranks has no state of its own, only the network of a stage that trains.
    for stage in (stage for stage in recipe if stage.kind == "train"):
        files = any(init.path for init in stage.init_from.values())
        if files or len(recipe) > 1:
            first[stage.name] = state = jax.eval_shape(stage.initialise, jax.random.key(0))
        if files:
            initial_weights.start(state, stage)
        for network, origin in stage.start_from.items():
            _check_start(network, stage, state, origin, first[origin.stage.name])


def _check_start(network: str, stage: stages.Stage, state: Any, origin: stages.Start, earlier: Any) -> None:
    """Raises a UserError unless an earlier stage's network has every array of a stage's, with its shape."""
    where = f"config.stages.{stage.name}.start_from.{network}"
    for name, networks, owner in ((network, state.params, stage), (origin.network, earlier.params, origin.stage)):
        if name not in networks:
            raise UserError(f"{where}: stage {owner.name} has no network '{name}', only {sorted(networks)}")
    wanted, given = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves in (
            jax.tree_util.tree_leaves_with_path([tree.params[name], tree.model_state[name]])
            for tree, name in ((state, network), (earlier, origin.network))
        )
    )
    if wrong := [path for path, shape in wanted.items() if given.get(path) != shape]:
        path = wrong[0]
        raise UserError(
            f"{where}: {len(wrong)} arrays of stage {stage.name} are other ones in stage {origin.stage.name}, such as "
            f"{path[2:]}: {wanted[path]} against {given.get(path, 'none')}; give both stages the same network"
        )


def _start_from(stage: stages.Stage, state: Any, workdir: Path) -> Any:
    """Replaces networks by those of earlier stages' last checkpoints."""
    for network, origin in stage.start_from.items():
        trees = {"params": state.params, "model_state": state.model_state}
        target = {part: {origin.network: tree[network]} for part, tree in trees.items()}
        target = sharding.abstract(target, state.step.sharding)
        with contextlib.closing(Checkpoints(origin.stage.folder(workdir) / "checkpoints")) as checkpoints:
            found = checkpoints.restore_networks(checkpoints.latest_step(), target)
        state = state.replace(**{part: tree | {network: found[part][origin.network]} for part, tree in trees.items()})
    return state


def _evaluator(method: Any, which: str, context: Context) -> Evaluator | None:
    """Returns the evaluator of the "dev" or "final" domain, None if the config has no such domain."""
    section = context.experiment.evaluation
    domain = getattr(section, which)
    if domain is None:
        return None
    evaluator = Evaluator(method, domain, section.batch_size, context.mesh, path=f"config.evaluation.{which}")
    if which == "dev" and not evaluator.labelled:
        raise UserError("config.evaluation.dev: expected labels to choose checkpoints by, found none; leave dev out")
    return evaluator


def _panel(frame: dict[str, Any], palette: np.ndarray) -> np.ndarray:
    """Returns label, prediction and entropy side by side, behind the image if it has their size."""
    parts = [pictures.colourise(frame["label"], palette), pictures.colourise(frame["prediction"], palette)]
    images = [frame["image"]] if frame["image"].shape == parts[0].shape else []
    return pictures.panel([*images, *parts, pictures.heat_map(frame["entropy"])])


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM arrived; the loop then saves and stops.

    Several processes must stop at the same step, which their Orbax managers agree on instead; and only the main
    thread may set handlers.
    """
    arrived: list[bool] = []
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: arrived.append(True))
    try:
        yield lambda: bool(arrived)
    finally:
        signal.signal(signal.SIGTERM, before)
