"""ASS: alleviating semantic-level shift (Wang et al., CVPR Workshops 2020, arXiv 2004.00794).

Take it as soon as a few frames of the target can be labelled.

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
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.losses import semantic_adversarial, semantic_adversarial_map
from uda_jax.methods import base
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.alignment import (
    SOURCE,
    TARGET,
    Discriminator,
    DiscriminatorInputs,
    adversarial_players,
    head_weights,
    initial_networks,
    probabilities,
)
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.updates import (
    DiscriminatorLosses,
    GeneratorLosses,
    Players,
    initial_state,
    two_player_step,
)
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam, sgd
from uda_jax.training.precision import compute_dtype

SEMANTIC = "semantic_discriminator"


class SemanticInputs(NamedTuple):
    """What S sees of a domain.

    Attributes:
      vectors: class means [B, K, D], or all vectors [B, h, w, D].
      valid: bool [B, K], which classes are present; or the vectors' labels [B, h, w].
    """

    vectors: jax.Array
    valid: jax.Array


class ASSInputs(NamedTuple):
    """What D sees of source and unlabelled target, and S of source and labelled target, if there is one."""

    outputs: DiscriminatorInputs
    semantic: tuple[SemanticInputs, SemanticInputs] | None


@dataclasses.dataclass(frozen=True)
class SemanticLevel:
    """Section: the semantic-level discriminator, what it sees and how it learns."""

    weight: float = config_field(0.001, "lambda_S.", low=0.0)
    form: str = config_field(
        "mean", "mean: classify each class's mean vector; pixel: every labelled location.", choices=("mean", "pixel")
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
    optimiser: Optimiser = config_field(adam(), "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class ASS(base.SegmentationMethod):
    """Global and semantic-level adversarial learning with few labelled target images."""

    OPTIONAL_DOMAINS = ("labelled_target",)

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "The global level's discriminators, one per head.")
    aux_weight: float = config_field(0.1, "lambda_seg, weight of the earlier head's cross entropy.", low=0.0)
    target_weight: float = config_field(0.001, "lambda_G, weight of the main head's loss on the target.", low=0.0)
    target_aux_weight: float = config_field(0.0002, "Weight of the earlier head's loss on the target.", low=0.0)
    labelled_weight: float = config_field(1.0, "lambda_t, weight of the labelled target's cross entropy.", low=0.0)
    semantic: SemanticLevel = config_field(SemanticLevel(), "The semantic level.")
    running_statistics: str = config_field(
        "all",
        "Whose forwards enter the running averages of batch norm, which predictions are normalised by: those of all "
        "domains, as in AdaptSegNet's code, or of the target alone, labelled or not (as AdaBN, arXiv 1603.04779).",
        choices=("all", "target"),
    )

    @property
    def semantic_network(self) -> nn.Module:
        """The Flax module of S; its parameters are the state's."""
        dtype = compute_dtype(self.precision)
        return networks.build(SEMANTIC, self.num_classes, hidden=self.semantic.hidden, dtype=dtype)

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: segmenter, one discriminator per head, semantic discriminator."""
        variables = initial_networks(self, key, example_batch)
        images = jnp.zeros(example_batch["source"]["image"].shape)
        outputs = jax.eval_shape(lambda: self.network.apply(adapted.joined(variables["segmenter"]), images))
        size = self.num_classes if self.semantic.source == "probabilities" else outputs["features"].shape[-1]
        variables[SEMANTIC] = self.semantic_network.init(jax.random.fold_in(key, len(variables) + 1), jnp.zeros(size))
        generators, discriminators = self.players(variables)
        return initial_state(key, variables, {**generators, **discriminators})

    def players(self, networks: Iterable[str]) -> tuple[Players, Players]:
        """Returns who trains the networks of a state: the segmenter's side; D and S."""
        generators, discriminators = adversarial_players(self, networks)
        return generators, discriminators | {SEMANTIC: self.player(SEMANTIC, optimiser=self.semantic.optimiser)}

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration; a batch without labelled target images leaves the global level alone."""
        source, labelled, target = batch["source"], batch.get("labelled_target"), batch["target"]
        discriminators = self.discriminator.of_outputs(self.precision)
        weights = head_weights(self.target_weight, self.target_aux_weight)

        def generator_loss(params) -> GeneratorLosses:
            # Source, labelled target, target: each has its own batch statistics, and updates the running ones.
            model_state = state.model_state["segmenter"]
            outputs_s, with_source = self.forward(params["segmenter"], model_state, source["image"])
            model_state = with_source if self.running_statistics == "all" else model_state
            losses = segmentation_losses(self.segmenter, outputs_s, source["label"], self.aux_weight)
            semantic = None
            if labelled is not None:
                outputs_l, model_state = self.forward(params["segmenter"], model_state, labelled["image"])
                terms = segmentation_losses(self.segmenter, outputs_l, labelled["label"], self.aux_weight)
                losses |= {f"labelled_{name}": self.labelled_weight * value for name, value in terms.items()}
                pairs = ((outputs_s, source["label"]), (outputs_l, labelled["label"]))
                semantic = tuple(self._semantic_inputs(outputs, label) for outputs, label in pairs)
                losses["semantic"] = self.semantic.weight * self._semantic_loss(params, semantic[1], SOURCE)
            outputs_u, model_state = self.forward(params["segmenter"], model_state, target["image"])
            maps_s = probabilities(self.segmenter, outputs_s, source["image"].shape[1:3])
            maps_u = probabilities(self.segmenter, outputs_u, target["image"].shape[1:3])
            losses |= discriminators.adversarial_losses(params, maps_u, weights)
            inputs = ASSInputs(DiscriminatorInputs(maps_s, maps_u), semantic)
            return GeneratorLosses(losses, inputs, {"segmenter": model_state})

        def discriminator_loss(params, inputs: ASSInputs) -> DiscriminatorLosses:
            losses, metrics = discriminators.discriminator_losses(params, inputs.outputs)
            if inputs.semantic is not None:
                source_loss = self._semantic_loss(params, inputs.semantic[0], SOURCE)
                losses[SEMANTIC] = 0.5 * (source_loss + self._semantic_loss(params, inputs.semantic[1], TARGET))
            return DiscriminatorLosses(losses, metrics)

        generators, others = self.players(state.params)
        return two_player_step(state, generators, others, generator_loss, discriminator_loss)

    def _semantic_inputs(self, outputs: Mapping[str, jax.Array], labels: jax.Array) -> SemanticInputs:
        vectors = outputs["features"]
        if self.semantic.source == "probabilities":
            vectors = jax.nn.softmax(outputs["logits"].astype(jnp.float32))
        small = ops.resize_nearest_legacy(labels.astype(jnp.int32), vectors.shape[1:3])
        if self.semantic.form == "pixel":
            return SemanticInputs(vectors, small)
        means, counts = ops.class_means(vectors, small, self.num_classes)
        return SemanticInputs(means, counts > 0)

    def _semantic_loss(self, params: Mapping[str, Any], inputs: SemanticInputs, domain: int) -> jax.Array:
        """Distance of S's decisions from a domain, over everything that it sees."""
        with jax.named_scope(SEMANTIC):
            logits = self.semantic_network.apply({"params": params[SEMANTIC]}, inputs.vectors)
        loss = semantic_adversarial if self.semantic.form == "mean" else semantic_adversarial_map
        return loss(logits, inputs.valid, domain, kind=self.semantic.head)


METHOD = ASS
