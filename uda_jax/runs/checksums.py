"""Checksums of stored arrays and files: what is read back is what was written, or it is refused.

The formats below Orbax store arrays without a checksum of their content, so that a flipped bit would be restored as
another weight. The checksums of the files find damage in what holds no array, which tells of a failing disk before an
array is hit. CRC-32 finds every error of up to 32 bits in a row; 100 MB take about 0.05 s.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax.data.io import atomic, mirror
from uda_jax.errors import UserError
from uda_jax.training import sharding
from uda_jax.training.guard import first_not_finite

# Checksums are computed outside of the interpreter's lock.
_THREADS = 4
# Files are read in pieces of so many bytes.
_PIECE = 4 * 1024 * 1024

# Lies in a folder and holds the checksums of all other files there.
FILES = mirror.SEAL

# Path of an array within its tree -> its type, its shape and its checksum.
Table = dict[str, list]


def table(tree: Any) -> Table:
    """Returns the checksums of all arrays of a tree.

    Args:
      tree: arrays of NumPy or JAX; where some are split over several processes, every process has to call this.

    Returns:
      {"params/segmenter/...": [type, shape, CRC-32 of the bytes]}, of values that JSON can hold.
    """
    leaves = list(_leaves(tree))
    sums = _each([leaf for _, leaf in leaves], _checksum)
    return {path: [*_layout(leaf), number] for (path, leaf), number in zip(leaves, sums, strict=True)}


def digests(tree: Any) -> dict[str, str]:
    """Returns path of an array -> SHA-256 of its type, shape and bytes; every process has to call this, as `table`.

    Args:
      tree: arrays of NumPy or JAX; a typed PRNG key has the digest of its data.
    """
    leaves = list(_leaves(tree))
    return dict(zip((path for path, _ in leaves), _each([leaf for _, leaf in leaves], _digest), strict=True))


def digest_of_all(found: Mapping[str, str]) -> str:
    """Returns one digest of what `digests` returned, in whichever order."""
    return hashlib.sha256(json.dumps(dict(found), sort_keys=True).encode()).hexdigest()


def check_layout(tree: Any, stored: Mapping[str, list], where: str) -> None:
    """Raises a UserError unless every array of a tree is stored with its type and shape.

    Args:
      tree: arrays, or their shapes and types; a part of what is stored will do.
      stored: from `table`.
      where: what is read, for the message.
    """
    for path, leaf in _leaves(tree):
        found, expected = stored.get(path), _layout(leaf)
        if found is None or list(found[:2]) != expected:
            what = "no such array" if found is None else f"{found[0]} of shape {tuple(found[1])}"
            raise UserError(
                f"{where}: holds another network or other classes: {path} should be {expected[0]} of shape "
                f"{tuple(expected[1])}, found {what}; use the config and the classes that it was trained with, or "
                "another workdir"
            )


def check(tree: Any, stored: Mapping[str, list], where: str, remedy: str) -> None:
    """Raises a UserError if an array of a tree is not what was stored, or is not finite.

    Args:
      tree: arrays that were read.
      stored: from `table`, of the arrays that were written.
      where: what was read, for the message.
      remedy: what to do about damage, for the message.
    """
    leaves = list(_leaves(tree))
    sums = _each([leaf for _, leaf in leaves], _checksum)
    for (path, _), number in zip(leaves, sums, strict=True):
        if path not in stored or number != stored[path][2]:
            raise UserError(f"{where}: damaged: {path} is not what was written, its checksum differs; {remedy}")
    if (bad := first_not_finite(tree)) is not None:
        raise UserError(
            f"{where}: {bad[0]} holds {bad[1]}, so the training had diverged before it was saved; use an earlier "
            "checkpoint (--step), or train in another workdir with a lower learning rate"
        )


def seal_files(folder: Path) -> None:
    """Writes the checksums of all files of a finished folder into a file there."""
    atomic.write(folder / FILES, json.dumps(sealed({"files": _file_checksums(folder)}), indent=1) + "\n")


def check_files(folder: Path, remedy: str) -> None:
    """Raises a UserError if a file of a folder is not what `seal_files` saw.

    A folder without the file of checksums is passed: the process died between writing it and sealing it.

    Args:
      folder: what was read.
      remedy: what to do about damage, for the message.
    """
    if not (folder / FILES).exists():
        return
    try:
        stored = json.loads((folder / FILES).read_bytes())
    except ValueError:
        stored = None
    if not is_sealed(stored):
        raise UserError(f"{folder}: damaged: the own checksum of its file {FILES} differs; {remedy}")
    found = _file_checksums(folder)
    for name, number in stored["files"].items():
        if found.get(name) != number:
            state = "is gone" if name not in found else "is not what was written, its checksum differs"
            raise UserError(f"{folder}: damaged: its file {name} {state}; {remedy}")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns what JSON can hold together with a checksum of it, for `is_sealed`."""
    return content | {"checksum": _text_checksum(content)}


def is_sealed(content: Any) -> bool:
    """Returns whether content is what `sealed` returned for it."""
    if not isinstance(content, dict) or "checksum" not in content:
        return False
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return content["checksum"] == _text_checksum(rest)


def _text_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _layout(leaf: Any) -> list:
    return [str(leaf.dtype), list(leaf.shape)]


def _file_checksums(folder: Path) -> dict[str, int]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILES)
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(_file_checksum, files)
        return {file.relative_to(folder).as_posix(): number for file, number in zip(files, sums, strict=True)}


def _file_checksum(file: Path) -> int:
    number = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            number = zlib.crc32(piece, number)
    return number


def _each(leaves: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
    """Returns what a function makes of each array."""
    # Processes bring split arrays together in one order, and one at a time: the whole state may not fit.
    found = {k: function(leaf) for k, leaf in enumerate(leaves) if not sharding.is_local(leaf)}
    local = [k for k in range(len(leaves)) if k not in found]
    with ThreadPoolExecutor(_THREADS) as pool:
        found |= zip(local, pool.map(function, [leaves[k] for k in local]), strict=True)
    return [found[k] for k in range(len(leaves))]


def _checksum(leaf: Any) -> int:
    return zlib.crc32(_bytes(leaf))


def _digest(leaf: Any) -> str:
    array = np.ascontiguousarray(_on_host(leaf))
    found = hashlib.sha256(f"{array.dtype} {list(array.shape)} ".encode())
    found.update(_bytes(array))
    return found.hexdigest()


def _bytes(leaf: Any) -> memoryview:
    return memoryview(np.ascontiguousarray(_on_host(leaf)).reshape(-1).view(np.uint8))


def _on_host(leaf: Any) -> np.ndarray:
    """Returns an array as NumPy's; of a typed PRNG key its data. Of replicated arrays this process's copy is read."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return sharding.on_host(leaf)
