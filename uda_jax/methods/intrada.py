"""IntraDA: intra-domain adaptation through self-supervision (Pan et al., CVPR 2020, arXiv 2004.07703).

Take it where target frames differ in difficulty, after AdvEnt has learnt the easy ones.

    1. inter-domain: train any method on (x_s, y_s) and x_t; its network is G_inter
    2. rank: R(x_t) = mean entropy of G_inter(x_t); the lambda N frames of lowest R are easy (e), the rest hard (k);
             y_e = argmax G_inter(x_e)
    3. intra-domain: G_intra learns lambda_e L_seg(x_e, y_e) + lambda_adv BCE(D(I(x_k)), easy)
                     while D learns to tell I(x_e) from I(x_k)

A config lists the three as stages; the second is `uda_jax.runs.kinds.rank`. This file is the third, whose batch holds
the easy frames with their pseudo-labels as "source" and the hard ones as "target". Without hard frames (lambda = 1)
the adversarial half has nothing to look at, and it is self-training on the whole target.
"""

import dataclasses

from uda_jax.methods import base
from uda_jax.methods.parts.alignment import (
    Discriminator,
    DiscriminatorInputs,
    adversarial_players,
    head_weights,
    information,
    init_with_discriminators,
    probabilities,
)
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.updates import GeneratorLosses, Previous, two_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class IntraDA(base.SegmentationMethod):
    """The intra-domain stage."""

    DOMAINS = ("source",)
    OPTIONAL_DOMAINS = ("target",)

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "One per head; unused without hard frames.")
    # A row of the paper's ablation does without it: adaptation from easy to hard alone.
    easy_weight: float = config_field(
        1.0, "Weight of the cross entropy on easy frames' pseudo-labels; 0 = off.", low=0.0
    )
    aux_weight: float = config_field(0.1, "lambda_seg, weight of the earlier head's cross entropy.", low=0.0)
    target_weight: float = config_field(0.001, "lambda_adv of the main head, on hard frames.", low=0.0)
    target_aux_weight: float = config_field(0.0002, "lambda_adv of the earlier head, on hard frames.", low=0.0)
    # For Synscapes the authors used AdaptSegNet, whose discriminators see the probabilities themselves.
    discriminator_input: str = config_field(
        "self_information", "Map that the discriminators see.", choices=("self_information", "probabilities")
    )

    init = init_with_discriminators

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of the third stage; on a batch without hard frames, of self-training."""
        easy, hard = batch["source"], batch.get("target")
        discriminators = self.discriminator.of_outputs(self.precision)
        weights = head_weights(self.target_weight, self.target_aux_weight)

        maps = information if self.discriminator_input == "self_information" else probabilities

        def easy_loss(params) -> GeneratorLosses:
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, easy["image"])
            losses = segmentation_losses(self.segmenter, outputs, easy["label"], self.aux_weight)
            losses = {name: self.easy_weight * loss for name, loss in losses.items()}
            seen = None if hard is None else maps(self.segmenter, outputs, easy["image"].shape[1:3])
            return GeneratorLosses(losses, seen, {"segmenter": model_state})

        def hard_loss(params, before: Previous) -> GeneratorLosses:
            # Normalised by its own batch statistics, which update those that the easy frames have updated.
            images, model_state = before.then(hard["image"]), before.found.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            inputs = DiscriminatorInputs(
                before.found.discriminator_inputs, maps(self.segmenter, outputs, images.shape[1:3])
            )
            losses = discriminators.adversarial_losses(params, inputs.target, weights)
            return GeneratorLosses(losses, inputs, {"segmenter": model_state})

        generators, others = adversarial_players(self, state.params)
        # Where nothing is hard there is nothing to tell apart, and the discriminators stay as they are.
        others, parts = ({}, (easy_loss,)) if hard is None else (others, (easy_loss, hard_loss))
        return two_player_step(state, generators, others, parts, discriminators.discriminator_losses)


METHOD = IntraDA
