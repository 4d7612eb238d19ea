"""What is inside an exported program, and the program itself: a pure function of one array of images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.data.pipeline import domains, transforms
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.model import class_scores
from uda_jax.inference.options import Inference
from uda_jax.ops.pillow import resize_as_pillow
from uda_jax.ops.platform import LOWERING

FORMATS = ("stablehlo", "onnx", "safetensors")
OUTPUTS = ("labels", "scores", "probabilities")
INPUTS = ("uint8", "normalised")
RESIZES = ("run", "none")
# As JAX calls them where it lowers.
PLATFORMS = tuple(LOWERING.values())

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Form:
    """What an exported program takes and gives.

    Attributes:
      outputs: "labels" uint8 [B, H, W], "scores" (logits) or "probabilities", float32 [B, H, W, C].
      input: "uint8" RGB images, or "normalised" float32 ones, which the caller has normalised.
      resize: "run" resizes as the run was scored, and gives results at the input's size; "none" does not resize.
      size: height and width of the input; None = any.
      batch: images per call; None = any.
      platforms: which of `PLATFORMS` the program runs on.
    """

    outputs: str = "labels"
    input: str = "uint8"
    resize: str = "run"
    size: Size | None = None
    batch: int | None = None
    platforms: tuple[str, ...] = PLATFORMS

    @property
    def dtype(self) -> Any:
        """The type of the input."""
        return jnp.uint8 if self.input == "uint8" else jnp.float32


@dataclasses.dataclass(frozen=True)
class Source:
    """The network that is exported, and how it is used.

    Attributes:
      method, state: from `runs.states.restore`, the state's networks whole.
      section: how scores are made of the network's.
      domain: the split whose size, fit and rule of resampling images get.
    """

    method: Any
    state: Any
    section: Inference
    domain: domains.Domain

    @property
    def input_norm(self) -> str:
        """The convention of `ops.normalise` that the network was trained with."""
        return self.method.segmenter.input_norm


def check(form: Form, source: Source) -> None:
    """Raises a UserError for a form that the run's way of scoring does not allow."""
    wanted = source.domain.size
    if form.resize == "none" or wanted is None:
        return
    words = f"{wanted[0]}x{wanted[1]}"
    if form.size is None:
        raise UserError(
            f"--size any: the run is scored at {words}, and resizing inside needs the size of the frames; give it, as "
            f"in --size {words}, or resize yourself with --resize none"
        )
    if form.input == "normalised" and tuple(form.size) != tuple(wanted):
        raise UserError(
            f"--input normalised: frames of {form.size[0]}x{form.size[1]} are resized to {words} before they are "
            "normalised; export with --input uint8, or resize yourself with --resize none"
        )


def program(source: Source, form: Form) -> Callable[[jax.Array], jax.Array]:
    """Returns the function of images [B, H, W, 3] that is exported, to be traced."""
    predict = scores.Composed(source.method, source.section).predict
    resize = form.resize == "run" and form.size is not None

    def run(images: jax.Array) -> jax.Array:
        # Methods normalise by themselves.
        pixels = ops.denormalise(images, source.input_norm) if form.input == "normalised" else images
        whole = size = images.shape[1:3]
        if resize:
            pixels, whole = _resized(pixels, source.domain), domains.padded_size(source.domain, size)
        values = class_scores(predict(source.state, pixels, whole), source.method)
        if whole != size:
            values = values[:, : size[0], : size[1]]
        if form.outputs == "labels":
            return values.argmax(-1).astype(jnp.uint8)
        return jax.nn.softmax(values) if form.outputs == "probabilities" else values

    return run


def inside(form: Form, domain: domains.Domain) -> list[str]:
    """Returns the steps that an exported program does, in order, for whoever reads its description."""
    resizes = form.resize == "run" and domain.size is not None and tuple(form.size or ()) != tuple(domain.size)
    last = {"labels": ["argmax"], "scores": [], "probabilities": ["softmax"]}[form.outputs]
    before = (["resize"] if resizes else []) + (["normalise"] if form.input == "uint8" else [])
    return [*before, "network", "interpolate", *last]


def _resized(images: jax.Array, domain: domains.Domain) -> jax.Array:
    """Returns what `domains.resized` makes of images, within the program."""
    have = images.shape[1:3]
    if domain.size is None or have == tuple(domain.size):
        return images
    target = transforms.inside(have, domain.size) if domain.fit == "pad" else domain.size
    images = resize_as_pillow(images, target, domain.image_resampling)
    missing = [(0, domain.size[0] - target[0]), (0, domain.size[1] - target[1])]
    return jnp.pad(images, [(0, 0), *missing, (0, 0)])
