"""Writing a domain's images as a translator of an earlier stage draws them, for later stages to train on.

The stage's folder then holds

    translated/   <frame name>.png of every frame of the domain "source", in the size that its section says

which a domain reads with `images_from`, its labels and other maps being those of the frames as they are. A run that is
interrupted goes on after the last batch whose frames were all written.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, ClassVar

import jax

from uda_jax import ops
from uda_jax.data.io import atomic
from uda_jax.data.io.names import require_safe
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.methods.parts.translation import TRANSLATOR
from uda_jax.report import pictures
from uda_jax.runs import states
from uda_jax.runs.kinds.base import Kind, wait_for_all
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import config_field
from uda_jax.training import sharding
from uda_jax.training.precision import at_precision

PATH = "config.data.source"


@dataclasses.dataclass(frozen=True)
class Translate(Kind):
    """How a stage that translates goes about it."""

    READS: ClassVar[tuple[str, ...] | None] = ("source",)

    batch_size: int = config_field(8, "Frames that are translated at once.", low=1)

    def validate(self, stage: Stage, context: Context) -> None:
        """Raises a UserError for a translator or frames that are not there."""
        sharding.check_batch_size(self.batch_size, f"config.stages.{stage.name}.kind.batch_size")
        where = f"config.stages.{stage.name}.start_from.{TRANSLATOR}"
        if TRANSLATOR not in stage.start_from:
            raise UserError(f"{where}: expected an earlier stage, whose network translates the frames, got None")
        earlier = stage.start_from[TRANSLATOR].stage
        if not hasattr(earlier.method, "translate"):
            raise UserError(
                f"{where}: expected a stage whose method translates images, such as cycada, got {earlier.name}"
            )
        if "source" not in stage.domains:
            raise UserError(f"{PATH}: expected the frames to translate in stage {stage.name}, got no such domain")
        if stage.domains["source"].mix:
            raise UserError(f"{PATH}.mix: expected None in stage {stage.name}, which takes one data set, got a mixture")
        # Images are written under the names of frames, which anybody may have chosen.
        require_safe(streams.open_domain(_one_pass(stage.domains["source"]), PATH).names(), PATH)

    def run(self, stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
        """Translates; returns {"seconds", "frames"} for the stage's marker.

        Raises:
          Stopped: SIGTERM arrived between two batches.
        """
        began = time.monotonic()
        context.guard.doing = f"while translating in stage {stage.name}"
        start_from, folder = stage.start_from[TRANSLATOR], workdir.stage(stage.name).translated
        method, mesh = start_from.stage.method, context.mesh
        state = states.load(start_from.stage, workdir, mesh, start_from.step, context.identity)
        params = {TRANSLATOR: state.params[start_from.network]}
        split = sharding.split_over_batch(mesh)
        draw = lambda params, maps: (ops.to_pixels(method.translate(params, maps)), maps["index"])  # noqa: E731
        translate = sharding.Compiled(at_precision(method, draw), mesh)
        batches = self._unfinished(_one_pass(stage.domains_in(workdir)["source"]), folder)
        for batch in batches:
            images, indices = jax.device_get(translate(params, sharding.to_global(batch, split)))
            drawn = dict(zip(indices.tolist(), images, strict=True))
            for index in (index for index in batch["index"].tolist() if index >= 0):
                atomic.write(_file(folder, batches.dataset.name(index)), pictures.png(drawn[index]))
            if context.stop():
                raise context.guard.leaving()
        # Nobody reads the images before every process has written its own.
        wait_for_all("translated", folder.parent)
        return {"seconds": time.monotonic() - began, "frames": len(batches.dataset)}

    def _unfinished(self, domain: streams.Domain, folder: Path) -> streams.EvaluationBatches:
        """Returns the batches of frames that an earlier, interrupted attempt has not written all of."""
        batches = streams.evaluation_batches(
            domain, self.batch_size, path=PATH, process_index=jax.process_index(), process_count=jax.process_count()
        )
        names = batches.dataset.names()
        done = next((k for k, name in enumerate(names) if not _file(folder, name).exists()), None)
        wait_for_all("counted")  # Each process counts before any goes on writing.
        return batches.since(len(batches) if done is None else done // self.batch_size)


KIND = Translate


def _one_pass(domain: streams.Domain) -> streams.Domain:
    """Returns a training domain as one pass over it sees it: without chance, at the size of its section."""
    return dataclasses.replace(domain, scale=None, short_side=None, crop=None, flip=False, rare_classes=None)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"
