"""A trained network as a function of images: what `uda_jax.load` returns."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pipeline import domains
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.report.pictures import colourise
from uda_jax.training import sharding

Maps = Mapping[str, Any]
# What a model calls: images uint8 [B, H, W, 3] -> "labels" uint8 [B, H, W], and, unless labels are all there is,
# "scores" float32 [B, H, W, C] and "confidence" float32 [B, H, W].
Segment = Callable[[np.ndarray], Maps]


class Result:
    """What a model makes of images [B, H, W, 3]; of a single one [H, W, 3], all of it without the first axis.

    Attributes:
      labels: uint8 [B, H, W], the class of every pixel, its place in `Model.classes`.
      scores: float32 [B, H, W, C], logits: their softmax are the probabilities.
      confidence: float32 [B, H, W], the probability of the class in `labels`.
      colours: uint8 RGB [B, H, W, 3], the labels in the colours of `Model.palette`.

    Raises:
      UserError: on `scores` and `confidence`, of an exported model that gives labels alone.
    """

    def __init__(self, maps: Maps, palette: np.ndarray, single: bool):
        self._maps, self._palette, self._single = maps, palette, single

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The class of every pixel."""
        return self._map("labels")

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The logits of every pixel."""
        return self._map("scores")

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the class of every pixel."""
        return self._map("confidence")

    @functools.cached_property
    def colours(self) -> np.ndarray:
        """The labels as a picture."""
        return colourise(self.labels, self._palette)

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            raise UserError(f"{name}: the exported model gives labels alone; export it again with --outputs scores")
        # Brought to the host when it is asked for: scores are large.
        found = np.asarray(self._maps[name])
        return found[0] if self._single else found


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network; `model(image)` segments.

    Attributes:
      classes: the names of the classes, in the order of the label values.
      palette: uint8 RGB [C, 3], their colours.
      segment: what a call hands its images to.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    segment: Segment

    @classmethod
    def of(cls, space: LabelSpace, segment: Segment) -> "Model":
        """Returns the model of a label space's classes."""
        return cls(tuple(space.names), np.array(space.colours, np.uint8), segment)

    def __call__(self, image: Any) -> Result:
        """Segments one image or a batch; it is compiled once for every size of images, and of batches.

        Args:
          image: RGB uint8 [H, W, 3] or [B, H, W, 3], as it comes from the camera.

        Returns:
          What is found at the image's own size.

        Raises:
          UserError: anything else than 8-bit RGB images, or a size that an exported model does not take.
        """
        images = checked(image)
        single = images.ndim == 3
        return Result(self.segment(images[None] if single else images), self.palette, single)


def checked(image: Any) -> np.ndarray:
    """Returns what a caller gives as an array; raises a UserError unless it is uint8 RGB [H, W, 3] or [B, H, W, 3]."""
    image, wanted = np.asarray(image), "image: expected uint8 RGB [H, W, 3] or [B, H, W, 3]"
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise UserError(f"{wanted}, got the shape {list(image.shape)}; give an image, or a batch of one size")
    if image.shape[-1] != 3:
        first = image.shape[-3] == 3
        cure = "move the channels last" if first else "convert it to RGB, without transparency"
        raise UserError(f"{wanted}, got the shape {list(image.shape)}; {cure}")
    if image.dtype != np.uint8:
        ranged = image.size and image.dtype.kind == "f" and np.nanmax(image) <= 1
        cure = "multiply by 255 and convert with .astype('uint8')" if ranged else "convert with .astype('uint8')"
        raise UserError(f"{wanted}, got {image.dtype}; {cure}, the model normalises by itself")
    return image


def of_method(method: Any, state: Any, section: Inference, domain: domains.Domain) -> Segment:
    """Returns the segmentation by a method, with images resized and padded as those of a split that it is scored on.

    Args:
      method, state: from `runs.states.restore`; the state may be split over the devices.
      section: how scores are made of the network's.
      domain: the split.
    """
    predict = scores.Composed(method, section).predict
    if not sharding.is_whole(state):
        predict = sharding.gathering(predict, sharding.data_mesh())

    @functools.partial(jax.jit, static_argnames=("whole", "size"))
    def program(state: Any, inputs: jax.Array, whole: tuple[int, int], size: tuple[int, int]) -> Maps:
        return summary(class_scores(predict(state, inputs, whole), method)[:, : size[0], : size[1]])

    def segment(images: np.ndarray) -> Maps:
        size = images.shape[1:3]
        inputs = np.stack([domains.resized({"image": image}, domain)["image"] for image in images])
        return program(state, inputs, domains.padded_size(domain, size), size)

    return segment


def class_scores(maps: Maps, method: Any) -> jax.Array:
    """Returns the float32 scores among a method's maps; raises a UserError if it predicts no classes."""
    if "scores" not in maps:
        raise UserError(f"{type(method).__name__}: expected a method of classes, got {sorted(maps)} alone")
    return maps["scores"].astype(jnp.float32)


@jax.jit
def summary(values: jax.Array) -> dict[str, jax.Array]:
    """Returns what `Segment` does, of scores [B, H, W, C]."""
    confidence = jnp.exp(values.max(-1) - jax.nn.logsumexp(values, axis=-1))
    return {"labels": values.argmax(-1).astype(jnp.uint8), "scores": values, "confidence": confidence}
