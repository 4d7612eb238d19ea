"""What every method is: the protocol, and the one base class with the fields that all of them have."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.forward import forward, segmenter_scores
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.methods.parts.state import Batch, Metrics, Pairs, TrainState
from uda_jax.methods.parts.updates import Player
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser
from uda_jax.training.precision import PRECISION_TEXT, PRECISIONS
from uda_jax.training.schedules import Schedule

__all__ = ["Batch", "Method", "Metrics", "Pairs", "SegmentationMethod", "Segmenter", "TrainState"]


class Method(Protocol):
    """Three pure functions of a frozen dataclass; the loop jits them, a method never does.

    A method may have a fourth, `illustrate(state, batch) -> {name: uint8 RGB [B, H, W, 3] or Pairs}`: what it makes of
    a training batch and its scores do not show. The loop calls it when it scores and keeps the pictures. A class
    attribute `PREDICTION_FIELDS` names fields that act in `predict` alone, which a finished run can be scored with;
    `check_domains(names, path)` refuses training domains that no step would read.
    """

    def init(self, key: jax.Array, example_batch: Batch) -> TrainState:
        """Returns the first state; `example_batch` fixes the shapes."""
        ...

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Returns the next state and a flat dict of scalars such as "loss/segmentation"."""
        ...

    def predict(self, state: TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": [B, *size, C], optional "depth": [B, *size, 1]} for uint8 RGB images [B, H, W, 3]."""
        ...


@dataclasses.dataclass(frozen=True)
class SegmentationMethod:
    """The fields of every method, the module of its segmenter, and the usual prediction."""

    # Domains of a batch without which a step is impossible, and those that it reads where they are there.
    DOMAINS: ClassVar[tuple[str, ...]] = ("source", "target")
    OPTIONAL_DOMAINS: ClassVar[tuple[str, ...]] = ()
    # Fields that a trained run can still change, since they act in `predict` alone.
    PREDICTION_FIELDS: ClassVar[tuple[str, ...]] = ()

    num_classes: int = config_field(19, "Classes of the head.", low=2)
    precision: str = config_field("fp32", PRECISION_TEXT, choices=PRECISIONS)
    accumulation: int = config_field(1, "Batches whose gradients are averaged into one update.", low=1)
    segmenter: Segmenter = config_field(Segmenter(), "The segmentation network.")
    schedule: Schedule = config_field(Schedule(), "Decay of all learning rates.")

    @property
    def network(self) -> nn.Module:
        """The Flax module of the segmenter."""
        return self.segmenter.build(self.num_classes, self.precision)

    @property
    def needed_domains(self) -> tuple[str, ...]:
        """The domains without which a step is impossible."""
        return self.DOMAINS

    def check_domains(self, names: Iterable[str], path: str) -> None:
        """Raises a UserError unless the training domains are those that a step reads, all of them and no other."""
        names, known = list(names), (*self.DOMAINS, *self.OPTIONAL_DOMAINS)
        if missing := [name for name in self.needed_domains if name not in names]:
            raise UserError(f"{path}: expected the domains {', '.join(known)}, got no {missing[0]}; add it")
        if unread := [name for name in names if name not in known]:
            raise UserError(
                f"{path}.{unread[0]}: expected the domains {', '.join(known)}, which are what the method reads; "
                "remove it, or mix its frames into another domain with 'mix'"
            )

    def player(self, *networks: str, optimiser: Optimiser, schedule: Schedule | None = None) -> Player:
        """Returns the player that trains some networks; without a schedule its rate decays as all others'."""
        depth = self.segmenter.layer_depth if networks == ("segmenter",) else None
        schedule = schedule or self.schedule
        return Player(networks, optimiser, schedule, self.accumulation, self.segmenter.frozen, depth)

    def forward(
        self, params: Any, model_state: Any, images: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], Any]:
        """Forwards images of one domain through the segmenter in training mode.

        Args:
          params, model_state: the segmenter's.
          images: RGB [B, H, W, 3] on the scale of 0 to 255, uint8 or float.
          key: what dropout draws from, for the networks that have it.

        Returns:
          The outputs at the network's stride, and the next statistics.
        """
        inputs = ops.normalise(images, self.segmenter.input_norm)
        with self.segmenter.statistics_kept():
            return forward(self.network, params, model_state, inputs, train=True, key=key)

    def forward_in_turn(
        self, params: Any, model_state: Any, *images: jax.Array
    ) -> tuple[list[dict[str, jax.Array]], Any]:
        """Forwards several domains as `forward` does, in this order: each has its own batch statistics.

        Returns:
          The outputs of each, and the statistics after all of them.
        """
        found = []
        for each in images:
            outputs, model_state = self.forward(params, model_state, each)
            found.append(outputs)
        return found, model_state

    def predict(self, state: TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": logits [B, *size, C]} for uint8 RGB images [B, H, W, 3], see `segmenter_scores`."""
        return {"scores": segmenter_scores(self.network, self.segmenter, state, images, size)}

    def initial_segmenter(self, key: jax.Array, example_batch: Batch) -> dict[str, Any]:
        """Returns the segmenter's fresh variables, what is frozen apart; any domain of the batch gives the shape."""
        images = ops.normalise(next(iter(example_batch.values()))["image"][:1], self.segmenter.input_norm)
        variables = self.network.init(jax.random.fold_in(key, 0), images, train=False)
        self.segmenter.check_frozen(variables["params"])
        return adapted.separated(variables, self.segmenter.options.learns)
