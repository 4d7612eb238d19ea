"""PyTorch state dicts <-> Flax variables. NumPy only: no PyTorch, no device.

    state_dict = weights.unwrap(container)                     out of training containers, without prefixes
    dialect = weights.detect(state_dict, branches=4)           "advent"
    variables = weights.from_torch(state_dict, dialect)        {"params": ..., "batch_stats": ...}
    variables, report = weights.fit(variables, network.init(...), fresh=["head"], where="file.pth")
    state_dict = weights.to_torch(variables, dialect)          the exact inverse of from_torch

A dialect names a family of checkpoints. A segmenter and its discriminators are separate files in all of them, hence
separate dialects: "advent" and "advent_discriminator".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean
from uda_jax.weights import facts, rules
from uda_jax.weights.detect import cast, detect, select_domain, unwrap
from uda_jax.weights.dialects import DIALECTS, CheckpointInfo, Dialect
from uda_jax.weights.matching import Report, fit, flatten, for_several_images, nest

__all__ = [
    "CheckpointInfo",
    "Report",
    "cast",
    "detect",
    "dialects",
    "checkpoint_info",
    "facts",
    "fit",
    "flatten",
    "for_several_images",
    "from_torch",
    "nest",
    "select_domain",
    "terms",
    "to_torch",
    "unwrap",
]


def from_torch(state_dict: Mapping[str, np.ndarray], dialect: str) -> dict[str, Any]:
    """Converts a PyTorch state dict to Flax variables.

    Args:
      state_dict: name to float32 array (batch counters int64) in PyTorch's layouts (convolution kernels
        `[out, in, height, width]`), unwrapped and without prefixes such as `module.`.
      dialect: one of `dialects()`.

    Returns:
      {"params": ..., "batch_stats": ...} ("batch_stats" only if there are batch norms) of NumPy arrays; kernels are
      transposed views `[height, width, in, out]`, not copies. PyTorch's batch counters are dropped.

    Raises:
      UserError: an unknown dialect, a name without a rule, a missing name, or a tensor of another type or shape than
        the rest of the state dict implies.
    """
    forms, _, rearrangement = _lookup(dialect)
    where = f"{dialect} weights"
    domain_specific = next((name for name in state_dict if ".norm_layers." in name), None)
    if domain_specific:
        raise UserError(
            f"{where}: '{domain_specific}' is a batch norm of one domain (0 source, 1 target); choose one with "
            "weights.select_domain or 'uda convert --domain'"
        )
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    arrays = rearrangement.to_original(arrays) if rearrangement else arrays
    tensors = rules.match(forms, arrays, rules.TORCH, where)
    rules.check(tensors, arrays, rules.TORCH, where)
    return nest({t.flax: t.layout.to_flax(arrays[t.torch]) for t in tensors if not t.counter})


def to_torch(variables: Mapping[str, Any], dialect: str) -> dict[str, np.ndarray]:
    """Converts Flax variables to a PyTorch state dict: the exact inverse of `from_torch`.

    Args:
      variables: {"params": ..., "batch_stats": ...} of float32 arrays.
      dialect: one of `dialects()`.

    Returns:
      Name to array in the order of the family's state dict, with `num_batches_tracked` int64 0.

    Raises:
      UserError: an unknown dialect, or variables that are not a network of this dialect.
    """
    forms, _, rearrangement = _lookup(dialect)
    where = f"{dialect} weights"
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(variables)}
    tensors = rules.match(forms, arrays, rules.FLAX, where)
    rules.check(tensors, arrays, rules.FLAX, where)
    state_dict = {
        tensor.torch: np.zeros((), np.int64) if tensor.counter else tensor.layout.to_torch(arrays[tensor.flax])
        for tensor in tensors
    }
    return rearrangement.from_original(state_dict) if rearrangement else state_dict


def dialects() -> list[str]:
    """Returns the names of the known dialects, sorted."""
    return sorted(DIALECTS)


def checkpoint_info(dialect: str) -> CheckpointInfo:
    """Returns what the weights of a dialect need but a state dict does not hold.

    Raises:
      UserError: an unknown dialect.
    """
    return _lookup(dialect).info


def terms(dialect: str | None) -> str:
    """Returns ", under the ..." for weights whose licence their user has to know, otherwise nothing."""
    licence = _lookup(dialect).info.licence if dialect else None
    return f", under the {licence}: read it before you use or pass on what is trained from them" if licence else ""


def _lookup(dialect: str) -> Dialect:
    if dialect not in DIALECTS:
        raise UserError(f"weights dialect '{dialect}' is unknown{did_you_mean(dialect, DIALECTS)}")
    return DIALECTS[dialect]
