"""ASS: alleviating semantic-level shift (Wang et al., CVPR Workshops 2020, arXiv 2004.00794).

Semi-supervised: labelled source x_s, a few labelled target images x_l, and unlabelled target images x_u.

    G:  min  L_seg(x_s) + lambda_t L_seg(x_l)
             + lambda_G L_adv(D(P_u), source)                      global level: output space, as AdaptSegNet
             + lambda_S mean_k L_S(S(v_l^k), (source, k))          semantic level: the mean feature v^k of class k
    D:  min  1/2 [ L_adv(D(P_s), source) + L_adv(D(P_u), target) ]
    S:  min  1/2 [ mean_k L_S(S(v_s^k), (source, k)) + mean_k L_S(S(v_l^k), (target, k)) ]

v^k averages the features of an image's pixels of class k, selected by the ground truth. S has 2K outputs, (source, k)
and (target, k), and L_S is their cross entropy, so that the target's mean of class k moves to the source's region of
the same class. No code was published; layer widths, weights and the choice of layer are options.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.losses import semantic_adversarial, semantic_adversarial_map
from uda_jax.methods import base
from uda_jax.methods.adversarial import SOURCE, TARGET, MultiLevel
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Adam
from uda_jax.training.precision import compute_dtype

SEMANTIC = "semantic_discriminator"


@dataclasses.dataclass(frozen=True)
class SemanticLevel:
    """Section: the semantic-level discriminator, what it sees and how it learns."""

    weight: float = config_field(0.001, "lambda_S.", low=0.0)
    form: str = config_field(
        "mean", "mean: judge each class's mean vector; pixel: judge every labelled location.", choices=("mean", "pixel")
    )
    source: str = config_field(
        "features",
        "Vectors it sees: the last stage's features, or class probabilities at the network's stride.",
        choices=("features", "probabilities"),
    )
    head: str = config_field(
        "class_conditional",
        "class_conditional: 2K outputs, domain and class; binary: one decision on the domain per class.",
        choices=("class_conditional", "binary"),
    )
    hidden: int = config_field(1024, "Units of its two hidden layers.", low=1)
    optimiser: Adam = config_field(Adam(), "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class ASS(MultiLevel):
    """Global and semantic-level adversarial learning with few labelled target images."""

    labelled_weight: float = config_field(1.0, "lambda_t, weight of the labelled target's cross entropy.", low=0.0)
    semantic: SemanticLevel = config_field(SemanticLevel(), "The semantic level.")

    @property
    def semantic_judge(self) -> nn.Module:
        """The Flax module of S; its parameters are the state's."""
        dtype = compute_dtype(self.precision)
        return networks.build(SEMANTIC, self.num_classes, hidden=self.semantic.hidden, dtype=dtype)

    def players(self, names: list[str]) -> dict[str, tuple[Any, list[str]]]:
        """Three players: the segmenter, the discriminators of its heads, the semantic discriminator."""
        others = [name for name in names if name != SEMANTIC]
        return super().players(others) | {SEMANTIC: (self.semantic.optimiser, [SEMANTIC])}

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: segmenter, one discriminator per head, semantic discriminator."""
        variables = self.initial_variables(key, example_batch)
        images = ops.normalise(example_batch["source"]["image"][:1], self.segmenter.input_norm)
        outputs = jax.eval_shape(lambda: self.network.apply(variables["segmenter"], images, train=False))
        size = self.num_classes if self.semantic.source == "probabilities" else outputs["features"].shape[-1]
        variables[SEMANTIC] = self.semantic_judge.init(jax.random.fold_in(key, len(variables) + 1), jnp.zeros(size))
        return self.first_state(key, variables)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration; a batch without labelled target images leaves the global level alone."""
        labels = {name: maps["label"].astype(jnp.int32) for name, maps in batch.items() if name != "target"}

        def segmenter_loss(params, judges):
            # Source, labelled target, target: each has its own batch statistics, and updates the running ones.
            outputs_s, maps_s, model_state = self.forward(
                params, state.model_state["segmenter"], batch["source"]["image"]
            )
            losses, seen = base.segmentation_losses(outputs_s, labels["source"], self.aux_weight), None
            if "labelled_target" in batch:
                outputs_l, _, model_state = self.forward(params, model_state, batch["labelled_target"]["image"])
                terms = base.segmentation_losses(outputs_l, labels["labelled_target"], self.aux_weight)
                losses |= {f"labelled_{name}": self.labelled_weight * value for name, value in terms.items()}
                seen = (self._seen(outputs_s, labels["source"]), self._seen(outputs_l, labels["labelled_target"]))
                losses["semantic"] = self.semantic.weight * self._decisions(judges, seen[1], SOURCE)
            _, maps_u, model_state = self.forward(params, model_state, batch["target"]["image"])
            losses |= self.fooling_losses(judges, maps_u)
            return losses, (maps_s, maps_u, seen), model_state

        def judge_loss(judges, shown):
            maps_s, maps_u, seen = shown
            losses, metrics = self.discriminator_losses(judges, maps_s, maps_u)
            if seen is not None:
                halves = self._decisions(judges, seen[0], SOURCE) + self._decisions(judges, seen[1], TARGET)
                losses[SEMANTIC] = 0.5 * halves
            return losses, metrics

        return self.adversarial_step(state, segmenter_loss, judge_loss)

    def _seen(self, outputs: Mapping[str, jax.Array], labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What S sees of a domain: class means [B, K, D] and which are present, or all vectors and their labels."""
        vectors = outputs["features"]
        if self.semantic.source == "probabilities":
            vectors = jax.nn.softmax(outputs["logits"].astype(jnp.float32))
        small = ops.resize_nearest_legacy(labels, vectors.shape[1:3])
        if self.semantic.form == "pixel":
            return vectors, small
        means, counts = ops.class_means(vectors, small, self.num_classes)
        return means, counts > 0

    def _decisions(self, judges: Mapping[str, Any], seen: tuple[jax.Array, jax.Array], domain: int) -> jax.Array:
        """Distance of S's decisions from a domain, over everything that it sees."""
        vectors, valid = seen
        logits = self.semantic_judge.apply({"params": judges[SEMANTIC]}, vectors)
        loss = semantic_adversarial if self.semantic.form == "mean" else semantic_adversarial_map
        return loss(logits, valid, domain, kind=self.semantic.head)


METHOD = ASS
