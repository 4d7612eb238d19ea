"""The commands `uda evaluate` and `uda predict`: what a trained run is used for."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uda_jax.cli.environment import add_step, prepare_jax
from uda_jax.errors import UserError


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands by `command(name, run, text)`, which returns a command's parser."""
    several = {"type": Path, "nargs": "+", "required": True}
    several["help"] = "folder of the run; of several, the mean of their scores counts, and the first one's config"
    evaluate = command("evaluate", _evaluate, "score a checkpoint of a run", takes_overrides=True)
    evaluate.add_argument("--workdir", **several)
    evaluate.add_argument("--on", choices=("final", "dev"), default="final", help="which evaluation domain")
    add_step(evaluate)

    predict = command("predict", _predict, "segment a folder of images with a run")
    predict.add_argument("--workdir", **several)
    predict.add_argument("--input", type=Path, required=True)
    predict.add_argument("--output", type=Path, required=True)
    predict.add_argument("--batch-size", type=int, default=4)
    add_step(predict)


def _evaluate(options: argparse.Namespace) -> int:
    prepare_jax()
    from uda_jax import config
    from uda_jax.inference.evaluate import Evaluator
    from uda_jax.runs.workdir import Workdir
    from uda_jax.training import sharding

    scoring = [word for word in options.overrides if word.startswith("--config.evaluation.")]
    method, state, _ = _open(options, [word for word in options.overrides if word not in scoring])
    path = f"config.evaluation.{options.on}"
    stored = Workdir(options.workdir[0]).experiment()
    if getattr(stored.evaluation, options.on) is None:
        raise UserError(f"{options.workdir[0]}: its config has no {path}; leave out --on")
    allowed = ("evaluation.batch_size", f"evaluation.{options.on}")
    section = config.with_overrides(stored, scoring, allowed, f"the score on {options.on}").evaluation
    domain = getattr(section, options.on)
    sharding.check_batch_size(section.batch_size, "config.evaluation.batch_size")
    evaluator = Evaluator(method, domain, section.batch_size, sharding.data_mesh(), path=path)
    if not evaluator.labelled:
        raise UserError(f"{path}: no frame of the split has a label to score on; name another split")
    summary = evaluator.score(state)
    print(json.dumps(summary, indent=1))
    return 0


def _predict(options: argparse.Namespace) -> int:
    prepare_jax()
    import jax

    from uda_jax.inference import predict
    from uda_jax.runs.workdir import Workdir

    method, state, space = _open(options)
    domain = Workdir(options.workdir[0]).experiment().evaluation.final
    scores = jax.jit(method.predict, static_argnames="size")

    def run(images, size):
        return scores(state, images, size=size)["scores"]

    summary = predict.predict_folder(
        run,
        options.input,
        options.output,
        size=domain.size,
        palette=space.palette,
        batch_size=options.batch_size,
    )
    print(summary)
    return 1 if summary.failed else 0


def _open(options: argparse.Namespace, overrides: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Returns the method, the state and the label space of a run, or of several as an ensemble.

    Overrides of fields that act in predictions alone hold for each of them.
    """
    from uda_jax.inference.evaluate import Ensemble
    from uda_jax.runs import states

    runs = [states.restore(folder, overrides, options.step) for folder in options.workdir]
    methods, restored, spaces = zip(*runs, strict=True)
    if len(runs) == 1:
        return methods[0], restored[0], spaces[0]
    return Ensemble(list(zip(options.workdir, methods, spaces, strict=True))), restored, spaces[0]
