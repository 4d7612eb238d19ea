"""ADVENT: entropy minimisation for domain adaptation (Vu et al., CVPR 2019, arXiv 1811.12833).

Two objectives on the unlabelled target, chosen by `objective`:

    MinEnt  ("entropy"):      L_seg(x_s) + lambda_ent L_ent(x_t)
    AdvEnt  ("adversarial"):  L_seg(x_s) + lambda_adv BCE(D(I(x_t)), source)
                              while D learns to tell I(x_s) from I(x_t)

where P is the softmax map at the image's size, I = -P log2 P / log2 C its weighted self-information and L_ent
the mean over pixels of I summed over classes. With a multi-level segmenter both act on two heads, each with
its own weight and, in AdvEnt, its own discriminator. Two additions of the paper work with either objective or with
MinEnt alone: the class-ratio prior (section 3.3, "CP") and the entropy range of MinEnt ("ER").
"""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax import losses
from uda_jax.errors import UserError
from uda_jax.losses import self_information
from uda_jax.methods import base
from uda_jax.methods.adversarial import MultiLevel, named
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class Advent(MultiLevel):
    """MinEnt and AdvEnt."""

    objective: str = config_field("adversarial", "MinEnt or AdvEnt.", choices=("entropy", "adversarial"))
    hard_fraction: float = config_field(
        1.0, "MinEnt: share of each target image's pixels, most uncertain first, that is minimised (ER: 0.3).", high=1.0
    )
    # The released code lacks it; relaxation and weight are the specification's best guess.
    prior_weight: float = config_field(0.0, "Weight of the class-ratio prior on the main head (CP); 0 = off.", low=0.0)
    prior_relaxation: float = config_field(
        0.5, "Share mu of the source's class ratio that is asked for.", low=0, high=1
    )

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if not self.hard_fraction > 0:
            raise UserError(f"{path}.hard_fraction: expected a number in (0, 1], got {self.hard_fraction!r}")
        if self.hard_fraction < 1 and self.objective != "entropy":
            raise UserError(f"{path}.hard_fraction: expected 1 with objective 'adversarial', got {self.hard_fraction}")

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state; AdvEnt adds one discriminator per head, the prior a sum of class shares."""
        variables = self.initial_variables(key, example_batch, judges=self.objective == "adversarial")
        extra = {"class_shares": jnp.zeros(self.num_classes)} if self.prior_weight else {}
        return self.first_state(key, variables, extra)

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration of the paper's training."""
        source, target = batch["source"], batch["target"]
        labels = source["label"].astype(jnp.int32)
        if self.prior_weight:
            shares = state.extra["class_shares"] + _class_shares(labels, self.num_classes)
            state = state.replace(extra=state.extra | {"class_shares": shares})

        def segmenter_loss(params, judges):
            # Source, then target: each is normalised by its own batch statistics, which both update.
            outputs, maps_s, model_state = self.forward(params, state.model_state["segmenter"], source["image"])
            terms = base.segmentation_losses(outputs, labels, self.aux_weight)
            _, maps_t, model_state = self.forward(params, model_state, target["image"])
            if self.prior_weight:
                terms["class_prior"] = self.prior_weight * self._prior_loss(state, maps_t["logits"])
            if self.objective == "entropy":
                return terms | self._entropy_losses(maps_t), None, model_state
            information_s, information_t = jax.tree.map(self.judged_map, (maps_s, maps_t))
            return terms | self.fooling_losses(judges, information_t), (information_s, information_t), model_state

        def discriminator_loss(judges, information):
            return self.discriminator_losses(judges, *information)

        return self.adversarial_step(
            state, segmenter_loss, discriminator_loss if self.objective == "adversarial" else None
        )

    def judged_map(self, probabilities: jax.Array) -> jax.Array:
        """What a discriminator sees of a head's probabilities [B, H, W, C]: their weighted self-information."""
        return self_information(probabilities)

    def _entropy_losses(self, maps: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """MinEnt: the mean entropy of each head's target maps, or of their most uncertain pixels."""

        def entropy(p):
            return losses.entropy(p) if self.hard_fraction == 1 else losses.hard_entropy(p, fraction=self.hard_fraction)

        return {named("entropy", head): self.weight(head) * entropy(p) for head, p in maps.items()}

    def _prior_loss(self, state: base.TrainState, probabilities: jax.Array) -> jax.Array:
        """The class-ratio prior against the classes' mean share in the source batches so far."""
        prior = state.extra["class_shares"] / jnp.maximum(jnp.sum(state.extra["class_shares"]), 1e-12)
        return losses.class_ratio_prior(probabilities, prior, relaxation=self.prior_relaxation)


def _class_shares(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns each class's share [C] of the labelled pixels of a batch; all 0 where there are none."""
    counts = jnp.sum(labels[..., None] == jnp.arange(num_classes), axis=(0, 1, 2)).astype(jnp.float32)
    return counts / jnp.maximum(jnp.sum(counts), 1.0)


METHOD = Advent
