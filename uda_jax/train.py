"""The training loop: stages, streams, checkpoints, evaluation. It knows no method's inside.

    uda train --config advent:streets --workdir runs/advent

A workdir holds config.json, one folder per stage (checkpoints/, metrics.jsonl, TensorBoard events,
finished.json), pictures/ and, once everything is done, result.json. Running the same command again goes on
where it stopped, bit for bit.
"""

import contextlib
import dataclasses
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax import config, results, stages
from uda_jax.config import Experiment
from uda_jax.data import label_spaces, streams
from uda_jax.errors import UserError
from uda_jax.evaluate import Evaluator, protocols
from uda_jax.report import pictures
from uda_jax.report.files import write_atomically
from uda_jax.training import sharding
from uda_jax.training.checkpoints import Checkpoints, state_bytes
from uda_jax.training.logging import MetricWriter, ProgressLine

# Fields that may differ between the runs that continue each other: they change what is told, not what is learnt.
_FREE_FIELDS = (("train", "log_every"), ("train", "workers"), ("train", "keep_latest"), ("evaluation", "pictures"))


# Room for what Orbax and the logs write beside the state's own bytes.
_SPARE_BYTES = 8_000_000


class Stopped(Exception):
    """The run was asked to stop (SIGTERM) and has saved its state."""


class NonFiniteLoss(UserError):
    """A loss or gradient norm is infinite or NaN."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What the stages of one run share."""

    experiment: Experiment
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]

    @property
    def first_process(self) -> bool:
        """Whether this process writes the logs."""
        return jax.process_index() == 0


def run(experiment: Experiment, workdir: Path, origin: results.Origin) -> dict[str, Any]:
    """Trains an experiment to its end, or on from where it stopped, and scores it on the final split.

    Args:
      experiment: the validated config.
      workdir: made if absent; must hold the same experiment if it exists.
      origin: how it was asked for, kept in the result row.

    Returns:
      The result row that `result.json` holds.

    Raises:
      UserError: bad input of any kind, before anything is written where that can be known.
      Stopped: SIGTERM arrived; the state is saved.
    """
    workdir = Path(workdir)
    for field, size in (("train", experiment.train.batch_size), ("evaluation", experiment.evaluation.batch_size)):
        sharding.check_batch_size(size, f"config.{field}.batch_size")
    _check_workdir(experiment, workdir)
    context = Context(experiment, sharding.data_mesh(), _stop_on_sigterm())
    space = _label_space(experiment)
    if experiment.evaluation.protocol not in (known := protocols(space)):
        raise UserError(
            f"config.evaluation.protocol: expected one of {sorted(known)}, got {experiment.evaluation.protocol!r}"
        )
    recipe = stages.recipe(experiment, {"train": lambda *job: train_stage(*job, context)}, len(space.names))
    section = experiment.evaluation
    final = Evaluator(
        recipe[-1].method, section.final, section.batch_size, context.mesh, path="config.evaluation.final"
    )
    if context.first_process:
        workdir.mkdir(parents=True, exist_ok=True)
        _check_space(workdir, 0)
        write_atomically(workdir / "label_space.json", json.dumps(space._asdict()))
        write_atomically(workdir / "config.json", config.to_json(experiment))
    said = stages.run_recipe(recipe, workdir, write=context.first_process)
    if (workdir / "result.json").exists():
        return json.loads((workdir / "result.json").read_text())[0]
    state = _last_state(recipe, workdir, context.mesh)
    row = results.row(experiment, final.score(state), said, origin)
    for frame in final.pictures(state, section.pictures):
        pictures.save_frame(workdir / "pictures", palette=space.palette, **frame)
    if context.first_process:
        write_atomically(workdir / "result.json", json.dumps([row], indent=1) + "\n")
    return row


def restore(workdir: Path) -> tuple[Any, Any, label_spaces.LabelSpace]:
    """Opens a run for evaluation, prediction or a notebook; needs none of the data it was trained on.

    Returns:
      The last stage's method, the state of the run's last checkpoint, and the label space of its classes.

    Raises:
      UserError: the workdir holds no run, no checkpoint yet, or one that cannot be read.
    """
    experiment = config.from_json(Path(workdir) / "config.json")
    stored = json.loads((Path(workdir) / "label_space.json").read_text())
    colours = tuple(tuple(colour) for colour in stored["colours"])
    space = label_spaces.LabelSpace(tuple(stored["names"]), colours, stored["ignore"])
    recipe = stages.recipe(experiment, {"train": None}, len(space.names))
    return recipe[-1].method, _last_state(recipe, Path(workdir), sharding.data_mesh()), space


def _last_state(recipe: list[stages.Stage], workdir: Path, mesh: jax.sharding.Mesh) -> Any:
    """Returns the state of the last stage's last checkpoint."""
    folder = recipe[-1].folder(workdir) / "checkpoints"
    step = Checkpoints(folder).latest_step() if folder.is_dir() else None
    if step is None:
        raise UserError(f"{workdir}: expected a checkpoint of stage {recipe[-1].name}, found none; train it first")
    shapes = jax.eval_shape(_initialiser(recipe[-1]), jax.random.key(0))
    return Checkpoints(folder).restore(step, sharding.abstract(shapes, sharding.replicated(mesh)))


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

    Its state comes, in this order, from: fresh initialisation; the networks of earlier stages named in
    `start_from`; the stage's own last checkpoint, which replaces both.
    """

    def __init__(self, stage: stages.Stage, workdir: Path, context: Context):
        self.stage, self.context = stage, context
        self.folder, plan = stage.folder(workdir), stage.train
        self.everywhere = sharding.replicated(context.mesh)
        self.batch_sharding = sharding.split_over_batch(context.mesh)
        self.dev = _dev_evaluator(stage, context)
        self.iterator = _stream(stage, context.experiment.seed)
        initialise = jax.jit(_initialiser(stage), out_shardings=self.everywhere)
        self.state = initialise(jax.random.key(context.experiment.seed))
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep_latest=plan.keep_latest)
        self.start, self.seconds_before, self.best = self.checkpoints.latest_step() or 0, 0.0, None
        if self.start:
            target = sharding.abstract(self.state, self.everywhere)
            self.state = self.checkpoints.restore(self.start, target, self.iterator)
            notes = self.checkpoints.notes(self.start)
            self.seconds_before, self.best = notes["seconds"], notes["best_miou"]
        else:
            self.state = _start_from(stage, self.state, workdir)
        self.writer = MetricWriter(self.folder, stage=stage.name, active=context.first_process)
        self.writer.resume_at(self.start)
        images = plan.batch_size * len(stage.streams)
        self.progress = ProgressLine(plan.steps, images, first_step=self.start, active=context.first_process)
        self.pending = Pending(stage, self.folder, context.first_process)
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
        if self.dev is not None:
            self.dev.confusion(self.state, max_batches=1)  # A mistake there shows now, not after hours.
        for step in range(self.start + 1, plan.steps + 1):
            with self.progress.waiting():
                batch = next(self.iterator)
            self.state, metrics = train_step(self.state, sharding.to_global(batch, self.batch_sharding))
            self.pending.add(step, metrics, {name: maps["index"] for name, maps in batch.items()})
            last = step == plan.steps
            stopping = self.context.stop() or (jax.process_count() > 1 and self.checkpoints.reached_preemption(step))
            evaluating = self.dev and (last or (plan.evaluate_every and step % plan.evaluate_every == 0))
            saving = last or stopping or evaluating or step % plan.checkpoint_every == 0
            if saving or step % plan.log_every == 0:
                # Nothing is saved, scored or told before every step up to here is known to be finite.
                scalars = self.pending.check()
                self.writer.write_scalars(step, scalars | self.progress.update(step, _losses(scalars)))
            miou = self.evaluate(step) if evaluating else None
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
        palette = self.dev.dataset.label_space.palette
        frames = self.dev.pictures(self.state, section.pictures)
        self.writer.write_images(step, {f"dev/{frame['name']}": _panel(frame, palette) for frame in frames})
        self.best = miou if self.best is None else max(self.best, miou)
        return miou

    def save(self, step: int, miou: float | None) -> None:
        """Starts writing a checkpoint, unless the disk is too full for one."""
        _check_space(self.folder, state_bytes(self.state))
        plain = _plain(self.context.experiment)
        self.checkpoints.save(step, self.state, self.iterator, config=plain, notes=self.notes(), miou=miou)

    def notes(self) -> dict[str, Any]:
        """Returns what outlives a restart beside the state."""
        return {"seconds": self.seconds_before + time.monotonic() - self.began, "best_miou": self.best}

    def close(self) -> None:
        """Finishes what is being written."""
        self.progress.close()
        self.iterator.close()
        self.writer.close()
        self.checkpoints.close()


class Pending:
    """Metrics of the steps since the last check, still on the device, with the frames they came from.

    Looking at them makes the host wait for the device, so they are looked at together, every few steps.
    """

    def __init__(self, stage: stages.Stage, folder: Path, write: bool):
        self._stage, self._folder, self._write = stage, folder, write
        self._steps: list[tuple[int, dict, dict]] = []

    def add(self, step: int, metrics: dict[str, jax.Array], indices: dict[str, np.ndarray]) -> None:
        """Keeps a step's metrics and the frame indices of its batch."""
        self._steps.append((step, metrics, indices))

    def check(self) -> dict[str, float]:
        """Returns the last step's metrics as floats.

        Raises:
          NonFiniteLoss: some step's metric is not finite. The message names the first such step and term, and
            the names of the frames of its batch are written to `nonfinite.json`.
        """
        scalars: dict[str, float] = {}
        for step, metrics, indices in self._steps:
            scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            for name in sorted(scalars, key=_TERMS_FIRST):
                if not np.isfinite(scalars[name]):
                    self._report(step, name, scalars[name], indices)
        self._steps.clear()
        return scalars

    def _report(self, step: int, term: str, value: float, indices: dict[str, np.ndarray]) -> None:
        frames = {
            domain: [streams.open_domain(self._stage.streams[domain]).name(int(i)) for i in array]
            for domain, array in indices.items()
        }
        where = self._folder / "nonfinite.json"
        if self._write:
            write_atomically(
                where, json.dumps({"step": step, "term": term, "value": str(value), "frames": frames}, indent=1)
            )
        raise NonFiniteLoss(
            f"stage {self._stage.name}, step {step}: {term} is {value}; the batch's frames are listed in {where}; "
            "no state beyond the last checkpoint was saved: lower the learning rate or look at those frames"
        )


def _TERMS_FIRST(name: str) -> tuple[bool, bool, str]:
    """Orders metrics so that a single loss term is blamed before the total, and both before gradient norms."""
    return (not name.startswith("loss/"), name.endswith("/total"), name)


def _losses(scalars: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("loss/"): value for name, value in scalars.items() if name.startswith("loss/")}


def _stream(stage: stages.Stage, seed: int) -> Iterator[dict]:
    return streams.train_stream(
        stage.streams,
        global_batch=stage.train.batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=stage.train.workers,
    )


def _initialiser(stage: stages.Stage) -> Callable[[jax.Array], Any]:
    """Returns key -> state for the shapes of the stage's batches; no frame is read."""
    example = {}
    for name, domain in stage.streams.items():
        # Networks whose parameters depend on the image's size have domains that fix it.
        shape = (stage.train.batch_size, *(domain.crop or domain.size or (64, 64)))
        maps = {"image": np.zeros((*shape, 3), np.uint8), "label": np.zeros(shape, np.uint8)}
        example[name] = {**maps, "depth": np.zeros(shape, np.float32), "index": np.zeros(shape[:1], np.int32)}
    return lambda key: stage.method.init(key, example)


def _label_space(experiment: Experiment) -> label_spaces.LabelSpace:
    """Returns the label space that the evaluation split and all training domains must share."""
    space = streams.open_domain(experiment.evaluation.final, "config.evaluation.final").label_space
    plans = [experiment.data, *(plan.data for plan in (experiment.stages or {}).values() if plan.data)]
    for name, domain in (item for plan in plans for item in plan.items()):
        found = streams.open_domain(domain, f"config.data.{name}").label_space
        if found.names != space.names:
            raise UserError(
                f"config.data.{name}: expected the classes of config.evaluation.final {list(space.names)}, "
                f"got {list(found.names)}; give both the same label_space"
            )
    return space


def _start_from(stage: stages.Stage, state: Any, workdir: Path) -> Any:
    """Replaces networks by those of earlier stages' last checkpoints."""
    for network, origin in stage.start_from.items():
        if network not in state.params:
            raise UserError(
                f"start_from.{network}: stage {stage.name} has no such network, only {sorted(state.params)}"
            )
        checkpoints = Checkpoints(workdir / origin / "checkpoints")
        target = {"params": {network: state.params[network]}, "model_state": {network: state.model_state[network]}}
        found = checkpoints.restore_networks(checkpoints.latest_step(), sharding.abstract(target, state.step.sharding))
        state = state.replace(
            params={**state.params, **found["params"]}, model_state={**state.model_state, **found["model_state"]}
        )
    return state


def _dev_evaluator(stage: stages.Stage, context: Context) -> Evaluator | None:
    """Returns the evaluator of the dev domain, if there is one."""
    section = context.experiment.evaluation
    if section.dev is None:
        return None
    return Evaluator(stage.method, section.dev, section.batch_size, context.mesh, path="config.evaluation.dev")


def _panel(frame: dict[str, Any], palette: np.ndarray) -> np.ndarray:
    """Returns label, prediction and entropy side by side, behind the image if it has their size."""
    parts = [pictures.colourise(frame["label"], palette), pictures.colourise(frame["prediction"], palette)]
    images = [frame["image"]] if frame["image"].shape == parts[0].shape else []
    return pictures.panel([*images, *parts, pictures.heat_map(frame["entropy"])])


def _stop_on_sigterm() -> Callable[[], bool]:
    """Returns a function that says whether SIGTERM arrived; the loop then saves and stops."""
    arrived = []
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, lambda *_: arrived.append(True))
    return lambda: bool(arrived)


def _check_workdir(experiment: Experiment, workdir: Path) -> None:
    """Raises a UserError if the workdir belongs to another experiment."""
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"--workdir {workdir}: expected a folder, found a file")
        return
    old, new = _flat(config.from_json(path)), _flat(experiment)
    for field in sorted(set(old) | set(new)):
        if old.get(field) != new.get(field) and field not in _FREE_FIELDS:
            name = ".".join(("config", *map(str, field)))
            raise UserError(
                f"--workdir {workdir}: holds a run with {name} = {old.get(field)!r}, asked for {new.get(field)!r}; "
                "use the same config or another workdir"
            )


def _flat(value: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Returns {path of a leaf: leaf} of an experiment as plain JSON."""
    value = _plain(value) if isinstance(value, Experiment) else value
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, entry in value.items() for k, v in _flat(entry, (*path, name)).items()}


def _plain(experiment: Experiment) -> dict[str, Any]:
    return json.loads(config.to_json(experiment))


def _check_space(folder: Path, size: int) -> None:
    """Raises a UserError unless a checkpoint fits; it is complete before an older one goes."""
    free, needed = shutil.disk_usage(folder).free, size + _SPARE_BYTES
    if free < needed:
        raise UserError(
            f"{folder}: the disk is full: expected {needed / 1e6:.0f} MB for a checkpoint, found {free / 1e6:.0f} MB; "
            "free some space and rerun the same command"
        )
