"""Sets that were prepared with TensorFlow Datasets as ArrayRecord; TensorFlow itself is not needed.

Take it where a set lies prepared by TensorFlow Datasets already.

The root is the `data_dir` that the set was prepared in. The option `builder` names the set below it, with config and
version if need be: "cityscapes/semantic_segmentation" or "cityscapes/semantic_segmentation/1.0.0". By default it is the
newest version. Without `builder`, the root itself is the folder of a set or of its versions. What lies there as
TFRecord must be prepared again: `builder.download_and_prepare(file_format="array_record")`.

Other options name features and say what they hold:
- `image`: "image" by default. TFDS' own Cityscapes has "image_left".
- `label`: None leaves frames unlabelled. TFDS' own Cityscapes has "segmentation_label". A class label makes a map of
  one pixel, for classification.
- `ids`: what label values mean. A data set whose ids they are, "cityscapes" by default (raw ids, as in TFDS' own); or
  "own", the class names that the feature itself lists.
- `depth`, and `depth_unit`, metres per stored unit. Leave "disparity_map" of TFDS' Cityscapes alone: it holds no
  metres, and 8 bits only.

The split may be any that TFDS understands, such as "train[:50%]". Frames are named by their number in it. Pictures are
decoded here and not by TFDS, so that their pixels are those of the files that were put in.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.frames import fitted
from uda_jax.data.io.archives import GIVE_ROOT, Bytes
from uda_jax.data.io.files import cannot_read, require_file
from uda_jax.data.io.images import read_depth, read_floats, read_image, read_label, stored_size
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import IGNORE, LabelSpace, distinct_colours
from uda_jax.errors import UserError, printable
from uda_jax.schema import did_you_mean

SPLITS = ("train", "validation", "test")
_FEATURES = "features.json"


class Tfds(Dataset):
    """One split of a prepared set: a data set of its records.

    Instances can be pickled; the records are opened again where they arrive.

    Args:
      root: the folder that the set was prepared in.
      split: a split, or a part of one.
      label_space: a protocol of `label_spaces`, or "own" together with `ids` "own". With such ids, a protocol takes the
        classes that have its names.
      builder: name of the set below `root`, with config and version if need be.
      image, label, depth: names of features; None for a map that is not to be read.
      ids: data set whose ids the labels hold, or "own".
      depth_unit: metres per stored unit of depth.

    Attributes:
      label_space: names and colours of the label values.
      table: uint8 `[256]` from stored ids to classes.
      known: the stored ids that are defined.

    Raises:
      UserError: no such set, split, feature or protocol, or the set is no ArrayRecord; on access, a damaged record.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        builder: str | None = None,
        image: str = "image",
        label: str | None = None,
        depth: str | None = None,
        ids: str = "cityscapes",
        depth_unit: float = 1.0,
    ):
        if isinstance(depth_unit, bool) or not isinstance(depth_unit, (int, float)) or not 0 < depth_unit < np.inf:
            raise UserError(f"tfds: depth_unit: expected metres per unit, a number above 0, got {depth_unit!r}")
        self._folder, self._split, self._unit = _folder(root, builder), split, depth_unit
        self._names = {"image": image} | ({"label": label} if label else {}) | ({"depth": depth} if depth else {})
        self.maps = tuple(self._names)
        self._source: Any = None
        self._length = len(self._open())
        if not self._length:
            raise UserError(f"{self._where}: split '{split}' holds no frame; check root and split")
        features = self._open().dataset_info.features
        self._kinds = {field: self._kind(features, field) for field in self._names}
        classes = features[label].names if self._kinds.get("label") in ("classes", "class") else None
        self.label_space, self.table, self.known = self._meaning(ids, label_space, classes)

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return fitted(self.read(index, MAPS))

    def name(self, index: int) -> str:
        """Returns the name of frame `index`, its number in the split, such as "000042"."""
        return f"{range(len(self))[index]:06d}"

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes frame `index`, of its maps only those named in `fields` and present.

        Raises:
          UserError: the record is damaged, or holds something else than the options say.
        """
        example = self.stored(index, fields)
        if "label" in example:
            example["label"] = self.table[example["label"]]
        return example

    def stored(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Decodes as `read` does, but leaves the label as the ids that are stored."""
        index = range(len(self))[index]
        example: dict[str, Any] = {"name": self.name(index), "index": index}
        wanted = {field: name for field, name in self._names.items() if field in fields}
        if not wanted:
            return example
        record = self._record(index)
        for field, name in wanted.items():
            example[field] = self._decoded(field, record[name], f"{self._where}: {name} of record {index}")
        self._check_sizes(example, index)
        return example

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        """Returns (height, width) of a raster of frame `index`, of a picture from its header."""
        index = range(len(self))[index]
        if field not in self._names:
            return None
        value = self._record(index)[self._names[field]]
        if isinstance(value, bytes):
            return stored_size(Bytes(f"{self._where}: {self._names[field]} of record {index}", value))
        return (*np.shape(value), 1, 1)[:2]

    def _record(self, index: int) -> dict[str, Any]:
        """Returns a record, its pictures encoded; raises a UserError if it cannot be read."""
        source = self._open()
        try:
            return source[index]
        except Exception as error:  # array_record and protobuf raise exceptions of several kinds for a damaged file
            raise UserError(
                f"{self._where}: record {index} of split '{self._split}' cannot be read ({_brief(error)}); prepare the "
                "set again"
            ) from None

    @property
    def _where(self) -> str:
        return printable(str(self._folder))

    def _open(self) -> Any:
        """Returns TFDS' random-access source of the split, whose pictures stay encoded."""
        if self._source is None:
            tfds = _tfds()
            for shard in sorted(self._folder.glob("*array_record*")):
                try:
                    # The library below TFDS would wait for a pipe for ever.
                    require_file(shard)
                except OSError as error:
                    raise UserError(cannot_read(printable(str(shard)), error)) from None
            try:
                builder = tfds.builder_from_directory(self._folder)
                features = builder.info.features
                encoded = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
                decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
                self._source = builder.as_data_source(self._split, decoders=decoders)
            except NotImplementedError:
                raise UserError(
                    f"{self._where}: expected a set prepared as array_record, got {builder.info.file_format.value}; "
                    "prepare it again with download_and_prepare(file_format='array_record')"
                ) from None
            # TFDS raises exceptions of many kinds for descriptions and shards that are damaged or missing.
            except Exception as error:
                raise UserError(f"{self._where}: cannot open split '{self._split}' ({_brief(error)})") from None
        return self._source

    def _kind(self, features: Any, field: str) -> str:
        """Returns how the feature of a map stores it: "picture", "floats", "classes", "class" or "array"."""
        tfds, name = _tfds(), self._names[field]
        if name not in features:
            raise UserError(f"tfds: {field}: {self._where} has no feature '{name}'{did_you_mean(name, list(features))}")
        feature = features[name]
        if isinstance(feature, tfds.features.Image):
            kind = "floats" if feature.np_dtype == np.float32 else "picture"
            kind = "classes" if isinstance(feature, tfds.features.LabeledImage) else kind
        elif isinstance(feature, tfds.features.ClassLabel):
            kind = "class"
        else:
            kind = "array" if isinstance(feature, tfds.features.Tensor) else "other"
        allowed = {
            "image": ("picture",),
            "label": ("picture", "classes", "class", "array"),
            "depth": ("picture", "floats", "array"),
        }[field]
        if kind not in allowed:
            raise UserError(f"tfds: {field}: feature '{name}' of {self._where} is {feature!r}, which holds no {field}")
        return kind

    def _meaning(
        self, ids: str, label_space: str, classes: list[str] | None
    ) -> tuple[LabelSpace, np.ndarray, frozenset[int]]:
        """Returns the label space, the table that leads there from stored ids, and the ids that are defined."""
        if ids != "own":
            table = label_spaces.lookup_table(ids, label_space)
            return label_spaces.label_space(label_space), table, label_spaces.known_ids(ids)
        if not classes:
            raise UserError(
                f"tfds: ids: 'own' needs a label feature with class names, which {self._where} does not list; name the "
                "data set whose ids they are, such as 'cityscapes'"
            )
        if label_space == "own":
            space, targets = LabelSpace(tuple(classes), distinct_colours(len(classes))), np.arange(len(classes))
        else:
            targets = label_spaces.classes_by_name(classes, label_space)
            space = label_spaces.label_space(label_space)
            if (targets == IGNORE).all():
                raise UserError(f"tfds: no class of {self._where} has a name of label space '{label_space}'; use 'own'")
        table = np.full(256, IGNORE, np.uint8)
        table[: len(targets)] = targets
        return space, table, frozenset((*range(len(targets)), IGNORE))

    def _check_sizes(self, example: dict[str, Any], index: int) -> None:
        """Raises a UserError for an image and a label of different sizes; a class label's one pixel fits any image."""
        sizes = {
            self._names[field]: example[field].shape[:2]
            for field in self.maps
            if field in example
            and not MAPS[field].may_differ_in_size
            and not (field == "label" and self._kinds[field] == "class")
        }
        (first, expected), *others = sizes.items() or [(None, None)]
        for name, size in others:
            if size != expected:
                raise UserError(
                    f"{self._where}: record {index}: {name} is {size[0]}x{size[1]} (height x width), but {first} is "
                    f"{expected[0]}x{expected[1]}; make the sizes equal, or leave the frame out"
                )

    def _decoded(self, field: str, value: Any, where: str) -> np.ndarray:
        """Returns one map of a record."""
        kind = self._kinds[field]
        if field == "image":
            return read_image(Bytes(where, value))
        if field == "label":
            if kind in ("picture", "classes"):
                return read_label(Bytes(where, value))
            return _ids(np.asarray(value), where)
        if kind == "picture":
            return read_depth(Bytes(where, value), self._unit)
        depth = _flat(read_floats(Bytes(where, value)) if kind == "floats" else np.asarray(value), where)
        depth = depth.astype(np.float64) * self._unit
        return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)


def _tfds() -> Any:
    # Takes most of a second, which whoever reads another data set need not wait.
    import tensorflow_datasets

    return tensorflow_datasets


def _folder(root: str | os.PathLike | None, builder: str | None) -> Path:
    """Returns the folder of a prepared set, that of the newest version if several lie there."""
    if root is None:
        raise UserError(f"tfds: root: expected the folder of prepared sets, got none; {GIVE_ROOT}")
    base = Path(root).expanduser()
    if builder is not None:
        base /= builder.replace(":", "/")
    if not base.is_dir():
        raise UserError(f"tfds: root: no folder {printable(str(base))}; set 'root' and 'builder' to a prepared set")
    if (base / _FEATURES).is_file():
        return base
    found = [path.parent for path in (*base.glob(f"*/{_FEATURES}"), *base.glob(f"*/*/{_FEATURES}"))]
    if not found:
        raise UserError(f"tfds: no {_FEATURES} in {printable(str(base))} nor in a version below; prepare the set first")
    if len({folder.parent for folder in found}) > 1:
        listed = ", ".join(sorted({folder.parent.relative_to(root).as_posix() for folder in found}))
        raise UserError(f"tfds: builder: {printable(str(base))} holds several sets; choose one of {printable(listed)}")
    return max(found, key=lambda folder: [int(number) for number in re.findall("[0-9]+", folder.name)])


def _flat(array: np.ndarray, where: str) -> np.ndarray:
    """Returns a map `[H, W]` that may have come as `[H, W, 1]`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise UserError(f"{where}: expected a map of one channel, got the shape {array.shape}; name another feature")
    return array


def _ids(array: np.ndarray, where: str) -> np.ndarray:
    """Returns a label that is no picture: an array of ids, or the one id of a classified picture."""
    array = _flat(array.reshape(1, 1) if array.ndim == 0 else array, where)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise UserError(
            f"{where}: expected whole ids from 0 to 255, got {array.dtype} of {array.min()} to {array.max()}"
        )
    return array.astype(np.uint8)


def _brief(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:200])
