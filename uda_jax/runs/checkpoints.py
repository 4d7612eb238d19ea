"""Checkpoints through Orbax: the state, the data iterator and the config, in one folder per step.

Networks that never learn lie beside them, once. The library's only door to Orbax, so that a move to its next
interface changes this file alone.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from uda_jax.config import FORMAT, check_format
from uda_jax.errors import UserError
from uda_jax.training.layout import StageFiles

# Orbax reports every file it touches; a user reads the progress line.
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one stage.

    Args:
      files: the stage's; checkpoints lie in `<files.checkpoints>/<step>/{state,data,config}`.
      keep_latest: how many of the last to keep; the one with the best score is kept besides, after a restart, too.
    """

    def __init__(self, files: StageFiles, *, keep_latest: int = 2):
        self._files = files
        latest = preservation_policy.LatestN(keep_latest)
        best = preservation_policy.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
            best_fn=_score,  # With it the scores are written beside the states.
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(files.checkpoints.resolve(), options=options)

    def save(self, step: int, state: Any, iterator: Any, *, config: dict, notes: dict, score: float | None) -> None:
        """Starts writing a checkpoint; the state may be donated as soon as this returns.

        Args:
          step: its step within the stage.
          state: the TrainState, whose frozen networks `save_frozen` has written.
          iterator: the training stream's iterator, whose position is stored.
          config: the experiment as a plain dict, stored beside it.
          notes: small JSON values that the loop wants back, from `notes`.
          score: the headline on the dev domain at this step, if it was evaluated; the highest is the best checkpoint.

        Raises:
          UserError: the disk is full.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state.replace(frozen={})),
            data=grain.checkpoint.CheckpointSave(iterator),
            config=ocp.args.JsonSave({"format": FORMAT, "experiment": config, "notes": notes}),
        )
        with _disk_errors(self._files.checkpoints):
            self._manager.save(step, args=items, metrics=None if score is None else {"score": score})

    def save_frozen(self, state: Any) -> None:
        """Writes the networks that never learn, if there are any; a state is restored with them."""
        if state.frozen:
            write_arrays(self._files.frozen, state.frozen, replace=True)

    def all_steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are kept, rising."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the step of the last finished checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the highest score of those that are kept, the later of equal ones, or None."""
        return self._manager.best_step()

    def resolve(self, step: str | int) -> int:
        """Returns the step that "last", "best" or a number names; raises UserError if it is not kept."""
        steps = self.all_steps()
        found = {"last": self.latest_step(), "best": self.best_step()}.get(step, step)
        if found in steps:
            return found
        if not steps:
            raise UserError(f"{self._files.path}: no checkpoint yet; train it first")
        reason = "a score on config.evaluation.dev" if step == "best" else f"step {step}"
        kept = ", ".join(map(str, steps))
        raise UserError(f"{self._files.path}: no checkpoint has {reason}; ask for 'last' or one of the steps {kept}")

    def restore(self, step: int, target: Any, iterator: Any = None) -> Any:
        """Reads a checkpoint back.

        Args:
          step: which one.
          target: the state's shapes, types and shardings, from `sharding.abstract`.
          iterator: a training iterator to put at the stored position; None reads the state alone.

        Returns:
          The state.

        Raises:
          UserError: the checkpoint cannot be read, holds another network, or another version wrote it.
        """
        self.notes(step)  # Refuses another version's.
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target.replace(frozen={})))
        with _unreadable_errors(self._files.checkpoints / str(step)):
            state = self._manager.restore(step, args=arguments)["state"]
        if iterator is not None:
            self._restore_iterator(step, iterator)
        return state.replace(frozen=self.restore_frozen(target.frozen))

    def restore_frozen(self, target: dict[str, Any]) -> dict[str, Any]:
        """Reads networks that never learn into the shapes, types and shardings of `target`; all of them are checked."""
        if not target:
            return target
        remedy = "delete the stage's folder to train it again"
        with _unreadable_errors(self._files.frozen, remedy), ocp.StandardCheckpointer() as reader:
            return reader.restore(self._files.frozen.resolve(), target)

    def restore_networks(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        """Reads parts of a state, such as {"params": {"segmenter": ...}}, into the shapes of `target`."""
        folder = self._files.checkpoints / str(step) / "state"
        arguments = ocp.args.PyTreeRestore(
            target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
        )
        with _unreadable_errors(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(folder.resolve(), args=arguments)

    def notes(self, step: int) -> dict[str, Any]:
        """Returns the notes that were saved with a checkpoint; raises UserError if another version wrote it."""
        folder = self._files.checkpoints / str(step)
        with _unreadable_errors(folder):
            stored = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
        check_format(stored.get("format", 1), folder)
        return stored["notes"]

    def shapes(self, step: int) -> dict[str, Any]:
        """Returns the tree of a stored state, frozen networks included, with the shape and the type of each array."""
        found = {}
        for name, folder in (("", self._files.checkpoints / str(step) / "state"), ("frozen", self._files.frozen)):
            if folder.exists():
                with _unreadable_errors(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                    tree = reader.metadata(folder.resolve()).item_metadata.tree
                found |= {name: tree} if name else tree
        return found

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the cluster announced, to all processes, that the job is to stop."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when the checkpoint under way is complete; raises UserError if the disk is full."""
        with _disk_errors(self._files.checkpoints):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and releases the folder."""
        with _disk_errors(self._files.checkpoints):
            self._manager.close()

    def _restore_iterator(self, step: int, iterator: Any) -> None:
        """Puts the iterator at the stored position, or, after another process or worker count wrote it, at `step`."""
        try:
            self._manager.restore(step, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(iterator)))
        except (KeyError, ValueError, FileNotFoundError):
            # The order of elements does not depend on either count, so the number of batches taken says it all.
            grain.experimental.set_next_index(iterator, step)


def write_arrays(folder: Path, arrays: dict[str, Any], *, replace: bool = False) -> None:
    """Writes nested dicts of arrays, such as the weights of one network, as a checkpoint without a run.

    Args:
      folder: made by this call; with `replace` it may exist.
      arrays: what to write.
      replace: whether what the folder held goes.

    Raises:
      UserError: the disk is full.
    """
    with _disk_errors(folder), ocp.StandardCheckpointer() as writer:
        writer.save(Path(folder).resolve(), arrays, force=replace)


def read_arrays(folder: Path) -> dict[str, Any]:
    """Reads what `write_arrays` wrote, as NumPy arrays.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            shapes = reader.metadata(Path(folder).resolve()).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            return reader.restore(Path(folder).resolve(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged file.
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: cannot be read ({reason}); convert the file again") from error


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns "no space left", in whichever type TensorStore or the system raises it, into one clear line."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(f"{folder}: the disk is full; free some space and rerun the same command") from error
        raise


@contextlib.contextmanager
def _unreadable_errors(folder: Path, remedy: str = "delete it to go on from the one before") -> Iterator[None]:
    """Turns what Orbax and TensorStore raise for a damaged folder or another network's into one clear line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: cannot be read as a checkpoint of this run ({reason}); {remedy}") from error


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def state_bytes(state: Any) -> int:
    """Returns the size of a state, or of a part of one, in bytes: about the size of its checkpoint."""
    return sum(x.nbytes for x in jax.tree.leaves(state))
