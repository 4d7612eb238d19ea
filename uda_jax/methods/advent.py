"""ADVENT: entropy minimisation for domain adaptation (Vu et al., CVPR 2019, arXiv 1811.12833).

Take it as a quick baseline that needs nothing but images, and as the start of IntraDA.

Two objectives on the unlabelled target, chosen by `objective`:

    MinEnt  ("entropy"):      L_seg(x_s) + lambda_ent L_ent(x_t)
    AdvEnt  ("adversarial"):  L_seg(x_s) + lambda_adv BCE(D(I(x_t)), source)
                              while D learns to tell I(x_s) from I(x_t)

where P is the softmax map at the image's size, I = -P log2 P / log2 C its weighted self-information and L_ent
the mean over pixels of I summed over classes. With a multi-level segmenter both act on two heads, each with
its own weight and, in AdvEnt, its own discriminator. Two additions of the paper work with either objective or with
MinEnt alone: the class-ratio prior (section 3.3, "CP") and the entropy range of MinEnt ("ER").

With a weight of `masking` (MIC, arXiv 2212.01322) the segmenter also learns the labels that its average gives target
images, of which it sees a part.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts.alignment import (
    Discriminator,
    DiscriminatorInputs,
    adversarial_players,
    head_weights,
    information,
    initial_networks,
    loss_name,
    probabilities,
)
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.masking import Masking, masked_parts
from uda_jax.methods.parts.mixing import Trust
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.methods.parts.updates import GeneratorLosses, Previous, initial_state, two_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class Advent(base.SegmentationMethod):
    """MinEnt and AdvEnt."""

    objective: str = config_field("adversarial", "MinEnt or AdvEnt.", choices=("entropy", "adversarial"))
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "One per head; unused by MinEnt.")
    aux_weight: float = config_field(0.1, "lambda_seg, weight of the earlier head's cross entropy.", low=0.0)
    target_weight: float = config_field(0.001, "lambda_ent or lambda_adv of the main head.", low=0.0)
    target_aux_weight: float = config_field(0.0002, "Weight of the earlier head's loss on the target.", low=0.0)
    hard_fraction: float = config_field(
        1.0, "MinEnt: share of each target image's pixels, most uncertain first, that is minimised (ER: 0.3).", high=1.0
    )
    # The released code lacks it; relaxation and weight are the specification's best guess.
    prior_weight: float = config_field(0.0, "Weight of the class-ratio prior on the main head (CP); 0 = off.", low=0.0)
    prior_relaxation: float = config_field(
        0.5, "Share mu of the source's class ratio that is asked for.", low=0, high=1
    )
    masking: Masking = config_field(Masking(weight=0.0), "Masked target images (MIC) as one more loss.")
    teacher: MeanTeacher = config_field(MeanTeacher(alpha=0.999), "The average that labels masked images.")
    trust: Trust = config_field(Trust(), "How far its labels count.")

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if not self.hard_fraction > 0:
            raise UserError(f"{path}.hard_fraction: expected a number in (0, 1], got {self.hard_fraction!r}")
        if self.hard_fraction < 1 and self.objective != "entropy":
            raise UserError(f"{path}.hard_fraction: expected 1 with objective 'adversarial', got {self.hard_fraction}")

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; AdvEnt adds one discriminator per head, the prior a sum of class shares."""
        if self.objective == "adversarial":
            variables = initial_networks(self, key, example_batch)
        else:
            variables = {"segmenter": self.initial_segmenter(key, example_batch)}
        generators, discriminators = adversarial_players(self, variables)
        extra = {"class_shares": jnp.zeros(self.num_classes)} if self.prior_weight else {}
        state = initial_state(key, variables, {**generators, **discriminators}, extra=extra)
        return self.teacher.init(state) if self.masking.weight else state

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of the paper's training."""
        source, target = batch["source"], batch["target"]
        discriminators = self.discriminator.of_outputs(self.precision)
        weights = head_weights(self.target_weight, self.target_aux_weight)
        if self.prior_weight:
            shares = state.extra["class_shares"] + _class_shares(source["label"], self.num_classes)
            state = state.replace(extra=state.extra | {"class_shares": shares})
        teacher, masked = self.masked_images(state, batch)

        def source_loss(params) -> GeneratorLosses:
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
            terms = segmentation_losses(self.segmenter, outputs, source["label"], self.aux_weight)
            maps = None
            if self.objective == "adversarial":
                maps = information(self.segmenter, outputs, source["image"].shape[1:3])
            return GeneratorLosses(terms, maps, {"segmenter": model_state})

        def target_loss(params, before: Previous) -> GeneratorLosses:
            # Normalised by its own batch statistics, which update those that the source has updated.
            images, model_state = before.then(target["image"]), before.found.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            maps, terms = probabilities(self.segmenter, outputs, images.shape[1:3]), {}
            if self.prior_weight:
                # Against the classes' mean share in the source batches so far.
                prior = state.extra["class_shares"] / jnp.maximum(jnp.sum(state.extra["class_shares"]), 1e-12)
                penalty = losses.class_ratio_prior(maps["logits"], prior, relaxation=self.prior_relaxation)
                terms["class_prior"] = self.prior_weight * penalty
            if self.objective == "entropy":
                # MinEnt: the mean entropy of each head's target maps, or of their most uncertain pixels.
                for head, p in maps.items():
                    terms[loss_name("entropy", head)] = weights[head] * self._entropy(p)
                return GeneratorLosses(terms, None, {"segmenter": model_state})
            # AdvEnt: the discriminators see weighted self-information.
            information_t = {head: ops.self_information(p) for head, p in maps.items()}
            inputs = DiscriminatorInputs(before.found.discriminator_inputs, information_t)
            terms |= discriminators.adversarial_losses(params, inputs.target, weights)
            return GeneratorLosses(terms, inputs, {"segmenter": model_state})

        generators, others = adversarial_players(self, state.params)
        parts = (source_loss, target_loss, *masked)
        state, metrics = two_player_step(state, generators, others, parts, discriminators.discriminator_losses)
        return (self.teacher.update(teacher, state, self.accumulation) if masked else state), metrics

    def masked_images(self, state: base.TrainState, batch: base.Batch) -> tuple[Any, tuple[Callable, ...]]:
        """Returns the teacher's entry after it has labelled the target, and a part of the loss; or neither."""
        if not self.masking.weight:
            return None, ()
        outputs, teacher = self.teacher.forward(self, state, batch["target"]["image"])
        (part,) = masked_parts(self, state, batch, outputs["logits"], trust=self.trust)

        def masked_loss(params, before: Previous) -> GeneratorLosses:
            terms, model_state = part(params, Previous((None, before.found.model_state), before.gradients))
            return before.found._replace(losses=terms, model_state=model_state)

        return teacher, (masked_loss,)

    def _entropy(self, probabilities: jax.Array) -> jax.Array:
        if self.hard_fraction == 1:
            return losses.entropy(probabilities)
        return losses.hard_entropy(probabilities, fraction=self.hard_fraction)


def _class_shares(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns each class's share [C] of the labelled pixels of a batch; all 0 where there are none."""
    counts = jnp.sum(labels.astype(jnp.int32)[..., None] == jnp.arange(num_classes), axis=(0, 1, 2))
    counts = counts.astype(jnp.float32)
    return counts / jnp.maximum(jnp.sum(counts), 1.0)


METHOD = Advent
