"""Numbers that tell how a state is: norms, distances and ranges of its parts.

All functions take trees of arrays, NumPy's or JAX's, however these are spread over this process's devices: `TrainState`
fields, what `inspection.Snapshot` reads, or any part of them. Sums are taken in float64.
"""

import math
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax.errors import UserError


class Distance(NamedTuple):
    """How far two trees of one structure are from each other.

    Attributes:
      absolute: Euclidean norm of the difference of all values.
      relative: the same divided by the norm of the first tree; NaN if that is 0.
    """

    absolute: float
    relative: float


def size(tree: Any) -> int:
    """Returns the number of values of a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def byte_size(tree: Any) -> int:
    """Returns the bytes that the arrays of a tree take, or would take, where it holds their shapes."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def checksum(tree: Any) -> str:
    """Returns eight hexadecimal digits that tell the arrays of a tree from others."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), found)
    return f"{found:08x}"


def norm(tree: Any) -> float:
    """Returns the Euclidean norm of all values of a tree together; 0 for an empty one."""
    return math.sqrt(sum(_squares(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)))


def norms(trees: Mapping[str, Any]) -> dict[str, float]:
    """Returns the norm of each entry of a dict, such as of each network of `state.params`."""
    return {name: norm(tree) for name, tree in trees.items()}


def moments(opt_state: Any, networks: Collection[str]) -> dict[str, list[Any]]:
    """Finds what a player's optimiser keeps for every parameter, such as momentum, "mu" and "nu".

    Args:
      opt_state: the player's entry of `TrainState.opt_state`, as any of optax's states or as nested dicts.
      networks: names of the state's networks, which tell the trees of moments from counters.

    Returns:
      The optimiser's own name of each kind of moment -> its arrays, of all groups of parameters. What the optimiser
      freezes has none.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    for path, leaf in jax.tree.leaves_with_path(opt_state):
        words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        first = next((i for i, word in enumerate(words) if word in networks), 0)
        if first:
            found[words[first - 1]].append(leaf)
    return dict(found)


def moment_norms(opt_state: Mapping[str, Any], networks: Collection[str]) -> dict[str, dict[str, float]]:
    """Returns player -> kind of moment -> norm; see `moments`.

    Args:
      opt_state: of a whole state: player -> its optimiser's state.
      networks: names of the state's networks.
    """
    return {player: norms(moments(tree, networks)) for player, tree in opt_state.items()}


def distance(one: Any, other: Any) -> Distance:
    """Returns how far two trees are from each other, such as a teacher's parameters from its student's.

    Args:
      one, other: trees of one structure; the relative distance is that to the norm of `one`.

    Raises:
      UserError: the trees are of different networks.
    """
    absolute = math.sqrt(sum(_differences(one, other).values()))
    length = norm(one)
    return Distance(absolute, absolute / length if length else math.nan)


def teacher_distance(params: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> Distance | None:
    """Returns how far the averaged teacher's parameters are from the student's, or None where there is no teacher.

    Args:
      params: a state's, network -> parameters; the student is the segmenter.
      teacher: the state's entry {"params", "model_state"}, or None.
    """
    return distance(params["segmenter"], teacher["params"]) if teacher else None


def changes(one: Any, other: Any, depth: int = 2) -> dict[str, Distance]:
    """Returns how far each module of a network is from itself in another state, the relatively furthest first.

    Args:
      one, other: the network's parameters in both states; relative distances are those to the norm of `one`.
      depth: how many names of a parameter's path say which module it belongs to, such as "encoder/layer1_0" with 2.

    Raises:
      UserError: the trees are of different networks.
    """
    squares: dict[str, float] = defaultdict(float)
    lengths: dict[str, float] = defaultdict(float)
    for path, value in _differences(one, other).items():
        squares["/".join(path.split("/")[:depth])] += value
    for path, leaf in _by_path(one).items():
        lengths["/".join(path.split("/")[:depth])] += _squares(np.asarray(leaf))
    found = {
        module: Distance(math.sqrt(value), math.sqrt(value / lengths[module]) if lengths[module] else math.nan)
        for module, value in squares.items()
    }
    # A module that was all zeros has moved by no share of its norm that could be compared.
    return dict(sorted(found.items(), key=lambda item: (math.isnan(item[1].relative), -item[1].relative)))


def ranges(model_state: Any) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest value of each kind of running statistic, such as {"mean": ..., "var": ...}.

    Args:
      model_state: a network's; the last name of an array's path is its kind.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for path, leaf in _by_path(model_state).items():
        array = np.asarray(leaf)
        if array.size:
            found[path.rpartition("/")[2]] += [float(array.min()), float(array.max())]
    return {kind: (min(values), max(values)) for kind, values in found.items()}


def _differences(one: Any, other: Any) -> dict[str, float]:
    """Returns path -> sum of the squared differences; raises a UserError unless both trees have the same arrays."""
    first, second = _by_path(one), _by_path(other)
    for path in sorted(first.keys() | second.keys()):
        shapes = [tuple(tree[path].shape) if path in tree else "no such array" for tree in (first, second)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path}: expected two states of one network, got {shapes[0]} and {shapes[1]}; compare checkpoints of "
                "one stage, or a teacher with its own student"
            )
    return {path: _squares(_wide(leaf) - _wide(second[path])) for path, leaf in first.items()}


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64)


def _squares(array: np.ndarray) -> float:
    return float(np.sum(np.square(array.astype(np.float64))))
