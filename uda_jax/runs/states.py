"""States of stages: the first one, and those that checkpoints hold.

The state that a stage trains on comes, in this order, from: fresh initialisation; the files of weights named in
`init_from`; the networks of earlier stages named in `start_from`; the stage's own last checkpoint, which replaces all
of them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from uda_jax import config
from uda_jax.data.io import mirrors
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.runs import initial_weights, stages
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.stages import Stage, StartFrom
from uda_jax.runs.workdir import Identity, Workdir
from uda_jax.training import sharding
from uda_jax.training.initialisation import draw


def initial(
    stage: Stage,
    workdir: Workdir,
    seed: int,
    mesh: jax.sharding.Mesh,
    log: Callable | None = None,
    identity: Identity | None = None,
) -> Any:
    """Returns the state before a stage's first step, placed over the mesh as `config.train.sharding` says.

    Args:
      stage: a stage that trains, or that starts from files of weights.
      workdir: holds the earlier stages.
      seed: of fresh initialisation, and of everything that the method draws.
      mesh: the device mesh.
      log: called with one text per file of weights, if given.
      identity: of the run that checkpoints of earlier stages must belong to; None = any run.
    """
    placed = placement(stage, mesh).of(shapes(stage))
    fresh = draw(stage.first_state, jax.random.key(seed), placed)
    state = initial_weights.start(fresh, stage, log)
    for network, start_from in stage.start_from.items():
        like, place = _network(state, network), placement(stage, mesh)
        found = _stored_network(workdir, start_from, like, place, identity)
        state = _with_network(state, network, found)
    return state if "segmenter" in stage.start_from else adapted.decomposed(stage.method, state)


def check_initial(recipe: Sequence[Stage]) -> None:
    """Raises a UserError if first weights do not fit, a file's or an earlier stage's, before anything is written."""
    found = {}
    # A stage that does not train has no state of its own, but the network of one that does, or of a file.
    for stage in (stage for stage in recipe if stage.kind.TRAINS or not stage.start_from):
        files = any(init.path for init in stage.init_from.values())
        if files or len(recipe) > 1:
            found[stage.name] = state = shapes(stage)
        if files:
            initial_weights.start(state, stage)
        for network, start_from in stage.start_from.items():
            _check_start(network, stage, state, start_from, found[start_from.stage.name])


def load(
    stage: Stage,
    workdir: Workdir,
    mesh: jax.sharding.Mesh,
    step: str | int = "last",
    identity: Identity | None = None,
) -> Any:
    """Returns the state of one of a stage's checkpoints, placed over the mesh as `config.train.sharding` says.

    Args:
      stage: a stage that trains.
      workdir: the run's.
      mesh: the device mesh.
      step: "last", "best" on the dev domain, or a step.
      identity: of the run that the checkpoint must belong to; None = any run.

    Raises:
      UserError: there is no such checkpoint, and the message names those that there are; or as `Checkpoints.restore`.
    """
    with _opened(stage, workdir) as checkpoints:
        step = checkpoints.resolve(step)
        return checkpoints.restore(step, abstract(stage, mesh), identity=identity)


def shapes(stage: Stage) -> Any:
    """Returns the shapes and types of a stage's state."""
    return stage.first_state.shapes


def placement(stage: Stage, mesh: jax.sharding.Mesh) -> sharding.Placement:
    """Returns where the arrays of a stage's state lie."""
    return sharding.Placement(mesh, stage.train.sharding, stage.train.split_from)


def abstract(stage: Stage, mesh: jax.sharding.Mesh) -> Any:
    """Returns the shapes, types and places of a stage's state: what checkpoints are restored to, whoever wrote them."""
    return placement(stage, mesh).abstract(shapes(stage))


def restore(
    workdir: str | Path,
    overrides: Sequence[str] = (),
    step: str | int | None = None,
    network: str | None = None,
) -> tuple[Any, Any, LabelSpace]:
    """Opens a run for evaluation, prediction or a notebook; needs none of the data it was trained on.

    Args:
      workdir: the folder of the run, a local path or an address in a bucket.
      overrides: words such as "--config.method.test_aggregation=True", for the fields that the last stage's method
        lists as its `PREDICTION_FIELDS`: they act in `predict` alone, and the state stays what it is.
      step: which checkpoint of the last stage, "last", "best" on the dev domain, or a step; None = the one that the
        run's result row is of.
      network: "student" or "teacher", which of the two predicts; None = the one of the config.

    Returns:
      The last stage's method, its state, and the label space of its classes.

    Raises:
      UserError: the workdir holds no run, no such checkpoint, or one that cannot be read; an override of another
        field; a network of a method that has no teacher.
    """
    with mirrors.opened(workdir) as folder:
        return _restore(Workdir(folder), overrides, step, network)


def _restore(
    workdir: Workdir, overrides: Sequence[str], step: str | int | None, network: str | None
) -> tuple[Any, Any, LabelSpace]:
    """Does what `restore` says, in a local folder."""
    experiment, space = workdir.experiment(), workdir.classes()
    last = stages.recipe(experiment, len(space.names))[-1]
    if overrides or network:
        own = bool(experiment.stages) and experiment.stages[last.name].method is not None
        section = f"stages.{last.name}.method" if own else "method"
        fields = getattr(last.method, "PREDICTION_FIELDS", ())
        if network and "predict_with" not in fields:
            name = type(last.method).__name__
            raise UserError(
                f"--network {network}: {workdir.path}: expected a method with a teacher, got {name}; leave it out"
            )
        if network:
            overrides = (*overrides, f"--config.{section}.predict_with={network}")
        allowed = [f"{section}.{field}" for field in fields]
        experiment = config.with_overrides(experiment, overrides, allowed, f"the predictions of {workdir.path}")
        last = stages.recipe(experiment, len(space.names))[-1]
    step = experiment.evaluation.chosen_step if step is None else step
    state = load(last, workdir, sharding.data_mesh(), step, workdir.identity())
    return last.method, state, space


@contextlib.contextmanager
def _opened(stage: Stage, workdir: Workdir) -> Iterator[Checkpoints]:
    files = workdir.stage(stage.name)
    if not files.checkpoints.is_dir():
        raise UserError(f"{files.path}: no checkpoint yet; train it first")
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        yield checkpoints


def _network(state: Any, name: str) -> dict[str, Any]:
    """Returns {"params", "model_state"} of a network of a state, whether it learns or not."""
    if name in state.params:
        return {"params": state.params[name], "model_state": state.model_state[name]}
    return state.frozen[name]


def _with_network(state: Any, name: str, found: dict[str, Any]) -> Any:
    """Returns the state with another network in place of one of its own."""
    if name not in state.params:
        return state.replace(frozen=state.frozen | {name: found})
    return state.replace(
        params=state.params | {name: found["params"]}, model_state=state.model_state | {name: found["model_state"]}
    )


def _stored_network(
    workdir: Workdir, start_from: StartFrom, like: dict[str, Any], place: sharding.Placement, identity: Identity | None
) -> dict[str, Any]:
    """Reads a network of an earlier stage, from a checkpoint or, if it never learnt, from beside them."""
    frozen = shapes(start_from.stage).frozen
    with _opened(start_from.stage, workdir) as checkpoints:
        if start_from.network in frozen:
            return checkpoints.restore_frozen(place.abstract(frozen))[start_from.network]
        target = {part: {start_from.network: tree} for part, tree in place.abstract(like).items()}
        found = checkpoints.restore_networks(checkpoints.resolve(start_from.step), target, identity=identity)
    return {part: found[part][start_from.network] for part in like}


def _check_start(network: str, stage: Stage, state: Any, start_from: StartFrom, earlier: Any) -> None:
    """Raises a UserError unless an earlier stage's network has every array of a stage's, with its shape."""
    where = f"config.stages.{stage.name}.start_from.{network}"
    for name, networks, owner in ((network, state, stage), (start_from.network, earlier, start_from.stage)):
        if name not in (known := networks.params.keys() | networks.frozen.keys()):
            raise UserError(f"{where}: stage {owner.name} has no network '{name}', only {sorted(known)}")
    wanted, given = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves in (
            jax.tree_util.tree_leaves_with_path([found["params"], found["model_state"]])
            for found in (_network(state, network), _network(earlier, start_from.network))
        )
    )
    if wrong := [path for path, shape in wanted.items() if given.get(path) != shape]:
        path = wrong[0]
        raise UserError(
            f"{where}: {len(wrong)} arrays of stage {stage.name} are other ones in stage {start_from.stage.name}, such "
            f"as {path[2:]}: {wanted[path]} against {given.get(path, 'none')}; give both stages the same network"
        )
