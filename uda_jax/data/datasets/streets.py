"""The built-in data set: procedurally rendered street scenes in two looks, with labels, depth and no download.

Take it to try any method without any data, and to compare methods on two cores.

Depth is the renderer's, exact, or as a real camera gets it: by block matching on a rendered stereo pair. The sky has
none, so what learns depth in metres learns nothing there; to inverse depth, it is as far away as can be.

Frames are rendered once per split and size into one ArrayRecord file in a cache folder and read from there. A
record is `MAGIC`, three little-endian uint32 lengths, then the image (PNG), the label (PNG) and the depth: zlib of
the float32 bytes in planes of equal significance, which compresses better than the floats one after the other.
"""

import contextlib
import errno
import hashlib
import io
import os
import pathlib
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from uda_jax.data import rendering
from uda_jax.data.base import Announced, Dataset
from uda_jax.data.frames import check_split
from uda_jax.data.io import atomic
from uda_jax.data.io.depth import metres_from_disparity
from uda_jax.data.io.files import cache_folder
from uda_jax.data.io.images import opened
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.data.labels import label_spaces
from uda_jax.data.rendering import stereo
from uda_jax.errors import UserError

MAGIC = b"STR1"
_HEADER = struct.Struct("<4sIII")
_FILE = "frames.array_record"
DEPTHS = ("exact", "stereo")
SIZE = (96, 192)
# With a wider baseline distances are more exact, but more of a frame has no counterpart in the other.
BASELINE = 0.5  # metres from the left camera, whose frames these are, to the right one
NEAREST = 2.5  # metres; what is nearer gets no stereo depth

# Spread over camera_train; every class occurs, which tests/data/datasets/test_streets.py checks.
LABELLED = tuple(range(20, 2000, 40))

# Split -> (look, first seed, indices into the seeds).
SPLITS: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "simulator_train": ("simulator", 0, tuple(range(2000))),
    "simulator_dev": ("simulator", 1_000_000, tuple(range(250))),
    "camera_train": ("camera", 2_000_000, tuple(range(2000))),
    "camera_labelled": ("camera", 2_000_000, LABELLED),
    "camera_dev": ("camera", 3_000_000, tuple(range(250))),
    "camera_val": ("camera", 4_000_000, tuple(range(500))),
}


class Streets(Dataset):
    """Rendered streets: frames `{"image", "label", "depth", "name", "index"}`.

    image is uint8 `[H, W, 3]` RGB, label uint8 `[H, W]` classes of the label space (255 = ignore), depth float32
    `[H, W]` metres (0 = invalid). Instances are cheap to pickle: the file is opened again where they arrive.

    Attributes:
      split, size, depth: as given.
      label_space: names and colours of the label values, of which a few never occur.
      intrinsics: float64 `[3, 3]`, pixels, the same for every frame.
      folder: the cache folder of this split and size.
    """

    maps = ("image", "label", "depth")

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "simulator_train",
        label_space: str = "19",
        *,
        size: tuple[int, int] = SIZE,
        depth: str = "exact",
        limit: int | None = None,
        workers: int | None = None,
    ):
        """Opens a split, rendering it first if the cache lacks it.

        Args:
          root: cache folder; by default `$UDA_JAX_CACHE/streets`, or `~/.cache/uda_jax/streets`.
          split: a key of `SPLITS`.
          label_space: "19" (the Cityscapes train ids), "16", "13", "10" or "7".
          size: height and width in pixels.
          depth: "exact", the renderer's, or "stereo", matched on the frame and one `BASELINE` metres to its right:
            with holes and errors, and from the two images alone. All else is the same.
          limit: only the first frames of the split.
          workers: rendering processes; by default one per core, and none for fewer than 64 frames.

        Raises:
          UserError: unknown split, protocol or depth, a limit below 1, a full disk, or an unreadable cache.
        """
        check_split("streets", split, SPLITS)
        if limit is not None and limit < 1:
            raise UserError(f"streets: limit: expected an integer >= 1, got {limit!r}")
        if depth not in DEPTHS:
            raise UserError(f"streets: depth: expected one of {', '.join(DEPTHS)}, got {depth!r}")
        self.split, self.size, self.depth = split, (int(size[0]), int(size[1])), depth
        self.label_space = label_spaces.label_space(label_space)
        self.table, self.known = label_spaces.lookup_table("streets", label_space), label_spaces.known_ids("streets")
        self.intrinsics = rendering.intrinsics(self.size)
        self._indices = SPLITS[split][2][:limit]
        root = pathlib.Path(root) if root is not None else cache_folder("streets")
        self.folder = root.expanduser() / f"{split}-{len(self)}-{self.size[0]}x{self.size[1]}-{self._key()}"
        self._source: ArrayRecordDataSource | None = None
        if not self.folder.is_dir():
            self._render(workers)
        self._open()

    @classmethod
    def announced(cls, label_space: str, options: Mapping[str, Any]) -> Announced:
        """Returns the classes and the size of frames, without rendering any."""
        return Announced(label_spaces.label_space(label_space), tuple(options.get("size", SIZE)))

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, i: int) -> str:
        """Returns the name of frame i without decoding it; frames of camera_labelled are named as in camera_train."""
        parent = "camera_train" if self.split == "camera_labelled" else self.split
        return f"{parent}_{self._indices[i]:05d}"

    def read(self, i: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns frame i with the maps in `fields` at most; a record is decoded as a whole."""
        example = self.stored(i, fields)
        return example | {"label": self.table[example["label"]]} if "label" in example else example

    def stored(self, i: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns frame i as `read` does, with the label in the 19 classes of Cityscapes."""
        i = range(len(self))[i]
        source = self._open()
        try:
            maps = dict(zip(self.maps, decode(source[i], self.size), strict=True))
        except (ValueError, OSError, RuntimeError, IndexError, struct.error, zlib.error) as error:
            raise self._unreadable(error) from error
        return {field: value for field, value in maps.items() if field in fields} | {"name": self.name(i), "index": i}

    def sequence(self, i: int) -> None:
        """Returns None: every frame is a street of its own."""
        del i

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def _key(self) -> str:
        """Returns the content key: everything that decides the bytes of the file."""
        look, first, _ = SPLITS[self.split]
        content = (
            rendering.RENDERER_VERSION,
            MAGIC,
            rendering.LOOKS[look],
            rendering.WEATHERS,
            first,
            self._indices,
            self.size,
        )
        if self.depth == "stereo":
            content += (stereo.MATCHER_VERSION, BASELINE, NEAREST)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    def _unreadable(self, error: object) -> UserError:
        reason = " ".join(str(error).split())[:120]
        return UserError(
            f"streets: cannot read {self.folder / _FILE} ({reason}); delete the folder {self.folder} and run again"
        )

    def _open(self) -> ArrayRecordDataSource:
        if self._source is None:
            try:
                source = ArrayRecordDataSource([str(self.folder / _FILE)])
                count = len(source)
            except Exception as error:  # array_record raises bare exceptions of several kinds for a damaged file
                raise self._unreadable(error) from error
            if count != len(self):
                raise self._unreadable(f"{count} records instead of {len(self)}")
            self._source = source
        return self._source

    def _render(self, workers: int | None) -> None:
        """Renders the split into the cache folder."""
        try:
            with atomic.folder(self.folder) as temporary:
                self._write(temporary / _FILE, workers)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                need = f"free {len(self) // 11 + 1} MB or set UDA_JAX_CACHE to another disk"
                raise UserError(f"streets: no space left for {self.folder}; {need}") from error
            raise UserError(
                f"streets: cannot write {self.folder} ({error}); set UDA_JAX_CACHE to a writable folder"
            ) from error

    def _write(self, path: pathlib.Path, workers: int | None) -> None:
        look, first, _ = SPLITS[self.split]
        jobs = [(look, first + index, self.size, self.depth) for index in self._indices]
        kind = "frames" if self.depth == "exact" else "stereo pairs"
        title = f"streets: rendering {self.split} at {self.size[0]}x{self.size[1]}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        with contextlib.closing(writer), parallel_map(_frame, jobs, workers, title="streets") as records:
            for record in progress_bar(title, len(jobs), kind, records):
                writer.write(record)


def encode(image: np.ndarray, label: np.ndarray, depth: np.ndarray) -> bytes:
    """Packs one frame into a record; the inverse of `decode`."""
    planes = np.ascontiguousarray(depth, "<f4").view(np.uint8).reshape(-1, 4).T.tobytes()
    parts = [_png(image), _png(label), zlib.compress(planes, 6)]
    return _HEADER.pack(MAGIC, *map(len, parts)) + b"".join(parts)


def decode(record: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpacks (image uint8 `[H, W, 3]`, label uint8 `[H, W]`, depth float32 `[H, W]`).

    Raises:
      ValueError, OSError, struct.error, zlib.error: the bytes are no record of this size.
    """
    magic, image_bytes, label_bytes, depth_bytes = _HEADER.unpack_from(record)
    if magic != MAGIC or len(record) != _HEADER.size + image_bytes + label_bytes + depth_bytes:
        raise ValueError("not a streets record")
    view = memoryview(record)[_HEADER.size :]
    image = np.array(opened(bytes(view[:image_bytes])))
    label = np.array(opened(bytes(view[image_bytes : image_bytes + label_bytes])))
    planes = np.frombuffer(zlib.decompress(view[image_bytes + label_bytes :]), np.uint8).reshape(4, -1)
    depth = np.ascontiguousarray(planes.T).view("<f4").astype(np.float32).reshape(size)
    if image.shape != (*size, 3) or label.shape != size:
        raise ValueError(f"frame of {image.shape} instead of {size}")
    return image, label, depth


def _png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def stereo_depth(left: np.ndarray, right: np.ndarray, focal_length: float, *, baseline: float = BASELINE) -> np.ndarray:
    """Measures the depth of a frame by matching it to that of the right camera.

    Args:
      left, right: uint8 `[H, W, 3]`, rectified.
      focal_length: pixels.
      baseline: distance of the two cameras, metres.

    Returns:
      float32 `[H, W]`, metres, 0 = invalid.
    """
    candidates = int(baseline * focal_length / NEAREST) + 2
    disparity = stereo.disparity(left, right, candidates=candidates)
    return metres_from_disparity(disparity, baseline=baseline, focal_length=focal_length)


def _frame(look: str, seed: int, size: tuple[int, int], depth: str) -> bytes:
    if depth == "exact":
        frame = rendering.render(look, seed, size)
        return encode(frame.image, frame.label, frame.depth)
    left, right = rendering.render_stereo(look, seed, size, BASELINE)
    return encode(left.image, left.label, stereo_depth(left.image, right.image, left.intrinsics[0, 0]))
