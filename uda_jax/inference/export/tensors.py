"""The network's arrays alone, as safetensors, and the network rebuilt of them and of the description."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from uda_jax import weights
from uda_jax.errors import UserError
from uda_jax.methods.base import SegmentationMethod, TrainState
from uda_jax.schema import from_mapping, to_dict

NETWORK = "segmenter"


def describe(method: Any) -> dict[str, Any]:
    """Returns how the network of a method is built, as the description has it."""
    section = json.loads(json.dumps(to_dict(method.segmenter)))
    return {"num_classes": method.num_classes, "precision": method.precision, "segmenter": section}


def write(method: Any, state: Any) -> bytes:
    """Returns a file's content: "params/encoder/conv1/kernel" and so on, in Flax's layouts.

    Raises:
      UserError: a method whose predictions are not those of its network alone.
    """
    if getattr(method, "test_aggregation", False):
        raise UserError(
            "--to safetensors: the network's arrays do not hold what config.method.test_aggregation does with its "
            "features; take --to stablehlo, or --config.method.test_aggregation=False"
        )
    variables = {"params": state.params[NETWORK], **state.model_state[NETWORK]}
    arrays = {path: np.asarray(array, order="C") for path, array in weights.flatten(variables)}
    return safetensors.numpy.save(arrays, {"format": "flax"})


def read(content: bytes, network: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Returns a method that predicts as the run's did, and its state.

    Args:
      content: of the file.
      network: from `describe`.
      where: the file, for messages.

    Raises:
      UserError: no such network, or no arrays of one.
    """
    method = from_mapping(SegmentationMethod, network, f"{where}: network")
    try:
        arrays = safetensors.numpy.load(content)
        variables = weights.nest(arrays)
        params = variables.pop("params")
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: cannot be read as the arrays of a network ({reason}); export it again") from None
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params={NETWORK: params},
        model_state={NETWORK: variables},
        opt_state={},
        teacher=None,
        key=jax.random.key(0),
        extra={},
    )
    return method, state
