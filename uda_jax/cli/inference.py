"""The commands `uda evaluate` and `uda predict`: what a trained run is used for."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step, at_least, local, place, prepare_jax
from uda_jax.errors import UserError, printable


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands by `command(name, run, text)`, which returns a command's parser."""
    several = {"type": place, "nargs": "+", "required": True}
    several["help"] = "folder of the run; of several, the mean of their scores counts, and the first one's config"
    evaluate = command("evaluate", _on_copies(_evaluate), "score a checkpoint of a run", takes_overrides=True)
    evaluate.add_argument("--workdir", **several)
    evaluate.add_argument("--on", default="final", help="final, dev, or the name of one of several splits")
    add_step(evaluate, None)

    text = "segment a folder of images, or a video, with a run"
    predict = command("predict", _on_copies(_predict), text, takes_overrides=True)
    predict.add_argument("--workdir", **several)
    predict.add_argument("--input", type=local, required=True, help="folder of images, picture, or video file")
    predict.add_argument("--output", type=local, required=True, help="folder outside the input; made if absent")
    predict.add_argument("--on", default="final", help="images are prepared as this split's, named as for evaluate")
    predict.add_argument("--batch-size", type=at_least(1), default=4)
    add_step(predict, None)


def _on_copies(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Returns a command that works on local copies of those of its runs that lie in buckets."""

    def run_on_copies(options: argparse.Namespace) -> int:
        from uda_jax.data.io import mirrors

        with contextlib.ExitStack() as stack:
            options.workdir = [stack.enter_context(mirrors.opened(word)) for word in options.workdir]
            return run(options)

    return run_on_copies


def _evaluate(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax import config
    from uda_jax.data.pipeline import domains
    from uda_jax.inference.evaluate import Evaluator, evaluation_step
    from uda_jax.inference.joint import joint_summary
    from uda_jax.inference.options import JOINT
    from uda_jax.training import sharding

    stored = _experiment(options)
    which, names = _splits(stored.evaluation, options)
    fields = [stored.evaluation.path(which, name).removeprefix("config.") for name in names]
    allowed = ("evaluation.batch_size", "evaluation.inference", "evaluation.joint", *fields)
    words, others = _scoring(options.overrides)
    section = config.with_overrides(stored, words, allowed, f"the score on {options.on}").evaluation
    method, state, space = _open(options, others, section.inference.average)
    sharding.check_batch_size(section.batch_size, "config.evaluation.batch_size")
    mesh = sharding.data_mesh()
    step, scored = evaluation_step(method, section, mesh), {}
    for name in names:
        path = section.path(which, name)
        evaluator = Evaluator(section.splits(which)[name], section, step, mesh, path=path, space=space)
        if not evaluator.scored:
            raise UserError(f"{path}: no frame of the split has a label to score on; name another split")
        for note in (evaluator.mapping, evaluator.check_references(), *domains.passed_over(evaluator.domain, path)):
            if note:
                print(printable(note), file=sys.stderr)
        totals, _ = evaluator.totals(state)
        scored[name] = (evaluator, totals, evaluator.summary(totals))
    summaries = {name: summary for name, (*_, summary) in scored.items()}
    if options.on == "final" and section.joint != "none":
        summaries[JOINT] = joint_summary(section.joint, *zip(*scored.values(), strict=True))
    show(json.dumps(summaries.get(options.on, summaries), indent=1))
    return 0


def _predict(options: argparse.Namespace) -> int:
    prepare_jax()
    import jax

    from uda_jax import config
    from uda_jax.inference import predict, scores
    from uda_jax.training import sharding

    stored = _experiment(options)
    which, names = _splits(stored.evaluation, options)
    path = stored.evaluation.path(which, names[0])
    rules = [f"{path.removeprefix('config.')}.{field}" for field in ("size", "fit", "image_resampling")]
    words, others = _scoring(options.overrides)
    section = config.with_overrides(stored, words, ("evaluation.inference", *rules), "the predictions").evaluation
    method, state, space = _open(options, others, section.inference.average)
    # As the run was scored, so that a picture shows what its figures count.
    composed = scores.Composed(method, section.inference).predict
    if not sharding.is_whole(state):
        composed = sharding.gathering(composed, sharding.data_mesh())
    composed = jax.jit(composed, static_argnames="size")

    def run(images, size):
        maps = composed(state, images, size=size)
        if "scores" not in maps:
            raise UserError(f"--workdir {options.workdir[0]}: expected a method of classes, got {sorted(maps)} alone")
        return maps["scores"]

    summary = predict.predict_folder(
        run,
        options.input,
        options.output,
        domain=section.splits(which)[names[0]],
        palette=space.palette,
        batch_size=options.batch_size,
    )
    show(summary)
    return 1 if summary.failed else 0


def _experiment(options: argparse.Namespace) -> Any:
    """Returns the experiment of the first run, which says how all of them are scored."""
    from uda_jax.runs.workdir import Workdir

    return Workdir(options.workdir[0]).experiment()


def _scoring(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits overrides into those of the scoring, and those of what is scored."""
    scoring = [word for word in words if word.startswith("--config.evaluation.")]
    return scoring, [word for word in words if word not in scoring]


def _splits(section: Any, options: argparse.Namespace) -> tuple[str, list[str]]:
    """Returns "final" or "dev", and the names of its splits that `--on` asks for."""
    known = {which: list(section.splits(which)) for which in ("final", "dev")}
    if known.get(options.on):
        return options.on, known[options.on]
    for which, names in known.items():
        if options.on in names:
            return which, [options.on]
    if options.on in known:
        raise UserError(f"{options.workdir[0]}: its config has no config.evaluation.{options.on}; leave out --on")
    names = dict.fromkeys(("final", *known["final"], *(["dev"] if known["dev"] else []), *known["dev"]))
    raise UserError(f"--on {options.on}: expected one of {', '.join(names)}, the splits of {options.workdir[0]}")


def _open(options: argparse.Namespace, overrides: Sequence[str], average: str) -> tuple[Any, Any, Any]:
    """Returns the method, the state and the label space of a run, or of several as an ensemble.

    Overrides of fields that act in predictions alone hold for each of them; `average` says what their mean is taken of.
    """
    from uda_jax.inference.scores import Ensemble
    from uda_jax.runs import states

    runs = [states.restore(folder, overrides, options.step) for folder in options.workdir]
    methods, restored, spaces = zip(*runs, strict=True)
    if len(runs) == 1:
        return methods[0], restored[0], spaces[0]
    return Ensemble(list(zip(options.workdir, methods, spaces, strict=True)), average), restored, spaces[0]
