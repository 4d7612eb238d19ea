"""Forwards of a segmenter, and the supervised losses on what it predicts."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.losses import cross_entropy
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import TrainState


def forward(
    module: nn.Module,
    params: Any,
    model_state: Any,
    inputs: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[dict, Any]:
    """Applies a segmenter.

    Args:
      module: the network.
      params, model_state: its entries of the state.
      inputs: normalised images [B, H, W, 3].
      train: True normalises with batch statistics and updates the running ones (`bn_mode` may forbid it).
      key: what dropout draws from while training, for the networks that have it.
      **options: further arguments of the network's own, such as a mask.

    Returns:
      The dict of maps at the network's stride, and the model state to hand to the next forward.
    """
    variables = adapted.joined({"params": params, **model_state})
    with jax.named_scope("segmenter"):
        if not train:
            return module.apply(variables, inputs, train=False, **options), model_state
        changing = [name for name in variables if name != "params"]
        options |= {"mutable": changing, "rngs": None if key is None else {"dropout": key}}
        outputs, changed = module.apply(variables, inputs, train=True, **options)
        return outputs, {**changed, **adapted.frozen_of(model_state)}


def dropout_key(state: TrainState, forward: int) -> jax.Array:
    """Returns what the dropout of the step's n-th forward draws from; the same in a resumed run."""
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), forward)


def update_statistics(method: Any, state: TrainState, images: jax.Array) -> TrainState:
    """Returns the state after one training-mode forward of uint8 images [B, H, W, 3]: only running averages change.

    Over many batches of one domain the averages become that domain's own (AdaBN, arXiv 1603.04779).
    """
    params, before = state.params["segmenter"], state.model_state["segmenter"]
    _, after = method.forward(params, before, images, key=dropout_key(state, 0))
    return state.replace(model_state=state.model_state | {"segmenter": after})


def segmentation_losses(
    segmenter: Segmenter, outputs: Mapping[str, jax.Array], labels: jax.Array, aux_weight: float = 0.0
) -> dict[str, jax.Array]:
    """Cross entropy at the label's size for each head, the earlier head, if there is one, weighted.

    Args:
      segmenter: the network's section, which says how its maps are interpolated.
      outputs: its maps.
      labels: integer classes [B, H, W].
      aux_weight: weight of the earlier head.
    """
    labels = labels.astype(jnp.int32)
    losses = {"segmentation": cross_entropy(segmenter.upsample(outputs["logits"], labels.shape[1:3]), labels)}
    if "aux_logits" in outputs:
        aux = segmenter.upsample(outputs["aux_logits"], labels.shape[1:3])
        losses["segmentation_aux"] = aux_weight * cross_entropy(aux, labels)
    return losses


def segmenter_scores(
    module: nn.Module, segmenter: Segmenter, state: TrainState, images: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns the main head's logits [B, *size, C] in evaluation mode, interpolated once.

    Args:
      module: the network of `state.params["segmenter"]`.
      segmenter: its section.
      state: the state.
      images: uint8 RGB [B, H, W, 3].
      size: height and width of the scores.
    """
    inputs = ops.normalise(images, segmenter.input_norm)
    params, model_state = state.params["segmenter"], state.model_state["segmenter"]
    outputs, _ = forward(module, params, model_state, inputs, train=False)
    return segmenter.upsample(outputs["logits"].astype(jnp.float32), size)
