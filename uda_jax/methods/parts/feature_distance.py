"""Feature distance: the encoder stays near its ImageNet weights where things are, which it knows from there.

Source: DAFormer (arXiv 2111.14887), section 3.3, with its released code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import losses, ops
from uda_jax.methods.parts.mixing import check_sizes
from uda_jax.methods.parts.state import Batch, TrainState
from uda_jax.methods.parts.updates import initial_state
from uda_jax.networks.hrda import HRDA, shrunk
from uda_jax.schema import config_field

# The frozen encoder's name in the state, and in `init_from`.
IMAGENET = "imagenet_encoder"
# Traffic lights and signs, persons, riders and vehicles among Cityscapes' 19 classes.
THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


@dataclasses.dataclass(frozen=True)
class FeatureDistance:
    """Section: the distance of the student's last map of source images to that of the frozen encoder."""

    weight: float = config_field(
        0.005, "lambda_FD, weight of the distance; 0 = off, without a frozen encoder.", low=0.0
    )
    classes: tuple[int, ...] = config_field(
        THINGS, "Classes where the distance counts, by their number in the label space; none = everywhere.", low=0
    )
    least_share: float = config_field(
        0.75, "Share of the pixels under one of the map's that its class has to fill.", low=0.0, high=1.0
    )

    def frozen(self, variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the frozen networks of a fresh state, by name: a copy of the segmenter's encoder.

        Args:
          variables: of the segmenter.
        """
        if not self.weight:
            return {}
        encoder = {name: {"encoder": tree["encoder"]} for name, tree in variables.items() if "encoder" in tree}
        return {IMAGENET: jax.tree.map(jnp.copy, encoder)}

    def losses(
        self, outputs: Mapping[str, jax.Array], reference: jax.Array | None, labels: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns {"feature_distance": weighted mean distance where cells of the labels are of one of the classes}.

        Args:
          outputs: the student's maps of source images.
          reference: the frozen encoder's map `[B, h, w, D]`; None, without one, gives no loss.
          labels: the images' `[B, H, W]`.
        """
        if reference is None:
            return {}
        # Networks whose features are no encoder's hand out those, too.
        features, mask = outputs["encoder_features" if "encoder_features" in outputs else "features"], None
        if self.classes:
            options = {"num_classes": outputs["logits"].shape[-1], "least_share": self.least_share}
            cells = ops.majority_labels(labels, features.shape[1:3], **options)
            mask = jnp.any(cells[..., None] == jnp.asarray(self.classes), axis=-1)
        return {"feature_distance": self.weight * losses.feature_distance(features, reference, mask)}

    def reference(self, method: Any, state: TrainState, images: jax.Array) -> jax.Array | None:
        """Returns the frozen encoder's last map of images, in evaluation mode; None without a frozen encoder.

        Args:
          method: gives the network and how it normalises images.
          state: holds the frozen encoder.
          images: RGB `[B, H, W, 3]` on the scale of 0 to 255.
        """
        if not self.weight:
            return None
        network, inputs = method.network, ops.normalise(images, method.segmenter.input_norm)
        if isinstance(network, HRDA):
            inputs = shrunk(inputs)
        entry = state.frozen[IMAGENET]
        with jax.named_scope(IMAGENET):
            maps = network.apply({"params": entry["params"], **entry["model_state"]}, inputs, method="encode")
        # The encoder's maps are in the order of depth.
        return list(maps.values())[-1].astype(jnp.float32)


def init_with_frozen(method: Any, key: jax.Array, example_batch: Batch) -> TrainState:
    """The `init` of a method with fields `teacher` and `distance`: segmenter, its average, and the frozen encoder."""
    check_sizes(example_batch)
    variables = {"segmenter": method.initial_segmenter(key, example_batch)}
    players = {"segmenter": method.player("segmenter", optimiser=method.optimiser)}
    frozen = method.distance.frozen(variables["segmenter"])
    return method.teacher.init(initial_state(key, variables, players, frozen=frozen))
