"""Data sets that keep their frames in few files: digits, videos, and what `uda prepare` wrote."""

import gzip
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layouts import Case, Layout, matlab

from damages import damage, name
from damages.pictures import WEB_PAGE, chunks, joined


def digits(*endings: str) -> Callable[[Layout], bool]:
    return lambda layout: layout.dataset == "digits" and not layout.paths and layout.maker.__name__ in endings


def any_digits(layout: Layout) -> bool:
    return layout.dataset == "digits"


def only(case: Case) -> Path:
    """Returns a file of a data set."""
    return case.choice([path for path in sorted(case.root.rglob("*")) if path.is_file()])


@damage(any_digits)
def digits_cut(case: Case) -> str:
    path = only(case)
    data = path.read_bytes()
    path.write_bytes(data[: case.generator.integers(0, len(data) - 8)])
    return name(case, path)


@damage(any_digits)
def digits_of_web_page(case: Case) -> str:
    path = only(case)
    path.write_bytes(WEB_PAGE)
    return name(case, path)


@damage(any_digits)
def digits_as_folder(case: Case) -> tuple[str, ...]:
    path = only(case)
    path.unlink()
    path.mkdir()
    # Named as the file that is looked for.
    return name(case, path), path.name.removesuffix(".gz")


@damage(any_digits)
def digits_with_bytes_changed(case: Case) -> str:
    path = only(case)
    data = bytearray(path.read_bytes())
    for _ in range(3):
        data[case.generator.integers(min(400, len(data)))] = case.generator.integers(256)
    path.write_bytes(data)
    return name(case, path)


def npz_of(case: Case, **change: Any) -> str:
    path = case.root / "mnist.npz"
    with np.load(path) as arrays:
        kept = {key: arrays[key] for key in arrays.files} | change
    np.savez_compressed(path, **{key: value for key, value in kept.items() if value is not None})
    return name(case, path)


PICTURES = np.random.default_rng(3).integers(0, 256, (20, 28, 28), np.uint8)
NUMBERS = np.arange(20, dtype=np.uint8) % 10
NPZ: dict[str, dict[str, Any]] = {
    "of objects": {"train_images": np.array([1, "a", None], object)},
    "of object labels": {"train_labels": NUMBERS.astype(object)},
    "without labels": {"train_labels": None},
    "without pictures": {"train_images": None},
    "of other counts": {"train_labels": NUMBERS[:17]},
    "of labels above 9": {"train_labels": NUMBERS + 1},
    "of negative labels": {"train_labels": NUMBERS.astype(np.int64) - 1},
    "of labels with a fraction": {"train_labels": NUMBERS + 0.5},
    "of labels that are no numbers": {"train_labels": np.full(20, np.nan)},
    "of labels in words": {"train_labels": NUMBERS.astype(str)},
    "of one-hot labels": {"train_labels": np.eye(10)[NUMBERS]},
    "of one label": {"train_labels": np.uint8(3)},
    "of float pictures": {"train_images": PICTURES / 255.0},
    "of flat pictures": {"train_images": PICTURES.reshape(20, -1)},
    "of pictures in other size": {"train_images": PICTURES[:, :27]},
    "of pictures with channels last": {"train_images": np.moveaxis(PICTURES, 0, 2)},
    "of no pictures": {"train_images": PICTURES[:0], "train_labels": NUMBERS[:0]},
    "of one picture": {"train_images": PICTURES[0]},
    "of wide pictures": {"train_images": PICTURES.astype(np.uint16)},
    "of records": {"train_images": np.zeros(20, [("a", np.uint8), ("b", np.float32)])},
    "of black pictures": {"train_images": PICTURES * 0},
    "of one class": {"train_labels": NUMBERS * 0},
}


def enter(kind: str) -> None:
    def change(case: Case) -> tuple[str, ...]:
        # Samples of one class, or without a stroke, are no files of their own.
        return npz_of(case, **NPZ[kind]), "no label has a pixel of", "20 frames have an image of one colour"

    change.__name__ = f"digits {kind}"
    damage(digits("npz"))(change)


for kind in NPZ:
    enter(kind)


@damage(digits("npz"))
def digits_of_absurd_shape(case: Case) -> str:
    path = case.root / "mnist.npz"
    header = (
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10 ** case.choice((9, 13))}, 28, 28), }}".ljust(117)
        + "\n"
    )
    array = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("train_images.npy", array + bytes(5000))
        out.writestr("train_labels.npy", array + bytes(5000))
    return name(case, path)


@damage(digits("npz"))
def digits_encrypted(case: Case) -> str:
    path = case.root / "mnist.npz"
    data = bytearray(path.read_bytes())
    offset, value = case.choice(((8, b"\x01\0"), (10, b"\x63\0")))
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + 2] = value
    path.write_bytes(data)
    return name(case, path)


def idx_change(case: Case, change: Callable[[bytearray], None], which: str) -> str:
    path = next(path for path in case.root.iterdir() if which in path.name)
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    change(data)
    path.write_bytes(gzip.compress(data) if packed else data)
    return name(case, path)


IDX = digits("plain_idx", "packed_idx")


@damage(IDX)
def idx_of_wrong_magic(case: Case) -> str:
    at, value = case.choice(((0, 9), (1, 1), (2, 0x0D), (3, 1), (3, 2), (3, 4), (3, 0), (3, 255)))
    return idx_change(case, lambda data: data.__setitem__(at, value), "images")


@damage(IDX)
def idx_of_wrong_counts(case: Case) -> str:
    at, value = case.choice(((4, 0xFFFFFFFF), (4, 19), (4, 21), (8, 27), (8, 0), (12, 56)))
    return idx_change(case, lambda data: data.__setitem__(slice(at, at + 4), struct.pack(">I", value)), "images")


@damage(IDX)
def idx_of_other_counts(case: Case) -> str:
    def change(data: bytearray) -> None:
        data[4:8] = struct.pack(">I", 19)
        data.pop()

    return idx_change(case, change, "labels")


@damage(IDX)
def idx_of_labels_above_9(case: Case) -> str:
    return idx_change(case, lambda data: data.__setitem__(12, 10), "labels")


@damage(digits("text_rows"))
def rows_damaged(case: Case) -> str:
    path = case.root / "zip.train"
    lines = path.read_text().splitlines()
    at = case.generator.integers(len(lines))
    words = lines[at].split()
    lines[at] = case.choice(
        (
            " ".join(words[:-1]),
            " ".join(["10.0", *words[1:]]),
            " ".join(["3.5", *words[1:]]),
            " ".join([words[0], "nan", *words[2:]]),
            " ".join(["inf", *words[1:]]),
            " ".join([words[0], "1,5", *words[2:]]),
            " ".join([words[0], "255", *words[2:]]),
            "\0" * 40,
        )
    )
    path.write_text("\n".join(lines))
    return name(case, path)


@damage(digits("mat_file"))
def mat_of_wrong_content(case: Case) -> str:
    path = case.root / "train_32x32.mat"
    pictures = np.zeros((32, 32, 3, 20), np.uint8)
    labels = (NUMBERS[:, None] % 10) + 1
    variables = case.choice(
        (
            {"X": pictures},
            {"x": pictures, "Y": labels},
            {"X": pictures[..., 0], "y": labels},
            {"X": np.moveaxis(pictures, 3, 0), "y": labels},
            {"X": pictures, "y": labels[:19]},
            {"X": pictures, "y": labels + 1},
            {"X": pictures / 255, "y": labels},
            {"X": pictures, "y": labels + 0.5},
        )
    )
    path.write_bytes(matlab(variables))
    return name(case, path)


def is_file_of_video(*endings: str) -> Callable[[Layout], bool]:
    return lambda layout: layout.dataset == "video" and layout.root.endswith(endings)


ANIMATED = is_file_of_video(".gif", ".png", ".webp", ".tiff")
FILMED = is_file_of_video(".mp4", ".mkv", ".avi")


def film(case: Case) -> Path:
    return case.root / case.layout.root


@damage(ANIMATED)
def animation_cut(case: Case) -> str:
    data = film(case).read_bytes()
    film(case).write_bytes(data[: case.generator.integers(len(data) // 3, len(data))])
    return film(case).name


@damage(ANIMATED, unseen=is_file_of_video(".gif", ".webp", ".tiff"))
def animation_with_frame_broken(case: Case) -> str:
    data = bytearray(film(case).read_bytes())
    at = case.generator.integers(len(data) // 4, len(data) * 3 // 4)
    data[at : at + 60] = case.generator.bytes(60)
    film(case).write_bytes(data)
    return film(case).name


@damage(ANIMATED, unseen=is_file_of_video(".gif", ".webp", ".tiff"))
def animation_with_bit_flipped(case: Case) -> str:
    data = bytearray(film(case).read_bytes())
    data[case.generator.integers(len(data))] ^= 1 << case.generator.integers(8)
    film(case).write_bytes(data)
    return film(case).name


@damage(is_file_of_video(".png"))
def animation_without_a_frame(case: Case) -> str:
    parts = chunks(film(case).read_bytes())
    at = case.choice([k for k, part in enumerate(parts) if part[0] in (b"fdAT", b"fcTL", b"acTL")])
    film(case).write_bytes(joined(parts[:at] + parts[at + 1 :]))
    return film(case).name


@damage(lambda layout: layout.dataset == "video" and bool(layout.root))
def film_that_is_none(case: Case) -> str:
    film(case).write_bytes(
        case.choice((b"", WEB_PAGE, bytes(4000), b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"II*\0\x08\0\0\0"))
    )
    return film(case).name


@damage(FILMED)
def film_cut(case: Case) -> str:
    data = film(case).read_bytes()
    film(case).write_bytes(data[: case.generator.integers(len(data) // 3, len(data) * 9 // 10)])
    return film(case).name


@damage(FILMED)
def film_overwritten(case: Case) -> str:
    data = bytearray(film(case).read_bytes())
    at = case.generator.integers(len(data) // 3, len(data) * 2 // 3)
    data[at : at + 400] = bytes(400)
    film(case).write_bytes(data)
    return film(case).name


def is_prepared(layout: Layout) -> bool:
    return layout.root == "out"


def has_manifest(layout: Layout) -> bool:
    return is_prepared(layout) and layout.dataset != "tfds"


def of_many_shards(layout: Layout) -> bool:
    return is_prepared(layout) and layout.maker is not None and layout.split == "train"


def shards(case: Case) -> list[Path]:
    return sorted((case.root / "out").glob("*.array_record-*"))


@damage(is_prepared)
def shard_with_bit_flipped(case: Case) -> str:
    path = case.choice(shards(case))
    data = bytearray(path.read_bytes())
    data[case.generator.integers(len(data))] ^= 1 << case.generator.integers(8)
    path.write_bytes(data)
    return path.name


@damage(is_prepared)
def shard_overwritten(case: Case) -> str:
    path = case.choice(shards(case))
    data = bytearray(path.read_bytes())
    at = case.generator.integers(max(1, len(data) - 100))
    data[at : at + 100] = bytes(len(data[at : at + 100]))
    path.write_bytes(data)
    return path.name


@damage(is_prepared)
def shard_cut(case: Case) -> str:
    path = case.choice(shards(case))
    data = path.read_bytes()
    path.write_bytes(data[: case.generator.integers(len(data))])
    return path.name


@damage(is_prepared)
def shard_missing(case: Case) -> str:
    path = case.choice(shards(case))
    path.unlink()
    return path.name


@damage(is_prepared)
def shard_as_pipe(case: Case) -> str:
    import os

    path = case.choice(shards(case))
    path.unlink()
    os.mkfifo(path)
    return path.name


@damage(has_manifest)
def shard_surplus(case: Case) -> str:
    path = shards(case)[-1]
    shutil.copyfile(path, path.with_name(path.name.replace("train", "other")))
    return "harmless"


@damage(has_manifest)
def shards_swapped(case: Case) -> tuple[str, ...]:
    """Gives two frames each other's records, as a folder that was mixed from two runs holds them."""
    manifest = read(case)
    entry = manifest["splits"][case.layout.split]
    first, second = entry["shards"][0], entry["shards"][-1]
    if first is second:
        entry["frames"] = entry["frames"][::-1]
        save(case, manifest)
        return (first["file"],)
    folder = case.root / "out"
    (folder / first["file"]).rename(folder / "aside")
    (folder / second["file"]).rename(folder / first["file"])
    (folder / "aside").rename(folder / second["file"])
    first["bytes"], second["bytes"] = second["bytes"], first["bytes"]
    save(case, manifest)
    return first["file"], second["file"]


def read(case: Case) -> dict[str, Any]:
    return json.loads((case.root / "out" / "manifest.json").read_text())


def save(case: Case, manifest: Any) -> str:
    (case.root / "out" / "manifest.json").write_text(json.dumps(manifest))
    return "manifest.json"


def entry_changed(case: Case, change: Callable[[dict[str, Any]], Any]) -> str:
    manifest = read(case)
    change(manifest["splits"][case.layout.split])
    return save(case, manifest)


@damage(has_manifest)
def manifest_with_frames_lost(case: Case) -> str:
    return entry_changed(case, lambda entry: entry["frames"].pop())


@damage(has_manifest)
def manifest_with_frames_added(case: Case) -> str:
    return entry_changed(case, lambda entry: entry["frames"].append("another"))


@damage(has_manifest)
def manifest_with_frame_twice(case: Case) -> str:
    return entry_changed(case, lambda entry: entry["frames"].__setitem__(1, entry["frames"][0]))


@damage(has_manifest)
def manifest_with_other_count_of_shard(case: Case) -> str:
    return entry_changed(
        case, lambda entry: entry["shards"][0].__setitem__("frames", case.choice((0, 7, -1, "1", None)))
    )


@damage(has_manifest)
def manifest_with_shard_twice(case: Case) -> str:
    return entry_changed(case, lambda entry: entry["shards"].append(entry["shards"][0]))


@damage(has_manifest)
def manifest_with_class_lost(case: Case) -> str:
    def change(entry: dict[str, Any]) -> None:
        for space in entry["label_spaces"].values():
            space["names"].pop()

    return entry_changed(case, change)


@damage(has_manifest)
def manifest_with_table_damaged(case: Case) -> str:
    def change(entry: dict[str, Any]) -> None:
        value = case.choice(("00" * 255, "0", "zz" * 256, "40" * 256, None, 7))
        for space in entry["label_spaces"].values():
            space["table"] = value

    return entry_changed(case, change)


@damage(has_manifest)
def manifest_of_other_version(case: Case) -> str:
    return save(case, read(case) | {"format": "uda_jax prepared data 9"})


@damage(has_manifest)
def manifest_of_other_data(case: Case) -> str:
    save(case, read(case) | {"dataset": "gta5"})
    return "out holds gta5"


@damage(has_manifest)
def manifest_of_other_size(case: Case) -> str:
    return save(case, read(case) | {"size": case.choice(([99, 101], "large", [1], [0, -4]))})


@damage(has_manifest)
def manifest_of_other_fields(case: Case) -> str:
    return save(
        case, read(case) | {"fields": case.choice((["image", "labels"], ["image", "disparity"], [], "image", None))}
    )


@damage(has_manifest)
def manifest_without_a_key(case: Case) -> str:
    manifest = read(case)
    keys = [key for key in sorted(manifest) if key not in ("format", "recode")]
    manifest.pop(case.choice(keys))
    return save(case, manifest)


@damage(has_manifest)
def manifest_without_a_key_of_the_split(case: Case) -> str:
    keys = ("frames", "lacking", "labelled", "known", "label_spaces", "shards")
    return entry_changed(case, lambda entry: entry.pop(case.choice(keys)))


@damage(has_manifest)
def manifest_of_other_kinds(case: Case) -> str:
    def change(entry: dict[str, Any]) -> None:
        key = case.choice(("frames", "lacking", "known", "label_spaces", "shards"))
        entry[key] = case.choice((None, 7, "words", [None], [[1]], {"a": None}))

    return entry_changed(case, change)


@damage(has_manifest)
def manifest_with_unknown_ids(case: Case) -> str:
    return entry_changed(case, lambda entry: entry.__setitem__("known", case.choice(([300], ["a"], [-1], [1.5]))))


@damage(has_manifest)
def manifest_cut(case: Case) -> str:
    path = case.root / "out" / "manifest.json"
    path.write_bytes(path.read_bytes()[: case.generator.integers(path.stat().st_size)])
    return "manifest.json"


@damage(has_manifest)
def manifest_in_utf_16(case: Case) -> str:
    path = case.root / "out" / "manifest.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    return "harmless"


@damage(has_manifest)
def manifest_that_is_no_object(case: Case) -> str:
    return save(case, case.choice(([], None, 5, "text", [1, 2])))


@damage(lambda layout: layout.dataset == "tfds")
def description_of_tfds_damaged(case: Case) -> str:
    path = case.root / "out" / case.choice(("features.json", "dataset_info.json"))
    data = path.read_bytes()
    path.write_bytes(case.choice((b"", b"{}", b"[]", WEB_PAGE, data[: len(data) // 2], data.replace(b"1", b"2"))))
    return "out"
