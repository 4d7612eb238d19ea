"""Checkpoints through Orbax: the state, the data iterator and the config, in one folder per step.

Networks that never learn lie beside them, once. Whatever is read back is compared with the checksums that were written
with it. With `stored_arrays` the library's only door to Orbax, so that a move to its next interface changes no other.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from uda_jax.config import FORMAT, check_format
from uda_jax.data.io import atomic, mirrors
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.runs import checksums, separate_disks, stored_arrays
from uda_jax.runs.checkpoint_errors import DELETE, disk_errors, unreadable_errors
from uda_jax.runs.workdir import Identity, difference, longer
from uda_jax.training.layout import StageFiles

_TRAIN_STAGE_ANEW = "delete the stage's folder to train it again"
_CONVERT_AGAIN = "convert the file again"

# Orbax reports every file it touches; a user reads the progress line.
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one stage.

    Args:
      files: the stage's; checkpoints lie in `<files.checkpoints>/<step>/{state,data,config}`.
      keep_latest: how many of the last to keep; the one with the best score is kept besides, after a restart, too.
      folder: where they lie instead.
    """

    def __init__(self, files: StageFiles, *, keep_latest: int = 2, folder: Path | None = None):
        self._files, self._folder = files, files.checkpoints if folder is None else folder
        latest, score = preservation_policy.LatestN(keep_latest), lambda metrics: metrics["score"]
        best = preservation_policy.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
            best_fn=score,  # With it the scores are written beside the states.
            enable_async_checkpointing=True,
            **separate_disks.manager_options(self._folder),
        )
        # Orbax reads them all at once, and would not say whose is damaged.
        for scores in sorted(self._folder.glob("[0-9]*/metrics/metrics")):
            with unreadable_errors(scores.parents[1]):
                json.loads(scores.read_text())
        with unreadable_errors(self._folder, "train in another workdir"):
            self._manager = ocp.CheckpointManager(self._folder.resolve(), options=options)
        self._saving: int | None = None  # The step that is being written, which is not sealed yet.

    def save(
        self, step: int, state: Any, iterator: Any, *, identity: Identity, notes: dict, score: float | None
    ) -> None:
        """Starts writing a checkpoint; the state may be donated as soon as this returns.

        Args:
          step: its step within the stage.
          state: the TrainState, of which `save_frozen` has written what is frozen.
          iterator: the training stream's iterator, whose position is stored.
          identity: of the run; with another one, nothing is read back.
          notes: small JSON values that the loop wants back, from `notes`.
          score: the headline on the dev domain at this step, if it was evaluated; the highest is the best checkpoint.

        Raises:
          UserError: the disk is full.
        """
        learning, separate = adapted.apart(state).replace(frozen={}), separate_disks.are_separate(self._files.path)
        about = {"format": FORMAT, "experiment": identity.experiment, "classes": list(identity.classes)}
        about |= {"stage": self._files.path.name, "step": step, "position": iterator.get_state()}
        # The first process writes the file, but arrays that are split over processes take all of them to be read.
        about |= {"notes": notes, "score": score, "arrays": checksums.table(learning)}
        about |= {"untyped_keys": True} if separate else {}
        written = ocp.args.StandardSave(separate_disks.own_copy(self._files.path, learning))
        items = {"config": ocp.args.JsonSave(checksums.sealed(about)), "state": written}
        if not separate:
            items["data"] = grain.checkpoint.CheckpointSave(iterator)
        if not separate_disks.writes(self._files.path):
            return
        self.wait()
        mirrors.settle(self._folder)
        with disk_errors(self._folder):
            metrics = None if score is None else {"score": score}
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
        self._saving = step
        if mirrors.of(self._folder):
            self.wait()  # Sealed at once, it is on its way to the bucket while the training goes on.

    def save_frozen(self, state: Any) -> None:
        """Writes the networks that never learn, and frozen parts of others, if any; a state is restored with them."""
        if frozen := adapted.apart(state).frozen:
            write_arrays(self._files.frozen, frozen, replace=True)

    def all_steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are kept, rising."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the step of the last finished checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the highest score of those that are kept, the later of equal ones, or None.

        Raises:
          UserError: a score was damaged, so that another step would be the best.
        """
        self.scores()
        return self._manager.best_step()

    def scores(self) -> dict[int, float | None]:
        """Returns the score on dev of each checkpoint that is kept, None where it had none; raises as `best_step`."""
        return {step: self.stored(step)["score"] for step in self.all_steps()}

    def resolve(self, step: str | int) -> int:
        """Returns the step that "last", "best" or a number names; raises UserError if it is not kept."""
        steps = self.all_steps()
        named = {"last": self.latest_step, "best": self.best_step}
        found = named[step]() if step in named else step
        if found in steps:
            return found
        if not steps:
            raise UserError(f"{self._files.path}: no checkpoint yet; train it first")
        reason = "a score on config.evaluation.dev" if step == "best" else f"step {step}"
        kept = ", ".join(map(str, steps))
        raise UserError(f"{self._files.path}: no checkpoint has {reason}; ask for 'last' or one of the steps {kept}")

    def restore(self, step: int, target: Any, iterator: Any = None, *, identity: Identity | None = None) -> Any:
        """Reads a checkpoint back.

        Args:
          step: which one.
          target: the state's shapes, types and shardings, from `sharding.abstract`.
          iterator: a training iterator to put at the stored position; None reads the state alone.
          identity: of the run that the checkpoint must belong to; None = any run.

        Returns:
          The state.

        Raises:
          UserError: the checkpoint cannot be read, is damaged, is not finite, is of another run or another network, or
            another version wrote it.
        """
        folder, stored = self._folder / str(step), self.stored(step, identity)
        target = adapted.apart(target)
        target, frozen = target.replace(frozen={}), target.frozen
        mirrors.fetch(folder)
        checksums.check_layout(target, stored["arrays"], str(folder))
        wanted = separate_disks.untyped(target) if (untyped := stored.get("untyped_keys")) else target
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        with unreadable_errors(folder):
            state = self._manager.restore(step, args=arguments)["state"]
        state = separate_disks.typed(state, target) if untyped else state
        checksums.check(state, stored["arrays"], str(folder), DELETE)
        if iterator is not None:
            self._restore_iterator(step, iterator)
            if iterator.get_state() != stored["position"]:
                raise UserError(
                    f"{folder}: damaged: the position in the data is {iterator.get_state()}, not "
                    f"{stored['position']}; {DELETE}"
                )
        checksums.check_files(folder, DELETE)
        return adapted.together(state.replace(frozen=self.restore_frozen(frozen)))

    def restore_frozen(self, target: dict[str, Any]) -> dict[str, Any]:
        """Reads networks that never learn into the shapes, types and shardings of `target`; what is read is checked."""
        if not target:
            return target
        stored = _stored_table(self._files.frozen, _TRAIN_STAGE_ANEW)
        mirrors.fetch(self._files.frozen)
        checksums.check_layout(target, stored, str(self._files.frozen))
        found = stored_arrays.part(self._files.frozen, target, _TRAIN_STAGE_ANEW)
        checksums.check(found, stored, str(self._files.frozen), _TRAIN_STAGE_ANEW)
        checksums.check_files(self._files.frozen, _TRAIN_STAGE_ANEW)
        return found

    def restore_networks(
        self, step: int, target: dict[str, Any], *, identity: Identity | None = None
    ) -> dict[str, Any]:
        """Reads parts of a state, such as {"params": {"segmenter": ...}}, as `restore` does the whole.

        Parameters that are frozen are found where `save_frozen` has written them.
        """
        target, frozen = adapted.networks_apart(target)
        folder, stored = self._folder / str(step), self.stored(step, identity)
        checksums.check_layout(target, stored["arrays"], str(folder))
        mirrors.fetch(folder)
        found = stored_arrays.part(folder / "state", target, named=folder)
        checksums.check(found, stored["arrays"], str(folder), DELETE)
        checksums.check_files(folder, DELETE)
        return adapted.networks_together(found, self.restore_frozen(frozen))

    def notes(self, step: int) -> dict[str, Any]:
        """Returns the notes that were saved with a checkpoint; raises UserError if another version wrote it."""
        return self.stored(step)["notes"]

    def checksum(self, step: int) -> int:
        """Returns the checksum of all that a checkpoint stores, arrays included; raises as `notes`."""
        return self.stored(step)["checksum"]

    def shapes(self, step: int) -> dict[str, Any]:
        """Returns the tree of a stored state, frozen networks included, with the shape and the type of each array."""
        folder = self._folder / str(step)
        found = stored_arrays.shapes(folder / "state", DELETE, named=folder)
        if _table_file(self._files.frozen).exists():
            found = found | {"frozen": stored_arrays.shapes(self._files.frozen, _TRAIN_STAGE_ANEW)}
        return found

    def read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Reads parts of a state as NumPy arrays, whatever devices wrote them and whatever there are now.

        The rest of the files is neither read nor checked, as `restore_networks` does before a network is used.

        Args:
          step: which checkpoint.
          wanted: parts of the tree that `shapes` returns, such as {"params": {"segmenter": ...}}.

        Raises:
          UserError: what is read is damaged or not finite, or another version wrote it.
        """
        folder, learning = self._folder / str(step), {k: v for k, v in wanted.items() if k != "frozen"}
        stored = self.stored(step)["arrays"]
        found = stored_arrays.read(folder / "state", learning, stored, DELETE, named=folder) if learning else {}
        if wanted.get("frozen"):
            table = _stored_table(self._files.frozen, _TRAIN_STAGE_ANEW)
            found["frozen"] = stored_arrays.read(self._files.frozen, wanted["frozen"], table, _TRAIN_STAGE_ANEW)
        return found

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the cluster announced, to all processes, that the job is to stop."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when the checkpoint under way is complete and sealed; raises UserError if the disk is full."""
        saving, self._saving = self._saving, None
        with disk_errors(self._folder):
            self._manager.wait_until_finished()
            if saving is not None and jax.process_index() == 0:
                checksums.seal_files(self._folder / str(saving))
                mirrors.publish(self._folder, self._manager.all_steps())

    def close(self) -> None:
        """Finishes writing and releases the folder."""
        self.wait()
        with disk_errors(self._folder):
            self._manager.close()

    def stored(self, step: int, identity: Identity | None = None) -> dict[str, Any]:
        """Returns what is stored beside a state; raises UserError if it is damaged, or another version wrote it."""
        folder = self._folder / str(step)
        with unreadable_errors(folder):
            stored = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
            metrics = self._manager.metrics(step)
        if not isinstance(stored, dict):
            raise UserError(f"{folder}: damaged: its config is no dict; {DELETE}")
        check_format(stored.get("format", 1), folder)
        if not checksums.is_sealed(stored) or stored["step"] != step:
            raise UserError(f"{folder}: damaged, or of an earlier version: its config has no right checksum; {DELETE}")
        score = metrics.get("score") if metrics else None
        if score != stored["score"]:
            raise UserError(f"{folder}: damaged: its score is {score}, not {stored['score']}; {DELETE}")
        if identity is not None:
            self._check_identity(folder, stored, identity)
        return stored

    def _check_identity(self, folder: Path, stored: dict[str, Any], identity: Identity) -> None:
        """Raises a UserError if a checkpoint is of another run or stage."""
        remedy = "put back the run's own, or train in another workdir"
        stage, classes = self._files.path.name, list(identity.classes)
        about = {"stage": (stored["stage"], stage), "classes": (stored["classes"], classes)}
        for what, (found, expected) in about.items():
            if found != expected:
                raise UserError(f"{folder}: is of a run with {what} {found!r}, expected {expected!r}; {remedy}")
        if found := difference(stored["experiment"], identity.experiment, scoring_may_change=True, stage=stage):
            if longer(stored["experiment"], identity.experiment, stage=stage):
                return
            field, old, new = found
            raise UserError(f"{folder}: is of a run with {field} = {old!r}, expected {new!r}; {remedy}")

    def _restore_iterator(self, step: int, iterator: Any) -> None:
        """Puts the iterator at the stored position, or, after another process or worker count wrote it, at `step`."""
        if separate_disks.are_separate(self._files.path) or not (self._files.checkpoints / f"{step}/data").exists():
            grain.experimental.set_next_index(iterator, step)
            return
        try:
            self._manager.restore(step, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(iterator)))
        except (KeyError, ValueError, FileNotFoundError):
            # The order of elements does not depend on either count, so the number of batches taken says it all.
            grain.experimental.set_next_index(iterator, step)


def write_arrays(folder: Path, arrays: dict[str, Any], *, replace: bool = False) -> None:
    """Writes nested dicts of arrays, such as the weights of one network, as a checkpoint without a run.

    Args:
      folder: made by this call; with `replace` it may exist. A file of checksums is written beside it.
      arrays: what to write.
      replace: whether what the folder held goes.

    Raises:
      UserError: the disk is full.
    """
    arrays, table = separate_disks.own_copy(folder, arrays), checksums.table(arrays)
    if not separate_disks.writes(folder):
        return
    with disk_errors(folder), separate_disks.checkpointer(folder) as writer:
        writer.save(Path(folder).resolve(), arrays, force=replace)
    if jax.process_index() == 0:
        checksums.seal_files(folder)
        sealed = checksums.sealed({"arrays": table})
        atomic.write(_table_file(folder), json.dumps(sealed, indent=1) + "\n")


def read_arrays(folder: Path) -> dict[str, Any]:
    """Reads what `write_arrays` wrote, as NumPy arrays.

    Raises:
      UserError: the folder cannot be read, is damaged, or holds arrays that are not finite.
    """
    stored = _stored_table(Path(folder), _CONVERT_AGAIN)
    found = stored_arrays.read(Path(folder), stored_arrays.shapes(Path(folder), _CONVERT_AGAIN), stored, _CONVERT_AGAIN)
    checksums.check_files(Path(folder), _CONVERT_AGAIN)
    if len(jax.tree.leaves(found)) != len(stored):
        raise UserError(f"{folder}: damaged: some of its {len(stored)} arrays are not there; {_CONVERT_AGAIN}")
    return found


def _table_file(folder: Path) -> Path:
    """Returns the file with the checksums of a folder of arrays, beside it."""
    return Path(folder).with_name(f"{Path(folder).name}.checksums.json")


def _stored_table(folder: Path, remedy: str) -> Mapping[str, list]:
    """Returns the checksums of a folder of arrays."""
    file = _table_file(folder)
    with unreadable_errors(file, remedy):
        stored = json.loads(file.read_text())
    if not checksums.is_sealed(stored):
        raise UserError(f"{file}: damaged: its own checksum differs; {remedy}")
    return stored["arrays"]
