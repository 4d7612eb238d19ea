"""Images with labels, some of them a teacher's, and how a student learns them.

Source: DAFormer (arXiv 2111.14887) and what builds on it, with their released code, which take the mean of a loss over
all pixels of a batch, ignored ones and such of no weight included.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uda_jax.losses import cross_entropy
from uda_jax.methods.parts.mixing import pseudo_labels
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import Batch


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


def weighted_cross_entropy(segmenter: Segmenter, logits: jax.Array, labelled: Labelled) -> jax.Array:
    """Returns the mean over all pixels of the weighted cross entropy of logits `[B, h, w, C]`, interpolated."""
    logits = segmenter.upsample(logits, labelled.label.shape[1:3])
    return cross_entropy(logits, labelled.label, pixel_weights=labelled.weight)


def labelled_target(method: Any, batch: Batch, logits: jax.Array) -> Labelled:
    """Returns target images with the labels that a teacher's logits `[B, h, w, C]` give them.

    Args:
      method: its `mixing` says how far they count, its `segmenter` how maps are interpolated.
      batch: holds the images, and perhaps where labels are to be distrusted.
      logits: the teacher's.
    """
    target = batch["target"]
    labels, confidence = pseudo_labels(method.segmenter, logits, target["image"].shape[1:3])
    return Labelled(target["image"], labels, method.mixing.target_weights(confidence, target.get("distrust")))
