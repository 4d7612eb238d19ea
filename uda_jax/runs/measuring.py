"""Measuring the states of a run without labels: what its stages need for it, and what does it."""

import sys
from collections.abc import Callable, Sequence

import jax

from uda_jax.config import Evaluation
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.errors import UserError, printable
from uda_jax.inference.criteria import CRITERIA
from uda_jax.inference.evaluate import Evaluator, evaluation_step
from uda_jax.inference.label_free import Measurer, applicable
from uda_jax.runs import stages, target_frames
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.target_frames import Streams
from uda_jax.training import sharding

Tell = Callable[[str], None]


def check(recipe: Sequence[Stage], section: Evaluation) -> None:
    """Raises a UserError if a stage lacks what the criteria of `evaluation` need."""
    if not section.measured:
        return
    if target_frames.target(recipe) is None:
        raise UserError(
            "config.evaluation.criteria: expected a run with a target domain, whose frames they are measured on, got "
            "none; set criteria=() and best_by=None, or add the domain"
        )
    if section.best_by is None:
        return
    labelled = target_frames.source(recipe) is not None
    for stage in (stage for stage in recipe if stage.kind.TRAINS):
        if not applicable(stage.method, (section.best_by,), whole_images=False, source=labelled):
            needed = {"teacher": "a method with a teacher", "source": "a labelled source domain"}
            raise UserError(
                f"config.evaluation.best_by: '{section.best_by}' needs {needed[CRITERIA[section.best_by].needs]}, "
                f"which stage {stage.name} has not; choose another criterion"
            )


def measurer(stage: Stage, context: Context) -> Measurer:
    """Returns what measures the states of a stage without labels; its frames are opened once.

    Raises:
      UserError: anything wrong with the frames; a criterion for the best checkpoint that does not apply to them.
    """
    if stage.name not in context.measurers:
        section = context.experiment.evaluation
        recipe = stages.recipe(context.experiment, len(context.space.names))
        target, tell = target_frames.target(recipe), _told if context.first_process else _silent
        streams = target_frames.streams(recipe, section, target, section.criteria_frames, tell)
        options = {"tell": tell, "names": section.measured}
        found = measurer_of(stage, section, streams, context.space, context.mesh, **options)
        if section.best_by not in (None, *found.applicable):
            raise UserError(
                f"config.evaluation.best_by: '{section.best_by}' does not apply to the frames of "
                f"{streams.target.path}; choose another criterion"
            )
        context.measurers[stage.name] = found
    return context.measurers[stage.name]


def measurer_of(
    stage: Stage,
    section: Evaluation,
    streams: Streams,
    space: LabelSpace,
    mesh: jax.sharding.Mesh,
    *,
    tell: Tell,
    names: Sequence[str] = tuple(CRITERIA),
) -> Measurer:
    """Returns what measures states of a stage.

    Args:
      stage: gives the method.
      section: how it is scored.
      streams: what it is measured on.
      space: the run's label space.
      mesh: the device mesh.
      tell: called with a line if the source frames cannot be read.
      names: of criteria; without labelled source frames those that need them have no value.
    """
    sharding.check_batch_size(section.batch_size, "config.evaluation.batch_size")
    source, evaluator = streams.source, None
    if source is not None and any(CRITERIA[name].needs == "source" for name in names):
        plain = Evaluation(batch_size=section.batch_size, inference=section.inference)
        step = evaluation_step(stage.method, plain, mesh)
        try:
            evaluator = Evaluator(source.domain, plain, step, mesh, path=source.path, space=space)
        except UserError as error:
            tell(f"note: measured without the source: {error}")
    return Measurer(stage.method, section, mesh, names, streams.target, evaluator)


def _told(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    del line
