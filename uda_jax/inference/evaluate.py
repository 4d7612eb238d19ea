"""Scoring: exact sums over a whole split, the same on any number of devices."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses, ops
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import domains, streams
from uda_jax.errors import UserError
from uda_jax.inference import calibration, depth, label_check, scores
from uda_jax.inference.figures import answerable, foreground, protocols, summarise
from uda_jax.inference.options import Evaluation
from uda_jax.training import metrics, sharding

# What metrics are computed against, where the split and the method have it.
_REFERENCES = ("label", "depth")
# What lets frames of different sizes be scored, for messages.
_ONE_BY_ONE = "config.evaluation.batch_size=1, which scores each frame at its own size"


class Details(NamedTuple):
    """What a pass finds beside the figures.

    Attributes:
      totals: the sums that `Evaluator.summary` makes figures of.
      calibration: float64 [3, K], see `calibration.row_sums`; None without classes.
      frames: each frame's name and confusion matrix, int64 [C, C].
    """

    totals: dict[str, np.ndarray]
    calibration: np.ndarray | None
    frames: list[tuple[str, np.ndarray]]


def evaluation_step(method: Any, section: Evaluation, mesh: jax.sharding.Mesh, *, details: bool = False) -> Callable:
    """Returns the compiled function that all evaluators of a method may share.

    Args:
      method: gives `predict`.
      section: how scores are made from the method's own.
      mesh: the device mesh, over which the state may be split.
      details: whether to find what `Evaluator.details` needs, too.

    Returns:
      step(state, batch) -> replicated arrays, as far as the method predicts what they need: "confusion" int32 [C, C]
      (rows = labels), "void" int32 [C] (predictions at pixels without a label, where these are to count), "depth" and
      "depth_scaled" float32 [B, h, S] (sums of `metrics.DEPTH_SUMS` over each row of pixels, of depths as they are, and
      times each frame's `depth.median_scale`), and of the batch's first frame "prediction" uint8 [h, w] and "entropy"
      float32 [h, w] in [0, 1]. The batch holds "image", and "label" or "depth" or both. Of details, "frames" int32
      [B, C, C] and "calibration" float32 [B, h, 3, K].
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
                found |= _counts(maps["scores"], prediction, batch["label"].astype(jnp.int32), section, details)
        if "depth" in maps and "depth" in batch:
            predicted, true = maps["depth"][..., 0].astype(jnp.float32), batch["depth"]
            scaled = predicted * depth.median_scale(predicted, true)[:, None, None]
            found |= {"depth": depth.row_sums(predicted, true), "depth_scaled": depth.row_sums(scaled, true)}
        return found

    return sharding.Compiled(step, mesh)


def _counts(
    scores_: jax.Array, prediction: jax.Array, labels: jax.Array, section: Evaluation, details: bool
) -> dict[str, jax.Array]:
    """Returns what `evaluation_step` counts against labels."""
    classes = scores_.shape[-1]
    if details:
        frames = jax.vmap(lambda one, other: ops.confusion_matrix(one, other, classes))(labels, prediction)
        found = {
            "frames": frames,
            "confusion": frames.sum(axis=0),
            "calibration": calibration.row_sums(scores_, labels),
        }
    else:
        found = {"confusion": ops.confusion_matrix(labels, prediction, classes)}
    if section.count_void_labels:
        labelled = labels < classes
        # Frames without any label are what a batch is filled up with.
        void = ~labelled & labelled.any(axis=(1, 2), keepdims=True)
        found["void"] = ops.confusion_matrix(jnp.where(void, 0, label_spaces.IGNORE), prediction, classes)[0]
    return found


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
        if section.count_void_labels and domain.fit == "pad":
            raise UserError(
                f"{path}.fit: expected 'stretch' together with config.evaluation.count_void_labels, since what is "
                "padded has no label either, got 'pad'"
            )
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
    def space(self) -> label_spaces.LabelSpace:
        """The classes that the rows of confusion matrices are."""
        return self._space

    @property
    def averaged(self) -> tuple[str, tuple[int, ...]]:
        """The protocol that heads the figures, and its classes."""
        answered = answerable(self._space, self.dataset.label_space.names)
        name = self._section.protocol if self._section.protocol in answered else next(iter(answered))
        return name, answered[name]

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
            averaged = foreground(self._space, averaged)
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

        They are "confusion" int64 [C, C], "depth" and "depth_scaled" float64 [S], as far as there is something to
        compare with; those of several splits may be added.
        """
        count = len(self._batches)
        chosen = np.linspace(0, count, min(pictures, count), endpoint=False, dtype=int).tolist()
        totals: dict[str, np.ndarray] = {}
        frames = []
        for number, batch in self._wanted(chosen):
            between()
            found = self._run(state, batch)
            _add(totals, found)
            # The batch's first frame lies in the block of the first process.
            if number in chosen and "prediction" in found and jax.process_index() == 0:
                frames.append(self._frame(batch, found))
        return totals, frames

    def details(self, state: Any) -> Details:
        """Returns what `totals` does, the calibration, and each frame's counts; needs a step made with `details`."""
        totals: dict[str, np.ndarray] = {}
        sums, frames = None, []
        for batch in map(self._translated, self._batches):
            found = self._run(state, batch)
            _add(totals, found)
            if "frames" not in found:
                continue
            sums = (0 if sums is None else sums) + np.asarray(found["calibration"], np.float64).sum(axis=(0, 1))
            # Of a global batch, this process knows the names of its own block.
            first = jax.process_index() * len(batch["index"])
            own = np.asarray(found["frames"], np.int64)[first : first + len(batch["index"])]
            pairs = zip(batch["index"].tolist(), own, strict=True)
            frames += [(self.dataset.name(index), matrix) for index, matrix in pairs if index >= 0]
        return Details(totals, sums, frames)

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
            summary = summarise(
                totals["confusion"],
                self._space,
                self._section.protocol,
                labelled,
                void=totals.get("void"),
                count_void_predictions=self._section.count_void_predictions,
            )
        for name, ending in (("depth", ""), ("depth_scaled", metrics.SCALED)):
            if name in totals:
                sums = dict(zip(metrics.DEPTH_SUMS, totals[name].tolist(), strict=True))
                found = metrics.depth_metrics(sums)
                summary["metrics"] |= {f"{metric}{ending}": value for metric, value in found.items()}
        return summary


def _add(totals: dict[str, np.ndarray], found: Mapping[str, jax.Array]) -> None:
    """Adds the sums of a batch, on the host: 32 bits would overflow on a large split, or round."""
    for name in ("confusion", "void"):
        if name in found:
            totals[name] = totals.get(name, 0) + np.asarray(found[name], np.int64)
    for name in ("depth", "depth_scaled"):
        if name in found:
            totals[name] = totals.get(name, 0) + np.asarray(found[name], np.float64).sum(axis=(0, 1))


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
