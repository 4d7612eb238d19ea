"""Scoring: one confusion matrix over a whole split, the same on any number of devices."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses, ops
from uda_jax.data.datasets import digits
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.training import metrics, sharding

# The protocol of classification: the share of pictures that are right.
ACCURACY = "accuracy"


class Evaluator:
    """Scores states of one method on one domain; its functions are compiled once.

    Args:
      method: gives `predict` and `num_classes`.
      domain: the split. Where none of its frames has a label there are pictures, but no score.
      batch_size: global batch size; the last batch is padded with ignored pixels.
      mesh: the device mesh.
      path: dotted name of the domain's section, for messages.

    Attributes:
      domain, dataset: the split, and its opened frames.
      labelled: whether there is something to score on.
    """

    def __init__(self, method: Any, domain: streams.Domain, batch_size: int, mesh: jax.sharding.Mesh, *, path: str):
        unlabelled = dataclasses.replace(domain, fields=("image",))
        dataset = streams.open_domain(unlabelled, path)
        self.labelled = dataset.has("label")
        self._batches = streams.evaluation_batches(
            domain if self.labelled else unlabelled,
            batch_size,
            path=path,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.dataset, self.domain = self._batches.dataset, domain
        self._batch_sharding = sharding.split_over_batch(mesh)
        everywhere = sharding.replicated(mesh)

        def confusion_step(state, images, labels):
            scores = method.predict(state, images, labels.shape[1:3])["scores"]
            return ops.confusion_matrix(labels.astype(jnp.int32), jnp.argmax(scores, axis=-1), method.num_classes)

        def picture_step(state, images, labels):
            scores = method.predict(state, images, labels.shape[1:3])["scores"]
            information = losses.self_information(jax.nn.softmax(scores))
            return jnp.argmax(scores, axis=-1).astype(jnp.uint8), jnp.sum(information, axis=-1)

        inputs = (everywhere, self._batch_sharding, self._batch_sharding)
        self._confusion_step = jax.jit(confusion_step, in_shardings=inputs, out_shardings=everywhere)
        self._picture_step = jax.jit(picture_step, in_shardings=inputs, out_shardings=everywhere)

    def confusion(self, state: Any, *, max_batches: int | None = None) -> np.ndarray:
        """Returns the int64 confusion matrix [C, C], rows = labels, of the split or of its first batches."""
        total = np.zeros((), np.int64)
        for batch in itertools.islice(self._batches, max_batches):
            images, labels = sharding.to_global((batch["image"], _labels(batch)), self._batch_sharding)
            # Summed on the host in 64 bits: 32 would overflow on a large split.
            total = total + np.asarray(self._confusion_step(state, images, labels), np.int64)
        return total

    def score(self, state: Any) -> dict[str, Any]:
        """Returns the figures of a result row on the whole split; see `summarise`."""
        return summarise(self.confusion(state), self.dataset.label_space)

    def pictures(self, state: Any, count: int) -> Iterator[dict[str, Any]]:
        """Yields the first frame of `count` evenly spaced batches with what the state makes of it.

        Every process has to run through them; the frames belong to the first one's block and only it yields.

        Yields:
          {"name": str, "image": uint8 [H, W, 3], "label", "prediction": uint8 [h, w], "entropy": float32 [h, w] in
          [0, 1]}; the label is None where the split has none.
        """
        chosen = np.linspace(0, len(self._batches), min(count, len(self._batches)), endpoint=False, dtype=int)
        for number, batch in enumerate(self._batches):
            if number not in chosen:
                continue
            images, labels = sharding.to_global((batch["image"], _labels(batch)), self._batch_sharding)
            prediction, entropy = jax.device_get(self._picture_step(state, images, labels))
            if jax.process_index() == 0:
                name = self.dataset.name(int(batch["index"][0]))
                maps = {"image": batch["image"][0], "label": batch["label"][0] if self.labelled else None}
                yield {"name": name, **maps, "prediction": prediction[0], "entropy": entropy[0]}


class Ensemble:
    """Several runs as one method: the mean of their up-sampled scores, each weighing the same.

    ADVENT's "AdvEnt+MinEnt" is that of two runs (its released evaluation code averages their logits, half and half).

    Args:
      members: each run's name, for messages, its method and its label space.

    Attributes:
      num_classes: C, the same for all members.

    Raises:
      UserError: members of different classes.
    """

    def __init__(self, members: Sequence[tuple[Any, Any, label_spaces.LabelSpace]]):
        (first, method, space), *others = members
        for name, _, found in others:
            if found.names != space.names:
                raise UserError(
                    f"--workdir {first} {name}: expected runs of the same classes to average, got {list(space.names)} "
                    f"and {list(found.names)}; name runs that share a label space"
                )
        self.num_classes = method.num_classes
        self._methods = [method for _, method, _ in members]

    def predict(self, states: Sequence[Any], images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": float32 [B, *size, C]} of uint8 RGB images [B, H, W, 3]; one state per member."""
        pairs = zip(self._methods, states, strict=True)
        scores = [method.predict(state, images, size)["scores"].astype(jnp.float32) for method, state in pairs]
        return {"scores": sum(scores) / len(scores)}


def _labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the labels of a batch; all ignored, at the size of the images, where there are none."""
    return batch["label"] if "label" in batch else np.full(batch["image"].shape[:3], label_spaces.IGNORE, np.uint8)


def protocols(space: label_spaces.LabelSpace) -> dict[str, tuple[int, ...]]:
    """Returns the protocols that a confusion matrix of this label space answers: name -> classes that are averaged.

    A protocol is known by the names of its classes, in whichever order the space has them. The 19 and the 16 classes
    answer the smaller protocols of SYNTHIA's papers besides. Digits are classes of whole pictures and answer
    "accuracy". Any other space answers "own", the mean over all of it.
    """
    if space.names == digits.CLASSES:
        return {ACCURACY: tuple(range(len(space.names)))}
    for family in (("19", "16", "13"), ("10",), ("7",), ("camvid",)):
        for place, protocol in enumerate(family):
            if set(space.names) == set(label_spaces.label_space(protocol).names):
                names = {answered: label_spaces.label_space(answered).names for answered in family[place:]}
                return {answered: tuple(map(space.names.index, classes)) for answered, classes in names.items()}
    return {"own": tuple(range(len(space.names)))}


def summarise(matrix: np.ndarray, space: label_spaces.LabelSpace) -> dict[str, Any]:
    """Turns a confusion matrix into the figures of a result row.

    Args:
      matrix: int64 [C, C], rows = labels.
      space: the label space of its rows.

    Returns:
      {"miou": {protocol: fraction}, "iou": {class: fraction or None}, "pixel_accuracy": fraction}. A protocol's mean
      covers its classes that are labelled in the split; a class that is neither labelled nor predicted is None.
      "accuracy" is no mean, but the share of labels that are right.
    """
    iou = metrics.iou(matrix)
    labelled = np.flatnonzero(matrix.sum(axis=1))
    means = {}
    for protocol, classes in protocols(space).items():
        present = [c for c in classes if c in labelled]
        score = metrics.pixel_accuracy(matrix) if protocol == ACCURACY else metrics.mean_iou(matrix, present)
        means[protocol] = score if present else None
    return {
        "miou": means,
        "iou": {name: None if np.isnan(value) else float(value) for name, value in zip(space.names, iou, strict=True)},
        "pixel_accuracy": float(metrics.pixel_accuracy(matrix)),
    }
