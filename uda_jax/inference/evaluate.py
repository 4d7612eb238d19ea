"""Scoring: exact sums over a whole split, the same on any number of devices."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses, ops
from uda_jax.data.datasets import digits
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import domains, streams
from uda_jax.errors import UserError
from uda_jax.inference import depth, label_check, scores
from uda_jax.inference.options import Evaluation
from uda_jax.training import metrics, sharding

# The protocol of classification: the share of pictures that are right.
ACCURACY = "accuracy"

# What metrics are computed against, where the split and the method have it.
_REFERENCES = ("label", "depth")
# What lets frames of different sizes be scored, for messages.
_ONE_BY_ONE = "config.evaluation.batch_size=1, which scores each frame at its own size"


def evaluation_step(method: Any, section: Evaluation, mesh: jax.sharding.Mesh) -> Callable:
    """Returns the compiled function that all evaluators of a method may share.

    Args:
      method: gives `predict`.
      section: how scores are made from the method's own.
      mesh: the device mesh, over which the state may be split.

    Returns:
      step(state, batch) -> replicated arrays, as far as the method predicts what they need: "confusion" int32 [C, C]
      (rows = labels), "depth" float32 [B, h, S] (sums of `metrics.DEPTH_SUMS` over each row of pixels), and of the
      batch's first frame "prediction" uint8 [h, w] and "entropy" float32 [h, w] in [0, 1]. The batch holds "image", and
      "label" or "depth" or both.
    """
    predict = scores.Composed(method, section.inference).predict

    def step(state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        sizes = {name: batch[name].shape[1:3] for name in _REFERENCES if name in batch}
        if len(set(sizes.values())) > 1:
            raise UserError(f"evaluation: expected labels and depths of one size (height, width), got {sizes}")
        size = next(iter(sizes.values()), batch["image"].shape[1:3])
        maps = predict(state, batch["image"], size)
        found = {}
        if "scores" in maps:
            prediction = jnp.argmax(maps["scores"], axis=-1)
            information = losses.self_information(jax.nn.softmax(maps["scores"][0]))
            found |= {"prediction": prediction[0].astype(jnp.uint8), "entropy": jnp.sum(information, axis=-1)}
            if "label" in batch:
                labels, classes = batch["label"].astype(jnp.int32), maps["scores"].shape[-1]
                found["confusion"] = ops.confusion_matrix(labels, prediction, classes)
        if "depth" in maps and "depth" in batch:
            found["depth"] = depth.row_sums(maps["depth"][..., 0], batch["depth"])
        return found

    return sharding.Compiled(step, mesh)


class Evaluator:
    """Scores states of one method on one split; each frame is decoded once, for its score and its picture.

    Args:
      domain: the split. Where none of its frames has a label or a depth there are pictures, but no score.
      section: the config section; its batch size is the global one, and the last batch is padded with ignored pixels.
      step: from `evaluation_step`.
      mesh: the device mesh.
      path: dotted name of the domain's section, for messages.
      space: the classes of the method; the split's are found among them by name. None = they are the split's own.

    Attributes:
      domain, dataset: the split, and its opened frames.
      scored: whether there is something to score on.

    Raises:
      UserError: anything wrong with the data set, a class that the method does not know, or a headline whose map the
        split does not hold.
    """

    def __init__(
        self,
        domain: domains.Domain,
        section: Evaluation,
        step: Callable,
        mesh: jax.sharding.Mesh,
        *,
        path: str,
        space: label_spaces.LabelSpace | None = None,
    ):
        self.domain, self._section, self._step, self._path = domain, section, step, path
        self.dataset = domains.open_domain(dataclasses.replace(domain, fields=("image",)), path)
        self._references = tuple(name for name in _REFERENCES if name in domain.fields and self.dataset.has(name))
        kept = dataclasses.replace(domain, fields=("image", *self._references))
        domains.require_maps(self.dataset, kept, path)
        self.scored = bool(self._references)
        needed = metrics.METRICS[section.headline].map
        if self.scored and needed not in self._references:
            raise UserError(
                f"{path}.fields: expected '{needed}', since config.evaluation.headline '{section.headline}' compares "
                f"with it, found only {' and '.join(self._references)}; add it, or set another headline"
            )
        self._space = self.dataset.label_space if space is None else space
        self._table = _class_table(self.dataset.label_space, self._space, path) if "label" in kept.fields else None
        self._batches = streams.evaluation_batches(
            kept,
            section.batch_size,
            path=path,
            dataset=self.dataset,
            alternative=_ONE_BY_ONE if jax.device_count() == 1 else "",
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self._batch_sharding = sharding.split_over_batch(mesh)

    @property
    def mapping(self) -> str | None:
        """A note that the split's classes are found among the method's by name; None where both are the same."""
        if self._table is None:
            return None
        listed = f"{list(self.dataset.label_space.names)}, those of the run are {list(self._space.names)}"
        return f"note: {self._path}: its classes are {listed}; they are matched by name"

    def check_references(self) -> str | None:
        """Looks at a few of the labels or depths that the headline compares with.

        Returns:
          A note on classes without a pixel, if there are any.

        Raises:
          UserError: no frame has a valid pixel of the headline's.
        """
        section, own = self._section, self.dataset.label_space.names
        if metrics.METRICS[section.headline].map == "depth":
            depths = (self.dataset.read(index, ("depth",))["depth"] for index in range(len(self.dataset)))
            if not any((each > 0).any() for each in depths):
                raise UserError(f"{self._path}: no frame of the split has a valid depth for '{section.headline}'")
            return None
        averaged = protocols(self._space).get(section.protocol)
        if averaged is not None and section.headline == "dice":
            averaged = _foreground(self._space, averaged)
        means = section.headline in ("miou", "dice")
        names = [self._space.names[k] for k in averaged] if averaged is not None and means else own
        return label_check.check(self.dataset, self._path, [own.index(name) for name in names if name in own])

    def check(self, state: Any) -> None:
        """Scores one batch, so that a mistake shows before the first step and not after the last."""
        needed = metrics.METRICS[self._section.headline].map
        found = self._run(state, self._translated(self._batches[0]))
        if self.scored and {"label": "confusion", "depth": "depth"}[needed] not in found:
            known = (("prediction", "classes"), ("depth", "depth"))
            predicted = " and ".join(word for name, word in known if name in found) or "nothing"
            raise UserError(
                f"config.evaluation.headline: expected a metric of what the method predicts and {self._path} holds, "
                f"which is {predicted}, got "
                f"'{self._section.headline}'"
            )

    def evaluate(
        self, state: Any, pictures: int = 0, between: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Scores the split and keeps what the state makes of a few frames, in one pass.

        Every process has to call it.

        Args:
          state: the method's state.
          pictures: how many batches, evenly spaced, give their first frame.
          between: called before every batch; what it raises ends the pass.

        Returns:
          The figures of a result row, see `summarise`, None where there is nothing to score on; and the frames, in the
          first process alone, to whose block they belong: {"name": str, "image": uint8 [H, W, 3], "label",
          "prediction": uint8 [h, w], "entropy": float32 [h, w] in [0, 1]}, the label None where the split has none.
          A method without classes has no frames to show.
        """
        totals, frames = self.totals(state, pictures, between)
        return (self.summary(totals) if self.scored else None), frames

    def totals(
        self, state: Any, pictures: int = 0, between: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Returns the sums that `summary` makes figures of, and the frames; arguments and frames as `evaluate`.

        They are "confusion" int64 [C, C] and "depth" float64 [S], as far as there is something to compare with; those
        of several splits may be added.
        """
        count = len(self._batches)
        chosen = np.linspace(0, count, min(pictures, count), endpoint=False, dtype=int).tolist()
        totals: dict[str, np.ndarray] = {}
        frames = []
        for number, batch in self._wanted(chosen):
            between()
            found = self._run(state, batch)
            if "confusion" in found:
                # Summed on the host in 64 bits: 32 would overflow on a large split.
                totals["confusion"] = totals.get("confusion", 0) + np.asarray(found["confusion"], np.int64)
            if "depth" in found:
                sums = np.asarray(found["depth"], np.float64).sum(axis=(0, 1))
                totals["depth"] = totals.get("depth", 0) + sums
            # The batch's first frame lies in the block of the first process.
            if number in chosen and "prediction" in found and jax.process_index() == 0:
                frames.append(self._frame(batch, found))
        return totals, frames

    def _wanted(self, chosen: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields the batches with their numbers: all of them where they are scored, else those of the pictures."""
        if self.scored:
            return enumerate(map(self._translated, self._batches))
        return ((number, self._batches[number]) for number in chosen)

    def _translated(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns a batch whose labels are the method's classes."""
        return batch if self._table is None else batch | {"label": self._table.take(batch["label"])}

    def _run(self, state: Any, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        maps = {name: batch[name] for name in ("image", *self._references)}
        return self._step(state, sharding.to_global(maps, self._batch_sharding))

    def _frame(self, batch: Mapping[str, np.ndarray], found: Mapping[str, jax.Array]) -> dict[str, Any]:
        maps = {"image": batch["image"][0], "label": batch["label"][0] if "label" in batch else None}
        predicted = jax.device_get({name: found[name] for name in ("prediction", "entropy")})
        return {"name": self.dataset.name(int(batch["index"][0])), **maps, **predicted}

    def summary(self, totals: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns the figures of a result row, see `summarise`."""
        summary = {"miou": {}, "iou": {}, "dice": {}, "pixel_accuracy": None, "metrics": {}}
        if "confusion" in totals:
            labelled = self.dataset.label_space.names
            summary = summarise(totals["confusion"], self._space, self._section.protocol, labelled)
        if "depth" in totals:
            sums = dict(zip(metrics.DEPTH_SUMS, totals["depth"].tolist(), strict=True))
            summary["metrics"] |= metrics.depth_metrics(sums)
        return summary


def _class_table(own: label_spaces.LabelSpace, space: label_spaces.LabelSpace, path: str) -> np.ndarray | None:
    """Returns the table uint8 [256] from label values of a split to the classes of a method; None if they are equal.

    Raises:
      UserError: the split has a class that the method does not know.
    """
    if own.names == space.names:
        return None
    if unknown := [name for name in own.names if name not in space.names]:
        raise UserError(
            f"{path}: expected classes of the run {list(space.names)}, got {list(own.names)}: the run does not know "
            f"{unknown}; give the split a label_space of the run's classes, or a folder of your own a dataset.yaml in "
            "it that lists the run's and has the ids of the others in 'ignore'"
        )
    table = np.full(256, label_spaces.IGNORE, np.uint8)
    table[: len(own.names)] = [space.names.index(name) for name in own.names]
    return table


def protocols(space: label_spaces.LabelSpace) -> dict[str, tuple[int, ...]]:
    """Returns the protocols that a confusion matrix of this label space answers: name -> classes that are averaged.

    A protocol is known by the names of its classes, in whichever order the space has them. The 19 and the 16 classes
    also answer the smaller protocols of SYNTHIA's papers. Digits are classes of whole pictures and answer
    "accuracy". Any other space answers "own", the mean over all of it.
    """
    if space.names == digits.CLASSES:
        return {ACCURACY: tuple(range(len(space.names)))}
    for family in (("19", "16", "13"), ("10",), ("7",), ("camvid",), ("idd_lite",)):
        for position, protocol in enumerate(family):
            if set(space.names) == set(label_spaces.label_space(protocol).names):
                names = {answered: label_spaces.label_space(answered).names for answered in family[position:]}
                return {answered: tuple(map(space.names.index, classes)) for answered, classes in names.items()}
    return {"own": tuple(range(len(space.names)))}


def _foreground(space: label_spaces.LabelSpace, classes: Sequence[int]) -> list[int]:
    """Returns those of some classes that are not the background."""
    return [k for k in classes if space.names[k] != label_spaces.BACKGROUND]


def summarise(
    matrix: np.ndarray,
    space: label_spaces.LabelSpace,
    protocol: str | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Turns a confusion matrix into the figures of a result row.

    Args:
      matrix: int64 [C, C], rows = labels.
      space: the label space of its rows.
      protocol: whose classes the metrics "miou" and "dice" average; None, or one that cannot be answered = the first.
      classes: those that the split has labels of; protocols of others are left out if that leaves any. None = all.

    Returns:
      {"miou": {protocol: fraction}, "iou" and "dice": {class: fraction or None}, "pixel_accuracy": fraction, "metrics":
      {name: fraction or None}}. A protocol's mean covers its classes that are labelled in the split, the mean of Dice
      those but for the background; a class that is neither labelled nor predicted is None. "accuracy" is no mean, but
      the share of labels that are right.
    """
    iou, dice, accuracy = metrics.iou(matrix), metrics.dice(matrix), float(metrics.pixel_accuracy(matrix))
    labelled = np.flatnonzero(matrix.sum(axis=1))
    means, found = {}, {"pixel_accuracy": accuracy if labelled.size else None}
    known = set(map(space.names.index, space.names if classes is None else classes))
    answered = {name: averaged for name, averaged in protocols(space).items() if known.issuperset(averaged)}
    answered = answered or protocols(space)
    headed = protocol if protocol in answered else next(iter(answered))
    for name, averaged in answered.items():
        present = [c for c in averaged if c in labelled]
        score = accuracy if name == ACCURACY else metrics.mean_iou(matrix, present)
        means[name] = score if present else None
        if name == headed and name != ACCURACY:
            foreground = _foreground(space, present)
            found |= {"miou": means[name], "dice": float(dice[foreground].mean()) if foreground else None}
    if ACCURACY in means:
        found[ACCURACY] = means[ACCURACY]
    return {
        "miou": means,
        "iou": _by_name(space, iou),
        "dice": _by_name(space, dice),
        "pixel_accuracy": accuracy,
        "metrics": found,
    }


def _by_name(space: label_spaces.LabelSpace, values: np.ndarray) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(space.names, values, strict=True)}


def headline(summary: Mapping[str, Any], section: Evaluation, path: str = "config.evaluation.final") -> float:
    """Returns the value of the headline metric.

    Args:
      summary: the figures of a split.
      section: names the metric, and the protocol of a mean IoU.
      path: dotted name of the split's section, for messages.

    Raises:
      UserError: the method or the label space has no such figure, or there was nothing to compare with.
    """
    if section.headline == "miou":
        field, name, figures = "protocol", section.protocol, summary["miou"]
    else:
        field, name, figures = "headline", section.headline, summary["metrics"]
    if name not in figures:
        raise UserError(f"config.evaluation.{field}: expected one of {sorted(figures)}, got {name!r}")
    value = figures[name]
    if value is None or np.isnan(value):
        kind = metrics.METRICS[section.headline].map
        what = f"label of protocol {name!r}" if field == "protocol" else f"valid {kind} for {name!r}"
        raise UserError(f"{path}: no frame of the split has a {what}")
    return value
