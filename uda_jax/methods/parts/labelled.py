"""Images with labels, some of them a teacher's, and how a student learns them.

Source: DAFormer (arXiv 2111.14887) and what builds on it, with their released code, which take the mean of a loss over
all pixels of a batch, ignored ones and such of no weight included.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uda_jax.losses import cross_entropy
from uda_jax.methods.parts.forward import dropout_key
from uda_jax.methods.parts.mixing import Trust, pseudo_labels
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import Batch, TrainState
from uda_jax.methods.parts.updates import Losses, Previous


class Labelled(NamedTuple):
    """Images with the labels that are to be learnt of them.

    Attributes:
      image: RGB [B, H, W, 3] on the scale of 0 to 255.
      label: integer [B, H, W].
      weight: float32 [B, H, W], how far a pixel counts.
    """

    image: jax.Array
    label: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, images: jax.Array, labels: jax.Array) -> "Labelled":
        """Returns images whose labels all count."""
        return cls(images, labels.astype(jnp.int32), jnp.ones(labels.shape, jnp.float32))


# (method, parameters, model state, images with labels, key) -> losses by the end of their name, the network's maps, and
# the next model state.
Learn = Callable[[Any, Any, Any, Labelled, jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array], Any]]


def learn(
    method: Any, params: Any, model_state: Any, labelled: Labelled, key: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
    """Forwards images through the student in training mode, as `Learn` says, and returns one loss, named ""."""
    outputs, model_state = method.forward(params, model_state, labelled.image, key=key)
    return {"": weighted_cross_entropy(method.segmenter, outputs["logits"], labelled)}, outputs, model_state


def self_training_parts(
    method: Any, state: TrainState, batch: Batch, mixed: Labelled, reference: Any, *, learn: Learn = learn
) -> tuple[Callable, Callable]:
    """Returns the two parts of the loss of DAFormer and what builds on it, for `gradients_in_turn`.

    The first are the cross entropies of the source's labels and the distance to ImageNet's features, the second those
    of mixed images, which are normalised by their own batch statistics and update those that the source has updated.

    Args:
      method: its `mixed_weight` and `distance` say how far the parts count.
      state: gives the first model state, and the random numbers of the step.
      batch: gives the source.
      mixed: images, pseudo-labels and weights.
      reference: what `distance.reference` returned.
      learn: how the method's student learns labels.
    """
    source = batch["source"]

    def source_loss(params: Any) -> tuple[Losses, dict[str, Any]]:
        labelled, key = Labelled.of(source["image"], source["label"]), dropout_key(state, 0)
        found, outputs, model_state = learn(method, params["segmenter"], state.model_state["segmenter"], labelled, key)
        losses = {f"segmentation{name}": loss for name, loss in found.items()}
        return losses | method.distance.losses(outputs, reference, source["label"]), {"segmenter": model_state}

    def mixture_loss(params: Any, before: Previous) -> tuple[Losses, dict[str, Any]]:
        labelled = Labelled(before.then(mixed.image), mixed.label, mixed.weight)
        model_state, key = before.found[1]["segmenter"], dropout_key(state, 1)
        found, _, model_state = learn(method, params["segmenter"], model_state, labelled, key)
        return {f"mixed{name}": method.mixed_weight * loss for name, loss in found.items()}, {"segmenter": model_state}

    return source_loss, mixture_loss


def weighted_cross_entropy(segmenter: Segmenter, logits: jax.Array, labelled: Labelled) -> jax.Array:
    """Returns the mean over all pixels of the weighted cross entropy of logits `[B, h, w, C]`, interpolated."""
    logits = segmenter.upsample(logits, labelled.label.shape[1:3])
    return cross_entropy(logits, labelled.label, pixel_weights=labelled.weight)


def labelled_target(method: Any, batch: Batch, logits: jax.Array, trust: Trust) -> Labelled:
    """Returns target images with the labels that a teacher's logits `[B, h, w, C]` give them.

    Args:
      method: its `segmenter` says how maps are interpolated.
      batch: holds the images, and perhaps where labels are to be distrusted.
      logits: the teacher's.
      trust: how far labels count.
    """
    target = batch["target"]
    labels, confidence = pseudo_labels(method.segmenter, logits, target["image"].shape[1:3])
    return Labelled(target["image"], labels, trust.target_weights(confidence, target.get("distrust")))
