"""Folders of arrays as Orbax stores them: what they hold, and any part of it as NumPy arrays.

Unlike `checkpoints`, this needs neither the network that wrote the arrays nor devices like those that it lay on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from uda_jax.data.io import mirrors
from uda_jax.runs import checksums, separate_disks
from uda_jax.runs.checkpoint_errors import DELETE, unreadable_errors


def shapes(folder: Path, remedy: str, *, named: Path | None = None) -> dict[str, Any]:
    """Returns the tree that a folder holds, with the shape and the type of each array; no array is read.

    Args:
      folder: that was written by Orbax.
      remedy: what to do about damage, for the message.
      named: the folder that the message names, what the remedy is about; None = the same.

    Raises:
      UserError: it cannot be read.
    """
    mirrors.fetch(folder)
    with unreadable_errors(named or folder, remedy), separate_disks.tree_reader(folder) as reader:
        return reader.metadata(folder.resolve()).item_metadata.tree


def read(
    folder: Path, wanted: Mapping[str, Any], stored: Mapping[str, list], remedy: str, *, named: Path | None = None
) -> dict[str, Any]:
    """Returns a part of the tree that a folder holds as NumPy arrays, of typed PRNG keys their data.

    Args:
      folder: that was written by Orbax.
      wanted: the part, nested dicts of what `shapes` returns; nothing else of the files is read.
      stored: checksums of the arrays, see `checksums.table`.
      remedy, named: for messages, as in `shapes`.

    Raises:
      UserError: the folder cannot be read, is damaged, or holds arrays that are not finite.
    """
    mirrors.fetch(folder)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    with unreadable_errors(named or folder, remedy), separate_disks.tree_reader(folder) as reader:
        found = reader.restore(folder.resolve(), args=arguments)
    checksums.check(found, stored, str(named or folder), remedy)
    return found


def part(folder: Path, target: Any, remedy: str = DELETE, *, named: Path | None = None) -> Any:
    """Returns a part of the tree that a folder holds, with the types and places of a target; nothing else is read.

    Args:
      folder: that was written by Orbax.
      target: the part: shapes, types and shardings.
      remedy, named: for messages, as in `shapes`.

    Raises:
      UserError: the folder cannot be read.
    """
    arguments = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    with unreadable_errors(named or folder, remedy), separate_disks.tree_reader(folder) as reader:
        return reader.restore(folder.resolve(), args=arguments)


def tables(folder: Path) -> dict[int, dict[str, list]]:
    """Returns the checksums of the arrays of each checkpoint in a folder, by its step; see `checksums.table`.

    Only the file beside the arrays is read, and by this process alone: no other has to call it.
    """
    files = {
        int(file.parents[1].name): file for file in folder.glob("*/config/metadata") if file.parents[1].name.isdecimal()
    }
    return {step: json.loads(files[step].read_text())["arrays"] for step in sorted(files)}
