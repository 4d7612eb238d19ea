"""One mesh for every machine: the state replicated, the batch split over the axis "data".

The same code serves one CPU device, forced CPU devices, GPUs, several processes and a TPU pod. Means over a
sharded batch are global, so losses and batch statistics need no collective of their own.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from uda_jax.errors import UserError


def data_mesh(devices: int | None = None) -> Mesh:
    """Returns the mesh over all devices of all processes, or over the first so many of them, one axis "data"."""
    found = jax.devices()[:devices]
    return jax.make_mesh((len(found),), ("data",), axis_types=(AxisType.Auto,), devices=found)


def abstract_mesh(devices: int) -> AbstractMesh:
    """Returns a mesh like `data_mesh` of devices that need not be there: programs can be lowered for it, not run."""
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state: a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


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


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """Returns the shapes and types of a tree, placed on `sharding`: the target of a checkpoint's restore.

    Args:
      tree: arrays, or what `jax.eval_shape` returned for them.
      sharding: where every leaf shall lie.
    """
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
