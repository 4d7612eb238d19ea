"""Reading what `uda prepare` wrote: any data set as ArrayRecord shards, with the contract of `uda_jax.data`.

A prepared folder holds, for each split, shards of records, TFDS' description of them, and `manifest.json`, which is
written last and holds all that reading needs: frame names, stored ids and their meaning in every label space, sizes
and checksums. A record is a `tf.train.Example` with one PNG or JPEG per map. It is parsed with TFDS' own message type
but without TFDS' features: that takes two thirds of the time, and decodes only the maps that are asked for.
"""

import bisect
import inspect
import itertools
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.frames import fitted
from uda_jax.data.io.archives import Bytes
from uda_jax.data.io.images import read_floats, read_image, read_label, stored_size
from uda_jax.data.io.names import require_safe
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.prepare.manifest import AGAIN, MANIFEST, is_prepared, journal, read_manifest, tfds_split
from uda_jax.errors import UserError, printable
from uda_jax.schema import did_you_mean

__all__ = ["Prepared", "is_prepared", "plain"]


class Prepared(Dataset):
    """One split of a prepared folder: a data set of its records.

    Args:
      dataset: name of the data set that was prepared.
      reader: its class, whose defaults stand for options that were not given.
      root: the folder.
      split: a split that was prepared into it.
      label_space: any that the data set itself offers; labels are stored as its own ids.
      options: of the data set; those that are given must be the ones that it was prepared with.

    Attributes:
      label_space: names and colours of the label values.
      table: uint8 `[256]` from stored ids to classes.
      known: the stored ids that the data set defines.
      resized: "size", None or [height, width], and the `Domain` fields that say by what rules frames got that size.
      maps: those that were stored.
      rule: the checksums of the shards.

    Raises:
      UserError: the folder holds another data set, does not have the split or label space, is unfinished, was
        prepared with other options, or lacks a shard.
    """

    def __init__(
        self,
        dataset: str,
        reader: type,
        root: str | os.PathLike,
        split: str,
        label_space: str,
        options: Mapping[str, Any],
    ):
        self.dataset = dataset
        self._folder = Path(root).expanduser()
        manifest = read_manifest(self._folder) or {"splits": {}}
        if split not in manifest["splits"] and journal(tfds_split(split), self._folder).exists():
            raise UserError(f"{self._folder}: split '{split}' is not finished; {AGAIN}")
        if manifest.get("dataset", dataset) != dataset:
            raise UserError(f"{dataset}: root: {self._folder} holds {manifest['dataset']}; set the domain's 'dataset'")
        if split not in manifest["splits"]:
            hint = did_you_mean(split, manifest["splits"]) if manifest["splits"] else ""
            raise UserError(f"{dataset}: split '{split}' was not prepared into {self._folder}{hint}")
        _check_options(dataset, reader, options, manifest["options"], self._folder)
        entry = manifest["splits"][split]
        self.resized = {key: manifest[key] for key in ("size", "image_resampling", "disparity_resampling", "fit")}
        self.maps = tuple(manifest["fields"])
        self._names = tuple(entry["frames"])
        require_safe(self._names, self._folder / MANIFEST)
        require_safe((shard["file"] for shard in entry["shards"]), self._folder / MANIFEST)
        # The manifest's key is older than the word that is used elsewhere.
        self._missing = {field: frozenset(names) for field, names in entry["lacking"].items()}
        self.known = frozenset(entry["known"])
        self.label_space, self.table = _labels(dataset, entry, label_space, self._folder)
        # Folders of older versions do not say.
        self._in_time = entry.get("in_time", True)
        self._shards = tuple((shard["file"], shard["frames"]) for shard in entry["shards"])
        self._ends = tuple(itertools.accumulate(frames for _, frames in self._shards))
        self._source: Any = None
        # Shards that were prepared again hold other frames under the same names.
        self.rule = " ".join(shard["sha256"] for shard in entry["shards"])
        for shard in entry["shards"]:
            _check_shard(self._folder / shard["file"], shard["bytes"])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return fitted(self.read(index, MAPS))

    def __getstate__(self) -> dict[str, Any]:
        # Shards are opened again where the copy arrives.
        return self.__dict__ | {"_source": None}

    def name(self, index: int) -> str:
        """Returns the name of frame `index` without reading it."""
        return self._names[index]

    def missing(self, field: str) -> list[str]:
        """Returns the names of the frames that do not have a map."""
        if field not in self.maps:
            return list(self._names)
        without = self._missing.get(field, frozenset())
        return [name for name in self._names if name in without]

    def record_files(self) -> list[Path]:
        """Returns the shards of the split."""
        return [self._folder / file for file, _ in self._shards]

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes frame `index`, of its maps only those named in `fields` and present.

        Raises:
          UserError: the shard is missing or damaged.
        """
        example = self.stored(index, fields)
        if "label" in example:
            # Three times as fast as indexing the table.
            example["label"] = self.table.take(example["label"])
        return example

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes as `read` does, but leaves the label as the ids that the data set stores."""
        index = range(len(self))[index]
        name = self._names[index]
        example: dict[str, Any] = {"name": name, "index": index}
        present = [field for field in self.maps if name not in self._missing.get(field, ())]
        wanted = [field for field in MAPS if field in fields and field in present]
        if wanted:
            shard = self._shard(index)
            for field, content in self._record(index, shard, wanted).items():
                example[field] = _decoded(field, content, f"{shard}: {field} of '{printable(name)}'")
        size = self.resized["size"]
        if size is not None and "image" in example and list(example["image"].shape[:2]) != size:
            found = "x".join(map(str, example["image"].shape[:2]))
            raise UserError(
                f"{shard}: frame '{printable(name)}' is {found} (height x width), but {self._folder / MANIFEST} says "
                f"size {size[0]}x{size[1]}; {AGAIN} into a new folder"
            )
        return example

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        """Returns (height, width) of a raster from the header of its picture; all have one size once resized."""
        if self.resized["size"] is not None:
            return tuple(self.resized["size"])
        index = range(len(self))[index]
        if self._names[index] in self._missing.get(field, ()) or field not in self.maps:
            return None
        shard = self._shard(index)
        (content,) = self._record(index, shard, (field,)).values()
        return stored_size(Bytes(f"{shard}: {field} of '{printable(self._names[index])}'", content))

    def sequence(self, index: int) -> tuple[str, int] | None:
        """Returns the recording of a frame and its number there, as far as the data set itself has any."""
        return super().sequence(index) if self._in_time else None

    def _shard(self, index: int) -> Path:
        return self._folder / self._shards[bisect.bisect_right(self._ends, index)][0]

    def _record(self, index: int, shard: Path, fields: Iterable[str]) -> dict[str, Any]:
        """Returns the maps of a frame as they are encoded."""
        # Both imports take long, and whoever only lists a split needs neither.
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            if self._source is None:
                # With the numbers of frames given, no shard is opened before it is read.
                self._source = ArrayRecordDataSource([f"{self._folder / file}[0:{n}]" for file, n in self._shards])
            features = tf_example_pb2.Example.FromString(self._source[index]).features.feature
            found = features["name"].bytes_list.value[0].decode("utf-8", "surrogateescape")
            contents = {field: _content(field, features[field]) for field in fields}
        except Exception as error:  # array_record raises bare exceptions of several kinds for a damaged file
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{shard}: missing or damaged ({reason}); {AGAIN}, which writes it anew") from None
        if found != self._names[index]:
            raise UserError(
                f"{shard}: holds frame '{printable(found)}' where {MANIFEST} lists '{printable(self._names[index])}'; "
                f"the folder was mixed from several, {AGAIN} into a new one"
            )
        return contents


def _content(field: str, feature: Any) -> bytes | np.ndarray:
    """Returns what a feature of a record holds: an encoded raster, or the numbers of another map."""
    spec = MAPS[field]
    if spec.is_raster:
        return feature.bytes_list.value[0]
    return np.array(feature.float_list.value, spec.dtype).reshape(spec.channels)


def _decoded(field: str, content: bytes | np.ndarray, where: str) -> np.ndarray:
    """Returns a map from what a record holds of it."""
    spec = MAPS[field]
    if not spec.is_raster:
        return content
    source = Bytes(where, content)
    if spec.dtype != np.uint8:
        return read_floats(source)
    return read_image(source) if spec.channels else read_label(source)


def _labels(dataset: str, entry: Mapping[str, Any], label_space: str, folder: Path) -> tuple[LabelSpace, np.ndarray]:
    """Returns a label space as the manifest has it, and the table that leads there from stored ids."""
    spaces = entry["label_spaces"]
    if label_space in spaces:
        space = spaces[label_space]
        table = np.frombuffer(bytes.fromhex(space["table"]), np.uint8)
        return LabelSpace(tuple(space["names"]), tuple(map(tuple, space["colours"]))), table
    if entry["labelled"]:
        raise UserError(
            f"{dataset}: label_space: '{label_space}' is none of {', '.join(spaces)}, which {folder} offers"
        )
    # Without labels, the classes are those of whoever trains.
    space = LabelSpace((), ()) if label_space == "own" else label_spaces.label_space(label_space)
    return space, np.full(256, label_spaces.IGNORE, np.uint8)


def _check_options(
    dataset: str, reader: type, given: Mapping[str, Any], prepared: Mapping[str, Any], folder: Path
) -> None:
    """Checks that options, where given, have the values that the data was prepared with."""
    parameters = inspect.signature(reader).parameters
    for key, value in given.items():
        expected = prepared.get(key, plain(parameters[key].default))
        if plain(value) != expected:
            raise UserError(
                f"{dataset}: option '{key}': {folder} was prepared with {expected!r}, got {value!r}; "
                "prepare the data again, elsewhere, or leave the option out"
            )


def plain(value: Any) -> Any:
    """Returns a value as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value, default=str))


def _check_shard(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: missing shard ({error.strerror}); {AGAIN}, which writes it anew") from None
    if found != size:
        raise UserError(f"{path}: damaged shard: expected {size} bytes, got {found}; {AGAIN}, which writes it anew")
