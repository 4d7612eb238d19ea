"""IntraDA: intra-domain adaptation through self-supervision (Pan et al., CVPR 2020, arXiv 2004.07703).

    1. inter-domain: train any method on (x_s, y_s) and x_t; its network is G_inter
    2. rank: R(x_t) = mean entropy of G_inter(x_t); the lambda N frames of lowest R are easy (e), the rest hard (k);
             y_e = argmax G_inter(x_e)
    3. intra-domain: G_intra learns L_seg(x_e, y_e) + lambda_adv BCE(D(I(x_k)), easy)
                     while D learns to tell I(x_e) from I(x_k)

A config lists the three as stages; the second is `uda_jax.runs.ranking`. This file is the third: AdvEnt whose batch
holds the easy frames with their pseudo-labels as "source" and the hard ones as "target". Without hard frames
(lambda = 1) the adversarial half has nothing to look at, and it is self-training on the whole target.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax.methods import base
from uda_jax.methods.advent import Advent
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class IntraDA(Advent):
    """The intra-domain stage."""

    # For Synscapes the authors used AdaptSegNet, whose discriminators see the probabilities themselves.
    judged: str = config_field(
        "self_information", "Map that the discriminators see.", choices=("self_information", "probabilities")
    )

    def judged_map(self, probabilities: jax.Array) -> jax.Array:
        """What a discriminator sees of a head's probabilities [B, H, W, C], of the same shape."""
        return probabilities if self.judged == "probabilities" else super().judged_map(probabilities)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of the third stage; on a batch without hard frames, of self-training."""
        return super().train_step(state, batch) if "target" in batch else self._self_training_step(state, batch)

    def _self_training_step(self, state, batch):
        """L_seg on the pseudo-labels alone; the discriminators stay as they are."""
        easy = batch["source"]

        def segmenter_loss(params, judges):
            del judges  # Nothing is hard, and so there is nothing to tell apart.
            outputs, _, model_state = self.forward(params, state.model_state["segmenter"], easy["image"])
            losses = base.segmentation_losses(outputs, easy["label"].astype(jnp.int32), self.aux_weight)
            return losses, None, model_state

        return self.adversarial_step(state, segmenter_loss, None)


METHOD = IntraDA
