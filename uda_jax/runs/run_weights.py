"""The network of a trained run, as NumPy arrays: first weights of another run, or what a file of PyTorch's gets."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.runs import stages
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

# How deep below a run its checkpoints' files lie at most.
_DEPTH = 6


class RunNetwork(NamedTuple):
    """One network of a run.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays.
      method: of the stage that trained it.
      classes: the names of the run's classes.
    """

    variables: dict[str, Any]
    method: Any
    classes: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Returns whether a folder is a workdir."""
    return Workdir(folder).config.exists()


def run_above(path: Path) -> str:
    """Says which run a path lies in, whose parts are read by the run's name alone; "" if in none."""
    found = next((folder for folder in path.absolute().parents[:_DEPTH] if is_run(folder)), None)
    return f"name the run itself, {found}, and choose a checkpoint by its step" if found else ""


def classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of a run's classes."""
    return tuple(Workdir(folder).classes().names)


def read(folder: Path, network: str = "segmenter", *, which: str = "student", step: str | int = "last") -> RunNetwork:
    """Reads a network from a checkpoint of the last stage of a run that trains; low-rank parts are merged.

    Args:
      folder: the workdir.
      network: its name.
      which: "student", or "teacher" for the average of the segmenter, where the method keeps one.
      step: of the checkpoint: "last", "best" on the dev split, or a number.

    Raises:
      UserError: no such checkpoint or network, or one that cannot be read.
    """
    workdir = Workdir(folder)
    names = classes(folder)
    stage = [stage for stage in stages.recipe(workdir.experiment(), len(names)) if stage.kind.TRAINS][-1]
    state = stage.first_state.shapes
    found = workdir.stage(stage.name)
    if not found.checkpoints.is_dir():
        raise UserError(f"{found.path}: no checkpoint yet; train it first")
    if which == "teacher" and (network != "segmenter" or state.teacher is None):
        raise UserError(f"{folder}: the run keeps no averaged teacher of its {network}; take the student")
    if network not in state.params:
        raise UserError(f"{folder}: the run trained no network '{network}', only {sorted(state.params)}")
    if which == "teacher":
        frozen = adapted.frozen_of(state.model_state[network])
        wanted = {"teacher": state.teacher} | ({"model_state": {network: frozen}} if frozen else {})
    else:
        wanted = {"params": {network: state.params[network]}, "model_state": {network: state.model_state[network]}}
    target = sharding.abstract(wanted, sharding.replicated(sharding.data_mesh()))
    checkpoints, identity = Checkpoints(found), workdir.identity()
    try:
        parts = jax.tree.map(
            np.asarray, checkpoints.restore_networks(checkpoints.resolve(step), target, identity=identity)
        )
    finally:
        checkpoints.close()
    if which == "teacher":
        params, model_state = parts["teacher"]["params"], parts["teacher"]["model_state"]
        model_state = model_state | parts.get("model_state", {}).get(network, {})
    else:
        params, model_state = parts["params"][network], parts["model_state"][network]
    variables = jax.tree.map(np.asarray, adapted.whole({"params": params, **model_state}))
    return RunNetwork(variables, adapted.without_adapters(stage.method), names)
