"""How scores are made: of the whole image, by a sliding window, mirrored, at several scales, by several runs.

A `Predict` maps images to maps of a wanted size. `whole` makes one of a method and its state, and each other function
makes one of others, so that they nest: `flipped(sliding(whole(method, state), ...))`. All of it is traced into one
program per image size, and all acts on 8-bit images before they are normalised.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import ops
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.inference.options import Inference
from uda_jax.training.precision import at_precision

Size = tuple[int, int]
Maps = dict[str, jax.Array]
# predict(images [B, H, W, 3], RGB on the scale of 0 to 255, uint8 or float; size) -> what `Method.predict` returns:
# {"scores": [B, *size, C], optional "depth": [B, *size, 1]}.
Predict = Callable[[jax.Array, Size], Maps]


def compose(method: Any, state: Any, section: Inference) -> Predict:
    """Returns the prediction that a config's `evaluation.inference` asks for.

    Windows slide over each of the scaled images, and all of that once more over the mirrored ones. Where nothing is
    averaged, the method's own prediction is returned as it is.

    Args:
      method, state: the method's `predict` and what it takes first.
      section: the config section.
    """
    predict = functools.partial(at_precision(method, method.predict), state)
    if dataclasses.replace(section, average=Inference().average) == Inference():
        return predict
    predict = averaged(predict, section.average)
    if section.window is not None:
        predict = sliding(predict, section.window, section.stride or section.window)
    predict = scaled(predict, section.scales)
    if section.flip:
        predict = flipped(predict)
    return logits(predict, section.average)


def averaged(predict: Predict, average: str) -> Predict:
    """Returns a prediction whose "scores" are ready to be averaged, as "logits" or as "probabilities" (float32)."""

    def prepared(images: jax.Array, size: Size) -> Maps:
        maps = predict(images, size)
        if average == "probabilities" and "scores" in maps:
            maps = maps | {"scores": jax.nn.softmax(maps["scores"].astype(jnp.float32))}
        return maps

    return prepared


def logits(predict: Predict, average: str) -> Predict:
    """Returns a prediction whose "scores" are logits again: of probabilities the logarithm, whose softmax they are."""

    def restored(images: jax.Array, size: Size) -> Maps:
        maps = predict(images, size)
        if average == "probabilities" and "scores" in maps:
            maps = maps | {"scores": jnp.log(jnp.maximum(maps["scores"], jnp.finfo(jnp.float32).tiny))}
        return maps

    return restored


def sliding(predict: Predict, window: Size, stride: Size) -> Predict:
    """Returns a prediction by windows; where they overlap, their mean counts.

    Each window is predicted at its own size; what they cover is then interpolated from the image's size to the wanted
    one, by pixel centres.

    Args:
      predict: sees one window at a time.
      window: (height, width) in pixels; cut to the image where that is smaller.
      stride: pixels from one window to the next, down and across; the last one ends at the border.
    """

    def assembled(images: jax.Array, size: Size) -> Maps:
        image_size = images.shape[1:3]
        cut = tuple(map(min, window, image_size))
        axes = [_starts(*lengths) for lengths in zip(image_size, cut, stride, strict=True)]
        corners = np.array(list(itertools.product(*axes)), np.int32)
        crop = lambda corner: jax.lax.dynamic_slice_in_dim(  # noqa: E731
            jax.lax.dynamic_slice_in_dim(images, corner[0], cut[0], 1), corner[1], cut[1], 2
        )

        def add(total: Maps, corner: jax.Array) -> tuple[Maps, None]:
            maps = predict(crop(corner), cut)
            return {name: _add_at(total[name], maps[name], corner) for name in total}, None

        shapes = jax.eval_shape(lambda: predict(crop(corners[0]), cut))
        zeros = {
            name: jnp.zeros((shape.shape[0], *image_size, shape.shape[3]), jnp.float32)
            for name, shape in shapes.items()
        }
        # One window after another: the network is compiled once, and the windows' maps need not lie in memory at once.
        total, _ = jax.lax.scan(add, zeros, corners)
        counts = np.zeros((*image_size, 1), np.float32)
        for top, left in corners:
            counts[top : top + cut[0], left : left + cut[1]] += 1
        return {name: ops.resize_bilinear(m / counts, size, align_corners=False) for name, m in total.items()}

    return assembled


def flipped(predict: Predict) -> Predict:
    """Returns the mean prediction of the images and of the mirrored images, mirrored back."""

    def mirrored(images: jax.Array, size: Size) -> Maps:
        return {name: m[:, :, ::-1] for name, m in predict(images[:, :, ::-1], size).items()}

    return ensemble([predict, mirrored])


def scaled(predict: Predict, scales: Sequence[float]) -> Predict:
    """Returns the mean prediction of the images resized by each factor, bilinearly by pixel centres."""

    def at(scale: float) -> Predict:
        def resized(images: jax.Array, size: Size) -> Maps:
            target = tuple(max(1, round(scale * length)) for length in images.shape[1:3])
            if target == images.shape[1:3]:
                return predict(images, size)
            return predict(ops.resize_bilinear(images, target, align_corners=False), size)

        return resized

    return ensemble([at(scale) for scale in scales])


def ensemble(members: Sequence[Predict]) -> Predict:
    """Returns the mean of several predictions, each weighing the same: of the maps that all of them have."""
    if len(members) == 1:
        return members[0]

    def mean(images: jax.Array, size: Size) -> Maps:
        found = [member(images, size) for member in members]
        names = [name for name in found[0] if all(name in maps for maps in found)]
        return {name: sum(maps[name].astype(jnp.float32) for maps in found) / len(found) for name in names}

    return mean


@dataclasses.dataclass(frozen=True)
class Composed:
    """A method whose predictions are made as a config's `evaluation.inference` asks for."""

    method: Any
    section: Inference

    def predict(self, state: Any, images: jax.Array, size: Size) -> Maps:
        """Returns what `Method.predict` does; pure, for `jax.jit` with a static `size`."""
        return compose(self.method, state, self.section)(images, size)


class Ensemble:
    """Several runs as one method: the mean of their up-sampled scores, each weighing the same.

    ADVENT's "AdvEnt+MinEnt" is that of two runs (its released evaluation code averages their logits, half and half).

    Args:
      members: each run's name, for messages, its method and its label space.
      average: whether "logits" or "probabilities" are averaged.

    Raises:
      UserError: members of different classes.
    """

    def __init__(self, members: Sequence[tuple[Any, Any, label_spaces.LabelSpace]], average: str = "logits"):
        (first, _, space), *others = members
        for name, _, found in others:
            if found.names != space.names:
                raise UserError(
                    f"--workdir {first} {name}: expected runs of the same classes to average, got {list(space.names)} "
                    f"and {list(found.names)}; name runs that share a label space"
                )
        self._methods = [method for _, method, _ in members]
        self._average = average

    def predict(self, states: Sequence[Any], images: jax.Array, size: Size) -> Maps:
        """Returns what `Method.predict` does, of uint8 RGB images [B, H, W, 3]; one state per member."""
        pairs = zip(self._methods, states, strict=True)
        own = (functools.partial(at_precision(method, method.predict), state) for method, state in pairs)
        members = [averaged(predict, self._average) for predict in own]
        return logits(ensemble(members), self._average)(images, size)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows start along one axis: every `stride` pixels, and the last one at the border."""
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _add_at(total: jax.Array, part: jax.Array, corner: jax.Array) -> jax.Array:
    """Returns maps [B, H, W, C] with smaller ones added at (top, left)."""
    start = (0, corner[0], corner[1], 0)
    before = jax.lax.dynamic_slice(total, start, part.shape)
    return jax.lax.dynamic_update_slice(total, before + part.astype(jnp.float32), start)
