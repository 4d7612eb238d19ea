"""The state of a run that was stopped while it was being scored: to be scored first when the run goes on.

It lies beside the checkpoints, each of which has its score with it.
"""

import contextlib
import shutil
from collections.abc import Callable
from typing import Any

import jax

from uda_jax.data.io import mirrors
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.training.layout import StageFiles


class Unscored:
    """The checkpoint without a score of one stage, if there is one.

    Args:
      files: the stage's.
    """

    def __init__(self, files: StageFiles):
        self._files = files

    def step(self) -> int | None:
        """Returns the step of the state, or None."""
        folder = self._files.unscored
        return max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=None)

    def save(self, step: int, state: Any, iterator: Any, **about: Any) -> None:
        """Writes a state; arguments as those of `Checkpoints.save`. Every process has to call it."""
        with self._opened() as checkpoints:
            checkpoints.save(step, state, iterator, score=None, **about)

    def restore(self, read: Callable[[Checkpoints], Any]) -> Any:
        """Returns what `read` reads from the checkpoint."""
        with self._opened() as checkpoints:
            return read(checkpoints)

    def drop(self) -> None:
        """Removes the state, which has been scored and saved."""
        if jax.process_index() == 0:
            shutil.rmtree(self._files.unscored, ignore_errors=True)
            mirrors.publish(self._files.unscored, ())

    def _opened(self) -> contextlib.closing:
        return contextlib.closing(Checkpoints(self._files, keep_latest=1, folder=self._files.unscored))


def saved_line(files: StageFiles) -> str:
    """Returns what a stage's folder says is saved of it, scored or not; may be called from any thread."""
    kept = [folder for folder in (files.checkpoints, files.unscored) if folder.is_dir()]
    steps = [int(path.name) for folder in kept for path in folder.iterdir() if path.name.isdecimal()]
    state = f"the state of step {max(steps)}" if steps else "no state"
    return f"{state} of stage {files.path.name} is saved"
