"""Looking into a run's checkpoints, from a notebook or for `uda inspect`.

    from uda_jax.runs import inspection, measures

    snapshot = inspection.open_snapshot("runs/demo/adapted")     # from metadata: no array is read
    snapshot.shapes["params"]["segmenter"]
    network = snapshot.network("segmenter")                     # reads these arrays and no others
    measures.norm(network["params"])

Neither the data of the run is needed, nor the module of its method, nor devices like those that it used. What is read
is NumPy arrays; `states.restore` gives the whole state on the devices, as training has it.
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from uda_jax import schema
from uda_jax.data.io.images import read_image, read_label
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.report import pictures
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import StageFiles


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a run, of which nothing but metadata has been read.

    Attributes:
      workdir: the run's.
      stage: the name of its stage.
      step: its step.
      scores: of every checkpoint that the stage keeps, by step: the headline on dev, None where it was not scored.
      best: the step of the best of them, or None.
      shapes: the state as nested dicts by the names of `TrainState`'s fields, networks that never learn included, with
        the shape and type of each array; a typed PRNG key is its uint32 data.
    """

    workdir: Workdir
    stage: str
    step: int
    scores: Mapping[int, float | None]
    best: int | None
    shapes: Mapping[str, Any]

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks that learn."""
        return tuple(self.shapes["params"])

    def has(self, path: str) -> bool:
        """Returns whether the state holds arrays at a path, such as "teacher"."""
        with contextlib.suppress(UserError):
            return bool(jax.tree.leaves(self._at(path)))
        return False

    def read(self, path: str) -> Any:
        """Reads a part of the state.

        Args:
          path: names joined by "/": "params/segmenter", "opt_state", "key" ...

        Returns:
          What lies there: an array, or nested dicts of arrays.

        Raises:
          UserError: there is no such part, or it cannot be read, is damaged or is not finite.
        """
        return self._read(path)[path]

    def network(self, name: str = "segmenter", *, which: str = "student") -> dict[str, Any]:
        """Reads one network, as Flax variables {"params": ..., "batch_stats": ...}.

        Args:
          name: of a network that learns, or of one that never does.
          which: "student", or "teacher" for the average of the segmenter, where the method keeps one.

        Raises:
          UserError: there is no such network, or as `read`.
        """
        if which not in ("student", "teacher"):
            raise UserError(f"which: expected student or teacher, got {which!r}")
        if which == "teacher" and (name != "segmenter" or not self.has("teacher")):
            raise UserError(f"{self.workdir.path}: the run keeps no averaged teacher of its {name}; take the student")
        frozen = self.shapes.get("frozen") or {}
        if name not in self.networks and name not in frozen:
            known = [*self.networks, *frozen]
            raise UserError(f"{self.workdir.path}: no network '{name}'{schema.did_you_mean(name, known)}")
        entry = "teacher" if which == "teacher" else f"frozen/{name}"
        paths = (f"params/{name}", f"model_state/{name}")
        if which == "teacher" or name not in self.networks:
            paths = (f"{entry}/params", f"{entry}/model_state")
        # Of a network that learns in part the rest is there, too.
        kept = f"frozen/{name}/params" if name in self.networks else ""
        found = self._read(*filter(self.has, filter(None, (*paths, kept))))
        variables = {"params": found[paths[0]], **found.get(paths[1], {})}
        return adapted.joined(variables | {adapted.FROZEN: found[kept]}) if kept in found else variables

    def _at(self, path: str) -> Any:
        """Returns the shapes at a path; raises a UserError if there are none."""
        found, names = self.shapes, path.split("/")
        for i, name in enumerate(names):
            if not isinstance(found, Mapping) or found.get(name) is None:
                known = [key for key, value in found.items() if value is not None] if isinstance(found, Mapping) else ()
                where = "/".join(names[:i]) or "its state"
                raise UserError(f"{self._where}: {where} has no '{name}'{schema.did_you_mean(name, known)}")
            found = found[name]
        return found

    def _read(self, *paths: str) -> dict[str, Any]:
        """Returns path -> what lies there; all of it is read at once."""
        wanted: dict[str, Any] = {}
        filled = [path for path in paths if jax.tree.leaves(self._at(path))]
        for path in filled:
            *above, last = path.split("/")
            inner = wanted
            for name in above:
                inner = inner.setdefault(name, {})
            inner[last] = self._at(path)
        with contextlib.closing(Checkpoints(self.workdir.stage(self.stage))) as checkpoints:
            found = checkpoints.read(self.step, wanted)
        return {path: _inside(found, path) if path in filled else {} for path in paths}

    @property
    def _where(self) -> str:
        return f"{self.workdir.path}, stage {self.stage}, step {self.step}"


def open_snapshot(workdir: str | os.PathLike | Workdir, stage: str | None = None, step: str | int = "last") -> Snapshot:
    """Opens a checkpoint of a run by its metadata.

    Args:
      workdir: the folder of the run, which may be under way.
      stage: whose checkpoint; None = the last stage that has one.
      step: "last", "best" on the dev domain, or a step.

    Raises:
      UserError: no run, no such stage or checkpoint, one that is damaged, or one that another version wrote.
    """
    workdir = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    files = _stage_files(workdir, stage)
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        number = checkpoints.resolve(step)
        scores, best, tree = checkpoints.scores(), checkpoints.best_step(), checkpoints.shapes(number)
    return Snapshot(workdir, files.path.name, number, scores, best, jax.tree.map(_shape, tree))


def stage_names(workdir: Workdir) -> tuple[str, ...]:
    """Returns the names of a run's stages, in the order in which they run."""
    return workdir.experiment().recipe or ("train",)


def evaluation_frame(workdir: str | os.PathLike, index: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns one of the frames that a finished run was scored on and kept the pictures of; no data set is needed.

    Args:
      workdir: the folder of the run.
      index: which of them, in the order of their names.

    Returns:
      The image as the network saw it, uint8 RGB [H, W, 3], and its label, uint8 [h, w], None where it has none.

    Raises:
      UserError: the run kept no such picture, or it cannot be read.
    """
    folder = Workdir(workdir).pictures
    frames = list(pictures.saved_frames(folder).values())
    if not 0 <= index < len(frames):
        raise UserError(
            f"{folder}: expected picture {index}, found {len(frames)}; a run keeps as many of its evaluation frames as "
            "config.evaluation.pictures says, once it is finished"
        )
    files = frames[index]
    return read_image(files["image"]), read_label(files["label"]) if "label" in files else None


def _stage_files(workdir: Workdir, stage: str | None) -> StageFiles:
    """Returns the files of a stage, or of the last one that has a checkpoint; raises a UserError if there is none."""
    names = stage_names(workdir)
    if stage is not None and stage not in names:
        raise UserError(f"--stage {stage}: the run has no such stage, only {', '.join(names)}")
    found = [workdir.stage(name) for name in (names if stage is None else (stage,))]
    stored = [files for files in found if files.checkpoints.is_dir()]
    if not stored:
        raise UserError(f"{found[-1].path}: no checkpoint yet; train it first")
    return stored[-1]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct | None:
    """Returns the shape and type of a stored array; of what is no array, nothing."""
    return None if leaf.shape is None else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _inside(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree
