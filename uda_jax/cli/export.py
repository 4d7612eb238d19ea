"""The command `uda export`: a trained network for programs without this library."""

import argparse
import re
import sys
from collections.abc import Callable

from uda_jax.cli.console import show
from uda_jax.cli.environment import add_step, at_least, local, place, prepare_jax, say_that_it_starts
from uda_jax.errors import UserError

_ANY = "any"


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command by `command(name, run, text)`, which returns its parser."""
    text = "write a run's network as StableHLO, ONNX or safetensors, and compare it with the run"
    export = command("export", _export, text, takes_overrides=True)
    export.add_argument("workdir", type=place, help="folder of the run")
    export.add_argument("--to", choices=("stablehlo", "onnx", "safetensors"), required=True, help="format")
    export.add_argument("--output", type=local, required=True, help="new folder")
    export.add_argument("--outputs", choices=("labels", "scores", "probabilities"), help="by default labels")
    export.add_argument("--input", choices=("uint8", "normalised"), help="by default uint8, normalised inside")
    export.add_argument(
        "--resize", choices=("run", "none"), help="run, the default, resizes inside as the run was scored"
    )
    export.add_argument("--size", type=_size, help="HxW of the frames, or any; by default what the run is scored at")
    export.add_argument("--batch", type=_batch, help="images per call, or any; by default any, of onnx 1")
    export.add_argument(
        "--platforms", type=_platforms, help="of stablehlo: some of cpu,cuda,tpu; by default all, in one file"
    )
    export.add_argument("--frames", type=local, help="folder of images to compare on instead of the run's final split")
    add_step(export, None)


def _export(options: argparse.Namespace) -> int:
    say_that_it_starts(f"export {options.workdir}")
    prepare_jax()
    from uda_jax.inference.export import onnx, parity, stablehlo
    from uda_jax.runs import deployment

    # Before anything is read: what is missing is missing in seconds, not minutes.
    if options.to == "stablehlo":
        stablehlo.require()
    elif options.to == "onnx":
        onnx.require("onnx", "onnxruntime", "jax2onnx")
    form = _form(options)
    slip = deployment.export(
        options.workdir,
        options.output,
        options.to,
        form,
        step=options.step,
        overrides=options.overrides,
        frames=options.frames,
    )
    equal, times = slip["equal_pixels"], slip["milliseconds"]
    largest = slip["largest_difference"]
    scores = "" if largest is None else f", largest difference of {form.outputs} {largest:.2g}"
    show(f"{options.output}: {options.to}, {equal:.4%} of the pixels of {slip['frames']} frames as the run{scores}")
    show(f"{times['exported']:.1f} ms per frame, the run {times['run']:.1f} ms, on {slip['device']}")
    if equal < parity.GOAL:
        print(f"uda: {options.output}: fewer than {parity.GOAL:.2%} of the pixels are as the run's", file=sys.stderr)
        return 1
    return 0


def _form(options: argparse.Namespace):
    """Returns what is exported, what was not asked for by the run and the format."""
    from uda_jax.inference.export.forms import PLATFORMS, Form
    from uda_jax.runs import deployment

    asked = ("outputs", "input", "resize", "size", "batch", "platforms")
    if options.to == "safetensors":
        if given := [f"--{name}" for name in asked if getattr(options, name) is not None]:
            raise UserError(f"{given[0]}: a file of safetensors holds the network's arrays alone; leave it out")
        return Form(outputs="scores")
    if options.to == "onnx" and options.platforms is not None:
        raise UserError("--platforms: an ONNX file runs wherever onnxruntime does; leave it out")
    size = deployment.evaluation_size(options.workdir) if options.size is None else options.size
    batch = (1 if options.to == "onnx" else _ANY) if options.batch is None else options.batch
    return Form(
        outputs=options.outputs or "labels",
        input=options.input or "uint8",
        resize=options.resize or "run",
        size=None if size == _ANY else size,
        batch=None if batch == _ANY else batch,
        platforms=options.platforms or PLATFORMS,
    )


def _size(word: str) -> str | tuple[int, int]:
    if word == _ANY:
        return word
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", word)
    if not found:
        raise argparse.ArgumentTypeError(f"expected height x width, as in 512x1024, or any, got '{word}'")
    return int(found[1]), int(found[2])


def _batch(word: str) -> str | int:
    return word if word == _ANY else at_least(1)(word)


def _platforms(word: str) -> tuple[str, ...]:
    known, found = ("cpu", "cuda", "tpu"), tuple(dict.fromkeys(word.split(",")))
    if unknown := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got '{unknown[0]}'")
    return found
