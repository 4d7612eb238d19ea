"""Masked consistency: the student learns the teacher's labels of a target image of which it sees a part.

Source: MIC (arXiv 2212.01322), section 3.2, with its released code.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.methods.parts.forward import dropout_key
from uda_jax.methods.parts.labelled import Labelled, Learn, labelled_target, learn
from uda_jax.methods.parts.mixing import StrongAugmentation, Trust
from uda_jax.methods.parts.state import Batch, TrainState
from uda_jax.methods.parts.updates import Losses, Previous
from uda_jax.schema import config_field

# Folded into a step's key for masks, so that they share no draw with anything else.
_MASKS = 0x3A5C
# MIC calls kornia once for a batch.
AUGMENTATION = StrongAugmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2, sigma="batch")


@dataclasses.dataclass(frozen=True)
class Masking:
    """Section: which part of a target image the student sees, and how much it counts what it says of all of it."""

    weight: float = config_field(1.0, "lambda_M, weight of the cross entropy on masked images; 0 = off.", low=0.0)
    block: int = config_field(
        64,
        "Side of the squares that are hidden, in pixels (MIC: 64 at Cityscapes' full size, 32 at half of it).",
        low=1,
    )
    ratio: float = config_field(0.7, "Share of the squares that are hidden.", low=0.0, high=1.0)
    images: str = config_field(
        "target",
        "Which images are masked: the target's, or the batch's first of each domain, the source's with its own label "
        "(MIC from Cityscapes by day to night and bad weather).",
        choices=("target", "both"),
    )
    augmentation: StrongAugmentation = config_field(AUGMENTATION, "Colours of the masked images.")

    def masked(self, key: jax.Array, images: jax.Array, input_norm: str) -> jax.Array:
        """Returns float32 images `[B, H, W, 3]`, augmented, with blocks of the colour that networks see as 0.

        Args:
          key: PRNG key.
          images: RGB on the scale of 0 to 255.
          input_norm: how the network normalises images.
        """
        colours_key, blocks_key = jax.random.split(key)
        images, size = self.augmentation.apply(colours_key, images), images.shape[1:3]
        uniform = jax.random.uniform(blocks_key, (len(images), *ops.block_grid(size, self.block)))
        mask = ops.block_mask(uniform, size, self.ratio)
        return jnp.where(mask[..., None], images, ops.mean_colour(input_norm))

    def selected(self, source: Labelled, target: Labelled) -> Labelled:
        """Returns the images that are masked; those of the source with weight 1."""
        if self.images == "target":
            return target
        first = [jax.tree.map(lambda x: x[:1].astype(jnp.float32), labelled) for labelled in (source, target)]
        image, label, weight = jax.tree.map(lambda *both: jnp.concatenate(both), *first)
        return Labelled(image, label.astype(jnp.int32), weight)

    def part(self, method: Any, state: TrainState, labelled: Labelled, *, learn: Learn = learn) -> Callable:
        """Returns the part of a step's loss that masked images are, for `gradients_in_turn`, after the others.

        Args:
          method: gives the network, and the section that says how it normalises images and interpolates maps.
          state: gives the random numbers of the step.
          labelled: the images, with the teacher's labels.
          learn: how the method's student learns labels.
        """
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _MASKS)
        images = self.masked(key, labelled.image, method.segmenter.input_norm)

        def masked_loss(params: Any, before: Previous) -> tuple[Losses, dict[str, Any]]:
            seen = labelled._replace(image=before.then(images))
            model_state, key = before.found[1]["segmenter"], dropout_key(state, 2)
            found, _, model_state = learn(method, params["segmenter"], model_state, seen, key)
            return {f"masked{name}": self.weight * loss for name, loss in found.items()}, {"segmenter": model_state}

        return masked_loss


def masked_parts(
    method: Any,
    state: TrainState,
    batch: Batch,
    logits: jax.Array,
    *,
    learn: Learn = learn,
    trust: Trust | None = None,
) -> tuple[Callable, ...]:
    """Returns the part of a step's loss that a method's `masking` adds, behind the others; none without a weight.

    Args:
      method: gives `masking`, and what `Masking.part` needs.
      state: gives the random numbers of the step.
      batch: source and target.
      logits: the teacher's on the whole target images `[B, h, w, C]`.
      learn: how the method's student learns labels.
      trust: how far the teacher's labels count; None = as the method's `mixing` says.
    """
    if not method.masking.weight:
        return ()
    source = Labelled.of(batch["source"]["image"], batch["source"]["label"])
    labelled = method.masking.selected(source, labelled_target(method, batch, logits, trust or method.mixing))
    return (method.masking.part(method, state, labelled, learn=learn),)
