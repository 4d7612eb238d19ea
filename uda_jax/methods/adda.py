"""ADDA: a network adapts until a discriminator takes its class scores for the source network's.

Take it for classification, after training on the source; as a stage of the digits recipe.

Source: Tzeng et al., "Adversarial Discriminative Domain Adaptation" (CVPR 2017, arXiv 1702.05464) on class scores, as
CyCADA's released code (arXiv 1711.03213) trains it and IntraDA (arXiv 2004.07703) uses it for digits. With the scores
z = G(x), the constant source network G_s and the network G_t that adapts:

    D:    min  CE(D([G_s(x_s); G_t(x_t)]), [source; target])
    G_t:  min  CE(D(G_t(x_t)), source)        only while D is right on more than 60 % of the batch

No label takes part, neither the target's nor the source's: G_s and G_t start from a network that an earlier stage
trained on the source. A digit is a map of one pixel, but maps of any size are classified, pixel by pixel.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.losses import cross_entropy
from uda_jax.methods import base
from uda_jax.methods.parts.forward import dropout_key
from uda_jax.methods.parts.updates import Players, initial_state, update_player
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam
from uda_jax.training.precision import compute_dtype
from uda_jax.training.schedules import Schedule

# The classes of the discriminator's softmax, numbered as CyCADA's code does; `parts/alignment.py` has them reversed.
TARGET, SOURCE = 0, 1


@dataclasses.dataclass(frozen=True)
class ScoreDiscriminator:
    """Section: the discriminator of class scores and how it learns."""

    hidden: int = config_field(500, "Units of each of its two hidden layers.", low=1)
    optimiser: Optimiser = config_field(adam(learning_rate=1e-5, beta2=0.999), "Its optimiser.")


@dataclasses.dataclass(frozen=True)
class Adda(base.SegmentationMethod):
    """Adversarial adaptation of class scores to those of a constant source network."""

    num_classes: int = config_field(10, "Classes of the head.", low=2)
    segmenter: base.Segmenter = config_field(base.Segmenter(name="lenet", input_norm="tanh"), "Both networks.")
    optimiser: Optimiser = config_field(adam(learning_rate=1e-5, beta2=0.999), "Optimiser of the network that adapts.")
    # A player's schedule counts its own updates: while the gate is shut, the segmenter's stands still.
    schedule: Schedule = config_field(Schedule(name="constant"), "Decay of both learning rates.")
    discriminator: ScoreDiscriminator = config_field(ScoreDiscriminator(), "The discriminator.")
    update_above: float = config_field(
        0.6, "Accuracy on a batch above which the discriminator is good enough to adapt against.", low=0.0, high=1.0
    )

    @property
    def score_discriminator(self) -> nn.Module:
        """The Flax module of the discriminator."""
        dtype = compute_dtype(self.precision)
        return networks.build("score_discriminator", self.num_classes, hidden=self.discriminator.hidden, dtype=dtype)

    @property
    def players(self) -> Players:
        """Returns both players; "source_segmenter" has none."""
        return {
            "segmenter": self.player("segmenter", optimiser=self.optimiser),
            "discriminator": self.player("discriminator", optimiser=self.discriminator.optimiser),
        }

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: "segmenter" adapts, "source_segmenter" is constant and equal to it at first.

        A recipe starts both from the same earlier stage, "source_segmenter" from "<stage>.segmenter".

        Raises:
          UserError: a domain is missing, such as the hard images where all of them were ranked as easy.
        """
        if missing := {"source", "target"} - set(example_batch):
            raise UserError(
                f"config.data: expected the domains source and target for adda, got no {min(missing)}; without hard "
                "images (rank.fraction = 1) end the recipe before this stage"
            )
        images = ops.normalise(example_batch["target"]["image"][:1], self.segmenter.input_norm)
        segmenter = self.network.init(jax.random.fold_in(key, 0), images, train=False)
        self.segmenter.check_frozen(segmenter["params"])
        scores = jnp.zeros((1, 1, 1, self.num_classes))
        discriminator = self.score_discriminator.init(jax.random.fold_in(key, 1), scores)
        # Copies, since a step may not be given one buffer twice to write into.
        variables = {"segmenter": segmenter, "source_segmenter": jax.tree.map(jnp.copy, segmenter)}
        variables["discriminator"] = discriminator
        return initial_state(key, variables, self.players, extra={"updates": jnp.zeros((), jnp.int32)})

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: first the discriminator, then the segmenter against the discriminator as it is now.

        Both networks run in training mode, dropout included. The updated discriminator classifies scores of a second
        forward of the target, with other dropout masks than those that it has learnt from. Its accuracy, which decides
        whether the segmenter is updated, is that before its own update. A shut gate leaves the segmenter and its
        optimiser's state as they were, but for the batch statistics of the first forward.
        CyCADA's code ends the training after an epoch without an update; a stage has a fixed number of steps instead
        and logs "segmenter/update_share", the share of its batches so far that updated the segmenter.
        """
        constant, adapting = state.params["source_segmenter"], state.params["segmenter"]
        statistics = state.model_state["segmenter"]
        images_s, images_t = batch["source"]["image"], batch["target"]["image"]
        keys = [dropout_key(state, forward) for forward in range(3)]
        scores_s, _ = self._scores(constant, state.model_state["source_segmenter"], images_s, keys[0])
        scores_t, statistics = self._scores(adapting, statistics, images_t, keys[1])

        # D, on the scores of both domains.
        discriminator_loss = jax.value_and_grad(self._discriminator_loss, has_aux=True)
        (loss, accuracy), gradient = discriminator_loss(state.params["discriminator"], scores_s, scores_t)
        metrics = {"loss/discriminator": loss, "discriminator/accuracy": accuracy}
        players = self.players
        state, found = update_player(state, "discriminator", players["discriminator"], {"discriminator": gradient})
        metrics |= found
        state = state.replace(model_state=state.model_state | {"segmenter": statistics})

        # G_t, if D is good enough to adapt against.
        def adversarial_loss(params: Any) -> tuple[jax.Array, Any]:
            scores, after = self._scores(params, statistics, images_t, keys[2])
            return self._adversarial_loss(scores, state.params["discriminator"]), after

        (loss, after), gradient = jax.value_and_grad(adversarial_loss, has_aux=True)(adapting)
        metrics |= {"loss/adversarial": loss, "loss/total": loss}
        updates = state.extra["updates"]
        moved, found = update_player(state, "segmenter", players["segmenter"], {"segmenter": gradient}, updates)
        moved = moved.replace(model_state=state.model_state | {"segmenter": after})
        metrics |= found
        enough = accuracy > self.update_above
        state = jax.tree.map(lambda new, old: jnp.where(enough, new, old), moved, state)
        updates = updates + enough
        metrics["segmenter/update_share"] = updates / (state.step + 1)
        return state.replace(step=state.step + 1, extra={"updates": updates}), metrics

    def _scores(self, params: Any, model_state: Any, images: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        """Returns the scores `[B, h, w, C]` of a network in training mode, and its next statistics."""
        outputs, model_state = self.forward(params, model_state, images, key=key)
        return outputs["logits"], model_state

    def _discriminator_loss(self, params: Any, source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The discriminator's cross entropy over the scores of both domains, and the share that it gets right."""
        logits = [self.score_discriminator.apply({"params": params}, x).reshape(-1, 2) for x in (source, target)]
        truth = [jnp.full(len(part), label) for part, label in zip(logits, (SOURCE, TARGET), strict=True)]
        logits, truth = jnp.concatenate(logits), jnp.concatenate(truth)
        return cross_entropy(logits, truth), jnp.mean(jnp.argmax(logits, axis=-1) == truth)

    def _adversarial_loss(self, target: jax.Array, discriminator: Any) -> jax.Array:
        """The segmenter's side: its scores shall be taken for the source's."""
        logits = self.score_discriminator.apply({"params": discriminator}, target)
        return cross_entropy(logits, jnp.full(logits.shape[:-1], SOURCE))


METHOD = Adda
