"""The distance of a student's features, projected, to those of a foundation encoder that never learns.

Source: VFM-UDA++ (Englert and Dubbelman, arXiv 2503.10685) with its released code.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import losses, networks, ops
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.state import TrainState
from uda_jax.networks.encoder_adapters import TOKENS, Adapters, NoFields
from uda_jax.networks.feature_head import FeatureHead
from uda_jax.networks.foundation import build_encoder
from uda_jax.schema import Named, config_field
from uda_jax.training.precision import compute_dtype

# Names in the state: of the projection, which learns, and of the encoder, which is also that in `init_from`.
HEAD, ENCODER = "feature_head", "feature_encoder"
# The student's own encoder as it started, in place of another one; in the state what of it learns since.
STUDENT, START = "student", "feature_start"


@dataclasses.dataclass(frozen=True)
class FrozenEncoder(Named):
    """Section: the foundation encoder. The other fields are its own options."""

    name: str = config_field(
        "dinov2_vitl14",
        "Name of the encoder, for networks.build_encoder; or student, the segmenter's own as it started, whose frozen "
        "parameters are then in memory once; it needs adapters.",
    )

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of the foundation encoders, whose features are patches after a final norm."""
        return [STUDENT, *(name for name in networks.encoder_names() if name.startswith("dino"))]

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns an encoder's options and their defaults."""
        if name == STUDENT:
            return NoFields, {}
        entry = networks.find_encoder(name)
        return entry.options, entry.defaults

    def build(self, precision: str) -> nn.Module:
        """Returns the Flax module."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name != "name"}
        return networks.build_encoder(self.name, dtype=compute_dtype(precision), **options)


@dataclasses.dataclass(frozen=True)
class FrozenFeatures:
    """Section: how far the student's features, once projected, may be from the frozen encoder's."""

    weight: float = config_field(
        0.0, "Weight of the distance, for each domain (VFM-UDA++: 0.1); 0 = off, without a frozen encoder.", low=0.0
    )
    size: tuple[int, int] = config_field(
        (406, 406), "(height, width) in pixels that images have for the frozen encoder.", low=1
    )
    encoder: FrozenEncoder = config_field(FrozenEncoder(registers=4), "The frozen encoder.")

    @property
    def of_student(self) -> bool:
        """Whether features stay near those of the student's own encoder, as it started."""
        return bool(self.weight) and self.encoder.name == STUDENT

    def check_student(self, segmenter: Any, path: str) -> None:
        """Raises a UserError if the student's own encoder is to be frozen as well, and cannot be.

        Args:
          segmenter: the section of the network, which is on a foundation encoder.
          path: the method's.
        """
        if self.of_student and (segmenter.adapters.name == "none" or segmenter.name.startswith("pyramid")):
            raise UserError(
                f"{path}.distance.encoder.name: expected another encoder than the student's, which has to be frozen by "
                "adapters and to end in a norm that its head reads, as in light_dinov2_vitb14"
            )

    def init(self, method: Any, key: jax.Array, segmenter: Any, image: jax.Array) -> tuple[dict, dict]:
        """Returns fresh variables by name, of the projection and of the frozen encoder; none without a weight.

        Args:
          method: gives the network and the precision.
          key: the run's.
          segmenter: its variables.
          image: one of the example batch, `[1, H, W, 3]`.
        """
        if not self.weight:
            return {}, {}
        features = jax.eval_shape(
            lambda: student_features(method.network.apply(adapted.joined(segmenter), image / 255.0))
        )
        head_key, encoder_key = (jax.random.fold_in(key, i) for i in (1, 2))
        head = self._head(method).init(head_key, jnp.zeros((1, 1, 1, features.shape[-1])))
        if self.of_student:
            return {HEAD: head}, {}
        images = jnp.zeros((1, *self.size, 3))
        encoder = self.encoder.build(method.precision).init(encoder_key, images, collect=("features",))
        # As part of a network, so that files of encoders fit.
        return {HEAD: head}, {ENCODER: {"params": {"encoder": encoder["params"]}}}

    def with_start(self, state: TrainState) -> TrainState:
        """Returns the state that holds what learns of the student's encoder as it was before the first step.

        That is what the weights have been loaded to, so that it is read in the first step; without need, nothing is.
        """
        if not self.of_student:
            return state
        # Rein's tokens are no part of what the encoder was.
        learnt = {name: x for name, x in state.params["segmenter"]["encoder"].items() if name != TOKENS}
        kept = state.extra.get(START, learnt)
        start = jax.tree.map(lambda s, k: jnp.where(state.step == 0, s, k), learnt, kept)
        return state.replace(extra=state.extra | {START: start})

    def reference(self, method: Any, state: TrainState, images: jax.Array) -> jax.Array:
        """Returns the frozen encoder's features `[B, h, w, D]` of images `[B, H, W, 3]` on the scale of 0 to 255."""
        inputs = ops.resize_bilinear(ops.normalise(images, "imagenet_rgb"), self.size, align_corners=False)
        if self.of_student:
            options, frozen = method.network.options, state.model_state["segmenter"][adapted.FROZEN]["encoder"]
            adapters = Adapters() if options.adapters.name == "rein" else options.adapters
            encoder = build_encoder(dataclasses.replace(options, adapters=adapters))
            variables = adapted.joined({"params": state.extra[START], adapted.FROZEN: frozen})
        else:
            encoder = self.encoder.build(method.precision)
            variables = {"params": state.frozen[ENCODER]["params"]["encoder"]}
        with jax.named_scope(ENCODER):
            return encoder.apply(variables, inputs, collect=("features",))["features"]

    def loss(self, method: Any, params: Any, outputs: Mapping[str, jax.Array], reference: jax.Array) -> jax.Array:
        """Returns the weighted mean distance of one domain.

        Args:
          method: gives the precision.
          params: those of all networks, by name.
          outputs: the student's maps.
          reference: the frozen encoder's features of the same images.
        """
        head = FeatureHead(reference.shape[-1], compute_dtype(method.precision))
        projected = head.apply({"params": params[HEAD]}, student_features(outputs))
        projected = ops.resize_bilinear(projected, reference.shape[1:3], align_corners=False)
        return self.weight * jnp.mean(losses.frozen_feature_distance(projected, reference))

    def _head(self, method: Any) -> FeatureHead:
        width = method.segmenter.width if self.of_student else self.encoder.build(method.precision).width
        return FeatureHead(width, compute_dtype(method.precision))


def student_features(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the map that is projected: the deepest of a pyramid, otherwise the features."""
    return outputs["deepest"] if "deepest" in outputs else outputs["features"]
