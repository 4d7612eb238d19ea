"""AdaptSegNet: adversarial adaptation of structured outputs (Tsai et al., CVPR 2018, arXiv 1802.10349).

Take it as the simplest adversarial method, to compare others with.

    G:  min  sum_l lambda_seg^l L_seg(P_s^l)  +  sum_l lambda_adv^l L_adv(D_l(P_t^l), source)
    D:  min  sum_l 1/2 [ L_adv(D_l(P_s^l), source) + L_adv(D_l(P_t^l), target) ]

where l runs over the segmenter's heads, P^l is head l's softmax map at the image's size, D_l its discriminator and
L_adv the sigmoid cross entropy (vanilla) or the squared distance (LS-GAN, the paper's appendix). With one head it is
the paper's single-level model.
"""

import dataclasses

from uda_jax.methods import base
from uda_jax.methods.parts.alignment import (
    Discriminator,
    DiscriminatorInputs,
    adversarial_players,
    head_weights,
    init_with_discriminators,
    probabilities,
)
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.updates import GeneratorLosses, Previous, two_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class AdaptSegNet(base.SegmentationMethod):
    """Adversarial learning on softmax maps, at one or two levels."""

    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "The discriminators, one per head.")
    aux_weight: float = config_field(0.1, "lambda_seg, weight of the earlier head's cross entropy.", low=0.0)
    target_weight: float = config_field(0.001, "lambda_adv, weight of the main head's loss on the target.", low=0.0)
    target_aux_weight: float = config_field(0.0002, "Weight of the earlier head's loss on the target.", low=0.0)

    init = init_with_discriminators

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration, in the order of the released script for PyTorch 0.4."""
        source, target = batch["source"], batch["target"]
        discriminators = self.discriminator.of_outputs(self.precision)
        weights = head_weights(self.target_weight, self.target_aux_weight)

        def source_loss(params) -> GeneratorLosses:
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
            losses = segmentation_losses(self.segmenter, outputs, source["label"], self.aux_weight)
            maps = probabilities(self.segmenter, outputs, source["image"].shape[1:3])
            return GeneratorLosses(losses, maps, {"segmenter": model_state})

        def target_loss(params, before: Previous) -> GeneratorLosses:
            # Normalised by its own batch statistics, which update those that the source has updated.
            images, model_state = before.then(target["image"]), before.found.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            maps = probabilities(self.segmenter, outputs, images.shape[1:3])
            losses = discriminators.adversarial_losses(params, maps, weights)
            inputs = DiscriminatorInputs(before.found.discriminator_inputs, maps)
            return GeneratorLosses(losses, inputs, {"segmenter": model_state})

        generators, others = adversarial_players(self, state.params)
        return two_player_step(
            state, generators, others, (source_loss, target_loss), discriminators.discriminator_losses
        )


METHOD = AdaptSegNet
