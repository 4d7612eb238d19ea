"""AdaptSegNet: adversarial adaptation of structured outputs (Tsai et al., CVPR 2018, arXiv 1802.10349).

    G:  min  sum_l lambda_seg^l L_seg(P_s^l)  +  sum_l lambda_adv^l L_adv(D_l(P_t^l), source)
    D:  min  sum_l 1/2 [ L_adv(D_l(P_s^l), source) + L_adv(D_l(P_t^l), target) ]

where l runs over the segmenter's heads, P^l is head l's softmax map at the image's size, D_l its discriminator and
L_adv the sigmoid cross entropy (vanilla) or the squared distance (LS-GAN, the paper's appendix). With one head it is
the paper's single-level model.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax.methods import base
from uda_jax.methods.adversarial import MultiLevel


@dataclasses.dataclass(frozen=True)
class AdaptSegNet(MultiLevel):
    """Adversarial learning on softmax maps, at one or two levels."""

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration, in the order of the released script for PyTorch 0.4."""
        source, target = batch["source"], batch["target"]

        def segmenter_loss(params, judges):
            # Source, then target: each is normalised by its own batch statistics, which both update.
            outputs, maps_s, model_state = self.forward(params, state.model_state["segmenter"], source["image"])
            losses = base.segmentation_losses(outputs, source["label"].astype(jnp.int32), self.aux_weight)
            _, maps_t, model_state = self.forward(params, model_state, target["image"])
            losses |= self.fooling_losses(judges, maps_t)
            return losses, (maps_s, maps_t), model_state

        def discriminator_loss(judges, maps: tuple[dict[str, jax.Array], dict[str, jax.Array]]):
            return self.discriminator_losses(judges, *maps)

        return self.adversarial_step(state, segmenter_loss, discriminator_loss)


METHOD = AdaptSegNet
