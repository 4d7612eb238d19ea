"""Small data sets in the layouts of the published ones, of generated arrays, for tests that damage them."""

import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIZE = (14, 18)
FRAMES = 6


class Layout(NamedTuple):
    """How a data set lies on disk.

    Attributes:
      dataset, split, options: for `get_dataset`.
      paths: {map: path of its file, with "{}" for the frame}.
      frames: what goes into the paths.
      ids: the largest id of a label, or None where labels are colours.
      others: {path: text} of further files.
      optional: maps that a frame may be without.
      sixteen: maps whose files have 16 bits per channel.
      channels: {map: channels of its file}.
      one_size: whether all frames have one size by the data set's nature.
      options: of the data set.
      colours: that labels are painted in, if they are.
      root: where below the folder the data set's root is.
      maker: writes the files of a data set that has none for each frame, into a folder.
      package: that reading and writing it takes, of those that not everybody installs.
    """

    dataset: str
    split: str
    paths: dict[str, str]
    frames: tuple[str, ...]
    ids: int | None = 33
    others: dict[str, str] = {}
    optional: tuple[str, ...] = ()
    sixteen: tuple[str, ...] = ("depth",)
    channels: dict[str, int] = {"image": 3, "label": 1, "depth": 1, "disparity": 1}
    one_size: bool = True
    options: Mapping[str, Any] = {}
    colours: tuple[tuple[int, int, int], ...] = ()
    root: str = ""
    maker: Callable[[Path], None] | None = None
    package: str = ""


def numbered(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(k) for k in range(1, FRAMES + 1))


VKITTI_COLOURS = {"Terrain": (210, 0, 200), "Sky": (90, 200, 255), "Road": (100, 60, 100), "Car:1": (200, 200, 0)}
ENCODING = "\n".join(["Category(:id) r g b", *(f"{key} {r} {g} {b}" for key, (r, g, b) in VKITTI_COLOURS.items())])
VKITTI = {"label": 3, "image": 3, "depth": 1}

LAYOUTS = {
    "folder": Layout(
        "folder",
        "train",
        {"image": "train/images/{}.jpg", "label": "train/labels/{}.png", "depth": "train/depth/{}.png"},
        numbered("f{:03}"),
        ids=2,
        others={"dataset.yaml": "classes: [road, sky, tram]\ndepth_unit: 0.01\n"},
        optional=("label", "depth"),
        one_size=False,
    ),
    "camvid": Layout(
        "camvid", "train", {"image": "train/{}.png", "label": "trainannot/{}.png"}, numbered("0001TP_{:06}"), ids=11
    ),
    "gta5": Layout(
        "gta5", "train", {"image": "images/{}.png", "label": "labels/{}.png"}, numbered("{:05}"), one_size=False
    ),
    "cityscapes": Layout(
        "cityscapes",
        "train",
        {
            "image": "leftImg8bit_trainvaltest/leftImg8bit/train/{}_leftImg8bit.png",
            "label": "gtFine_trainvaltest/gtFine/train/{}_gtFine_labelIds.png",
        },
        (*numbered("aachen/aachen_{:06}_000019")[:3], *numbered("bochum/bochum_000000_{:06}")[3:]),
    ),
    "synthia": Layout(
        "synthia",
        "train",
        {"image": "RGB/{}.png", "label": "GT/LABELS/{}.png", "depth": "Depth/Depth/{}.png"},
        numbered("{:07}"),
        ids=22,
        sixteen=("label", "depth"),
        channels={"image": 3, "label": 3, "depth": 3},
    ),
    "virtual_kitti": Layout(
        "virtual_kitti",
        "clone",
        {
            "image": "vkitti_1.3.1_rgb/0001/clone/{}.png",
            "label": "vkitti_1.3.1_scenegt/0001/clone/{}.png",
            "depth": "vkitti_1.3.1_depthgt/0001/clone/{}.png",
        },
        numbered("{:05}"),
        ids=None,
        others={"vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt": ENCODING},
        channels=VKITTI,
        colours=tuple(VKITTI_COLOURS.values()),
    ),
    "kitti": Layout(
        "kitti",
        "train",
        {"image": "data_semantics/training/image_2/{}.png", "label": "data_semantics/training/semantic/{}.png"},
        numbered("{:06}_10"),
        one_size=False,
    ),
    "mapillary": Layout(
        "mapillary",
        "train",
        {"image": "training/images/{}.jpg", "label": "training/labels/{}.png"},
        numbered("{:022}"),
        ids=65,
        one_size=False,
    ),
}


def png(array: np.ndarray) -> bytes:
    """Encodes 8 or 16 bits with one or three channels; Pillow cannot write colours of 16 bits."""
    bits, colour = 8 * array.itemsize, {2: 0, 3: 2}[array.ndim]
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(array.shape[0], -1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matlab(variables: Mapping[str, np.ndarray]) -> bytes:
    """Encodes matrices of unsigned bytes or of doubles as MATLAB 5 does."""
    elements = []
    for name, array in variables.items():
        sizes, kind = np.array(array.shape, "<i4").tobytes(), 2 if array.dtype == np.uint8 else 9
        values = array.astype(np.uint8 if kind == 2 else "<f8").tobytes(order="F")
        parts = (6, struct.pack("<II", 6 if kind == 9 else 9, 0)), (5, sizes), (1, name.encode()), (kind, values)
        data = zlib.compress(element(14, b"".join(element(*part) for part in parts)))
        elements.append(struct.pack("<II", 15, len(data)) + data)
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + b"".join(elements)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.fromarray(array).save(path, quality=90)
    elif path.suffix == ".mat":
        path.write_bytes(matlab({"depth_map": array}))
    elif path.suffix == ".exr":
        import OpenEXR

        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        with OpenEXR.File(header, {"Y": array.astype(np.float32)}) as file:
            file.write(str(path))
    else:
        path.write_bytes(png(array))


def content(layout: Layout, field: str, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Returns what a file of this map holds."""
    channels = layout.channels[field]
    shape = (*size, 3) if channels == 3 else size
    if field == "label" and layout.ids is None:
        return np.array(layout.colours, np.uint8)[generator.integers(0, len(layout.colours), size)]
    if field == "depth" and not layout.paths[field].endswith(".png"):
        return generator.uniform(1, 90, size)
    kind = np.uint16 if field in layout.sixteen else np.uint8
    if field == "label":
        label = np.zeros(shape, kind)
        label[(..., 0) if channels == 3 else ...] = generator.integers(0, layout.ids + 1, size)
        return label
    # Up to 32 pixels of disparity, or metres, where there are 256 counts to one: what a small picture of a scene has.
    array = generator.integers(0, min(np.iinfo(kind).max, 2**13), shape, kind, endpoint=True)
    return np.repeat(array[..., :1], 3, axis=-1) if field == "depth" and channels == 3 else array


def write_layout(layout: Layout, root: Path, size: tuple[int, int] = SIZE) -> Path:
    generator = np.random.default_rng(7)
    if layout.maker:
        root.mkdir(parents=True)
        layout.maker(root)
    for field, path in layout.paths.items():
        for frame in layout.frames:
            write(root / path.format(frame), content(layout, field, size, generator))
    for path, text in layout.others.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


class Case(NamedTuple):
    """One data set to damage: its root, its layout, and what the mutation draws from."""

    root: Path
    layout: Layout
    generator: np.random.Generator

    def file(self, field: str | None = None, frame: str | None = None) -> Path:
        """Returns the file of a map, drawn at random if none is named."""
        field = field or self.choice(sorted(self.layout.paths))
        return self.root / self.layout.paths[field].format(frame or self.choice(self.layout.frames))

    def field(self, path: Path) -> str:
        starts = {str(self.root / pattern.partition("{}")[0]): field for field, pattern in self.layout.paths.items()}
        return next(field for start, field in starts.items() if str(path).startswith(start))

    def choice(self, options):
        return options[self.generator.integers(len(options))]


def packed(root: Path, kind: str) -> list[Path]:
    """Moves each folder of a root into an archive of its own and returns the archives."""
    archives = []
    for folder in [path for path in sorted(root.iterdir()) if path.is_dir()]:
        archive = root / f"{folder.name}.{kind}"
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if kind == "zip":
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
                for path in files:
                    out.write(path, path.relative_to(root))
        else:
            with tarfile.open(archive, "w") as out:
                for path in files:
                    out.add(path, path.relative_to(root))
        shutil.rmtree(folder)
        archives.append(archive)
    return archives
