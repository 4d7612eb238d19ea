"""Training a method: the kind of a stage that says nothing else."""

import dataclasses
from typing import Any, ClassVar

from uda_jax.runs.kinds.base import Kind
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.train import train_stage
from uda_jax.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Training(Kind):
    """It has no fields of its own: steps, batch size and the rest stand in the stage's `train` section."""

    TRAINS: ClassVar[bool] = True

    def run(self, stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
        """Trains to the stage's last step; see `train.train_stage`."""
        return train_stage(stage, workdir, context)


KIND = Training
