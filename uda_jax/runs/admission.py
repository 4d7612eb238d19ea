"""The steps of a run are compiled, told and measured against the memory before anything of it is made."""

import contextlib
from collections.abc import Sequence
from typing import Any

from uda_jax.errors import UserError
from uda_jax.runs import memory, plan
from uda_jax.runs.first_look import print_lines
from uda_jax.runs.instruments import TrainStep
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir


def compile_steps(unfinished: Sequence[Stage], workdir: Workdir, context: Context) -> None:
    """Compiles the steps of stages and leaves them in `context.steps`; prints what each takes.

    Left out are stages whose frames an earlier one is still to write in a size that nobody knows.

    Args:
      unfinished: the stages that are still to run.
      workdir: the run's.
      context: the run's.

    Raises:
      UserError: a step takes more memory than there is, unless the context says to ignore that.
    """
    try:
        for stage in (stage for stage in unfinished if stage.kind.TRAINS):
            late = any(needs_workdir(domain) for domain in stage.domains.values())
            batch = plan.announced_batch(stage) if late else plan.batch_from_data(stage, workdir)
            if batch is not None:
                context.steps[stage.name] = (batch, _compiled(stage, batch, context))
    except UserError:
        with contextlib.suppress(OSError):
            workdir.path.rmdir()  # An empty one was made to be locked.
        raise


def step_of(stage: Stage, workdir: Workdir, context: Context) -> TrainStep:
    """Returns the compiled step of a stage that begins: the one that is waiting if it is for the batches there are.

    Raises:
      UserError: as `compile_steps`.
    """
    batch = plan.batch_from_data(stage, workdir)
    waiting, step = context.steps.pop(stage.name, (None, None))
    return step if waiting == batch else _compiled(stage, batch, context)


def _compiled(stage: Stage, batch: Any, context: Context) -> TrainStep:
    print_lines([f"stage {stage.name}: compiling the training step, which takes seconds to minutes"], context)
    found, step = plan.of_stage(stage, batch, context.mesh)
    compiled = f"  compilation    {found.compile_seconds:.1f} s"
    print_lines([*plan.lines(found, *plan.default_tflops(found.platform, found.devices)), compiled], context)
    if not context.ignore_memory:
        memory.check(stage, found.costs.memory.peak, context.experiment)
    return step
