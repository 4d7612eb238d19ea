"""An exported folder as a model again, of any format: for whoever has the library, and to compare it with the run."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import jax.numpy as jnp
import numpy as np

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.inference import model
from uda_jax.inference.export import folder, onnx, stablehlo, tensors

_PROGRAMS = {"stablehlo": stablehlo, "onnx": onnx}


def opened(path: str | os.PathLike) -> model.Model:
    """Opens an exported folder; the run that it was exported from is not needed.

    Raises:
      UserError: a file is missing, cut or damaged, or what runs it is not installed.
    """
    found = folder.read(path)
    if found.description["format"] in _PROGRAMS:
        segment = _by_program(found)
    else:
        segment = _by_network(found)
    return model.Model(found.classes, found.palette, segment)


def _by_network(found: folder.Exported) -> model.Segment:
    """Returns the segmentation by the network that is built of the arrays."""
    where = str(found.file)
    method, state = tensors.read(found.content, found.description["network"], where)
    run = model.of_method(method, state, found.section, found.domain)

    def segment(images: np.ndarray) -> model.Maps:
        try:
            return run(images)
        except flax.errors.FlaxError as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{where}: holds other arrays than the network has ({reason}); export it again") from None

    return segment


def _by_program(found: folder.Exported) -> model.Segment:
    """Returns the segmentation by the program that was exported."""
    facts, where = found.description, str(found.file)
    call = _PROGRAMS[facts["format"]].read(found.content, where)
    batch, *size = (int(length) if str(length).isdecimal() else None for length in facts["shape"][:3])
    norm = facts["normalisation"] if facts["input"] == "normalised" else None
    if norm not in (None, *ops.CONVENTIONS):
        raise UserError(f"{where}: its description names an unknown normalisation, {str(norm)[:40]}; export it again")

    def segment(images: np.ndarray) -> model.Maps:
        _check_size(images.shape[1:3], size, facts["multiple_of"])
        inputs = images if norm is None else np.asarray(ops.normalise(jnp.asarray(images), norm))
        # Concatenated on the host only where the program takes fewer images than there are.
        values = [np.asarray(values) for values in map(_called(call, where), _parts(inputs, batch))]
        return _maps(np.concatenate(values)[: len(images)] if len(values) > 1 else values[0][: len(images)], facts)

    return segment


def _called(call: Callable, where: str) -> Callable[[np.ndarray], Any]:
    """Returns the program with its errors told in one line: a damaged one fails when it is called."""

    def run(images: np.ndarray) -> Any:
        try:
            return call(images)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{where}: fails on images of {list(images.shape)} ({reason})") from error

    return run


def _check_size(have: tuple[int, int], size: list[int | None], multiple: int) -> None:
    """Raises a UserError for images that an exported program does not take."""
    words = f"{have[0]}x{have[1]}"
    if None not in size and list(have) != size:
        raise UserError(f"image: the exported model takes {size[0]}x{size[1]} alone, got {words}; resize it before")
    if any(length % multiple for length in have):
        raise UserError(f"image: expected sides that are multiples of {multiple}, got {words}; resize or pad it before")


def _parts(images: np.ndarray, batch: int | None) -> Iterator[np.ndarray]:
    """Yields as many images at a time as the program takes, the last ones filled up with the last image."""
    for start in range(0, len(images), batch or len(images)):
        part = images[start : start + (batch or len(images))]
        missing = (batch or len(part)) - len(part)
        yield np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part


def _maps(values: np.ndarray, facts: Any) -> model.Maps:
    """Returns what `model.Segment` does, of what the program gave."""
    if facts["outputs"] == "labels":
        return {"labels": values}
    if facts["outputs"] == "probabilities":
        values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    return model.summary(jnp.asarray(values))
