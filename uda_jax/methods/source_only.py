"""Plain supervised training: the lower bound without adaptation, and the oracle.

On the source alone it is "source only"; on labelled target frames alone it is the oracle; on both it is the
source-plus-labelled-target baseline. Every method is measured between the first two.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.methods import base
from uda_jax.schema import config_field

# Batch statistics are threaded in this order wherever several domains are forwarded.
LABELLED_DOMAINS = ("source", "labelled_target")


@dataclasses.dataclass(frozen=True)
class SourceOnly(base.SegmenterAlone):
    """Cross entropy on every labelled domain of the batch."""

    aux_weight: float = config_field(
        0.1, "Weight of the earlier head's cross entropy (AdaptSegNet, lambda_seg).", low=0.0
    )

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One forward per labelled domain, one backward, one update."""

        def segmenter_loss(params):
            losses, model_state = {}, state.model_state["segmenter"]
            for i, domain in enumerate(LABELLED_DOMAINS):
                if domain not in batch:
                    continue
                images = ops.normalise(batch[domain]["image"], self.segmenter.input_norm)
                key = base.dropout_key(state, i)
                outputs, model_state = base.forward(self.network, params, model_state, images, train=True, key=key)
                labels = batch[domain]["label"].astype(jnp.int32)
                prefix = "" if domain == "source" else f"{domain}_"
                terms = base.segmentation_losses(outputs, labels, self.aux_weight)
                losses |= {prefix + name: value for name, value in terms.items()}
            return sum(losses.values()), (losses, model_state)

        value_and_gradient = jax.value_and_grad(segmenter_loss, has_aux=True)
        (total, (losses, model_state)), gradient = value_and_gradient(state.params["segmenter"])
        state, norm = base.apply_player(state, "segmenter", {"segmenter": gradient}, self.transformation(state.params))
        state = state.replace(step=state.step + 1, model_state={"segmenter": model_state})
        return state, base.loss_metrics(losses) | {"loss/total": total, "norm/segmenter": norm}


METHOD = SourceOnly
