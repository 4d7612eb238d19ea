"""Two hundred damaged data sets: each damage is reported by name, and the frames of the fix list can be read.

Small data sets in the layouts of the published ones are written from generated arrays, copied, and damaged once each by
a seeded mutator.
"""

import functools
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.checks.check import Report, check_dataset
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError, printable

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
    """

    dataset: str
    split: str
    paths: dict[str, str]
    frames: tuple[str, ...]
    ids: int | None = 33
    others: dict[str, str] = {}
    optional: tuple[str, ...] = ()
    sixteen: tuple[str, ...] = ("depth",)
    channels: dict[str, int] = {"image": 3, "label": 1, "depth": 1}
    one_size: bool = True


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


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.fromarray(array).save(path, quality=90)
    else:
        path.write_bytes(png(array))


def content(layout: Layout, field: str, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Returns what a file of this map holds."""
    channels = layout.channels[field]
    shape = (*size, 3) if channels == 3 else size
    if field == "label" and layout.ids is None:
        return np.array(list(VKITTI_COLOURS.values()), np.uint8)[generator.integers(0, len(VKITTI_COLOURS), size)]
    kind = np.uint16 if field in layout.sixteen else np.uint8
    if field == "label":
        label = np.zeros(shape, kind)
        label[(..., 0) if channels == 3 else ...] = generator.integers(0, layout.ids + 1, size)
        return label
    array = generator.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
    return np.repeat(array[..., :1], 3, axis=-1) if field == "depth" and channels == 3 else array


def write_layout(layout: Layout, root: Path, size: tuple[int, int] = SIZE) -> Path:
    generator = np.random.default_rng(7)
    for field, path in layout.paths.items():
        for frame in layout.frames:
            write(root / path.format(frame), content(layout, field, size, generator))
    for path, text in layout.others.items():
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
        folder = {self.root / pattern.partition("{}")[0]: field for field, pattern in self.layout.paths.items()}
        return next(field for place, field in folder.items() if place in (path, *path.parents))

    def choice(self, options):
        return options[self.generator.integers(len(options))]


def truncated(case: Case) -> str:
    path = case.file()
    data = path.read_bytes()
    path.write_bytes(data[: case.generator.integers(1, len(data))])
    return str(path)


def last_bytes_missing(case: Case) -> str:
    path = case.file()
    path.write_bytes(path.read_bytes()[: -case.generator.integers(1, 13)])
    return str(path)


def empty(case: Case) -> str:
    path = case.file()
    path.write_bytes(b"")
    return str(path)


def all_zeros(case: Case) -> str:
    path = case.file()
    path.write_bytes(bytes(path.stat().st_size))
    return str(path)


def flipped_byte(case: Case) -> str:
    path = case.file("label")
    data = bytearray(path.read_bytes())
    data[case.generator.integers(len(data))] ^= 1 << case.generator.integers(8)
    path.write_bytes(data)
    return str(path)


def other_size(case: Case) -> str:
    path = case.file()
    height, width = (side + case.choice((-3, 4)) for side in SIZE)
    write(path, content(case.layout, case.field(path), (height, width), case.generator))
    return path.stem.split("_gtFine")[0]


def whole_frame_of_other_size(case: Case) -> str:
    frame = case.choice(case.layout.frames)
    for field in case.layout.paths:
        write(case.file(field, frame), content(case.layout, field, (20, 30), case.generator))
    return str(case.file("image", frame))


def grey_or_transparent_image(case: Case) -> str:
    path = case.file("image")
    modes = ("L", "CMYK") if path.suffix == ".jpg" else ("L", "RGBA", "P", "LA")
    with Image.open(path) as image:
        image.convert(case.choice(modes)).save(path)
    return str(path)


def map_of_other_mode(case: Case) -> str:
    path = case.file(case.choice([field for field in sorted(case.layout.paths) if field != "image"]))
    rows, columns = SIZE
    pixels = np.arange(rows * columns * 4, dtype=np.uint32).reshape(rows, columns, 4).astype(np.uint8)
    modes = ("LA", "RGBA") if case.layout.channels[case.field(path)] == 3 else ("LA", "RGB", "RGBA")
    Image.fromarray(pixels, "RGBA").convert(case.choice(modes)).save(path)
    return str(path)


def other_bit_depth(case: Case) -> str:
    path = case.file(case.choice([field for field in sorted(case.layout.paths) if case.file(field).suffix == ".png"]))
    field = case.field(path)
    array = content(case.layout, field, SIZE, case.generator)
    write(path, array.astype(np.uint8) if field in case.layout.sixteen else array.astype(np.uint16) * 257)
    return str(path)


def missing_pair(case: Case) -> str:
    path = case.file(case.choice([field for field in sorted(case.layout.paths) if field not in case.layout.optional]))
    path.unlink()
    return path.stem.split("_gtFine")[0].split("_leftImg8bit")[0]


def same_stem_twice(case: Case) -> str:
    if case.layout.dataset == "cityscapes":
        path = case.file("image", case.layout.frames[0])
        shutil.copyfile(path, path.parents[1] / "bochum" / path.name)
        return path.name.removesuffix("_leftImg8bit.png")
    path = case.file("image")
    # KITTI's images are PNGs alone.
    other = path.with_suffix(".jpeg" if path.suffix == ".png" and case.layout.dataset != "kitti" else ".PNG")
    with Image.open(path) as image:
        image.save(other, format="JPEG" if other.suffix == ".jpeg" else "PNG")
    return path.stem


def image_beyond_ascii(case: Case) -> str:
    path = case.file("image")
    renamed = path.with_name("Straße_" + path.name)
    path.rename(renamed)
    return "Straße_"


def frame_beyond_ascii(case: Case) -> str:
    frame = case.choice(case.layout.frames)
    for field in case.layout.paths:
        path = case.file(field, frame)
        path.rename(path.with_name("Å" + path.name))
    return "Å"


def name_that_is_no_utf8(case: Case) -> str:
    frame = case.choice(case.layout.frames)
    for field in case.layout.paths:
        path = case.file(field, frame)
        path.rename(path.with_name("\udcff" + path.name))
    return "\\udcff"


def link_to_itself(case: Case) -> str:
    path = case.file()
    path.unlink()
    path.symlink_to(path.name)
    return str(path)


def link_to_nothing(case: Case) -> str:
    path = case.file()
    path.unlink()
    path.symlink_to(f"../moved/{path.name}")
    return str(path)


def link_to_the_folder_above(case: Case) -> str:
    path = case.file().with_name("again")
    path.symlink_to(case.choice(("..", ".", str(path.parent))))
    return str(path)


def folder_linked_to_itself(case: Case) -> str:
    path = case.file().parent
    shutil.rmtree(path)
    path.symlink_to(path.name)
    return str(path)


def unknown_id(case: Case) -> str:
    path = case.file("label")
    array = content(case.layout, "label", SIZE, case.generator)
    array[3, 4] = 200
    write(path, array)
    return str(path)


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


def cut_archive(case: Case, kind: str) -> str:
    archive = case.choice(packed(case.root, kind))
    data = archive.read_bytes()
    # A tar ends in zeros, of which some may be missing without harm.
    end = len(data.rstrip(b"\0")) if kind == "tar" else len(data)
    places = [case.generator.integers(1, end), end - case.generator.integers(1, 13)]
    if kind == "tar":
        with tarfile.open(archive) as opened:
            members = [entry.offset for entry in opened][1:]
        # Before or within the header of a member, where tar readers take the end for the end of the archive.
        places = [case.choice(members), case.choice(members) + case.generator.integers(1, 512), *places]
    archive.write_bytes(data[: case.choice(places)])
    return f"{archive}: damaged archive ("


def damaged_member(case: Case) -> str:
    archive = case.choice(packed(case.root, "zip"))
    with zipfile.ZipFile(archive) as opened:
        members = [entry for entry in opened.infolist() if entry.filename.endswith((".png", ".jpg"))]
    member = case.choice(members)
    data = bytearray(archive.read_bytes())
    content_at = member.header_offset + 30 + len(member.filename.encode())
    data[content_at + case.generator.integers(member.compress_size)] ^= 1 << case.generator.integers(8)
    archive.write_bytes(data)
    return f"{archive}:{member.filename}"


def any_layout(layout: Layout) -> bool:
    return True


# What may happen to a data set, and to which: each returns what a message must contain.
MUTATIONS: dict[Callable[[Case], str], Callable[[Layout], bool]] = {
    truncated: any_layout,
    last_bytes_missing: any_layout,
    empty: any_layout,
    all_zeros: any_layout,
    flipped_byte: any_layout,
    other_size: any_layout,
    whole_frame_of_other_size: lambda layout: layout.one_size,
    grey_or_transparent_image: any_layout,
    map_of_other_mode: any_layout,
    other_bit_depth: any_layout,
    missing_pair: any_layout,
    same_stem_twice: any_layout,
    image_beyond_ascii: any_layout,
    frame_beyond_ascii: any_layout,
    name_that_is_no_utf8: any_layout,
    link_to_itself: any_layout,
    link_to_nothing: any_layout,
    link_to_the_folder_above: any_layout,
    folder_linked_to_itself: any_layout,
    # An unknown colour of Virtual KITTI is its class "Undefined".
    unknown_id: lambda layout: layout.ids is not None,
    functools.partial(cut_archive, kind="zip"): any_layout,
    functools.partial(cut_archive, kind="tar"): any_layout,
    damaged_member: any_layout,
}
ROUNDS = 25


def cases() -> list[tuple[str, int]]:
    return [(name, number) for name in LAYOUTS for number in range(ROUNDS)]


def mutation(name: str, number: int) -> Callable[[Case], str]:
    """Returns the mutation of a case: all that suit the layout in turn, from the start again when all have been."""
    suitable = [mutate for mutate, suits in MUTATIONS.items() if suits(LAYOUTS[name])]
    return suitable[number % len(suitable)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Returns a function that gives the undamaged root of a layout."""
    roots = {}

    def root(name: str) -> Path:
        if name not in roots:
            roots[name] = write_layout(LAYOUTS[name], tmp_path_factory.mktemp("sound") / name)
        return roots[name]

    return root


def space_of(layout: Layout) -> str:
    return "own" if layout.dataset == "folder" else "19"


def read_good_frames(report: Report, root: Path, layout: Layout, list_path: Path) -> None:
    """Reads every frame of the fix list, as training would."""
    list_path.write_text("".join(f"{name}\n" for name in report.good), encoding="utf-8")
    # What lost all its labels is an unlabelled split; and a folder of one's own may hold frames without.
    fields = ("image", "label") if report.maps.get("label", 0) >= len(report.good) else ("image",)
    domain = Domain(
        fields=fields,
        dataset=layout.dataset,
        root=str(root),
        split=layout.split,
        label_space=space_of(layout),
        names_file=str(list_path),
    )
    dataset = open_domain(domain)
    assert [dataset[k]["name"] for k in range(len(dataset))] == report.good


@pytest.mark.parametrize("name", LAYOUTS)
def test_undamaged(name, sound, tmp_path):
    layout = LAYOUTS[name]
    report = check_dataset(layout.dataset, sound(name), layout.split, workers=0)
    assert not report.problems
    assert len(report.good) == FRAMES and report.maps == dict.fromkeys(layout.paths, FRAMES)
    assert report.sizes == {SIZE: FRAMES} and report.pixels.sum() == FRAMES * SIZE[0] * SIZE[1]
    read_good_frames(report, sound(name), layout, tmp_path / "names.txt")
    for kind in ("zip", "tar"):
        root = shutil.copytree(sound(name), tmp_path / kind)
        packed(root, kind)
        again = check_dataset(layout.dataset, root, layout.split, workers=0)
        assert not again.problems and again.good == report.good
        np.testing.assert_array_equal(again.pixels, report.pixels)


@pytest.mark.parametrize(("name", "number"), cases())
def test_damage_is_reported_by_name(name, number, sound, tmp_path):
    layout, mutate = LAYOUTS[name], mutation(name, number)
    root = shutil.copytree(sound(name), tmp_path / "root")
    expected = mutate(Case(root, layout, np.random.default_rng((number, *name.encode()))))
    try:
        report = check_dataset(layout.dataset, root, layout.split, space_of(layout), workers=0)
    except UserError as error:
        # Without a folder there is nothing to list.
        assert mutate is folder_linked_to_itself and expected in str(error) and "\n" not in str(error)
        return
    messages = [problem.message for problem in report.problems]
    if layout.dataset == "folder" and mutate in (image_beyond_ascii, frame_beyond_ascii):
        assert any("beyond ASCII" in note and expected in note for note in report.notes)
        # Renamed with all of its maps, the frame is sound.
        assert bool(messages) == (mutate is image_beyond_ascii)
    else:
        assert any(expected in message for message in messages), (expected, messages, report.notes)
    assert all("\n" not in message and message.isprintable() for message in messages)
    assert not any("the reader failed" in message for message in messages), messages
    assert printable(str(report)).isascii() or "ß" in str(report) or "Å" in str(report)
    if report.good:
        read_good_frames(report, root, layout, tmp_path / "names.txt")
