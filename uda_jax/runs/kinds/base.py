"""What a kind of stage is."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
from jax.experimental import multihost_utils

from uda_jax.data.io import mirrors


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the stages of one kind do; a subclass is a config section with the fields that it needs.

    Attributes:
      TRAINS: whether its stages leave checkpoints of a state, which later stages can start from.
      READS: names of the domains that its stages read; None = all that they have.
    """

    TRAINS: ClassVar[bool] = False
    READS: ClassVar[tuple[str, ...] | None] = None

    def validate(self, stage: Any, context: Any) -> None:
        """Raises a UserError if the stage cannot run; called for all stages before anything is written.

        Args:
          stage: the `stages.Stage`, whose `kind` this is.
          context: the run's `stages.Context`.
        """

    def run(self, stage: Any, workdir: Any, context: Any) -> dict[str, Any]:
        """Does the work and returns what the stage's marker says, "seconds" among it.

        Args:
          stage, context: as in `validate`.
          workdir: the run's `workdir.Workdir`.

        Raises:
          Stopped: SIGTERM arrived, and the same command goes on from there.
        """
        raise NotImplementedError

    def empty_lists(self) -> tuple[str, ...]:
        """Returns the file names of its lists of frames that will be empty; domains that read one are left out."""
        return ()


def wait_for_all(name: str, folder: Path | None = None, *, all_files: bool = True) -> None:
    """Returns once every process of the run has come here.

    Args:
      name: tells one such place from another.
      folder: of a stage; what each process has written there before, all of them see from then on, disk or bucket.
      all_files: whether each is to have all of it at once, or heavy files when it asks for them.
    """
    if jax.process_count() > 1:
        if folder is not None:
            mirrors.share(folder)
        multihost_utils.sync_global_devices(name)
        if folder is not None:
            mirrors.renew(folder, all_files=all_files)
