"""PLCA: pixel-level cycle association (Kang et al., NeurIPS 2020, arXiv 2011.00147).

Every pixel i of a source image goes to its most similar target pixel j*(i), and j*(i) to its most similar source pixel.
Where that cycle ends in the class in which it began, i is in M, and both links are strengthened against all others:

    L_asso = -1/|M| sum_{i in M} log p(i -> j*(i)) q(j*(i) -> i*(j*(i)))

with p and q the softmax of contrast-normalised similarities. Each target pixel is first mixed with those like it,
z = (1 - alpha) t + alpha sum_k w_k t_k, so that gradients reach target pixels without a cycle. The features F of the
last stage are compared by cosine, the class probabilities P of the same grid by their KL divergence:

    L = L_CE(x_s) + w_lov L_lov(x_s) + beta_F L_asso(F) + beta_P L_asso(P) + w_lsr [L_lsr(x_s) + L_lsr(x_t)]

One stage and one network; no discriminator, no pseudo-label, and no label of the target is read.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.schema import config_field

# Pairs of pixels that `illustrate` shows of an image pair.
SHOWN_PIXELS = 24

# What a step draws beside its two forwards; DACS, which may have the association too, takes 0 and 1 for its mixing.
_SUB_GRID_SOURCE, _SUB_GRID_TARGET, _SHOWN = 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Association:
    """Section: the cycle association, of features and of predictions."""

    feature_weight: float = config_field(0.1, "beta_F, weight of the feature level; 0 = off.", low=0.0)
    prediction_weight: float = config_field(0.1, "beta_P, weight of the prediction level; 0 = off.", low=0.0)
    aggregation: float = config_field(
        0.5, "alpha < 1, share of similar pixels in every target pixel; 0 = no aggregation.", low=0.0, high=1.0
    )
    # The released code can reduce the maps, but neither published config does; blockwise, memory is no reason to.
    reduction: str = config_field(
        "none",
        "What is associated: all pixels, those of random rows and columns, or bilinearly down-sampled maps.",
        choices=("none", "random", "bilinear"),
    )
    scale: float = config_field(1.0, "Share of rows and of columns that a reduction leaves.", low=0.0, high=1.0)
    reduction_group: int = config_field(
        0, "Image pairs whose cycles are averaged together, before the groups are; 0 = all of a batch.", low=0
    )
    block_size: int | None = config_field(
        None, "Pixels per tile of the similarity matrix; None = by its size, 0 = the whole matrix at once.", low=0
    )

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if self.aggregation == 1:
            raise UserError(f"{path}.aggregation: expected a number in [0, 1), got {self.aggregation!r}")
        if self.reduction == "none" and self.scale != 1:
            raise UserError(f"{path}.scale: expected 1 with reduction 'none', got {self.scale!r}; choose a reduction")
        if self.reduction != "none" and not 0 < self.scale < 1:
            raise UserError(
                f"{path}.scale: expected a number in (0, 1) with reduction '{self.reduction}', got {self.scale!r}"
            )

    @property
    def tiles(self) -> int | str | None:
        """The `block_size` of the losses."""
        return {None: "auto", 0: None}.get(self.block_size, self.block_size)

    def losses(
        self, source: Mapping[str, jax.Array], target: Mapping[str, jax.Array], labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns the weighted losses of both levels, each with cycles and aggregation of its own.

        Args:
          source, target: the network's "features" `[B, h, w, D]` and "logits" `[B, h, w, C]` of paired images.
          labels: the source's, int32 `[B, H, W]`.
          key: what the random reduction draws from.
        """
        source = self.reduced(source, jax.random.fold_in(key, _SUB_GRID_SOURCE), labels)
        target = self.reduced(target, jax.random.fold_in(key, _SUB_GRID_TARGET))
        terms = {}
        if self.feature_weight:
            maps = (source["features"], target["features"], source["labels"])
            terms["association_features"] = self.feature_weight * self._loss(*maps, similarity="cosine")
        if self.prediction_weight:
            maps = (jax.nn.softmax(source["logits"]), jax.nn.softmax(target["logits"]), source["labels"])
            terms["association_predictions"] = self.prediction_weight * self._loss(*maps, similarity="kl")
        return terms

    def _loss(self, *maps: jax.Array, similarity: str) -> jax.Array:
        """Returns L_asso of source maps, target maps and labels: 1/|M| is that of a group of image pairs."""
        options = {"similarity": similarity, "aggregation": self.aggregation or None, "block_size": self.tiles}
        pairs, group = len(maps[0]), self.reduction_group or len(maps[0])
        if pairs % group:
            raise UserError(
                f"config.method.association.reduction_group: expected a divisor of the {pairs} image pairs of a batch, "
                f"got {group}; or 0 for all of them"
            )
        if pairs == group:
            return losses.cycle_association(*maps, **options)
        groups = [x.reshape(-1, group, *x.shape[1:]) for x in maps]
        return jnp.mean(jax.vmap(functools.partial(losses.cycle_association, **options))(*groups))

    def reduced(
        self, outputs: Mapping[str, jax.Array], key: jax.Array, labels: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Returns what is associated of one domain: "features", "logits" and, if given, "labels" of the same grid.

        Args:
          outputs: the network's maps `[B, h, w, ...]`.
          key: what random rows and columns are drawn from, for each image its own.
          labels: `[B, H, W]` at the image's size, read by the legacy nearest rule at the grid of the maps; a bilinear
            reduction reads them straight at the reduced one.
        """
        maps = {name: outputs[name] for name in ("features", "logits")}
        grid = outputs["logits"].shape[1:3]
        # At least one row and column is left, however small the map.
        left = tuple(max(1, int(self.scale * n)) for n in grid)
        if self.reduction == "bilinear":
            maps = {name: _downsampled(x, left, self.scale) for name, x in maps.items()}
            grid = left
        if labels is not None:
            maps["labels"] = ops.resize_nearest_legacy(labels, grid)
        return _sub_grid(maps, left, key) if self.reduction == "random" else maps


@dataclasses.dataclass(frozen=True)
class PLCA(base.SegmenterAlone):
    """Cross entropy and Lovasz-Softmax on the source, cycle association and label smoothing on both domains."""

    # Fields that a trained run can still change, since they act in `predict` alone.
    PREDICTION_FIELDS = ("test_aggregation",)

    # The paper's 0.75, which the released code multiplies by its 2 devices and its 2 accumulated batches.
    lovasz_weight: float = config_field(3.0, "w_lov, weight of Lovasz-Softmax; 0 = off.", low=0.0)
    association: Association = config_field(Association(), "The cycle association.")
    # The released code has it with the prediction level only; here it is a switch of its own.
    smoothing_weight: float = config_field(
        0.01, "w_lsr, weight of the adaptive label smoothing of each domain; 0 = off.", low=0.0
    )
    smoothing_strength: float = config_field(
        10.0, "lambda, cross entropy against uniform labels below which smoothing sharpens; 0 = plain mean.", low=0.0
    )
    test_aggregation: bool = config_field(
        False, "Predict from aggregated features and probabilities, as the released test configs do."
    )

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if self.test_aggregation and not self.association.aggregation:
            raise UserError(f"{path}.test_aggregation: expected False with association.aggregation 0, got True")
        if self.segmenter.multi_level:
            raise UserError(f"{path}.segmenter.multi_level: expected False, since one head is trained, got True")

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """Two forwards, one backward, one update."""
        labels = batch["source"]["label"].astype(jnp.int32)

        def segmenter_loss(params):
            source, target, model_state = self._forward(params, state, batch)
            terms = self.objective(source, target, labels, jax.random.fold_in(state.key, state.step))
            return sum(terms.values()), (terms, model_state)

        value_and_gradient = jax.value_and_grad(segmenter_loss, has_aux=True)
        (total, (terms, model_state)), gradient = value_and_gradient(state.params["segmenter"])
        state, norm = base.apply_player(state, "segmenter", {"segmenter": gradient}, self.transformation(state.params))
        state = state.replace(step=state.step + 1, model_state={"segmenter": model_state})
        return state, base.loss_metrics(terms | {"total": total}) | {"norm/segmenter": norm}

    def _forward(self, params: Any, state: base.TrainState, batch: base.Batch) -> tuple[dict, dict, Any]:
        """Returns the outputs of source and target in training mode, and the running statistics after both."""
        outputs, model_state = {}, state.model_state["segmenter"]
        # The target first: each has its own batch statistics, and the running ones take up the source's last.
        for i, domain in enumerate(("target", "source")):
            images = ops.normalise(batch[domain]["image"], self.segmenter.input_norm)
            key = base.dropout_key(state, i)
            outputs[domain], model_state = base.forward(self.network, params, model_state, images, train=True, key=key)
        return outputs["source"], outputs["target"], model_state

    def objective(
        self, source: Mapping[str, jax.Array], target: Mapping[str, jax.Array], labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns the weighted terms of L; a term of weight 0 is left out.

        Args:
          source, target: the network's "features" `[B, h, w, D]` and "logits" `[B, h, w, C]` of paired images.
          labels: the source's, int32 `[B, H, W]`.
          key: what the random reduction of the association draws from.
        """
        scores = ops.resize_bilinear(source["logits"], labels.shape[1:3], align_corners=False)
        terms = {"segmentation": losses.cross_entropy(scores, labels)}
        if self.lovasz_weight:
            terms["lovasz"] = self.lovasz_weight * losses.lovasz_softmax(jax.nn.softmax(scores), labels)
        terms |= self.association.losses(source, target, labels, key)
        if self.smoothing_weight:
            for domain, outputs in (("source", source), ("target", target)):
                smoothing = losses.adaptive_label_smoothing(outputs["logits"], strength=self.smoothing_strength)
                terms[f"smoothing_{domain}"] = self.smoothing_weight * smoothing
        return terms

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": [B, *size, C]} for uint8 RGB images [B, H, W, 3].

        They are logits, interpolated once by pixel centres, or with `test_aggregation` log-probabilities.
        """
        inputs = ops.normalise(images, self.segmenter.input_norm)
        variables = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
        outputs = self.network.apply(variables, inputs, train=False)
        if self.test_aggregation:
            return {"scores": self.aggregated_scores(variables, outputs["features"], size)}
        return {"scores": ops.resize_bilinear(outputs["logits"], size, align_corners=False)}

    def aggregated_scores(self, variables: Mapping[str, Any], features: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Scores of the released test configs: aggregated features, classified, and their probabilities aggregated.

        Args:
          variables: the network's, of which its head is used.
          features: `[B, h, w, D]`.
          size: height and width of the scores.

        Returns:
          `[B, *size, C]`, the logarithm of the interpolated probabilities: their softmax is what was interpolated.
        """
        options = {"alpha": self.association.aggregation, "block_size": self.association.tiles}
        mixed = losses.aggregate(features, similarity="cosine", **options)
        probabilities = jax.nn.softmax(self.network.apply(variables, mixed, method="classify"))
        probabilities = losses.aggregate(probabilities, similarity="kl", **options)
        probabilities = ops.resize_bilinear(probabilities, size, align_corners=False)
        return jnp.log(jnp.maximum(probabilities, jnp.finfo(jnp.float32).tiny))

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, base.Pairs]:
        """Returns {"association": associated pixels of the batch's first image pairs}.

        They are drawn at random from the consistent cycles of the feature level, on the whole grid, with the batch
        statistics of training. A pixel of the grid stands at the centre of its cell of the image.
        """
        source, target, _ = self._forward(state.params["segmenter"], state, batch)
        labels = ops.resize_nearest_legacy(batch["source"]["label"].astype(jnp.int32), source["features"].shape[1:3])
        maps = [x[: base.SHOWN_IMAGES] for x in (source["features"], target["features"], labels)]
        section = self.association
        found = losses.association_diagnostics(
            *maps, similarity="cosine", aggregation=section.aggregation or None, block_size=section.tiles
        )
        images = [batch[domain]["image"][: base.SHOWN_IMAGES] for domain in ("source", "target")]
        selected = found["selected_mask"].reshape(len(maps[2]), -1)
        priority = jax.random.uniform(base.dropout_key(state, _SHOWN), selected.shape)
        priority, chosen = jax.lax.top_k(jnp.where(selected, priority, -1.0), min(SHOWN_PIXELS, selected.shape[1]))
        ends = jnp.take_along_axis(found["target_index"].reshape(selected.shape), chosen, axis=1)
        points = [
            _centres(index, x.shape[1:3], image.shape[1:3])
            for index, x, image in zip((chosen, ends), maps, images, strict=False)
        ]
        points = jnp.where(priority[..., None] >= 0, jnp.concatenate(points, axis=-1), -1)
        classes = jnp.take_along_axis(maps[2].reshape(selected.shape), chosen, axis=1)
        return {"association": base.Pairs(*images, points, classes)}


def _downsampled(x: jax.Array, size: tuple[int, int], scale: float) -> jax.Array:
    """Interpolates maps `[B, H, W, C]` at max((i + 0.5) / scale - 0.5, 0), whatever the ratio of the sizes.

    That is `torch.nn.functional.interpolate` with a scale factor, which is not the ratio where the size was rounded.
    """
    scales, nothing = jnp.full(2, scale, jnp.float32), jnp.zeros(2)
    return jax.image.scale_and_translate(
        x, (len(x), *size, x.shape[-1]), (1, 2), scales, nothing, method="linear", antialias=False
    )


def _sub_grid(maps: Mapping[str, jax.Array], size: tuple[int, int], key: jax.Array) -> dict[str, jax.Array]:
    """Returns maps `[B, *size, ...]` of random rows and columns, unsorted, the same in all maps of an image."""

    def cut(key, maps):
        row_key, column_key = jax.random.split(key)
        height, width = maps["logits"].shape[:2]
        rows = jax.random.permutation(row_key, height)[: size[0]]
        columns = jax.random.permutation(column_key, width)[: size[1]]
        return {name: x[rows[:, None], columns[None, :]] for name, x in maps.items()}

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(maps["logits"])))
    return jax.vmap(cut)(keys, dict(maps))


def _centres(index: jax.Array, grid: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Returns int32 rows and columns `[..., 2]`, in an image of some size, of pixels `index` of a flattened grid."""
    cells = jnp.stack(jnp.unravel_index(index, grid), axis=-1)
    return ((2 * cells + 1) * jnp.array(size) // (2 * jnp.array(grid))).astype(jnp.int32)


METHOD = PLCA
