"""Two hundred damaged data sets: each damage is reported by name, and the frames of the fix list can be read.

Small data sets in the layouts of the published ones are written from generated arrays, copied, and damaged once each by
a seeded mutator.
"""

import functools
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import FRAMES, LAYOUTS, SIZE, Case, Layout, content, packed, write, write_layout
from PIL import Image

from uda_jax.data.checks.check import Report, check_dataset
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError, printable


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
        # Depth of another size is resized, which is told as a note.
        told = [*messages, *report.notes] if mutate is other_size else messages
        assert any(expected in message for message in told), (expected, messages, report.notes)
    assert all("\n" not in message and message.isprintable() for message in messages)
    assert not any("the reader failed" in message for message in messages), messages
    assert printable(str(report)).isascii() or "ß" in str(report) or "Å" in str(report)
    if report.good:
        read_good_frames(report, root, layout, tmp_path / "names.txt")
