"""Frames as records: what `uda prepare` puts into shards, in the terms of TFDS, exactly or resized as in training."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.io import atomic
from uda_jax.data.io.archives import Bytes, File
from uda_jax.data.io.images import damage, header, is_turned, read_label
from uda_jax.data.io.png import write_floats, write_png
from uda_jax.data.pipeline import transforms
from uda_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns the frames of a data set into records.

    Attributes:
      dataset: the opened data set.
      fields: maps to store.
      size: (height, width) in pixels, or None to keep files as they are.
      resampling: rules of images and of disparity.
      fit: "stretch" or "pad", as in `transforms.resize`.
      recode: without a size, whether to store pixels as `write_png` does in place of the files' bytes.
    """

    dataset: Dataset
    fields: tuple[str, ...]
    size: tuple[int, int] | None
    resampling: transforms.Resampling = transforms.Resampling()
    fit: str = "stretch"
    recode: bool = False

    def record(self, position: int) -> bytes:
        """Returns the serialised `tf.train.Example` of a frame.

        Raises:
          UserError: the frame cannot be read.
        """
        example = self.dataset.stored(position, self.fields)
        if self.size is None:
            files = {} if self.recode else self.dataset.files(position)
            maps = {
                field: _copied(field, example[field], files.get(field)) for field in self.fields if field in example
            }
        else:
            example = transforms.resize(example, self.size, resampling=self.resampling, fit=self.fit)
            maps = {field: _encoded(field, example[field]) for field in self.fields if field in example}
        for field in self.fields:
            if field not in maps:
                # TFDS needs a value where a frame has none: records of one folder all have the same maps.
                spec = MAPS[field]
                maps[field] = _encoded(field, np.full(spec.shape(example["image"].shape[:2]), spec.fill, spec.dtype))
        name = example["name"].encode("utf-8", "surrogateescape")
        # Without `deterministic`, protobuf orders the maps anew in each process.
        return _serializer(self.fields).get_tf_example(maps | {"name": name}).SerializeToString(deterministic=True)


def features(fields: Sequence[str]) -> "tfds.features.FeaturesDict":
    """Returns the TFDS features of records with some maps."""
    return tfds.features.FeaturesDict({field: _feature(field) for field in fields} | {"name": tfds.features.Text()})


def _feature(field: str) -> "tfds.features.FeatureConnector":
    """Returns the TFDS feature of a map."""
    spec = MAPS[field]
    if not spec.is_raster:
        return tfds.features.Tensor(shape=spec.channels, dtype=spec.dtype, doc=spec.description)
    # The manifest holds the way from these ids to classes.
    doc = "ids as the data set stores them" if field == "label" else spec.description
    return tfds.features.Image(shape=(None, None, *(spec.channels or (1,))), dtype=spec.dtype, doc=doc)


def write_metadata(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes TFDS' description of all splits of a prepared folder, from what its manifest says.

    The files come to be in a folder aside first, so that none is ever half there.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{manifest['dataset']}-tfds-", dir=folder))
    try:
        identity = tfds.core.DatasetIdentity(
            name=manifest["dataset"], version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
        )
        info = tfds.core.DatasetInfo(
            builder=identity,
            features=features(manifest["fields"]),
            description=f"{manifest['dataset']}, prepared by uda_jax; manifest.json says how.",
        )
        info.set_file_format("array_record")
        template = tfds.core.ShardedFileTemplate(
            folder, dataset_name=manifest["dataset"], filetype_suffix="array_record"
        )
        splits = [
            tfds.core.SplitInfo(
                name=entry["tfds_split"],
                shard_lengths=[shard["frames"] for shard in entry["shards"]],
                num_bytes=sum(shard["bytes"] for shard in entry["shards"]),
                filename_template=template,
            )
            for entry in manifest["splits"].values()
        ]
        info.set_splits(tfds.core.SplitDict(splits))
        info.write_to_directory(aside)
        for path in sorted(aside.iterdir()):
            atomic.finish(path, folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@functools.cache
def _serializer(fields: tuple[str, ...]) -> "tfds.core.example_serializer.ExampleSerializer":
    return tfds.core.example_serializer.ExampleSerializer(features(fields).get_serialized_info())


def _copied(field: str, array: np.ndarray, file: File | None) -> bytes:
    """Returns a file's bytes where they plainly hold an array, else the array as a new PNG."""
    if file is None or MAPS[field].dtype != np.uint8:
        return _encoded(field, array)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot read it ({error}); copy it again") from None
    if reason := damage(data):
        raise UserError(f"{file}: damaged: {reason}; copy it again")
    if MAPS[field].channels:
        # TFDS takes channels and orientation of a file as they come, where this library makes them three and upright.
        return data if header(data)[0] == "RGB" and not is_turned(data) else _encoded(field, array)
    with contextlib.suppress(UserError):
        if np.array_equal(read_label(Bytes(str(file), data)), array):
            return data
    return _encoded(field, array)


def _encoded(field: str, array: np.ndarray) -> bytes | np.ndarray:
    """Returns a map as TFDS' serialisation takes it: a raster as a PNG, other maps as they are."""
    if not MAPS[field].is_raster:
        return np.asarray(array)
    return write_png(array) if array.dtype == np.uint8 else write_floats(array)
