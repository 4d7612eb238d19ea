"""PLCA: pixel-level cycle association (Kang et al., NeurIPS 2020, arXiv 2011.00147).

Take it where neither a discriminator nor a second network is wanted, and classes look alike in both domains.

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
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.association import Association
from uda_jax.methods.parts.forward import dropout_key
from uda_jax.methods.parts.state import ILLUSTRATED_IMAGES
from uda_jax.methods.parts.updates import initial_state, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd

# Pairs of pixels that `illustrate` shows of an image pair.
ILLUSTRATED_PIXELS = 24

# What `illustrate` draws, after the forwards, the mixing and the association of a step.
_ILLUSTRATED = 4


@dataclasses.dataclass(frozen=True)
class PLCA(base.SegmentationMethod):
    """Cross entropy and Lovasz-Softmax on the source, cycle association and label smoothing on both domains."""

    # Fields that a trained run can still change, since they act in `predict` alone.
    PREDICTION_FIELDS = ("test_aggregation",)

    segmenter: base.Segmenter = config_field(
        base.Segmenter(align_corners=False), "The network, whose maps are interpolated by pixel centres."
    )
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    # The paper's 0.75, which the released code multiplies by its 2 devices and its 2 accumulated batches.
    lovasz_weight: float = config_field(3.0, "w_lov, weight of Lovasz-Softmax; 0 = off.", low=0.0)
    # The released code averages over the pixels and classes of each of its devices, which hold 2 images.
    supervised_group: int = config_field(
        0,
        "Source images that share the mean of the cross entropy, and that of Lovasz-Softmax over their classes, as "
        "those of a device do in the released code; 0 = all of a batch.",
        low=0,
    )
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

    @property
    def needed_domains(self) -> tuple[str, ...]:
        """The source; and the target, if any term of L reads it."""
        return self.DOMAINS if self._adapts else ("source",)

    @property
    def _adapts(self) -> bool:
        return any((self.association.feature_weight, self.association.prediction_weight, self.smoothing_weight))

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state."""
        variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        return initial_state(key, variables, {"segmenter": self.player("segmenter", optimiser=self.optimiser)})

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """Two forwards, one backward, one update. Without a term that reads the target, the source's forward alone."""

        def loss(params):
            outputs, model_state = self._forward(params["segmenter"], state, batch)
            maps = outputs["source"], outputs.get("target"), batch["source"]["label"]
            return self.objective(*maps, jax.random.fold_in(state.key, state.step)), {"segmenter": model_state}

        return single_player_step(state, self.player("segmenter", optimiser=self.optimiser), loss)

    def _forward(self, params: Any, state: base.TrainState, batch: base.Batch) -> tuple[dict[str, dict], Any]:
        """Returns each needed domain's outputs in training mode, and the running statistics after all of them."""
        outputs, model_state = {}, state.model_state["segmenter"]
        # The target first: each has its own batch statistics, and the running ones take up the source's last.
        for i, domain in enumerate(("target", "source")):
            if domain in self.needed_domains:
                key = dropout_key(state, i)
                outputs[domain], model_state = self.forward(params, model_state, batch[domain]["image"], key=key)
        return outputs, model_state

    def objective(
        self,
        source: Mapping[str, jax.Array],
        target: Mapping[str, jax.Array] | None,
        labels: jax.Array,
        key: jax.Array,
    ) -> dict[str, jax.Array]:
        """Returns the weighted terms of L; a term of weight 0 is left out.

        Args:
          source, target: the network's "features" `[B, h, w, D]` and "logits" `[B, h, w, C]` of paired images; the
            target may be None where no term reads it.
          labels: the source's `[B, H, W]`.
          key: what the random reduction of the association draws from.
        """
        labels = labels.astype(jnp.int32)
        terms = self.supervised(self.segmenter.upsample(source["logits"], labels.shape[1:3]), labels)
        if self._adapts:
            terms |= self.association.losses(source, target, labels, key)
        if self.smoothing_weight:
            for domain, outputs in (("source", source), ("target", target)):
                smoothing = losses.adaptive_label_smoothing(outputs["logits"], strength=self.smoothing_strength)
                terms[f"smoothing_{domain}"] = self.smoothing_weight * smoothing
        return terms

    def supervised(self, scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """Returns the weighted terms of L that read nothing but scores `[B, H, W, C]` and labels `[B, H, W]`."""
        group = self.supervised_group or len(labels)
        if len(labels) % group:
            raise UserError(
                f"config.method.supervised_group: expected a divisor of the {len(labels)} source images of a batch, "
                f"got {group}; or 0 for all of them"
            )
        cross_entropy, lovasz = losses.cross_entropy, losses.lovasz_softmax
        if group < len(labels):
            grouped = lambda x: x.reshape(-1, group, *x.shape[1:])  # noqa: E731
            cross_entropy = lambda z, y: jnp.mean(jax.vmap(losses.cross_entropy)(grouped(z), grouped(y)))  # noqa: E731
            lovasz = functools.partial(losses.grouped_lovasz_softmax, group=group)
        terms = {"segmentation": cross_entropy(scores, labels)}
        if self.lovasz_weight:
            terms["lovasz"] = self.lovasz_weight * lovasz(jax.nn.softmax(scores), labels)
        return terms

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": [B, *size, C]} for uint8 RGB images [B, H, W, 3].

        They are logits, interpolated once by pixel centres, or with `test_aggregation` log-probabilities.
        """
        inputs = ops.normalise(images, self.segmenter.input_norm)
        variables = adapted.joined({"params": state.params["segmenter"], **state.model_state["segmenter"]})
        outputs = self.network.apply(variables, inputs, train=False)
        if self.test_aggregation:
            return {"scores": self.aggregated_scores(variables, outputs["features"], size)}
        return {"scores": self.segmenter.upsample(outputs["logits"], size)}

    def aggregated_scores(self, variables: Mapping[str, Any], features: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Scores of the released test configs: aggregated features, classified, and their probabilities aggregated.

        Args:
          variables: the network's, of which its head is used.
          features: `[B, h, w, D]`.
          size: height and width of the scores.

        Returns:
          `[B, *size, C]`, the logarithm of the interpolated probabilities: their softmax is what was interpolated.
        """
        options = {"alpha": self.association.aggregation, **self.association.shared_options}
        mixed = losses.aggregate(features, similarity="cosine", **options)
        probabilities = jax.nn.softmax(self.network.apply(variables, mixed, method="classify"))
        probabilities = losses.aggregate(probabilities, similarity="kl", **options)
        probabilities = self.segmenter.upsample(probabilities, size)
        return jnp.log(jnp.maximum(probabilities, jnp.finfo(jnp.float32).tiny))

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, base.Pairs]:
        """Returns {"association": associated pixels of the batch's first image pairs}; nothing where none associate.

        They are drawn at random from the consistent cycles of the feature level, on the whole grid, with the batch
        statistics of training. A pixel of the grid stands at the centre of its cell of the image.
        """
        if not self._adapts:
            return {}
        outputs, _ = self._forward(state.params["segmenter"], state, batch)
        source, target = outputs["source"], outputs["target"]
        labels = ops.resize_nearest_legacy(batch["source"]["label"].astype(jnp.int32), source["features"].shape[1:3])
        maps = [x[:ILLUSTRATED_IMAGES] for x in (source["features"], target["features"], labels)]
        section = self.association
        found = losses.association_diagnostics(
            *maps, similarity="cosine", aggregation=section.aggregation or None, **section.shared_options
        )
        images = [batch[domain]["image"][:ILLUSTRATED_IMAGES] for domain in ("source", "target")]
        selected = found["selected_mask"].reshape(len(maps[2]), -1)
        priority = jax.random.uniform(dropout_key(state, _ILLUSTRATED), selected.shape)
        priority, chosen = jax.lax.top_k(
            jnp.where(selected, priority, -1.0), min(ILLUSTRATED_PIXELS, selected.shape[1])
        )
        ends = jnp.take_along_axis(found["target_index"].reshape(selected.shape), chosen, axis=1)
        points = [
            _centres(index, x.shape[1:3], image.shape[1:3])
            for index, x, image in zip((chosen, ends), maps, images, strict=False)
        ]
        points = jnp.where(priority[..., None] >= 0, jnp.concatenate(points, axis=-1), -1)
        classes = jnp.take_along_axis(maps[2].reshape(selected.shape), chosen, axis=1)
        return {"association": base.Pairs(*images, points, classes)}


def _centres(index: jax.Array, grid: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Returns int32 rows and columns `[..., 2]`, in an image of some size, of pixels `index` of a flattened grid."""
    cells = jnp.stack(jnp.unravel_index(index, grid), axis=-1)
    return ((2 * cells + 1) * jnp.array(size) // (2 * jnp.array(grid))).astype(jnp.int32)


METHOD = PLCA
