"""The state of a run, and what a method takes and returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax

Batch = Mapping[str, Mapping[str, jax.Array]]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """The state of a run as one pytree; with the batch and the config it determines the next step.

    Attributes:
      step: int32 scalar, counted within the stage.
      params: network name -> parameters, one entry per network of the method.
      model_state: network name -> the other collections, such as {"batch_stats": ...}, and what is "frozen" of a
        network that learns in part, see `adapted`; checkpoints have that in `frozen`.
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
ILLUSTRATED_IMAGES = 2


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
