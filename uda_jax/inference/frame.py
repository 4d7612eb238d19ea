"""What a network makes of one frame: its prediction, and the maps of its encoder. For notebooks and scripts."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.methods.parts import adapted
from uda_jax.training.precision import at_precision


class Prediction(NamedTuple):
    """The prediction of one frame.

    Attributes:
      labels: uint8 [h, w], the class of every pixel.
      entropy: float32 [h, w], the normalised entropy of its probabilities, in [0, 1].
    """

    labels: np.ndarray
    entropy: np.ndarray


def predict(
    method: Any, state: Any, image: np.ndarray, size: tuple[int, int] | None = None, section: Inference | None = None
) -> Prediction:
    """Predicts one frame, as it is given: it is neither resized nor padded before.

    Args:
      method, state: from `runs.states.restore`.
      image: uint8 RGB [H, W, 3].
      size: height and width of the prediction; None = the image's.
      section: how scores are made of the network's, as `evaluation.inference` of a run says; None = the whole image.

    Raises:
      UserError: the method predicts no classes, or what is given is no image.
    """
    images = _batch(image)
    section = Inference() if section is None else section
    labels, entropy = _predict(state, images, method, section, tuple(size or images.shape[1:3]))
    return Prediction(np.asarray(labels), np.asarray(entropy))


def encoder_maps(method: Any, state: Any, image: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns maps of the segmenter's encoder for one frame, in evaluation mode.

    Args:
      method, state: from `runs.states.restore`.
      image: uint8 RGB [H, W, 3].
      names: of the maps, such as "layer3" of a ResNet; None = all that the encoder hands out, from the stem on.

    Returns:
      Name -> float32 [h, w, D], in the order asked for.

    Raises:
      UserError: the segmenter has no encoder that hands out its maps, or none of such a name.
    """
    module = getattr(method, "network", None)
    if getattr(module, "encode", None) is None:
        name = method.segmenter.name if module is not None else type(method).__name__
        raise UserError(f"{name}: has no encoder that hands out its maps; look at a run with a ResNet or a VGG")
    params, model_state = state.params["segmenter"], state.model_state["segmenter"]
    collect = None if names is None else tuple(names)
    encode = at_precision(method, _encode)
    found = encode(
        adapted.joined({"params": params, **model_state}), _batch(image), module, method.segmenter.input_norm, collect
    )
    return {name: np.asarray(found[name][0], np.float32) for name in names or _outwards(found)}


def _outwards(maps: dict[str, jax.Array]) -> list[str]:
    """Returns the names of maps from the stem on, large ones of few channels first: jit has sorted them by name."""
    return sorted(maps, key=lambda name: (-maps[name].shape[1] * maps[name].shape[2], maps[name].shape[3], name))


@functools.partial(jax.jit, static_argnames=("method", "section", "size"))
def _predict(state: Any, images: jax.Array, method: Any, section: Inference, size: tuple[int, int]) -> Any:
    maps = scores.Composed(method, section).predict(state, images, size)
    if "scores" not in maps:
        raise UserError(f"{type(method).__name__}: expected a method of classes, got {sorted(maps)} alone")
    values = maps["scores"][0]
    return values.argmax(-1).astype("uint8"), losses.self_information(jax.nn.softmax(values)).sum(-1)


@functools.partial(jax.jit, static_argnames=("module", "input_norm", "names"))
def _encode(variables: Any, images: jax.Array, module: Any, input_norm: str, names: tuple[str, ...] | None) -> Any:
    inputs = ops.normalise(images, input_norm)
    return module.apply(variables, inputs, train=False, collect=names, method="encode")


def _batch(image: np.ndarray) -> np.ndarray:
    """Returns a batch of one image; raises a UserError for what is none."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise UserError(f"image: expected uint8 RGB [H, W, 3], got {image.dtype} {list(image.shape)}; convert it")
    return image[None]
