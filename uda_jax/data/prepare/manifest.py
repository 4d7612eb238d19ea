"""The manifest of a prepared folder: written last, it makes shards a data set; read, it is checked to the last key."""

import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uda_jax.data.base import MAPS
from uda_jax.data.io.files import cannot_read, read_file
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.errors import UserError

MANIFEST = "manifest.json"
# What the manifest's key "format" says; a later layout gets another number.
FORMAT = "uda_jax prepared data 1"
AGAIN = "run the same 'uda prepare' again"


def is_prepared(root: str | os.PathLike | None) -> bool:
    """Returns whether a root is a folder that `uda prepare` wrote, or began to."""
    if root is None or not (folder := Path(root).expanduser()).is_dir():
        return False
    return read_manifest(folder) is not None or any(folder.glob(journal("*").name))


def journal(split: str, folder: Path = Path()) -> Path:
    """Returns the file that lists the finished shards of a split while it is being prepared."""
    return folder / f"unfinished-{split}.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of a prepared folder; None if there is none, or it is of something else.

    Raises:
      UserError: it is damaged, or of another version of the format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_file(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(cannot_read(path, error)) from None
    except (ValueError, RecursionError) as error:
        if not any(folder.glob("*.array_record-*")):
            return None
        raise UserError(f"{path}: damaged ({error}); delete the folder and {AGAIN}") from None
    kind = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(kind, str) or not kind.startswith(FORMAT.rstrip("0123456789")):
        if isinstance(manifest, dict) or not any(folder.glob("*.array_record-*")):
            return None
        raise UserError(
            f"{path}: damaged (expected an object, got {reprlib.repr(manifest)}); {AGAIN} into a new folder"
        )
    if kind != FORMAT:
        raise UserError(f"{path}: expected '{FORMAT}', got '{kind}'; prepare the data with this version of uda_jax")
    _check(manifest, path)
    return manifest


def tfds_split(split: str) -> str:
    """Returns the name of a split for TFDS, whose split names are letters, digits, "_" and "-", and never "all"."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in split)
    return f"{safe}_" if safe.lower() == "all" else safe


def _check(manifest: Mapping[str, Any], path: Path) -> None:
    """Raises a UserError for the first key of a manifest that is missing, of another kind, or contradicts others."""
    texts = "a text or null"
    for key in ("image_resampling", "disparity_resampling", "fit"):
        _expect(key in manifest and isinstance(manifest[key], str | None), path, key, texts, manifest.get(key))
    fields, size = manifest.get("fields"), manifest.get("size", "nothing")
    of_maps = _is_list(fields, str) and "image" in fields and len(set(fields)) == len(fields) and set(fields) <= {*MAPS}
    _expect(of_maps, path, "fields", "names of maps, image among them", fields)
    sized = size is None or (_is_list(size, int) and len(size) == 2 and min(size) > 0)
    _expect(sized, path, "size", "null or [height, width]", size)
    for key, kind in (("dataset", str), ("options", dict), ("splits", dict)):
        _expect(
            isinstance(manifest.get(key), kind), path, key, "a text" if kind is str else "an object", manifest.get(key)
        )
    for split, entry in manifest["splits"].items():
        _expect(isinstance(entry, dict), path, split, "an object", entry)
        _check_entry(entry, path, split)


def _check_entry(entry: Mapping[str, Any], path: Path, split: str) -> None:
    names, lacking, known, spaces, shards = map(entry.get, ("frames", "lacking", "known", "label_spaces", "shards"))
    listed = _is_list(names, str) and names and len(set(names)) == len(names)
    _expect(listed, path, f"{split}.frames", "the names of the frames, each once", names)
    absent = isinstance(lacking, dict) and all(_is_list(value, str) for value in lacking.values())
    _expect(absent, path, f"{split}.lacking", "lists of names", lacking)
    _expect(isinstance(entry.get("labelled"), bool), path, f"{split}.labelled", "true or false", entry.get("labelled"))
    ids = _is_list(known, int) and all(0 <= value <= IGNORE for value in known)
    _expect(ids, path, f"{split}.known", f"ids from 0 to {IGNORE}", known)
    _expect(isinstance(spaces, dict), path, f"{split}.label_spaces", "an object", spaces)
    for key, space in spaces.items():
        where = f"{split}.label_spaces.{key}"
        _expect(_is_space(space), path, where, "names, as many colours, and a table of their numbers", space)
    whole = isinstance(shards, list) and all(map(_is_shard, shards))
    _expect(whole, path, f"{split}.shards", "file, frames, bytes and sha256 of each shard", shards)
    count, files = sum(shard["frames"] for shard in shards), {shard["file"] for shard in shards}
    whole = count == len(names) and len(files) == len(shards)
    _expect(
        whole, path, f"{split}.shards", f"{len(names)} frames in shards named once", f"{count} in {len(files)} files"
    )


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in value)


def _is_space(space: Any) -> bool:
    """Returns whether names, colours and table of a label space are of the right kinds and fit together."""
    if not isinstance(space, dict) or not _is_list(space.get("names"), str) or not isinstance(space.get("table"), str):
        return False
    colours, count = space.get("colours"), len(space["names"])
    if not isinstance(colours, list) or len(colours) != count:
        return False
    try:
        table = bytes.fromhex(space["table"])
    except ValueError:
        return False
    right = all(_is_list(colour, int) and len(colour) == 3 for colour in colours)
    return right and len(table) == 256 and all(value < count or value == IGNORE for value in table)


def _is_shard(shard: Any) -> bool:
    kinds = (("file", str), ("frames", int), ("bytes", int), ("sha256", str))
    return (
        isinstance(shard, dict) and all(isinstance(shard.get(key), kind) for key, kind in kinds) and shard["frames"] > 0
    )


def _expect(right: Any, path: Path, key: str, expected: str, got: Any) -> None:
    if not right:
        raise UserError(f"{path}: {key}: expected {expected}, got {reprlib.repr(got)}; {AGAIN} into a new folder")
