"""Drawing depth maps of a data set with a network of an earlier stage, for later stages to train on.

The stage's folder then holds

    disparity/   <frame name>.png of every frame of the stage's one domain, see `runs.depth_maps`

which a domain reads with `disparity_from`. A run that is interrupted goes on with the maps that are not there yet.
"""

import dataclasses
import time
from typing import Any, ClassVar

from uda_jax.errors import UserError
from uda_jax.methods.parts.scene import DISPARITY
from uda_jax.runs import depth_maps, states
from uda_jax.runs.kinds.base import Kind, wait_for_all
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import config_field
from uda_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class ExportDepth(Kind):
    """How a stage that draws depth maps goes about it."""

    READS: ClassVar[tuple[str, ...] | None] = None

    batch_size: int = config_field(8, "Frames that are drawn at once.", low=1)

    def validate(self, stage: Stage, context: Context) -> None:
        """Raises a UserError for a network or frames that are not there."""
        sharding.check_batch_size(self.batch_size, f"config.stages.{stage.name}.kind.batch_size")
        where = f"config.stages.{stage.name}.start_from.{DISPARITY}"
        if DISPARITY not in stage.start_from:
            raise UserError(f"{where}: expected an earlier stage, whose network draws the maps, got None")
        if len(stage.domains) != 1:
            raise UserError(
                f"config.stages.{stage.name}.data: expected the one domain whose frames are drawn, got "
                f"{sorted(stage.domains)}"
            )
        (name, domain), earlier = next(iter(stage.domains.items())), stage.start_from[DISPARITY].stage
        depth_maps.check(earlier.method, depth_maps.as_seen(domain), where, _path(stage, name))

    def run(self, stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
        """Draws; returns {"seconds", "frames"} for the stage's marker.

        Raises:
          Stopped: SIGTERM arrived between two batches.
        """
        began = time.monotonic()
        context.guard.doing = f"while drawing depth in stage {stage.name}"
        start_from, folder = stage.start_from[DISPARITY], workdir.stage(stage.name).disparity
        state = states.load(start_from.stage, workdir, context.mesh, start_from.step, context.identity)
        name, domain = next(iter(stage.domains_in(workdir).items()))

        def after_batch() -> None:
            if context.stop():
                raise context.guard.leaving()

        found = depth_maps.draw(
            start_from.stage.method,
            state,
            depth_maps.as_seen(domain),
            folder,
            context.mesh,
            path=_path(stage, name),
            batch_size=self.batch_size,
            after_batch=after_batch,
        )
        # Nobody reads the maps before every process has written its own.
        wait_for_all("depth drawn", folder.parent)
        return {"seconds": time.monotonic() - began, "frames": found.frames}


KIND = ExportDepth


def _path(stage: Stage, name: str) -> str:
    return f"config.stages.{stage.name}.data.{name}"
