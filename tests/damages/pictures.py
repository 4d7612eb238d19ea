"""Pictures whose files hold something else, whose parts are wrong, or whose content cannot be meant."""

import gzip
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from layouts import SIZE, Case, Layout, content, png, write
from PIL import Image

from damages import damage, has, has_distance, has_jpeg, has_png, in_files, name

WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>nginx</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"
Chunk = tuple[bytes, bytes]


def without_checksums(layout: Layout) -> bool:
    """Whether some files have no checksums: a JPEG, or an OpenEXR picture, may decode to something else."""
    return any(path.endswith((".jpg", ".exr")) for path in layout.paths.values())


def with_ending(case: Case, ending: str) -> Path:
    """Returns a file of a map whose files end so."""
    return case.file(case.choice([field for field, path in sorted(case.layout.paths.items()) if path.endswith(ending)]))


def replaced(case: Case, data: bytes, path: Path | None = None) -> str:
    path = path or case.file()
    path.write_bytes(data)
    return name(case, path)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@damage(has("label"))
def label_as_jpeg(case: Case) -> str:
    path = case.file("label")
    values = content(case.layout, "label", SIZE, case.generator).astype(np.uint8)
    return replaced(case, encoded(Image.fromarray(values), "JPEG", quality=100), path)


@damage(has("label"))
def label_as_bmp(case: Case) -> str:
    path = case.file("label")
    values = content(case.layout, "label", SIZE, case.generator).astype(np.uint8)
    return replaced(case, encoded(Image.fromarray(values), "BMP"), path)


@damage(has("label"))
def label_of_several_pictures(case: Case) -> str:
    path = case.file("label")
    pages = [Image.fromarray(content(case.layout, "label", SIZE, case.generator).astype(np.uint8)) for _ in range(3)]
    return replaced(case, encoded(pages[0], "PNG", save_all=True, append_images=pages[1:]), path)


@damage(in_files)
def web_page(case: Case) -> str:
    return replaced(case, WEB_PAGE)


@damage(in_files)
def lfs_pointer(case: Case) -> str:
    return replaced(case, POINTER)


@damage(in_files)
def packed_by_gzip(case: Case) -> str:
    path = case.file()
    return replaced(case, gzip.compress(path.read_bytes()), path)


@damage(in_files)
def document(case: Case) -> str:
    return replaced(case, b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog>>\nendobj\n%%EOF\n")


@damage(in_files)
def postscript(case: Case) -> str:
    return replaced(case, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 18 14\nshowpage\n%%EOF\n")


@damage(in_files)
def encoded_as_text(case: Case) -> str:
    path = case.file()
    return replaced(case, path.read_bytes().hex().encode(), path)


@damage(in_files, unseen=without_checksums)
def line_ends_converted(case: Case) -> str:
    path = case.file()
    data = path.read_bytes()[:-16] + b"\n" + path.read_bytes()[-16:]
    return replaced(case, data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), path)


@damage(in_files)
def two_files_in_one(case: Case) -> str:
    path = case.file()
    return replaced(case, path.read_bytes()[: path.stat().st_size // 2] + path.read_bytes(), path)


@damage(in_files)
def folder_instead(case: Case) -> str:
    path = case.file()
    path.unlink()
    path.mkdir()
    (path / "part").write_bytes(b"")
    return name(case, path)


@damage(in_files)
def pipe_instead(case: Case) -> str:
    path = case.file()
    path.unlink()
    os.mkfifo(path)
    return name(case, path)


@damage(in_files)
def socket_instead(case: Case) -> str:
    path = case.file()
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        # The path of a socket may have 107 bytes only.
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)
    return name(case, path)


@damage(in_files)
def one_pixel(case: Case) -> str:
    path = case.file()
    write(path, content(case.layout, case.field(path), (1, 1), case.generator))
    # A label of one pixel is that of a whole image by its nature, so the message may name the frame instead.
    return name(case, path)


def chunks(data: bytes) -> list[Chunk]:
    found, position = [], 8
    while position < len(data):
        (size,) = struct.unpack_from(">I", data, position)
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    return found


def joined(parts: Sequence[Chunk]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )


def rebuilt(case: Case, change: Callable[[list[Chunk]], Sequence[Chunk]]) -> str:
    """Changes the parts of a PNG, whose checksums are right again."""
    path = with_ending(case, ".png")
    return replaced(case, joined(change(chunks(path.read_bytes()))), path)


def with_header(case: Case, offset: int, value: bytes) -> str:
    def change(parts: list[Chunk]) -> list[Chunk]:
        head = parts[0][1]
        return [(b"IHDR", head[:offset] + value + head[offset + len(value) :]), *parts[1:]]

    return rebuilt(case, change)


@damage(has_png)
def png_of_wrong_width(case: Case) -> str:
    return with_header(case, 0, struct.pack(">I", SIZE[1] + case.choice((-5, -1, 1, 7))))


@damage(has_png)
def png_of_wrong_height(case: Case) -> str:
    return with_header(case, 4, struct.pack(">I", SIZE[0] + case.choice((-5, -1, 1, 7))))


@damage(has_png)
def png_of_absurd_size(case: Case) -> str:
    return with_header(case, 0, struct.pack(">II", *case.choice(((2**31 - 1,) * 2, (0, 14), (18, 0), (12000, 12000)))))


@damage(has_png)
def png_of_wrong_bits(case: Case) -> str:
    return with_header(case, 8, bytes([case.choice((1, 3, 4, 32))]))


@damage(has_png)
def png_of_wrong_colours(case: Case) -> str:
    return with_header(case, 9, bytes([case.choice((3, 4, 6, 7))]))


@damage(has_png)
def png_interlaced_by_its_header(case: Case) -> str:
    return with_header(case, 12, bytes([case.choice((1, 2))]))


@damage(has_png)
def png_without_data(case: Case) -> str:
    return rebuilt(case, lambda parts: [part for part in parts if part[0] != b"IDAT"])


@damage(has_png)
def png_without_header(case: Case) -> str:
    return rebuilt(case, lambda parts: parts[1:])


@damage(has_png)
def png_with_its_end_first(case: Case) -> str:
    return rebuilt(case, lambda parts: [parts[0], parts[-1], *parts[1:-1]])


@damage(has_png)
def png_with_header_twice(case: Case) -> str:
    twice = (b"IHDR", struct.pack(">II", 4, 4) + b"\x08\0\0\0\0")
    return rebuilt(case, lambda parts: [parts[0], twice, *parts[1:]])


@damage(has_png)
def png_with_data_swapped(case: Case) -> str:
    def change(parts: list[Chunk]) -> list[Chunk]:
        data = b"".join(part for kind, part in parts if kind == b"IDAT")
        half = len(data) // 2
        return [parts[0], (b"IDAT", data[half:]), (b"IDAT", data[:half]), parts[-1]]

    return rebuilt(case, change)


@damage(has_png)
def png_with_data_cut(case: Case) -> str:
    def change(parts: list[Chunk]) -> list[Chunk]:
        data = b"".join(part for kind, part in parts if kind == b"IDAT")
        return [parts[0], (b"IDAT", data[: case.generator.integers(3, len(data) - 8)]), parts[-1]]

    return rebuilt(case, change)


@damage(has_png)
def png_with_rows_missing(case: Case) -> str:
    def change(parts: list[Chunk]) -> list[Chunk]:
        rows = zlib.decompress(b"".join(part for kind, part in parts if kind == b"IDAT"))
        return [parts[0], (b"IDAT", zlib.compress(rows[: -case.generator.integers(1, len(rows) // 2)])), parts[-1]]

    return rebuilt(case, change)


@damage(has_png)
def png_of_unknown_parts(case: Case) -> str:
    return rebuilt(case, lambda parts: [parts[0], (b"QUUX", b"needed to read this"), *parts[1:]])


def jpeg_parts(data: bytes) -> tuple[int, int]:
    """Returns where the compressed data of a JPEG begins and ends."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"), data.rindex(b"\xff\xd9")


@damage(has_jpeg, unseen=has_jpeg)
def jpeg_block_overwritten(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = bytearray(path.read_bytes())
    start, end = jpeg_parts(data)
    length = min(40, (end - start) // 2)
    at = case.generator.integers(start, end - length)
    data[at : at + length] = case.choice((bytes(length), b"\xff" * length, case.generator.bytes(length)))
    return replaced(case, data, path)


@damage(has_jpeg, unseen=has_jpeg)
def jpeg_byte_removed(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = bytearray(path.read_bytes())
    del data[case.generator.integers(*jpeg_parts(data))]
    return replaced(case, data, path)


@damage(has_jpeg)
def jpeg_quantised_by_nothing(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = bytearray(path.read_bytes())
    table = data.index(b"\xff\xdb")
    data[table + 5 : table + 5 + 64] = bytes(64)
    return replaced(case, data, path)


@damage(has_jpeg)
def jpeg_begun_twice(case: Case) -> str:
    path = with_ending(case, ".jpg")
    return replaced(case, b"\xff\xd8" + path.read_bytes(), path)


@damage(has_jpeg)
def jpeg_ended_early(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = path.read_bytes()
    at = case.generator.integers(*jpeg_parts(data))
    return replaced(case, data[:at] + b"\xff\xd9" + data[at:], path)


@damage(has_jpeg)
def jpeg_of_wrong_height(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = struct.pack(">H", case.choice((8, 30, 60000, 0)))
    return replaced(case, data, path)


@damage(has_jpeg)
def jpeg_without_tables(case: Case) -> str:
    path = with_ending(case, ".jpg")
    data = path.read_bytes()
    marker = case.choice((b"\xff\xc4", b"\xff\xdb", b"\xff\xda"))
    at = data.index(marker)
    return replaced(case, data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :], path)


@damage(has("label"))
def image_and_label_swapped(case: Case) -> tuple[str, str]:
    return swapped(case, "image", "label")


@damage(has_distance)
def image_and_depth_swapped(case: Case) -> tuple[str, str]:
    return swapped(case, "image", "depth" if "depth" in case.layout.paths else "disparity")


def swapped(case: Case, *fields: str) -> tuple[str, str]:
    frame = case.choice(case.layout.frames)
    first, second = (case.file(field, frame) for field in fields)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return name(case, first), name(case, second)


def depth_of(case: Case, value: int) -> str:
    path = case.file("depth" if "depth" in case.layout.paths else "disparity")
    array = content(case.layout, case.field(path), SIZE, case.generator)
    write(path, np.full_like(array, value))
    return name(case, path)


@damage(has_distance)
def depth_of_zero(case: Case) -> str:
    return depth_of(case, 0)


@damage(has_distance)
def depth_saturated(case: Case) -> str:
    return depth_of(case, 2**16 - 1)


@damage(has_distance)
def depth_of_one_value(case: Case) -> str:
    return depth_of(case, 7)


@damage(has("depth", ending=".mat"))
def matrix_of_no_depth(case: Case) -> str:
    return bad_matrix(case)


@damage(has("depth", ending=".exr"))
def picture_of_no_depth(case: Case) -> str:
    return bad_matrix(case)


def bad_matrix(case: Case) -> str:
    path = case.file("depth")
    write(path, np.full(SIZE, case.choice((np.nan, np.inf, -np.inf, -4.0))))
    return name(case, path)


def shifted(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """Changes the ids of one label."""
    path = case.file("label")
    array = content(case.layout, "label", SIZE, case.generator)
    ids = array[..., 0] if array.ndim == 3 else array
    ids.flat[:2] = 0, case.layout.ids
    ids[...] = change(ids)
    write(path, array)
    return name(case, path)


def of_ids(layout) -> bool:
    return "label" in layout.paths and layout.ids is not None


@damage(of_ids, unseen=lambda layout: layout.dataset == "gta5")
def ids_one_too_high(case: Case) -> str:
    return shifted(case, lambda ids: ids + 1)


@damage(of_ids, unseen=lambda layout: layout.ids == 18 or layout.dataset == "folder")
def ids_one_too_low(case: Case) -> str:
    return shifted(case, lambda ids: ids - 1)


@damage(of_ids)
def ids_stretched_for_viewing(case: Case) -> str:
    return shifted(case, lambda ids: ids * (255 // case.layout.ids))


@damage(of_ids)
def ids_of_one_class(case: Case) -> str:
    return shifted(case, lambda ids: ids * 0 + case.choice((0, 1, case.layout.ids)))


@damage(has("label"))
def label_turned(case: Case) -> str:
    path = case.file("label")
    write(path, np.rot90(content(case.layout, "label", SIZE, case.generator)))
    return name(case, path)


@damage(in_files)
def image_of_one_colour(case: Case) -> tuple[str, str]:
    path = case.file("image")
    array = content(case.layout, "image", SIZE, case.generator)
    write(path, np.full_like(array, case.choice((0, 128, 255))))
    # Frames that are listed by their names alone.
    return name(case, path), path.with_suffix("").relative_to(case.root).as_posix()


@damage(in_files)
def image_of_numbers(case: Case) -> str:
    path = case.file("image")
    values = case.generator.random(SIZE).astype(np.float32)
    return replaced(case, encoded(Image.fromarray(values), "TIFF"), path)


@damage(in_files)
def image_of_16_bits(case: Case) -> str:
    path = case.file("image")
    return replaced(case, png(case.generator.integers(0, 2**16, (*SIZE, 3), np.uint16)), path)
