"""Measuring a state on target frames without labels, by the criteria of `criteria`; the same on any number of devices.

Every criterion is measured on the prediction that the run is scored by, with its windows but without mirrored and
scaled images in the mean: what averages over views agrees with them anyway.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import ops
from uda_jax.data.pipeline import domains, streams
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.criteria import CRITERIA
from uda_jax.inference.evaluate import Evaluator
from uda_jax.inference.model import class_scores
from uda_jax.inference.options import Evaluation
from uda_jax.training import metrics, sharding

# Of pixels and masks, which are drawn for each frame by its place among the frames.
SEED = 0
# Pixels of a frame whose neighbourhood density is measured; the matrix has the square of it.
PIXELS = 256
# Factor of the smaller image, the usual first one of scoring at several scales.
SCALE = 0.75
# MIC's masks: squares of an eighth of the image's shorter side (64 pixels of crops of 512), 70 % of them hidden.
MASKED_SIDE, MASKED_RATIO = 1 / 8, 0.7
# The criteria of views in which the classes of a whole image need not be the same.
_OF_MAPS = ("flip_agreement", "scale_agreement")


class Frames(NamedTuple):
    """Target frames whose labels, if there are any, are not read.

    Attributes:
      domain: how they are prepared, with images as its only map.
      path: dotted name of the section, for messages.
    """

    domain: domains.Domain
    path: str


class Measured(NamedTuple):
    """What a state makes of the frames.

    Attributes:
      values: criterion -> its value, None where it does not apply.
      shares: share of each class among the predicted pixels `[C]`.
      prior: share of each class among the source's labelled pixels `[C]`; None where the source was not looked at.
    """

    values: dict[str, float | None]
    shares: list[float]
    prior: list[float] | None


def has_teacher(method: Any) -> bool:
    """Whether a method's student and teacher can be told apart in predictions."""
    return "predict_with" in getattr(method, "PREDICTION_FIELDS", ())


def applicable(method: Any, names: Collection[str], *, whole_images: bool, source: bool) -> tuple[str, ...]:
    """Returns those of some criteria that can be measured.

    Args:
      method: the method.
      names: of criteria.
      whole_images: whether classes are those of whole images, as digits'.
      source: whether there are labelled source frames.
    """
    out = set(_OF_MAPS) if whole_images else set()
    needs = {"target", *(["teacher"] if has_teacher(method) else []), *(["source"] if source else [])}
    return tuple(name for name in CRITERIA if name in names and name not in out and CRITERIA[name].needs in needs)


def measuring_step(
    method: Any, section: Evaluation, mesh: jax.sharding.Mesh, names: Collection[str], *, whole_images: bool
) -> Callable:
    """Returns the compiled function of a `Measurer`.

    Args:
      method: gives `predict`, and the colour that its network sees as 0.
      section: how scores are made from the method's own.
      mesh: the device mesh, over which the state may be split.
      names: the criteria, those that are `applicable`.
      whole_images: whether classes are those of whole images.

    Returns:
      step(state, {"image", "index"}) -> replicated arrays of each frame: "entropy" and, if it is among `names`,
      "neighbourhood_density", float32 `[B]`; "mean" and "shares", float32 `[B, C]`; and of the agreements among
      `names` the counts of pixels by both classes, int32 `[B, C, C]`.
    """
    alone = dataclasses.replace(section.inference, flip=False, scales=(1.0,))

    def step(state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        images, numbers = batch["image"], batch["index"]
        size = (1, 1) if whole_images else images.shape[1:3]
        predict = scores.compose(method, state, alone)
        classes = lambda maps: jnp.argmax(class_scores(maps, method), axis=-1)  # noqa: E731
        maps = predict(images, size)
        labels, probabilities = classes(maps), jax.nn.softmax(class_scores(maps, method))
        found = {
            "entropy": ops.mean_entropy(probabilities),
            "mean": ops.mean_prediction(probabilities),
            "shares": ops.class_shares(labels, probabilities.shape[-1]),
        }
        if "neighbourhood_density" in names and not whole_images:
            found["neighbourhood_density"] = ops.neighbourhood_density(sampled(probabilities, numbers))
        views = {
            "flip_agreement": lambda: classes(predict(images[:, :, ::-1], size))[:, :, ::-1],
            "scale_agreement": lambda: classes(scores.scaled(predict, (SCALE,))(images, size)),
            "mask_agreement": lambda: classes(predict(masked(images, numbers, method), size)),
        }
        pairs = jax.vmap(functools.partial(ops.confusion_matrix, num_classes=probabilities.shape[-1]))
        for name in (name for name in views if name in names):
            found[name] = pairs(labels, views[name]())
        if "teacher_agreement" in names:
            pair = [dataclasses.replace(method, predict_with=network) for network in ("student", "teacher")]
            both = [classes(scores.compose(each, state, alone)(images, size)) for each in pair]
            found["teacher_agreement"] = pairs(*both)
        return found

    return sharding.Compiled(step, mesh)


def sampled(probabilities: jax.Array, numbers: jax.Array) -> jax.Array:
    """Returns the probabilities of `PIXELS` pixels of each frame, one of each of as many equal parts of its rows.

    Args:
      probabilities: `[B, h, w, C]`.
      numbers: which frames these are `[B]`; a frame's pixels are the same for every network of one size.

    Returns:
      `[B, N, C]`, N fewer than `PIXELS` if the frame has fewer.
    """
    total = probabilities.shape[1] * probabilities.shape[2]
    count = min(PIXELS, total)
    starts = (np.arange(count + 1) * total // count).astype(np.int32)
    lengths = np.diff(starts)
    within = jnp.floor(_drawn(numbers, 0, (count,)) * lengths).astype(jnp.int32)
    places = starts[:-1] + jnp.minimum(within, lengths - 1)
    flat = probabilities.reshape(len(probabilities), total, -1)
    return jnp.take_along_axis(flat, places[..., None], axis=1)


def masked(images: jax.Array, numbers: jax.Array, method: Any) -> jax.Array:
    """Returns float32 images `[B, H, W, 3]` under MIC's masks, hidden in the colour that the network sees as 0."""
    size = images.shape[1:3]
    grid = ops.block_grid(size, max(1, round(MASKED_SIDE * min(size))))
    mask = ops.block_mask(_drawn(numbers, 1, grid), size, MASKED_RATIO)
    section = getattr(method, "segmenter", None)
    colour = ops.mean_colour("imagenet_rgb" if section is None else section.input_norm)
    return jnp.where(mask[..., None], images.astype(jnp.float32), colour)


def _drawn(numbers: jax.Array, purpose: int, shape: tuple[int, ...]) -> jax.Array:
    """Returns uniform numbers `[B, *shape]`, each frame's own whatever batch it is in."""
    key = jax.random.fold_in(jax.random.key(SEED), purpose)
    return jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(key, number), shape))(numbers)


class Measurer:
    """Measures states of one method; every process has to call it.

    Args:
      method: the method.
      section: the run's; its batch size is the global one.
      mesh: the device mesh.
      names: of the criteria that are asked for; those that do not apply get None.
      frames: of the target.
      source: scores states on labelled source frames; None if there are none, or no criterion needs them.

    Attributes:
      dataset: the opened frames.
      names: of the criteria that are asked for, in the order of `CRITERIA`.
      applicable: those of them that have a value.

    Raises:
      UserError: anything wrong with the frames.
    """

    def __init__(
        self,
        method: Any,
        section: Evaluation,
        mesh: jax.sharding.Mesh,
        names: Collection[str],
        frames: Frames,
        source: Evaluator | None = None,
    ):
        self.dataset = domains.open_domain(frames.domain, frames.path)
        self._whole = self.dataset.label_size == (1, 1)
        self.names = tuple(name for name in CRITERIA if name in names)
        self.applicable = applicable(method, names, whole_images=self._whole, source=source is not None)
        self._source, self._batch_size = source, section.batch_size
        self._step = measuring_step(method, section, mesh, self.applicable, whole_images=self._whole)
        self._batches = streams.evaluation_batches(
            frames.domain,
            section.batch_size,
            path=frames.path,
            dataset=self.dataset,
            alternative="config.evaluation.batch_size=1" if jax.device_count() == 1 else "",
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self._batch_sharding = sharding.split_over_batch(mesh)

    def check(self, state: Any) -> None:
        """Measures one batch, so that a mistake shows before the first step."""
        self._run(state, self._batches[0])
        if self._source is not None:
            self._source.check(state)

    def measure(self, state: Any, between: Callable[[], None] = lambda: None) -> Measured:
        """Returns what a state makes of all frames, each of which weighs the same.

        Args:
          state: the method's state.
          between: called before every batch; what it raises ends the pass.
        """
        parts: dict[str, list[np.ndarray]] = {}
        for number, batch in enumerate(self._batches):
            between()
            # The last batch is filled up with frames of nothing.
            kept = min(self._batch_size, len(self.dataset) - number * self._batch_size)
            for name, array in self._run(state, batch).items():
                parts.setdefault(name, []).append(np.asarray(array, np.float64)[:kept])
        found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        confusion = None
        if self._source is not None and {"prior_distance", "source_score"} & set(self.applicable):
            confusion = self._source.totals(state, between=between)[0]["confusion"]
        return self._summary(found, confusion)

    def _run(self, state: Any, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        maps = {name: batch[name] for name in ("image", "index")}
        return self._step(state, sharding.to_global(maps, self._batch_sharding))

    def _summary(self, found: Mapping[str, np.ndarray], confusion: np.ndarray | None) -> Measured:
        """Returns the figures of what the step found of all frames, and of a confusion matrix on the source."""
        means = {name: float(array.mean()) for name, array in found.items() if array.ndim == 1}
        pairs = {name: metrics.kappa(array.sum(axis=0)) for name, array in found.items() if array.ndim == 3}
        values: dict[str, float | None] = means | pairs
        shares, prior = found["shares"].mean(axis=0), None
        values["information"] = float(ops.information(values["entropy"], found["mean"].mean(axis=0)))
        if self._whole and len(found["mean"]) > 1:
            # With one prediction for each image, the neighbours are other images, as in the paper's classification.
            values["neighbourhood_density"] = float(ops.neighbourhood_density(found["mean"]))
        if confusion is not None and (labelled := confusion.sum(axis=1)).any():
            prior = labelled / labelled.sum()
            values["prior_distance"] = float(ops.jensen_shannon(shares, prior))
            values["source_score"] = metrics.mean_iou(confusion, np.flatnonzero(labelled))
        values = {name: values.get(name) if name in self.applicable else None for name in self.names}
        if wrong := [name for name, value in values.items() if value is not None and not np.isfinite(value)]:
            raise UserError(f"criterion {wrong[0]}: {values[wrong[0]]}, the predictions are not finite")
        return Measured(values, shares.tolist(), None if prior is None else prior.tolist())
