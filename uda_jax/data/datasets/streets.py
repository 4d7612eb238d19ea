"""The built-in data set: procedurally rendered street scenes in two looks, with labels, depth and no download.

Take it to try any method without any data, and to compare methods on two cores.

Depth is the renderer's, exact, or as a real camera gets it: by block matching on a rendered stereo pair. The sky has
none, so what learns depth in metres learns nothing there; to inverse depth, it is as far away as can be.

Where a domain's fields ask for them, each frame comes with `image_right`, the picture of a camera `BASELINE` metres
to its right, with `image_previous` and `image_next`, those of a drive through the same street (`rendering.motion` says
where its camera was), and with the camera's `intrinsics` and `baseline`. The frames themselves stay as they are.

Frames are rendered once per split and size into one ArrayRecord file in a cache folder and read from there; so are the
pairs and the drives, each into a folder of their own. A record of frames is `MAGIC`, three little-endian uint32
lengths, then the image (PNG), the label (PNG) and the depth: zlib of the float32 bytes in planes of equal significance,
which compresses better than the floats one after the other.
"""

import hashlib
import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from PIL import Image

from uda_jax.data import rendering
from uda_jax.data.base import Announced, Dataset
from uda_jax.data.frames import check_split
from uda_jax.data.io import cameras
from uda_jax.data.io.depth import metres_from_disparity
from uda_jax.data.io.files import cache_folder
from uda_jax.data.io.images import opened
from uda_jax.data.labels import label_spaces
from uda_jax.data.rendering import stereo
from uda_jax.data.rendering.record_cache import RecordCache
from uda_jax.errors import UserError

MAPS_OF_FRAMES = ("image", "label", "depth")
MAGIC = b"STR1"
_HEADER = struct.Struct("<4sIII")
DEPTHS = ("exact", "stereo")
SIZE = (96, 192)
# With a wider baseline distances are more exact, but more of a frame has no counterpart in the other.
BASELINE = 0.5  # metres from the left camera, whose frames these are, to the right one
NEAREST = 2.5  # metres; what is nearer gets no stereo depth

# Pictures that are rendered on request: folder -> maps, in the order of its records.
VIEWS = {"pair": ("image_right",), "drive": ("image_previous", "image_next")}
_LENGTH = struct.Struct("<I")

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
    `[H, W]` metres (0 = invalid). Instances are cheap to pickle: the files are opened again where they arrive.

    Attributes:
      split, size, depth: as given.
      maps: the three, and the `views`.
      label_space: names and colours of the label values, of which a few never occur.
      intrinsics: float64 `[3, 3]`, pixels, the same for every frame.
      folder: the cache folder of this split and size.
    """

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
        views: Collection[str] = (),
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
          views: maps on request that frames shall have, too (`data.base.requested`).

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
        self.maps = (*MAPS_OF_FRAMES, *views)
        self._camera = _camera(self.intrinsics, self.size).maps
        self._indices = SPLITS[split][2][:limit]
        self._root = (pathlib.Path(root) if root is not None else cache_folder("streets")).expanduser()
        self._frames = self._cache(self._key(), _frame, "frames" if depth == "exact" else "stereo pairs", workers)
        self.folder = self._frames.folder
        kinds = [kind for kind, maps in VIEWS.items() if not set(maps).isdisjoint(views)]
        self._views = {
            kind: self._cache(f"{self._view_key(kind)}-{kind}", _RENDERED[kind], f"{kind}s", workers) for kind in kinds
        }
        # Whatever else decides what a frame with these maps is.
        self.rule = " ".join(cache.folder.name for cache in self._views.values())

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
        maps = dict(self._camera)
        if not set(MAPS_OF_FRAMES).isdisjoint(fields):
            maps |= zip(MAPS_OF_FRAMES, self._decoded(self._frames, i, decode), strict=True)
        for kind, cache in self._views.items():
            if not set(VIEWS[kind]).isdisjoint(fields):
                maps |= zip(VIEWS[kind], self._decoded(cache, i, decode_pictures), strict=True)
        found = {field: maps[field] for field in self.maps if field in fields}
        return found | {"name": self.name(i), "index": i}

    def sequence(self, i: int) -> None:
        """Returns None: every frame is a street of its own."""
        del i

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

    def _view_key(self, kind: str) -> str:
        look, first, _ = SPLITS[self.split]
        content = (rendering.RENDERER_VERSION, rendering.LOOKS[look], rendering.WEATHERS, first, self._indices)
        content += (self.size, BASELINE if kind == "pair" else rendering.DRIVE_VERSION)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    def _cache(self, key: str, render: Callable[..., bytes], unit: str, workers: int | None) -> RecordCache:
        """Returns records of the split, which are rendered if they are not there."""
        height, width = self.size
        look, first, _ = SPLITS[self.split]
        cache = RecordCache(self._root / f"{self.split}-{len(self)}-{height}x{width}-{key}", len(self), "streets")
        jobs = [(look, first + index, self.size, self.depth) for index in self._indices]
        cache.make(render, jobs, f"streets: rendering {self.split} at {height}x{width}", unit, workers)
        return cache

    def _decoded(self, cache: RecordCache, i: int, decoder: Callable[..., tuple]) -> tuple[np.ndarray, ...]:
        try:
            return decoder(cache[i], self.size)
        except (ValueError, OSError, struct.error, zlib.error) as error:
            raise cache.unreadable(error) from error


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


def encode_pictures(*pictures: np.ndarray) -> bytes:
    """Packs pictures of one frame into a record, each behind its length; the inverse of `decode_pictures`."""
    return b"".join(_LENGTH.pack(len(png)) + png for png in map(_png, pictures))


def decode_pictures(record: bytes, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Unpacks pictures, uint8 `[H, W, 3]` each.

    Raises:
      ValueError, OSError, struct.error: the bytes are no record of this size.
    """
    pictures, start = [], 0
    while start < len(record):
        (length,) = _LENGTH.unpack_from(record, start)
        start += _LENGTH.size + length
        pictures.append(np.array(opened(record[start - length : start])))
    if start != len(record) or any(picture.shape != (*size, 3) for picture in pictures):
        raise ValueError("not a streets record")
    return tuple(pictures)


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


def _camera(matrix: np.ndarray, size: tuple[int, int]) -> cameras.Camera:
    camera = cameras.calibrated((matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), size)
    return camera._replace(baseline=BASELINE)


def _frame(look: str, seed: int, size: tuple[int, int], depth: str) -> bytes:
    if depth == "exact":
        frame = rendering.render(look, seed, size)
        return encode(frame.image, frame.label, frame.depth)
    left, right = rendering.render_stereo(look, seed, size, BASELINE)
    return encode(left.image, left.label, stereo_depth(left.image, right.image, left.intrinsics[0, 0]))


def _pair(look: str, seed: int, size: tuple[int, int], depth: str) -> bytes:
    del depth
    # As `rendering.render_stereo` draws its right eye.
    return encode_pictures(rendering.render(look, seed, size, camera_offset=(BASELINE, 0.0, 0.0)).image)


def _drive(look: str, seed: int, size: tuple[int, int], depth: str) -> bytes:
    del depth
    return encode_pictures(*(frame.image for frame in rendering.render_neighbours(look, seed, size)))


_RENDERED = {"pair": _pair, "drive": _drive}
