"""Checkpoints through Orbax: the state, the data iterator and the config, in one folder per step.

The library's only door to Orbax, so that a move to its next interface changes this file alone.
"""

import errno
import logging
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from uda_jax.errors import UserError

# Orbax reports every file it touches; a user reads the progress line.
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, *, keep_latest: int = 2):
        """Opens (or creates) a folder of checkpoints.

        Args:
          folder: where they lie, `<folder>/<step>/{state,data,config}`.
          keep_latest: how many of the last to keep; the one with the best "miou" is kept besides.
        """
        self.folder = Path(folder)
        latest = preservation_policy.LatestN(keep_latest)
        best = preservation_policy.BestN(
            get_metric_fn=lambda metrics: metrics["miou"], n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(self.folder.resolve(), options=options)

    def save(self, step: int, state: Any, iterator: Any, *, config: dict, notes: dict, miou: float | None) -> None:
        """Starts writing a checkpoint; the state may be donated as soon as this returns.

        Args:
          step: its step within the stage.
          state: the TrainState.
          iterator: the training stream's iterator, whose position is stored.
          config: the experiment as a plain dict, stored beside it.
          notes: small JSON values that the loop wants back, from `notes`.
          miou: mean IoU on the dev domain at this step, if it was evaluated; chooses the best checkpoint.

        Raises:
          UserError: the disk is full.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(iterator),
            config=ocp.args.JsonSave({"experiment": config, "notes": notes}),
        )
        with _disk_errors(self.folder):
            self._manager.save(step, args=items, metrics=None if miou is None else {"miou": miou})

    def latest_step(self) -> int | None:
        """Returns the step of the last finished checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, target: Any, iterator: Any = None) -> Any:
        """Reads a checkpoint back.

        Args:
          step: which one.
          target: the state's shapes, types and shardings, from `sharding.abstract`.
          iterator: a training iterator to put at the stored position; None reads the state alone.

        Returns:
          The state.

        Raises:
          UserError: the checkpoint cannot be read or holds another network.
        """
        try:
            state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))[
                "state"
            ]
        except Exception as error:  # Orbax and TensorStore raise many types for a damaged file.
            raise UserError(_unreadable(self.folder / str(step), error)) from error
        if iterator is not None:
            self._restore_iterator(step, iterator)
        return state

    def notes(self, step: int) -> dict[str, Any]:
        """Returns the notes that were saved with a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]["notes"]

    def restore_networks(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        """Reads parts of a state, such as {"params": {"segmenter": ...}}, into the shapes of `target`."""
        folder = self.folder / str(step) / "state"
        arguments = ocp.args.PyTreeRestore(
            target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
        )
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                return reader.restore(folder.resolve(), args=arguments)
        except Exception as error:
            raise UserError(_unreadable(folder, error)) from error

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the cluster announced, to all processes, that the job is to stop."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when the checkpoint under way is complete; raises UserError if the disk is full."""
        with _disk_errors(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and releases the folder."""
        with _disk_errors(self.folder):
            self._manager.close()

    def _restore_iterator(self, step: int, iterator: Any) -> None:
        """Puts the iterator at the stored position, or, after another process or worker count wrote it, at `step`."""
        try:
            self._manager.restore(step, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(iterator)))
        except (KeyError, ValueError, FileNotFoundError):
            # The order of elements does not depend on either count, so the number of batches taken says it all.
            grain.experimental.set_next_index(iterator, step)


def write_arrays(folder: Path, arrays: dict[str, Any]) -> None:
    """Writes nested dicts of arrays, such as the weights of one network, as a checkpoint without a run.

    Raises:
      UserError: the disk is full.
    """
    with _disk_errors(folder), ocp.StandardCheckpointer() as writer:
        writer.save(Path(folder).resolve(), arrays)


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


class _disk_errors:
    """Turns "no space left", in whichever type TensorStore or the system raises it, into one clear line."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if error is not None and (full or "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error)):
            raise UserError(f"{self.folder}: the disk is full; free some space and rerun the same command") from error
        return False


def state_bytes(state: Any) -> int:
    """Returns the size of a state in bytes, which is about the size of its checkpoint."""
    return sum(x.nbytes for x in jax.tree.leaves(state))


def _unreadable(folder: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return f"{folder}: cannot be read as a checkpoint of this run ({reason}); delete it to go on from the one before"
