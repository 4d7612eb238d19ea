"""Translation of source images: the network, its discriminator, and the pool of earlier results."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.losses import adversarial
from uda_jax.methods.parts.alignment import TARGET, domain_loss
from uda_jax.methods.parts.state import TrainState
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam
from uda_jax.training.precision import compute_dtype

TRANSLATOR, IMAGE_DISCRIMINATOR = "translator", "image_discriminator"

CYCLEGAN_ADAM = adam(learning_rate=2e-4, beta1=0.5, beta2=0.999)


@dataclasses.dataclass(frozen=True)
class Translator:
    """Section: the network that translates source images, and how it learns."""

    name: str = config_field(
        "translator", "CycleGAN's generator or SimGAN's refiner.", choices=("translator", "refiner")
    )
    width: int = config_field(64, "Channels of its first layer.", low=1)
    blocks: int = config_field(9, "Residual blocks; SimGAN has 4.", low=1)
    remat: bool = config_field(False, "Recompute its blocks' activations in the backward pass to save memory.")
    grey: bool = config_field(False, "Whether it sees and draws grey images, three equal channels.")
    optimiser: Optimiser = config_field(CYCLEGAN_ADAM, "Its optimiser.")

    def build(self, precision: str) -> nn.Module:
        """Returns the Flax module, which takes its channels from its input."""
        options = {name: getattr(self, name) for name in ("width", "blocks", "remat", "grey")}
        return networks.build(self.name, 1, dtype=compute_dtype(precision), **options)


class ImageDiscriminator(NamedTuple):
    """The discriminator of images in [-1, 1]; its parameters are the state's.

    Attributes:
      module: the Flax module.
      kind: of the adversarial loss.
    """

    module: nn.Module
    kind: str

    def logits(self, params: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Returns the decisions on images [B, H, W, 3]."""
        with jax.named_scope(IMAGE_DISCRIMINATOR):
            return self.module.apply({"params": params[IMAGE_DISCRIMINATOR]}, images)

    def adversarial_loss(self, params: Mapping[str, Any], translated: jax.Array) -> jax.Array:
        """The translator's side: translated images shall be taken for the target's."""
        return adversarial(self.logits(params, translated), TARGET, kind=self.kind)

    def discriminator_loss(
        self, params: Mapping[str, Any], translated: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the mean loss of both domains, and the share of positions that it gets right."""
        both, share = domain_loss(self.logits(params, translated), self.logits(params, target), kind=self.kind)
        return 0.5 * both, share


def exchange(state: TrainState, translated: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Puts translated images [B, H, W, 3] into the pool that `state.extra` holds, if it holds one.

    Returns:
      The images that the discriminator shall see, detached, and the entries of `extra` after them.

    Raises:
      UserError: images of another size than the pool's.
    """
    translated = jax.lax.stop_gradient(translated)
    if "pool" not in state.extra:
        return translated, {}
    expected, got = (f"{images.shape[1]}x{images.shape[2]}" for images in (translated, state.extra["pool"]))
    if got != expected:
        raise UserError(
            f"config.data.source.size: expected {expected} (height x width), the frames' own, which the image pool "
            f"has to know, got {got}; set it, or a crop"
        )
    return ops.exchange_with_pool(state.extra, translated, jax.random.fold_in(state.key, state.step))
