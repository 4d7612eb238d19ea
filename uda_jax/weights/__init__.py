"""PyTorch state dicts <-> Flax variables. NumPy only: no PyTorch, no device.

    variables = weights.from_torch(state_dict, "advent")       {"params": ..., "batch_stats": ...}
    state_dict = weights.to_torch(variables, "advent")         the exact inverse

A dialect names a family of checkpoints. A segmenter and its discriminators are separate files in all of them, hence
separate dialects: "advent" and "advent_discriminator".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.errors import UserError
from uda_jax.sections import closest
from uda_jax.weights.dialects import DIALECTS
from uda_jax.weights.rules import FLAX, TORCH, Group, Rule, rename


def from_torch(state_dict: Mapping[str, np.ndarray], dialect: str) -> dict[str, Any]:
    """Converts a PyTorch state dict to Flax variables.

    Args:
      state_dict: name to array in PyTorch's layouts (convolution kernels `[out, in, height, width]`), unwrapped and
        without prefixes such as `module.`.
      dialect: one of `dialects()`.

    Returns:
      {"params": ..., "batch_stats": ...} ("batch_stats" only if there are batch norms) of NumPy arrays; kernels are
      transposed views `[height, width, in, out]`, not copies. PyTorch's batch counters are dropped.

    Raises:
      UserError: an unknown dialect, a name without a rule, a missing name, or a tensor of the wrong rank.
    """
    variables = {}
    for rule, name, path in rename(_table(dialect), state_dict, TORCH, dialect):
        if rule.layout:
            array = _checked(state_dict[name], rule, name, dialect)
            *parents, leaf = path.split("/")
            node = variables
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = rule.layout.to_flax(array)
    return variables


def to_torch(variables: Mapping[str, Any], dialect: str) -> dict[str, np.ndarray]:
    """Converts Flax variables to a PyTorch state dict: the exact inverse of `from_torch`.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays.
      dialect: one of `dialects()`.

    Returns:
      Name to array in the order of the family's state dict, with `num_batches_tracked` int64 0.

    Raises:
      UserError: an unknown dialect, or variables that are not a network of this dialect.
    """
    leaves = dict(_flatten(variables))
    state_dict = {}
    for rule, name, path in rename(_table(dialect), leaves, FLAX, dialect):
        if rule.layout:
            state_dict[name] = rule.layout.to_torch(_checked(leaves[path], rule, path, dialect))
        else:
            state_dict[name] = np.zeros((), np.int64)
    return state_dict


def dialects() -> list[str]:
    """Returns the names of the known dialects, sorted."""
    return sorted(DIALECTS)


def _table(dialect: str) -> Sequence[Group]:
    if dialect not in DIALECTS:
        raise UserError(f"weights dialect '{dialect}' is unknown{closest(dialect, DIALECTS)}")
    return DIALECTS[dialect]


def _checked(value: Any, rule: Rule, name: str, dialect: str) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != rule.layout.rank:
        expected = f"{rule.layout.rank} dimensions ({rule.layout.axes} in PyTorch)"
        raise UserError(f"{dialect} weights: '{name}': expected {expected}, got shape {array.shape}")
    return array


def _flatten(node: Mapping[str, Any], prefix: str = ""):
    """Yields (path, leaf) of nested mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
