"""Workdirs: what a run keeps on disk, and how to open it again.

A workdir holds config.json, label_space.json, one folder per stage (checkpoints/, metrics.jsonl, TensorBoard
events, finished.json), pictures/ and, once everything is done, result.json.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from uda_jax import config
from uda_jax.config import Experiment
from uda_jax.data.io import atomic
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import domains
from uda_jax.errors import UserError
from uda_jax.runs import stages
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.training import sharding

# Fields that may differ between runs that continue each other: they change what is told, not what is learnt.
_FREE_FIELDS = (("train", "log_every"), ("train", "workers"), ("train", "keep_latest"), ("evaluation", "pictures"))

# Room for what Orbax and the logs write beside the state's own bytes.
_SPARE_BYTES = 8_000_000


def check(workdir: Path, experiment: Experiment) -> None:
    """Raises a UserError if the workdir belongs to another experiment, naming a field that differs."""
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"--workdir {workdir}: expected a folder, found a file")
        return
    old, new = _flat(config.to_plain(config.from_json(path))), _flat(config.to_plain(experiment))
    for field in sorted(set(old) | set(new)):
        if old.get(field) != new.get(field) and field not in _FREE_FIELDS:
            raise UserError(
                f"--workdir {workdir}: holds a run with {'.'.join(('config', *field))} = {old.get(field)!r}, asked for "
                f"{new.get(field)!r}; use the same config or another workdir"
            )


def prepare(workdir: Path, experiment: Experiment, space: label_spaces.LabelSpace) -> None:
    """Makes the workdir and writes what a later command needs to open it."""
    workdir.mkdir(parents=True, exist_ok=True)
    check_space(workdir, 0)
    atomic.write(workdir / "label_space.json", json.dumps(space._asdict()))
    atomic.write(workdir / "config.json", config.to_json(experiment))


def check_space(folder: Path, size: int) -> None:
    """Raises a UserError unless `size` more bytes fit; a checkpoint is complete before an older one goes."""
    free, needed = shutil.disk_usage(folder).free, size + _SPARE_BYTES
    if free < needed:
        raise UserError(
            f"{folder}: the disk is full: expected {needed / 1e6:.0f} MB for a checkpoint, found {free / 1e6:.0f} MB; "
            "free some space and rerun the same command"
        )


def restore(workdir: Path, overrides: Sequence[str] = ()) -> tuple[Any, Any, label_spaces.LabelSpace]:
    """Opens a run for evaluation, prediction or a notebook; needs none of the data it was trained on.

    Args:
      workdir: the folder of the run.
      overrides: words such as "--config.method.test_aggregation=True", for the fields that the last stage's method
        lists as its `PREDICTION_FIELDS`: they act in `predict` alone, and the state stays what it is.

    Returns:
      The last stage's method, the state of the run's last checkpoint, and the label space of its classes.

    Raises:
      UserError: the workdir holds no run, no checkpoint yet, or one that cannot be read; an override of another field.
    """
    experiment = config.from_json(Path(workdir) / "config.json")
    stored = json.loads((Path(workdir) / "label_space.json").read_text())
    colours = tuple(tuple(colour) for colour in stored["colours"])
    space = label_spaces.LabelSpace(tuple(stored["names"]), colours, stored["ignore"])
    recipe = stages.recipe(experiment, {}, len(space.names))
    if overrides:
        name = recipe[-1].name
        own = bool(experiment.stages) and experiment.stages[name].method is not None
        section = f"stages.{name}.method" if own else "method"
        acting = [f"{section}.{field}" for field in getattr(recipe[-1].method, "PREDICTION_FIELDS", ())]
        experiment = overridden(experiment, overrides, acting, f"the predictions of {workdir}")
        recipe = stages.recipe(experiment, {}, len(space.names))
    return recipe[-1].method, last_state(recipe[-1], Path(workdir), sharding.data_mesh()), space


def overridden(experiment: Experiment, words: Sequence[str], acting: Sequence[str], what: str) -> Experiment:
    """Returns the experiment of a finished run with some fields changed that still act.

    Args:
      experiment: what the run was trained with.
      words: overrides such as "--config.evaluation.batch_size=2".
      acting: the fields and sections that act, such as "evaluation.batch_size".
      what: on what they act, for messages.

    Raises:
      UserError: an unknown field, a wrong value, or a field that does not act.
    """
    stored = config.as_config(experiment)
    for word in words:
        config.override(stored, [word])
        name = word.partition("=")[0].removeprefix("--config.")
        if not any(name == field or name.startswith(f"{field}.") for field in acting):
            known = " or ".join(f"config.{field}" for field in acting)
            remedy = f"set {known}, or leave it out" if known else "leave it out"
            raise UserError(f"config.{name}: {what} cannot change with it any more; {remedy}")
    return config.experiment(stored)


def last_state(stage: stages.Stage, workdir: Path, mesh: jax.sharding.Mesh) -> Any:
    """Returns the state of a stage's last checkpoint, replicated over the mesh; raises UserError if there is none."""
    folder = stage.folder(workdir) / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir}: stage {stage.name} has no checkpoint yet; train it first")
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise UserError(f"{workdir}: stage {stage.name} has no checkpoint yet; train it first")
        shapes = jax.eval_shape(stage.initialise, jax.random.key(0))
        return checkpoints.restore(step, sharding.abstract(shapes, sharding.replicated(mesh)))


def label_space(experiment: Experiment) -> label_spaces.LabelSpace:
    """Returns the label space that the evaluation split and all training domains with labels must share."""
    # Scored or not, see `Evaluator.labelled`.
    final = dataclasses.replace(experiment.evaluation.final, fields=("image",))
    space = domains.open_domain(final, "config.evaluation.final").label_space
    plans = [experiment.data, *(plan.data for plan in (experiment.stages or {}).values() if plan.data)]
    for name, domain in (item for plan in plans for item in plan.items()):
        found = domains.open_domain(_before_the_run(domain), f"config.data.{name}").label_space
        # A video knows no classes but those that it is given.
        space = space if space.names else found
        if "label" in domain.fields and found.names != space.names:
            raise UserError(
                f"config.data.{name}: expected the classes of config.evaluation.final {list(space.names)}, "
                f"got {list(found.names)}; give both the same label_space"
            )
    return space


def _before_the_run(domain: domains.Domain) -> domains.Domain:
    """Returns a domain without the lists and labels that earlier stages of the run are still to write."""
    late = [name for name in ("names_file", "labels_from") if stages.WORKDIR in (getattr(domain, name) or "")]
    fields = tuple(field for field in domain.fields if field != "label" or "labels_from" not in late)
    return dataclasses.replace(domain, fields=fields, **dict.fromkeys(late))


def _flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Returns {path of a leaf: leaf} of nested dicts."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, entry in value.items() for key, leaf in _flat(entry, (*path, name)).items()}
