"""How HRDA's student learns labels: by the whole image at half its size, and by a box of details.

Source: HRDA (arXiv 2204.13132), section 3, with its released code.
"""

import dataclasses
from typing import Any

import jax

from uda_jax import ops
from uda_jax.methods.parts.labelled import Labelled, learn, weighted_cross_entropy
from uda_jax.networks import hrda
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class Details:
    """Section: how much details count that HRDA's network sees by themselves; other networks see none."""

    weight: float = config_field(
        0.1, "lambda_d, weight of the details' cross entropy; that of the fusion has the rest.", low=0.0, high=1.0
    )

    def learn(
        self, method: Any, params: Any, model_state: Any, labelled: Labelled, key: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
        """Forwards images through the student in training mode.

        Args:
          method: gives the network, and the section that says how it normalises images and interpolates maps.
          params, model_state: the student's.
          labelled: the images; the mean of the losses is over all pixels, whatever their weight.
          key: what is dropped, and where the box of details lies.

        Returns:
          {"": cross entropy} and, of HRDA, {"_detail": that of the box}, weighted; the network's maps; the next model
          state.
        """
        network = method.network
        if not isinstance(network, hrda.HRDA):
            return learn(method, params, model_state, labelled, key)
        inputs = ops.normalise(labelled.image, method.segmenter.input_norm)
        size = hrda.window(inputs.shape[1:3], network.options.detail_size)
        box_key, dropout_key = jax.random.split(key)
        box = hrda.draw_box(box_key, inputs.shape[1:3], size)
        options = {"mutable": list(model_state), "rngs": {"dropout": dropout_key}, "method": "with_detail"}
        with jax.named_scope("segmenter"):
            outputs, model_state = network.apply({"params": params, **model_state}, inputs, *box, train=True, **options)
        inside = Labelled(*(hrda.detail(x, *box, size) for x in labelled))
        fused = weighted_cross_entropy(method.segmenter, outputs["logits"], labelled)
        details = weighted_cross_entropy(method.segmenter, outputs["detail_logits"], inside)
        return {"": (1.0 - self.weight) * fused, "_detail": self.weight * details}, outputs, model_state
