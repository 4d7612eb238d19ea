"""The commands `uda evaluate` and `uda predict`: what a trained run is used for."""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step, at_least, local, place, prepare_jax, say_that_it_starts, size
from uda_jax.errors import UserError, printable

# As `inference.outputs.KINDS` and `inference.servers.SERVERS`, which a test compares: what lists commands is quick.
KINDS = ("labels", "colours", "overlay", "confidence", "entropy", "depth", "probabilities")
SERVERS = ("cityscapes", "acdc", "dark_zurich", "bdd100k")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands by `command(name, run, text)`, which returns a command's parser."""
    several = {"type": place, "nargs": "+", "required": True}
    several["help"] = "folder of the run; of several, the mean of their scores counts, and the first one's config"
    evaluate = command("evaluate", _on_copies(_evaluate), "score a checkpoint of a run", takes_overrides=True)
    evaluate.add_argument("--workdir", **several)
    text = "final, the default, dev, or names of splits where there are several; more than one word scores all of them"
    evaluate.add_argument("--on", nargs="+", default=["final"], metavar="SPLIT", help=text)
    text = "name so many frames of the lowest mean IoU; by default none"
    evaluate.add_argument("--worst", type=at_least(1), default=0, metavar="COUNT", help=text)
    text = "PNG file for the reliability diagram; of several splits, their names are added"
    evaluate.add_argument("--reliability", type=local, metavar="FILE", help=text)
    add_step(evaluate, None)
    _add_network(evaluate)

    text = "segment a folder of images, or a video, with a run"
    predict = command("predict", _on_copies(_predict), text, takes_overrides=True)
    predict.add_argument("--workdir", **several)
    _add_predict(predict)


def _add_predict(predict: argparse.ArgumentParser) -> None:
    text = "folder of images, searched with its subfolders; pictures, or a pattern in quotes; or a video file"
    predict.add_argument("--input", type=local, nargs="+", required=True, help=text)
    predict.add_argument("--output", type=local, required=True, help="folder outside the input; made if absent")
    text = f"what to write, of {', '.join(KINDS)}; by default labels and overlay"
    predict.add_argument("--write", nargs="+", choices=KINDS, default=["labels", "overlay"], metavar="KIND", help=text)
    predict.add_argument(
        "--overlay-as", choices=("jpg", "png"), default="jpg", help="how overlays are written; by default jpg"
    )
    text = "width x height of what is written, such as 1024x512; by default each image's own"
    predict.add_argument("--size", type=size, help=text)
    text = "write overlays and colours as one MP4 each instead of a file per frame"
    predict.add_argument("--video", action="store_true", help=text)
    predict.add_argument("--fps", type=_rate, help="frames per second of the MP4; by default the input's, or 25")
    text = "write the labels for a test server as well, and the archive to hand in"
    predict.add_argument("--server", choices=SERVERS, help=text)
    text = "make files that exist anew; without it they are skipped"
    predict.add_argument("--again", action="store_true", help=text)
    predict.add_argument(
        "--on", default="final", help="images are prepared as this split's: final, the default, dev, or a name"
    )
    predict.add_argument("--batch-size", type=at_least(1), default=4, help="images at a time; by default 4")
    add_step(predict, None)
    _add_network(predict)


def _add_network(command: argparse.ArgumentParser) -> None:
    text = (
        "which network predicts, of methods that have a teacher; by default the one of the config, mostly the student"
    )
    command.add_argument("--network", choices=("student", "teacher"), help=text)


def _rate(word: str) -> float:
    """The type of an option that takes a number of frames per second."""
    with contextlib.suppress(ValueError):
        if 0.1 <= float(word) <= 1000:
            return float(word)
    raise argparse.ArgumentTypeError(f"expected a number from 0.1 to 1000, got '{word}'")


def _on_copies(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Returns a command that works on local copies of those of its runs that lie in buckets."""

    def run_on_copies(options: argparse.Namespace) -> int:
        from uda_jax.data.io import mirrors

        with contextlib.ExitStack() as stack:
            options.workdir = [stack.enter_context(mirrors.opened(word)) for word in options.workdir]
            return run(options)

    return run_on_copies


def _evaluate(options: argparse.Namespace) -> int:
    say_that_it_starts(f"evaluate {' '.join(map(str, options.workdir))}")
    prepare_jax()
    from uda_jax.inference.evaluate import Evaluator, evaluation_step
    from uda_jax.inference.joint import joint_summary
    from uda_jax.inference.options import JOINT
    from uda_jax.inference.scorecard import scorecard
    from uda_jax.training import sharding

    stored = _experiment(options)
    asked = {word: _splits(stored.evaluation, word, options.workdir[0]) for word in options.on}
    splits = list(dict.fromkeys((which, name) for which, names in asked.values() for name in names))
    words, others = _scoring(options.overrides)
    section = _scored(stored, splits, words, " and ".join(options.on))
    method, state, space = _open(options, others, section.inference.average)
    section = _with_protocol(stored, section, words, space)
    sharding.check_batch_size(section.batch_size, "config.evaluation.batch_size")
    mesh = sharding.data_mesh()
    step, scored, cards = evaluation_step(method, section, mesh, details=True), {}, {}
    for which, name in splits:
        path = section.path(which, name)
        evaluator = Evaluator(section.splits(which)[name], section, step, mesh, path=path, space=space)
        _tell(evaluator, path)
        details = evaluator.details(state)
        summary = evaluator.summary(details.totals)
        scored[name] = (evaluator, details.totals, summary)
        cards[name] = summary | scorecard(evaluator, details, section, options.worst)
    final = [scored[name] for which, name in splits if which == "final"]
    if "final" in options.on and section.joint != "none":
        cards[JOINT] = joint_summary(section.joint, *zip(*final, strict=True))
    if options.reliability:
        _draw(options.reliability, cards)
    _tell_scores(cards, section.headline, options, state)
    alone = len(options.on) == 1 and options.on[0] in cards
    show(json.dumps(cards[options.on[0]] if alone else cards, indent=1))
    return 0


def _scored(stored: Any, splits: Sequence[tuple[str, str]], words: Sequence[str], on: str) -> Any:
    """Returns the evaluation section with those overrides that a finished run can be scored with."""
    from uda_jax import config

    fields = [stored.evaluation.path(which, name).removeprefix("config.") for which, name in splits]
    own = ("batch_size", "inference", "joint", "protocol", "count_void_predictions", "count_void_labels")
    allowed = (*(f"evaluation.{field}" for field in own), *fields)
    return config.with_overrides(stored, words, allowed, f"the score on {on}").evaluation


def _with_protocol(stored: Any, section: Any, words: Sequence[str], space: Any) -> Any:
    """Returns the section; raises a UserError for a protocol that was asked for and that the run's classes lack."""
    from uda_jax.inference.figures import protocols
    from uda_jax.runs.scoring import with_protocol

    if not any(word.startswith("--config.evaluation.protocol=") for word in words):
        return section
    return with_protocol(dataclasses.replace(stored, evaluation=section), protocols(space)).evaluation


def _tell(evaluator: Any, path: str) -> None:
    """Prints what is to be known of a split; raises a UserError if there is nothing to score on."""
    from uda_jax.data.pipeline import domains

    if not evaluator.scored:
        raise UserError(f"{path}: no frame of the split has a label to score on; name another split")
    for note in (evaluator.mapping, evaluator.check_references(), *domains.passed_over(evaluator.domain, path)):
        if note:
            print(printable(note), file=sys.stderr)


def _tell_scores(cards: dict[str, Any], headline: str, options: argparse.Namespace, state: Any) -> None:
    """Prints a line for each split: all figures are many lines."""
    from uda_jax.runs import announcement

    steps = ", ".join(
        f"{folder} at step {int(each.step)}" for folder, each in zip(options.workdir, _each(state), strict=True)
    )
    for name, card in cards.items():
        if (value := card["metrics"].get(headline)) is not None:
            print(printable(f"{name}: {announcement.score(headline, value)}, of {steps}"), file=sys.stderr)


def _each(state: Any) -> Sequence[Any]:
    """Returns the states of an ensemble, or of one run."""
    return state if isinstance(state, (list, tuple)) and not hasattr(state, "step") else [state]


def _draw(path: Any, cards: dict[str, Any]) -> None:
    """Writes the reliability diagrams of the splits."""
    from uda_jax.data.io import atomic, names
    from uda_jax.report import pictures, reliability

    if path.suffix.lower() != ".png":
        raise UserError(f"--reliability {path}: expected a name that ends in .png, since that is what is written")
    drawn = {name: card["calibration"] for name, card in cards.items() if "calibration" in card}
    if not drawn:
        raise UserError(f"--reliability {path}: expected a method of classes, got figures of depth alone; leave it out")
    for name, found in drawn.items():
        file = path if len(drawn) == 1 else path.with_name(f"{path.stem}_{names.component(name)}.png")
        atomic.write(file, pictures.png(reliability.diagram(found, name)))
        print(printable(f"{file}: reliability diagram of {name}"), file=sys.stderr)


def _predict(options: argparse.Namespace) -> int:
    say_that_it_starts(f"predict with {' '.join(map(str, options.workdir))}")
    prepare_jax()
    from uda_jax import config
    from uda_jax.inference import predict, videos

    if options.server and options.size:
        raise UserError("--size: expected none with --server, which takes labels of the images' own size; leave it out")
    if options.fps and not options.video:
        raise UserError("--fps: expected --video with it, since only a video has a rate; add it, or leave out --fps")
    if options.video and videos.encoder() is None:
        print(videos.WITHOUT, file=sys.stderr)  # the end, which says it too, may be hours away
    stored = _experiment(options)
    which, names = _splits(stored.evaluation, options.on, options.workdir[0])
    path = stored.evaluation.path(which, names[0])
    rules = [f"{path.removeprefix('config.')}.{field}" for field in ("size", "fit", "image_resampling")]
    words, others = _scoring(options.overrides)
    section = config.with_overrides(stored, words, ("evaluation.inference", *rules), "the predictions").evaluation
    method, state, space = _open(options, others, section.inference.average)
    domain = section.splits(which)[names[0]]
    wanted = predict.Wanted(
        tuple(dict.fromkeys(options.write)),
        options.overlay_as,
        options.size,
        options.video,
        options.fps,
        options.server,
        options.again,
    )
    summary = predict.predict_folder(
        _compiled(method, state, section.inference),
        options.input,
        options.output,
        domain=domain,
        palette=space.palette,
        classes=space.names,
        batch_size=options.batch_size,
        wanted=wanted,
        made_by=_made_by(options, others, section.inference, domain, state),
        progress=True,
    )
    show(summary)
    if summary.written:
        show(f"written to {options.output}")
    return 1 if summary.failed else 0


def _compiled(method: Any, state: Any, section: Any) -> Callable[..., Any]:
    """Returns `labels.Predict` of a run, as it was scored, so that a picture shows what its figures count."""
    import jax

    from uda_jax.inference import scores
    from uda_jax.training import sharding

    composed = scores.Composed(method, section).predict

    def reduced(state, images, size, reduce):
        return reduce(composed(state, images, size))

    whole = reduced if sharding.is_whole(state) else sharding.gathering(reduced, sharding.data_mesh())
    compiled = jax.jit(whole, static_argnames=("size", "reduce"))
    return lambda images, size, reduce: compiled(state, images, size=size, reduce=reduce)


def _made_by(options: argparse.Namespace, overrides: Sequence[str], inference: Any, domain: Any, state: Any) -> dict:
    """Returns what predictions depend on, in words of JSON."""
    from uda_jax.runs import measures

    states = _each(state)
    return {
        "runs": [folder.name for folder in options.workdir],
        "steps": [int(each.step) for each in states],
        # Folders of sweeps have the same names.
        "weights": [measures.checksum((each.params, each.model_state, each.teacher)) for each in states],
        "network": options.network,
        "overrides": sorted(overrides),
        "inference": dataclasses.asdict(inference),
        "prepared": {name: getattr(domain, name) for name in ("size", "fit", "image_resampling")},
        "size": options.size,
    }


def _experiment(options: argparse.Namespace) -> Any:
    """Returns the experiment of the first run, which says how all of them are scored."""
    from uda_jax.runs.workdir import Workdir

    return Workdir(options.workdir[0]).experiment()


def _scoring(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits overrides into those of the scoring, and those of what is scored."""
    scoring = [word for word in words if word.startswith("--config.evaluation.")]
    return scoring, [word for word in words if word not in scoring]


def _splits(section: Any, asked: str, workdir: Any) -> tuple[str, list[str]]:
    """Returns "final" or "dev", and the names of its splits that a word of `--on` asks for."""
    known = {which: list(section.splits(which)) for which in ("final", "dev")}
    if known.get(asked):
        return asked, known[asked]
    for which, names in known.items():
        if asked in names:
            return which, [asked]
    if asked in known:
        raise UserError(f"{workdir}: its config has no config.evaluation.{asked}; leave out --on")
    names = dict.fromkeys(("final", *known["final"], *(["dev"] if known["dev"] else []), *known["dev"]))
    raise UserError(f"--on {asked}: expected one of {', '.join(names)}, the splits of {workdir}")


def _open(options: argparse.Namespace, overrides: Sequence[str], average: str) -> tuple[Any, Any, Any]:
    """Returns the method, the state and the label space of a run, or of several as an ensemble.

    Overrides of fields that act in predictions alone hold for each of them; `average` says what their mean is taken of.
    """
    from uda_jax.inference.scores import Ensemble
    from uda_jax.runs import states

    runs = [states.restore(folder, overrides, options.step, options.network) for folder in options.workdir]
    methods, restored, spaces = zip(*runs, strict=True)
    if len(runs) == 1:
        return methods[0], restored[0], spaces[0]
    return Ensemble(list(zip(options.workdir, methods, spaces, strict=True)), average), restored, spaces[0]
