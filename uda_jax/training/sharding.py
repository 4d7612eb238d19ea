"""One mesh for every machine: the batch split over the axis "data", the state whole on every device or split, too.

The same code serves one CPU device, forced CPU devices, GPUs, several processes and a TPU pod. Means over a
sharded batch are global, so losses and batch statistics need no collective of their own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from uda_jax.errors import UserError

# How a training state may lie on the devices.
REPLICATED, FSDP = "replicated", "fsdp"
SHARDINGS = (REPLICATED, FSDP)


def data_mesh(devices: int | None = None) -> Mesh:
    """Returns the mesh over all devices of all processes, or over the first so many of them, one axis "data"."""
    found = jax.devices()[:devices]
    return jax.make_mesh((len(found),), ("data",), axis_types=(AxisType.Auto,), devices=found)


def abstract_mesh(devices: int) -> AbstractMesh:
    """Returns a mesh like `data_mesh` of devices that need not be there: programs can be lowered for it, not run."""
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what lies on every device as a whole copy."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_by_size(shapes: Any, mesh: Mesh, smallest: int) -> Any:
    """Returns how the arrays of a state are split over the devices ("fully sharded data parallel", ZeRO).

    Every array of at least `smallest` elements is split along the largest axis that the number of devices divides, of
    equally long ones the last: the parameters, whatever optimisers keep of them, a teacher and frozen networks alike.
    All others, and those without such an axis, lie whole on every device.

    Args:
      shapes: tree of arrays, or of their shapes.
      mesh: from `data_mesh`.
      smallest: elements from which an array is split.

    Returns:
      The tree with a NamedSharding in place of each array.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, _split(x.shape, mesh.shape["data"], smallest)), shapes)


def _split(shape: tuple[int, ...], devices: int, smallest: int) -> PartitionSpec:
    axes = [axis for axis, length in enumerate(shape) if length and length % devices == 0]
    if devices == 1 or not axes or math.prod(shape) < smallest:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("data" if axis == longest else None for axis in range(longest + 1)))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a stage's state lie.

    Attributes:
      mesh: the device mesh.
      kind: one of `SHARDINGS`.
      smallest: see `split_by_size`.
    """

    mesh: Mesh
    kind: str = REPLICATED
    smallest: int = 0

    def of(self, tree: Any) -> Any:
        """Returns the shardings of a state, or of a part of one, from its arrays or their shapes."""
        if self.kind == FSDP:
            return split_by_size(tree, self.mesh, self.smallest)
        return jax.tree.map(lambda _: replicated(self.mesh), tree)

    def abstract(self, tree: Any) -> Any:
        """Returns the shapes and types of a state's arrays, placed: the target of a checkpoint's restore."""
        return abstract(tree, self.of(tree))


def check_batch_size(size: int, field: str, devices: int | None = None) -> None:
    """Raises a UserError naming `field` unless the devices, by default all, share a global batch of `size` evenly."""
    devices = devices or jax.device_count()
    if size % devices:
        below, above = size - size % devices, size - size % devices + devices
        remedy = f"use {below} or {above}" if below else f"use {above}"
        raise UserError(f"{field}: expected a multiple of the {devices} devices, got {size}; {remedy}")


def to_global(batch: Any, sharding: NamedSharding) -> Any:
    """Turns this process's block of every array of a batch into global arrays.

    Args:
      batch: pytree of NumPy arrays [L, ...], the contiguous block that belongs to this process.
      sharding: from `split_over_batch`.

    Returns:
      The same tree of jax.Arrays [G, ...], G the global batch size.
    """
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def abstract(tree: Any, shardings: Any) -> Any:
    """Returns the shapes and types of a tree, placed: the target of a checkpoint's restore.

    Args:
      tree: arrays, or what `jax.eval_shape` returned for them.
      shardings: where each leaf shall lie, as a tree, or one for all.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, shardings)


def is_whole(tree: Any) -> bool:
    """Returns whether every array of a tree lies whole on each of its devices."""
    return all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Within a compiled function: returns a tree whose split arrays are brought together on every device.

    Only what the function goes on to use is brought together.
    """
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def split_step(function: Callable, mesh: Mesh) -> Callable:
    """Returns a training step, to be compiled, of a state that is split over the devices.

    It begins with bringing the networks together. What optimisers keep stays split, so that every device updates its
    part alone.

    Args:
      function: (TrainState, batch) -> (TrainState, metrics).
      mesh: the device mesh.
    """

    @functools.wraps(function)
    def step(state: Any, batch: Any) -> Any:
        networks = gathered(state.replace(opt_state={}), mesh)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(networks.replace(opt_state=state.opt_state), batch)

    return step


def added_up(gradients: Any) -> Any:
    """Within a `split_step`: returns gradients that every device holds whole; elsewhere they are left as they are.

    Otherwise how an optimiser's state is split would reach back into the backward pass, whose maps are split over the
    batch, and have them sent about.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return gradients
    return jax.lax.with_sharding_constraint(gradients, PartitionSpec())


def gathering(function: Callable, mesh: Mesh) -> Callable:
    """Returns a function to be compiled that computes with the whole arrays of its first argument; see `gathered`."""

    @functools.wraps(function)
    def whole(state: Any, *arguments: Any, **options: Any) -> Any:
        return function(gathered(state, mesh), *arguments, **options)

    return whole


class Compiled:
    """A compiled function of a state, which may be split over the devices, and of a global batch.

    It is compiled on its first call with a whole state and on that with a split one.

    Args:
      function: (state or a part of one, batch) -> arrays; pure.
      mesh: the device mesh.
      results: their shardings; None = whole on every device.
    """

    def __init__(self, function: Callable, mesh: Mesh, results: Any = None):
        options = {
            "in_shardings": (None, split_over_batch(mesh)),
            "out_shardings": replicated(mesh) if results is None else results,
        }
        self._whole, self._split = jax.jit(function, **options), jax.jit(gathering(function, mesh), **options)

    def __call__(self, state: Any, batch: Any) -> Any:
        """Returns what the function returns."""
        return self._form(state)(state, batch)

    def lower(self, state: Any, batch: Any) -> jax.stages.Lowered:
        """Returns the program for arguments like these, to be compiled ahead of the calls."""
        return self._form(state).lower(state, batch)

    def _form(self, state: Any) -> Any:
        return self._whole if is_whole(state) else self._split


def is_local(array: Any) -> bool:
    """Returns whether this process's devices hold all of an array."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated


@functools.lru_cache(maxsize=8)
def _copier(mesh: Mesh) -> Callable:
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def on_host(array: Any) -> np.ndarray:
    """Returns a whole array as NumPy's.

    One that is split over several processes is brought together first; then every process has to call this.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = array if array.is_fully_replicated else _copier(array.sharding.mesh)(array)
        array = array.addressable_data(0)
    return np.asarray(array)


def own_parts(array: Any) -> list[np.ndarray]:
    """Returns what this process's devices hold of an array, each part once, as NumPy arrays."""
    if not isinstance(array, jax.Array):
        return [np.asarray(array)]
    parts = {str(shard.index): shard.data for shard in array.addressable_shards}
    return [np.asarray(part) for part in parts.values()]


def bytes_per_device(tree: Any) -> int:
    """Returns how many bytes of a tree lie on one device; of arrays, or of shapes with their places."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
