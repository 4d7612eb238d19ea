"""What every method shares: the state of a run, the protocol, and the few functions of an adversarial step."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from uda_jax import ops
from uda_jax.losses import cross_entropy
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.schema import config_field
from uda_jax.training import optimisers
from uda_jax.training.optimisers import Adam, Sgd
from uda_jax.training.schedules import Schedule

Batch = Mapping[str, Mapping[str, jax.Array]]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """The state of a run as one pytree; with the batch and the config it determines the next step.

    Attributes:
      step: int32 scalar, counted within the stage.
      params: network name -> parameters, one entry per network of the method.
      model_state: network name -> the other collections, such as {"batch_stats": ...}.
      opt_state: player name -> optimiser state; a player may train several networks.
      teacher: {"params", "model_state"} of an averaged network, or None.
      frozen: network name -> {"params", "model_state"} of networks that never learn; in no optimiser, and written once
        per stage rather than with every checkpoint.
      key: typed PRNG key; a step uses fold_in(key, step), so that a resumed run draws the same numbers.
      extra: arrays that a method owns, usually empty.
    """

    step: jax.Array
    params: dict[str, Any]
    model_state: dict[str, Any]
    opt_state: dict[str, Any]
    teacher: dict[str, Any] | None
    key: jax.Array
    extra: dict[str, Any]
    frozen: dict[str, Any] = flax.struct.field(default_factory=dict)


# Images of a batch of which illustrations are kept.
SHOWN_IMAGES = 2


class Pairs(NamedTuple):
    """Associated pixels of image pairs, for a picture that joins them by lines.

    Attributes:
      left, right: uint8 RGB [B, H, W, 3].
      points: int32 [B, N, 4]: row and column in the left image, row and column in the right one; -1 where there is
        no pair.
      classes: int32 [B, N], the class of each pair, which gives its line the colour.
    """

    left: jax.Array
    right: jax.Array
    points: jax.Array
    classes: jax.Array


class Method(Protocol):
    """Three pure functions of a frozen dataclass; the loop jits them, a method never does.

    A method may have a fourth, `illustrate(state, batch) -> {name: uint8 RGB [B, H, W, 3] or Pairs}`: what it makes of
    a training batch and its scores do not show. The loop calls it when it scores and keeps the pictures. A class
    attribute `PREDICTION_FIELDS` names fields that act in `predict` alone, which a finished run can be scored with.
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

    num_classes: int = config_field(19, "Classes of the head.", low=2)
    precision: str = config_field("fp32", "Compute type of the networks.", choices=("fp32", "bf16"))
    accumulation: int = config_field(1, "Batches whose gradients are averaged into one update.", low=1)
    segmenter: Segmenter = config_field(Segmenter(), "The segmentation network.")
    schedule: Schedule = config_field(Schedule(), "Decay of all learning rates.")

    @property
    def network(self) -> nn.Module:
        """The Flax module of the segmenter."""
        return self.segmenter.build(self.num_classes, self.precision)

    def predict(self, state: TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"scores": logits [B, *size, C]} for uint8 RGB images [B, H, W, 3].

        They are the main head's in evaluation mode, interpolated once, corners aligned.
        """
        inputs = ops.normalise(images, self.segmenter.input_norm)
        params, model_state = state.params["segmenter"], state.model_state["segmenter"]
        outputs, _ = forward(self.network, params, model_state, inputs, train=False)
        return {"scores": ops.resize_bilinear(outputs["logits"].astype(jnp.float32), size, align_corners=True)}


@dataclasses.dataclass(frozen=True)
class SegmenterAlone(SegmentationMethod):
    """A method whose only network that learns by gradients is the segmenter."""

    optimiser: Sgd | Adam = config_field(Sgd(), "Optimiser of the segmenter.")

    def transformation(self, params: Mapping[str, Any]) -> optax.GradientTransformation:
        """Returns the optimiser of {"segmenter": params}."""
        return optimisers.build(
            self.optimiser, self.schedule, params, accumulation=self.accumulation, frozen=self.segmenter.frozen
        )

    def init(self, key: jax.Array, example_batch: Batch) -> TrainState:
        """Returns the first state; any domain of the batch gives the image shape."""
        images = ops.normalise(next(iter(example_batch.values()))["image"][:1], self.segmenter.input_norm)
        variables = {"segmenter": self.network.init(jax.random.fold_in(key, 0), images, train=False)}
        params = {"segmenter": variables["segmenter"]["params"]}
        return initial_state(key, variables, {"segmenter": self.transformation(params).init(params)})


def initial_state(
    key: jax.Array,
    variables: Mapping[str, Mapping[str, Any]],
    opt_state: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> TrainState:
    """Returns the state at step 0 from each network's fresh Flax variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={name: entry["params"] for name, entry in variables.items()},
        model_state={name: {k: v for k, v in entry.items() if k != "params"} for name, entry in variables.items()},
        opt_state=opt_state,
        teacher=None,
        key=key,
        extra=extra or {},
    )


def forward(
    module: nn.Module, params: Any, model_state: Any, inputs: jax.Array, *, train: bool, key: jax.Array | None = None
) -> tuple[dict, Any]:
    """Applies a segmenter.

    Args:
      module: the network.
      params, model_state: its entries of the state.
      inputs: normalised images [B, H, W, 3].
      train: True normalises with batch statistics and updates the running ones (`bn_mode` may forbid it).
      key: what dropout draws from while training, for the networks that have it.

    Returns:
      The dict of maps at the network's stride, and the model state to hand to the next forward.
    """
    if not train:
        return module.apply({"params": params, **model_state}, inputs, train=False), model_state
    rngs = None if key is None else {"dropout": key}
    return module.apply({"params": params, **model_state}, inputs, train=True, mutable=list(model_state), rngs=rngs)


def update_statistics(method: Any, state: TrainState, images: jax.Array) -> TrainState:
    """Returns the state after one training-mode forward of uint8 images [B, H, W, 3]: only running averages change.

    Over many batches of one domain the averages become that domain's own (AdaBN, arXiv 1603.04779).
    """
    inputs = ops.normalise(images, method.segmenter.input_norm)
    params, before = state.params["segmenter"], state.model_state["segmenter"]
    _, after = forward(method.network, params, before, inputs, train=True, key=dropout_key(state, 0))
    return state.replace(model_state=state.model_state | {"segmenter": after})


def dropout_key(state: TrainState, forward: int) -> jax.Array:
    """Returns what the dropout of the step's n-th forward draws from; the same in a resumed run."""
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), forward)


def segmentation_losses(
    outputs: Mapping[str, jax.Array], labels: jax.Array, aux_weight: float = 0.0
) -> dict[str, jax.Array]:
    """Cross entropy at the label's size for each head, the earlier head, if there is one, weighted.

    Logits are interpolated with corners aligned, as AdaptSegNet and ADVENT do.
    """
    size = labels.shape[1:3]
    losses = {"segmentation": cross_entropy(ops.resize_bilinear(outputs["logits"], size, align_corners=True), labels)}
    if "aux_logits" in outputs:
        aux = ops.resize_bilinear(outputs["aux_logits"], size, align_corners=True)
        losses["segmentation_aux"] = aux_weight * cross_entropy(aux, labels)
    return losses


def apply_player(
    state: TrainState, player: str, gradients: Mapping[str, Any], optimiser: optax.GradientTransformation
) -> tuple[TrainState, jax.Array]:
    """Updates the networks of one player.

    Args:
      state: the state before the update.
      player: key of `opt_state`.
      gradients: network name -> gradient, for every network the player trains.
      optimiser: the transformation whose state `opt_state[player]` is.

    Returns:
      The new state and the global norm of the gradients.
    """
    params = {name: state.params[name] for name in gradients}
    updates, opt_state = optimiser.update(dict(gradients), state.opt_state[player], params)
    state = state.replace(
        params={**state.params, **optax.apply_updates(params, updates)},
        opt_state={**state.opt_state, player: opt_state},
    )
    return state, optax.tree.norm(gradients)


def loss_metrics(losses: Mapping[str, jax.Array]) -> Metrics:
    """Returns {"loss/<name>": value} for a dict of weighted losses."""
    return {f"loss/{name}": value for name, value in losses.items()}
