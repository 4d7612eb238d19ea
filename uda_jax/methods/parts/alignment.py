"""Alignment of output maps: discriminators that tell the source's maps from the target's, one per head.

Domain labels follow the released codes: source 0, target 1.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.losses import adversarial
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import Batch, Metrics, TrainState
from uda_jax.methods.parts.updates import DiscriminatorLosses, Players, initial_state
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam
from uda_jax.training.precision import compute_dtype

SOURCE, TARGET = 0, 1

# Each head of the segmenter and the discriminator of its maps.
DISCRIMINATOR_OF = {"logits": "discriminator", "aux_logits": "discriminator_aux"}

Maps = Mapping[str, jax.Array]


class DiscriminatorInputs(NamedTuple):
    """Maps of both domains [B, H, W, C], by head."""

    source: Maps
    target: Maps


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """Section: the fully convolutional discriminator and how it learns."""

    width: int = config_field(64, "Channels of its first convolution.", low=1)
    kind: str = config_field("bce", "Adversarial loss.", choices=("bce", "least_squares"))
    optimiser: Optimiser = config_field(adam(), "Its optimiser.")

    def of_outputs(self, precision: str) -> "OutputDiscriminators":
        """Returns the discriminators of output maps."""
        options = {"width": self.width, "dtype": compute_dtype(precision)}
        # They take their channels from the maps, so the number of classes plays no part.
        return OutputDiscriminators(networks.build("pixel_discriminator", 1, **options), self.kind)

    def of_images(self, precision: str) -> nn.Module:
        """Returns the Flax module of a discriminator of images."""
        return networks.build("patch_discriminator", 1, width=self.width, dtype=compute_dtype(precision))


class OutputDiscriminators(NamedTuple):
    """One discriminator per head, all of one architecture; their parameters are the state's.

    Attributes:
      module: the Flax module.
      kind: of the adversarial loss.
    """

    module: nn.Module
    kind: str

    def init(
        self, key: jax.Array, network: nn.Module, variables: Any, images: tuple[int, ...], channels: int
    ) -> dict[str, Any]:
        """Returns fresh Flax variables by discriminator, one for each head of a segmenter.

        Args:
          key: the run's key, of which each discriminator has a part of its own.
          network, variables: the segmenter.
          images: shape of its input [B, H, W, 3].
          channels: of the maps that the discriminators read.
        """
        heads = jax.eval_shape(lambda: network.apply(adapted.joined(variables), jnp.zeros(images)))
        numbered = [(i, head) for i, head in enumerate(DISCRIMINATOR_OF, start=1) if head in heads]
        maps = jnp.zeros((1, *images[1:3], channels))
        return {DISCRIMINATOR_OF[head]: self.module.init(jax.random.fold_in(key, i), maps) for i, head in numbered}

    def logits(self, params: Mapping[str, Any], head: str, maps: jax.Array) -> jax.Array:
        """Returns the decisions [B, h, w, 1] of a head's discriminator on maps [B, H, W, C]."""
        name = DISCRIMINATOR_OF[head]
        with jax.named_scope(name):
            return self.module.apply({"params": params[name]}, maps)

    def adversarial_losses(
        self, params: Mapping[str, Any], target: Maps, weights: Mapping[str, float]
    ) -> dict[str, jax.Array]:
        """The segmenter's side: each head's target maps, weighted, shall be taken for the source's.

        Args:
          params: network name -> parameters.
          target: the target's maps by head.
          weights: by head.

        Returns:
          "adversarial" of the main head, "adversarial_aux" of the earlier one.
        """
        losses = {head: adversarial(self.logits(params, head, target[head]), SOURCE, kind=self.kind) for head in target}
        return {loss_name("adversarial", head): weights[head] * value for head, value in losses.items()}

    def discriminator_losses(
        self, params: Mapping[str, Any], inputs: DiscriminatorInputs, *, domain_weight: float = 0.5
    ) -> DiscriminatorLosses:
        """The discriminators' side: tell the heads' source maps from their target maps, both weighing alike.

        Args:
          params: network name -> parameters.
          inputs: the maps.
          domain_weight: of each domain in the loss.

        Returns:
          The loss of each discriminator, and {"discriminator/accuracy": share of positions that they get right}.
        """
        losses, accuracies = {}, []
        for head in inputs.source:
            decisions = [self.logits(params, head, maps[head]) for maps in inputs]
            both, share = domain_loss(*decisions, kind=self.kind)
            losses[DISCRIMINATOR_OF[head]] = domain_weight * both
            accuracies.append(share)
        metrics: Metrics = {"discriminator/accuracy": sum(accuracies) / len(accuracies)}
        return DiscriminatorLosses(losses, metrics)


def domain_loss(logits_source: jax.Array, logits_target: jax.Array, *, kind: str) -> tuple[jax.Array, jax.Array]:
    """Returns a discriminator's loss, the sum of the two domains', and the share of positions that it gets right."""
    loss = adversarial(logits_source, SOURCE, kind=kind) + adversarial(logits_target, TARGET, kind=kind)
    return loss, accuracy(logits_source, logits_target, threshold=0.0 if kind == "bce" else 0.5)


def accuracy(logits_source: jax.Array, logits_target: jax.Array, *, threshold: float) -> jax.Array:
    """Share of positions that a discriminator assigns to the right domain, both domains weighing the same."""
    return 0.5 * (jnp.mean(logits_source < threshold) + jnp.mean(logits_target >= threshold))


def loss_name(loss: str, head: str) -> str:
    """The name of a head's loss: "adversarial" of the main head, "adversarial_aux" of the earlier one."""
    return loss if head == "logits" else f"{loss}_aux"


def head_weights(main: float, aux: float) -> dict[str, float]:
    """Returns the weights of the two heads' losses by head."""
    return {"logits": main, "aux_logits": aux}


def probabilities(segmenter: Segmenter, outputs: Maps, size: tuple[int, int]) -> dict[str, jax.Array]:
    """Softmax maps [B, *size, C] of each head: interpolated first, normalised after, as the released codes do."""
    heads = [head for head in DISCRIMINATOR_OF if head in outputs]
    return {head: jax.nn.softmax(segmenter.upsample(outputs[head].astype(jnp.float32), size)) for head in heads}


def information(segmenter: Segmenter, outputs: Maps, size: tuple[int, int]) -> dict[str, jax.Array]:
    """Weighted self-information [B, *size, C] of each head's probabilities: what AdvEnt's discriminators see."""
    return {head: ops.self_information(p) for head, p in probabilities(segmenter, outputs, size).items()}


def adversarial_players(method: Any, networks: Iterable[str]) -> tuple[Players, Players]:
    """Returns who trains the networks of a state: the segmenter's side, and the output discriminators', if any.

    Args:
      method: with fields `optimiser` and `discriminator`.
      networks: names of the state's networks.
    """
    networks = set(networks)
    names = [name for name in DISCRIMINATOR_OF.values() if name in networks]
    generators = {"segmenter": method.player("segmenter", optimiser=method.optimiser)}
    if not names:
        return generators, {}
    return generators, {"discriminator": method.player(*names, optimiser=method.discriminator.optimiser)}


def initial_networks(method: Any, key: jax.Array, example_batch: Batch) -> dict[str, Any]:
    """Returns the fresh Flax variables of a method's segmenter and of one discriminator of class maps per head."""
    variables, shape = method.initial_segmenter(key, example_batch), example_batch["source"]["image"].shape
    discriminators = method.discriminator.of_outputs(method.precision)
    return {
        "segmenter": variables,
        **discriminators.init(key, method.network, variables, shape, method.num_classes),
    }


def init_with_discriminators(method: Any, key: jax.Array, example_batch: Batch) -> TrainState:
    """The `init` of a method with a segmenter and one discriminator of class maps per head."""
    variables = initial_networks(method, key, example_batch)
    generators, discriminators = adversarial_players(method, variables)
    return initial_state(key, variables, {**generators, **discriminators})
