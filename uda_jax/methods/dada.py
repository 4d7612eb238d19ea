"""DADA: depth-aware domain adaptation (Vu et al., ICCV 2019, arXiv 1904.01886).

Take it where the source has depth, the target has none, and the classes differ by their distance.

AdvEnt, with the depth that the source knows as a second thing to learn and to discriminate by:

    G:  min  L_seg(x_s) + lambda_depth berHu(q_s, z_s) + lambda_adv BCE(D(F_t), source)
    D:  min  BCE(D(F_s), source) + BCE(D(F_t), target)

where P is the softmax map at the image's size, I = -P log2 P / log2 C its weighted self-information, q the depth that
the network predicts there, z the source's depth as its inverse (`ops.inverse_depth`) and F = I q, depth multiplying
every class. The network has one segmentation head, whose features a branch for depth gates, at test time too.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.losses import berhu
from uda_jax.methods import base
from uda_jax.methods.parts.alignment import (
    Discriminator,
    DiscriminatorInputs,
    adversarial_players,
    init_with_discriminators,
    probabilities,
)
from uda_jax.methods.parts.depth import depth_map, source_depth
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.updates import (
    DiscriminatorLosses,
    GeneratorLosses,
    Previous,
    two_player_step,
)
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, sgd


@dataclasses.dataclass(frozen=True)
class DADA(base.SegmentationMethod):
    """AdvEnt that learns depth on the source and shows it to the discriminator."""

    segmenter: base.Segmenter = config_field(base.Segmenter(name="dada_resnet101"), "The network, one of dada_*.")
    optimiser: Optimiser = config_field(sgd(), "Optimiser of the segmenter.")
    discriminator: Discriminator = config_field(Discriminator(), "The discriminator.")
    target_weight: float = config_field(0.001, "lambda_adv, weight of the loss on the target.", low=0.0)
    depth_weight: float = config_field(0.001, "Weight of the source's depth loss, lambda_depth; 0 = off.", low=0.0)
    nearest_depth: float = config_field(
        0.1,
        "Metres; depth below it is invalid, and its target 1 as if it were farthest away. 0, the released code's for "
        "SYNTHIA, takes every value as it is.",
        low=0.0,
    )
    # The paper's targets of hundreds suit a network that starts from ImageNet's weights and a small weight.
    depth_unit: float = config_field(
        1.0, "Unit of the inverse depth that is regressed: targets are divided by it. 1 is the paper's."
    )
    discriminator_halves: bool = config_field(
        False,
        "Whether each domain weighs half in the discriminator's loss, as in AdvEnt's code; in DADA's it does not.",
    )

    init = init_with_discriminators

    @property
    def domain_weight(self) -> float:
        """Weight of each domain in the discriminator's loss."""
        return 0.5 if self.discriminator_halves else 1.0

    def check(self, path: str) -> None:
        """Raises a UserError for a network without DADA's depth branch, or a unit that is none."""
        if not self.segmenter.name.startswith("dada_"):
            raise UserError(
                f"{path}.segmenter.name: expected a network with the depth branch, such as dada_resnet101, got "
                f"{self.segmenter.name!r}"
            )
        if not self.depth_unit > 0:
            raise UserError(f"{path}.depth_unit: expected a number above 0, got {self.depth_unit!r}")

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration, in the order of the released script."""
        source, target = batch["source"], batch["target"]
        discriminators = self.discriminator.of_outputs(self.precision)

        def source_loss(params) -> GeneratorLosses:
            model_state = state.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, source["image"])
            losses = segmentation_losses(self.segmenter, outputs, source["label"])
            if self.depth_weight:
                losses["depth"] = self.depth_weight * self._depth_loss(outputs, source_depth(source))
            maps = self._inputs(outputs, source["image"].shape[1:3])
            return GeneratorLosses(losses, maps, {"segmenter": model_state})

        def target_loss(params, before: Previous) -> GeneratorLosses:
            # Normalised by its own batch statistics, which update those that the source has updated.
            images, model_state = before.then(target["image"]), before.found.model_state["segmenter"]
            outputs, model_state = self.forward(params["segmenter"], model_state, images)
            inputs = DiscriminatorInputs(before.found.discriminator_inputs, self._inputs(outputs, images.shape[1:3]))
            losses = discriminators.adversarial_losses(params, inputs.target, {"logits": self.target_weight})
            return GeneratorLosses(losses, inputs, {"segmenter": model_state})

        def discriminator_loss(params, inputs: DiscriminatorInputs) -> DiscriminatorLosses:
            return discriminators.discriminator_losses(params, inputs, domain_weight=self.domain_weight)

        generators, others = adversarial_players(self, state.params)
        return two_player_step(state, generators, others, (source_loss, target_loss), discriminator_loss)

    def _inputs(self, outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> dict[str, jax.Array]:
        """What the discriminator sees, F [B, *size, C]."""
        p = probabilities(self.segmenter, outputs, size)["logits"]
        return {"logits": depth_aware_information(p, depth_map(self.segmenter, outputs, size))}

    def _depth_loss(self, outputs: Mapping[str, jax.Array], depth: jax.Array) -> jax.Array:
        """berHu over every pixel, the sky's and invalid ones included: they count as farthest away."""
        target = ops.inverse_depth(depth, nearest=self.nearest_depth) / self.depth_unit
        return berhu(depth_map(self.segmenter, outputs, depth.shape[1:3]), target, jnp.ones_like(target, bool))


def depth_aware_information(probabilities: jax.Array, depth: jax.Array) -> jax.Array:
    """Returns F = I q [B, H, W, C] of probabilities [B, H, W, C] and depth [B, H, W, 1]."""
    return ops.self_information(probabilities) * depth


METHOD = DADA
