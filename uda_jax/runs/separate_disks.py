"""Checkpoints of processes that share no disk, as those of a run in a bucket: the first one writes all of each.

Orbax has the processes of a run write one checkpoint together, into a folder that all of them see. Where each has a
folder of its own, the others read what the first one has put into the bucket, each for itself.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from uda_jax.data.io import mirrors


def are_separate(folder: Path) -> bool:
    """Returns whether the run has several processes, each with a folder of its own under this name."""
    return jax.process_count() > 1 and mirrors.of(folder) is not None


def options(folder: Path) -> ocp.options.MultiprocessingOptions:
    """Returns which processes write or read a checkpoint there together: this one alone where disks are separate."""
    if not are_separate(folder):
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


def manager_options(folder: Path) -> dict[str, Any]:
    """Returns what a manager of checkpoints there is told; makes the folder where the manager may not."""
    if not are_separate(folder):
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    return {"create": False, "multiprocessing_options": options(folder)}


def checkpointer(folder: Path) -> ocp.StandardCheckpointer:
    """Returns what writes and reads a tree of arrays there."""
    return ocp.StandardCheckpointer(multiprocessing_options=options(folder))


def tree_reader(folder: Path) -> ocp.Checkpointer:
    """Returns what reads parts of a tree of arrays there, and their shapes."""
    own = options(folder)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=own), multiprocessing_options=own)


def writes(folder: Path) -> bool:
    """Returns whether this process takes part in writing what lies there."""
    return jax.process_index() == 0 or not are_separate(folder)


def own_copy(folder: Path, tree: Any) -> Any:
    """Returns the arrays of a state as they are written: where disks are separate, whole and as NumPy's.

    Of JAX's arrays Orbax would write what the first process holds of them. Keys become their data, see `untyped`. Every
    process has to call it.
    """
    return jax.tree.map(_own, tree) if are_separate(folder) else tree


def untyped(target: Any) -> Any:
    """Returns the shapes, types and shardings that `own_copy` of a state with those of `target` is restored to."""

    def data(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        found = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(found.shape, found.dtype, sharding=leaf.sharding)

    return jax.tree.map(data, target)


def typed(tree: Any, target: Any) -> Any:
    """Returns what was restored by `untyped(target)` with the keys that `target` has."""
    return jax.tree.map(lambda leaf, like: _as_key(leaf, like) if _is_key(like) else leaf, tree, target)


def _as_key(data: jax.Array, like: Any) -> jax.Array:
    return jax.jit(jax.random.wrap_key_data, out_shardings=like.sharding)(data)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _own(leaf: Any) -> Any:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return multihost_utils.process_allgather(leaf, tiled=True)
