"""Scoring within a run: the splits of its stages, the rows of the final ones, and what a score on dev logs."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.config import Experiment
from uda_jax.data.io import atomic
from uda_jax.errors import UserError
from uda_jax.inference.criteria import CRITERIA
from uda_jax.inference.evaluate import Evaluator, evaluation_step
from uda_jax.inference.figures import headline
from uda_jax.inference.joint import joint_summary
from uda_jax.inference.options import JOINT
from uda_jax.report import confusion, pictures
from uda_jax.runs import measuring, results, states
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.training.metrics import METRICS


@dataclasses.dataclass(frozen=True)
class Score:
    """What a state is worth on the dev splits, and on target frames without labels.

    Attributes:
      dev: the headline, of several splits their mean; None without such a split.
      best: what is higher for a better state, by the headline or by `evaluation.best_by`; None if nothing is compared.
      scalars: for the log.
      images: for the log, uint8 RGB [H, W, 3] by name.
    """

    dev: float | None
    best: float | None
    scalars: dict[str, float]
    images: dict[str, np.ndarray]


def evaluators(stage: Stage, which: str, context: Context) -> dict[str, Evaluator]:
    """Returns the evaluators of the "final" or of the "dev" splits by name; there may be no dev split.

    They are opened once. All of a stage share one function, which is compiled for the stage's method. There are none
    for an earlier stage whose method predicts another map than the headline compares with.

    Raises:
      UserError: as `Evaluator`; a dev split without anything to score on.
    """
    key, section, mesh = (stage.name, which), context.experiment.evaluation, context.mesh
    if key in context.evaluators:
        return context.evaluators[key]
    on_the_way = stage.name in context.experiment.recipe[:-1]
    if on_the_way and getattr(stage.method, "PREDICTS", "label") != METRICS[section.headline].map:
        return {}
    if stage.name not in context.evaluation_steps:
        context.evaluation_steps[stage.name] = evaluation_step(stage.method, section, mesh)
    found = {}
    for name, domain in section.splits(which).items():
        path = section.path(which, name)
        found[name] = Evaluator(domain, section, context.evaluation_steps[stage.name], mesh, path=path)
        if which == "dev" and not found[name].scored:
            cure = "set config.evaluation.selection=last" if section.chosen_on_final else "leave dev out"
            raise UserError(f"{path}: expected labels to choose checkpoints by, found none; {cure}")
    context.evaluators[key] = found
    return found


def check_references(stage: Stage, context: Context) -> list[str]:
    """Looks at what the splits hold to score on, before anything is written.

    Returns:
      Notes: classes without a pixel, a split without labels where that is asked for.

    Raises:
      UserError: a final split without anything to score on that `evaluation.unlabelled` does not ask for, or without a
        pixel of the classes that the headline averages; a split without labels that is to count in a joint row.
    """
    section, notes = context.experiment.evaluation, []
    for which in ("final", "dev"):
        for name, evaluator in evaluators(stage, which, context).items():
            path = section.path(which, name)
            if evaluator.scored and which == "dev" and section.chosen_on_final:
                continue  # They are the final ones.
            if evaluator.scored:
                notes.append(evaluator.check_references())
                continue
            kind = METRICS[section.headline].map
            if not section.unlabelled:
                raise UserError(
                    f"{path}: no frame of {evaluator.domain.dataset}/{evaluator.domain.split} has a {kind}, so the run "
                    f"would end without a score; add them, or set config.evaluation.unlabelled=True to end with "
                    "predictions alone"
                )
            if section.joint != "none":
                raise UserError(f"config.evaluation.joint: expected 'none', since no frame of {path} has a {kind}")
            notes.append(f"note: {path}: no frame has a {kind}; the run ends with predictions instead of a score")
    return [note for note in notes if note]


def check_selection(recipe: Sequence[Stage], experiment: Experiment) -> None:
    """Raises a UserError if the best checkpoint is to count, but stages are scored at their last step alone.

    So it does if criteria without labels are to be measured that a stage has not what it takes for.
    """
    measuring.check(recipe, experiment.evaluation)
    for stage in recipe if experiment.evaluation.selection != "last" else ():
        if stage.kind.TRAINS and not stage.train.evaluate_every:
            own = bool(experiment.stages) and experiment.stages[stage.name].train is not None
            field = f"config.{f'stages.{stage.name}.' if own else ''}train.evaluate_every"
            raise UserError(
                f"{field}: expected a number of steps above 0, since config.evaluation.selection chooses among the "
                "scores of several, got 0; set it (the released codes: 2000), or set selection=last"
            )


def is_scored(stage: Stage, context: Context) -> bool:
    """Whether states are scored while a stage is trained, with labels or without."""
    return bool(evaluators(stage, "dev", context)) or bool(context.experiment.evaluation.measured)


def check(stage: Stage, state: Any, context: Context) -> None:
    """Scores one batch of each split, so that a mistake shows before the first step and not after hours."""
    if context.experiment.evaluation.measured:
        measuring.measurer(stage, context).check(state)
    for evaluator in (evaluators(stage, "dev", context) or evaluators(stage, "final", context)).values():
        evaluator.check(state)


def score(stage: Stage, state: Any, context: Context) -> Score:
    """Scores a state on the dev splits, if there are any, and without labels; every process has to call it."""
    section, dev, best, scalars, images = context.experiment.evaluation, None, None, {}, {}
    if evaluators(stage, "dev", context):
        dev, scalars, images = score_dev(stage, state, context)
        best = dev if METRICS[section.headline].higher_is_better else -dev
    if section.measured:
        values = measuring.measurer(stage, context).measure(state, context.leave_if_asked).values
        scalars |= {f"unlabelled/{name}": value for name, value in values.items() if value is not None}
        if section.best_by is not None:
            value = values[section.best_by]
            best = value if CRITERIA[section.best_by].higher_is_better else -value
    return Score(dev, best, scalars, images)


def score_dev(stage: Stage, state: Any, context: Context) -> tuple[float, dict[str, float], dict[str, np.ndarray]]:
    """Scores a state on the dev splits and draws a few of their frames; every process has to call it.

    Returns:
      `dev`, `scalars` and `images` of a `Score`.
    """
    section, values, scalars, images = context.experiment.evaluation, [], {}, {}
    splits = evaluators(stage, "dev", context)
    for name, evaluator in splits.items():
        summary, frames = evaluator.evaluate(state, section.pictures, context.leave_if_asked)
        values.append(headline(summary, section, section.path("dev", name)))
        figures = summary["metrics"] | {section.headline: values[-1]}
        scalars[name] = {metric: value for metric, value in figures.items() if value is not None}
        images |= {f"{name}/{frame['name']}": _panel(frame, context.palette) for frame in frames}
    names = dict.fromkeys(metric for figures in scalars.values() for metric in figures)
    means = {metric: [figures[metric] for figures in scalars.values() if metric in figures] for metric in names}
    logged = {f"evaluation/{metric}": statistics.fmean(found) for metric, found in means.items()}
    if len(splits) > 1:
        logged |= {
            f"evaluation/{name}/{metric}": v for name, figures in scalars.items() for metric, v in figures.items()
        }
    return statistics.fmean(values), logged, images


def score_final(
    stage: Stage,
    workdir: Workdir,
    context: Context,
    stage_results: Sequence[Mapping[str, Any]],
    invocation: results.Invocation,
) -> list[dict[str, Any]]:
    """Scores the last stage on the final splits, and writes the result rows, confusion matrices and pictures.

    Its state is the last one, or of the checkpoint that `evaluation.selection` asks for.

    Returns:
      A row for each split that has something to score on, and one of all together where that is asked for.
    """
    experiment, section, rows = context.experiment, context.experiment.evaluation, []
    state = context.trained.pop(stage.name, None)
    if state is None or section.chosen_step != "last":
        state = None  # Its memory is needed.
        state = states.load(stage, workdir, context.mesh, section.chosen_step, context.identity)
    about = results.About(stage_results, invocation, int(state.step))
    splits, scored, matrices = evaluators(stage, "final", context), [], {}
    for name, evaluator in splits.items():
        totals, frames = evaluator.totals(state, section.pictures, context.leave_if_asked)
        for frame in frames:
            own = frame if len(splits) == 1 else frame | {"name": f"{name}/{frame['name']}"}
            pictures.save_frame(workdir.pictures, palette=context.palette, **own)
        if evaluator.scored:
            scored.append((evaluator, totals, evaluator.summary(totals)))
            if "confusion" in totals:
                classes = evaluator.dataset.label_space.names
                matrices[name] = confusion.Confusion(classes, totals["confusion"])
            rows.append(results.row(experiment, name, scored[-1][2], about))
    if section.joint != "none" and scored:
        rows.append(results.row(experiment, JOINT, joint_summary(section.joint, *zip(*scored, strict=True)), about))
    if rows and context.first_process:
        if matrices:
            atomic.write(workdir.confusion, confusion.to_json(matrices))
        atomic.write(workdir.result, json.dumps(rows, indent=1) + "\n")
    return rows


def with_protocol(experiment: Experiment, known: Mapping[str, Any]) -> Experiment:
    """Returns the experiment with a protocol among those that its label space answers, unless it is for depth alone.

    Args:
      experiment: the validated config.
      known: from `evaluate.protocols`.

    Raises:
      UserError: an unknown protocol.
    """
    section = experiment.evaluation
    if METRICS[section.headline].map != "label":
        return experiment
    if section.protocol == "own":
        # All of a folder's own classes may happen to be those of a protocol, and then bear its name.
        section = dataclasses.replace(section, protocol=next(iter(known)))
    if section.protocol not in known:
        raise UserError(f"config.evaluation.protocol: expected one of {sorted(known)}, got {section.protocol!r}")
    return dataclasses.replace(experiment, evaluation=section)


def _panel(frame: dict[str, Any], palette: np.ndarray) -> np.ndarray:
    """Returns label, prediction and entropy side by side, behind the image if it has their size."""
    label = [] if frame["label"] is None else [pictures.colourise(frame["label"], palette)]
    parts = [*label, pictures.colourise(frame["prediction"], palette)]
    images = [frame["image"]] if frame["image"].shape == parts[0].shape else []
    return pictures.panel([*images, *parts, pictures.heat_map(frame["entropy"])])
