"""Decoding: exact values, and one line naming the file for every kind of damage."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.io.archives import Bytes, File
from uda_jax.data.io.images import (
    bytes_behind,
    damage,
    is_turned,
    read_counts,
    read_depth,
    read_image,
    read_label,
    read_painted,
    stored_size,
)
from uda_jax.data.io.png import write_png
from uda_jax.errors import UserError

GENERATOR = np.random.default_rng(0)
PICTURE = GENERATOR.integers(0, 256, (6, 9, 3), dtype=np.uint8)
IDS = GENERATOR.integers(0, 256, (6, 9), dtype=np.uint8)


def save(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_image_is_rgb_as_stored(tmp_path):
    image = read_image(save(tmp_path / "a.png", PICTURE))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PICTURE)
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", PICTURE, "RGBA")), PICTURE)


def test_grey_image_becomes_rgb(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", IDS)), np.stack([IDS] * 3, axis=-1))


def test_label_is_ids_not_colours(tmp_path):
    np.testing.assert_array_equal(read_label(save(tmp_path / "grey.png", IDS)), IDS)
    palette = Image.fromarray(IDS)
    palette.putpalette(GENERATOR.integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png"), IDS)


def test_depth_keeps_16_bits(tmp_path):
    counts = np.array([[0, 1, 255], [256, 40000, 65535]], np.uint16)
    depth = read_depth(save(tmp_path / "a.png", counts), 0.01)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, np.array([[0, 0.01, 2.55], [2.56, 400, 655.35]], np.float32))


@pytest.mark.parametrize(
    ("reader", "array", "message"),
    [
        (read_label, PICTURE, r"expected an 8-bit label map with one channel.*got Pillow mode RGB"),
        (read_label, IDS.astype(np.uint16), r"expected an 8-bit label map.*got Pillow mode I;16"),
        (read_image, IDS.astype(np.uint16), r"expected an 8-bit colour or grey image, got Pillow mode I;16"),
        (lambda path: read_depth(path, 1.0), PICTURE, r"expected a depth map with one channel.*got three that differ"),
    ],
)
def test_wrong_mode(tmp_path, reader, array, message):
    path = save(tmp_path / "a.png", array)
    with pytest.raises(UserError, match=rf"a\.png: {message}"):
        reader(path)


@pytest.mark.parametrize(
    ("suffix", "reader", "array"),
    [("png", read_image, PICTURE), ("jpg", read_image, PICTURE), ("png", read_label, IDS)],
)
def test_every_truncation_names_the_file(tmp_path, suffix, reader, array):
    whole = save(tmp_path / f"whole.{suffix}", array).read_bytes()
    expected = reader(tmp_path / f"whole.{suffix}")
    path = tmp_path / f"cut.{suffix}"
    refused = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # The last bytes of a file are checksums and end marks, without which every pixel may still be there.
        try:
            np.testing.assert_array_equal(reader(path), expected)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused >= len(whole) - 20


def test_files_that_are_no_images(tmp_path):
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.write_bytes(b"")
    text.write_text("not an image")
    with pytest.raises(UserError, match=r"empty\.png: not an image that Pillow can read \(0 bytes\)"):
        read_label(empty)
    with pytest.raises(UserError, match=r"text\.png: not an image that Pillow can read \(12 bytes\)"):
        read_image(text)
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"Is a directory\); replace or remove it"):
        read_image(tmp_path)


def test_counts_of_three_channels_keep_16_bits(tmp_path):
    counts = GENERATOR.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png48(counts))
    assert Image.open(path).mode == "RGB"
    np.testing.assert_array_equal(read_counts(path), counts)
    with pytest.raises(UserError, match="got 16 bits per channel"):
        read_image(path)
    grey = np.repeat(counts[..., :1], 3, axis=-1)
    path.write_bytes(png48(grey))
    np.testing.assert_array_equal(read_depth(path, 1.0), grey[..., 0].astype(np.float32))


def test_grey_values_that_pillow_would_stretch_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0), b"\0\x7f"))
    assert np.array(Image.open(path)).tolist() == [[7 * 17, 255]]
    with pytest.raises(UserError, match="got 4 bits per pixel"):
        read_label(path)
    with pytest.raises(UserError, match=r"one or three channels of 8 or 16 bits, got 4 bits"):
        read_counts(path)
    with pytest.raises(UserError, match="channels of 16 bits, got 8 bits"):
        read_depth(save(tmp_path / "b.png", IDS), 1.0, bits=(16,))


def test_labels_must_be_lossless(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: expected a PNG, got JPEG, which may change ids"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_uncompressed_png(channels):
    array = GENERATOR.integers(0, 256, (6, 9, *channels), dtype=np.uint8)
    data = write_png(array)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), array)
    assert damage(data) is None
    assert all(damage(data[:length]) for length in range(8, len(data)))
    assert damage(data[:50] + bytes([data[50] ^ 1]) + data[51:])


def test_whole_jpegs(tmp_path):
    data = save(tmp_path / "a.jpg", PICTURE).read_bytes()
    assert damage(data) is None and damage(data[:-2]) and damage(b"GIF89a") is None


def test_bytes_and_files_are_sources(tmp_path):
    data = save(tmp_path / "a.png", PICTURE).read_bytes()
    np.testing.assert_array_equal(read_image(Bytes("record 3", data)), PICTURE)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), PICTURE)
    with pytest.raises(UserError, match="^record 3: damaged image"):
        read_image(Bytes("record 3", data[:60]))


def png(header: bytes, rows: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png48(counts: np.ndarray) -> bytes:
    """Returns a PNG of three 16-bit channels, which Pillow cannot write."""
    height, width, _ = counts.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in counts)
    return png(struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), rows)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_turn_them(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    upright = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.swapaxes(0, 1),
        6: np.rot90(PICTURE, -1),
        7: np.rot90(PICTURE, 2).swapaxes(0, 1),
        8: np.rot90(PICTURE),
    }[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)
    assert stored_size(tmp_path / "a.png") == upright.shape[:2]
    assert stored_size(tmp_path / "a.png", upright=False) == PICTURE.shape[:2]
    assert is_turned((tmp_path / "a.png").read_bytes()) == (orientation != 1)


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_several_pictures_in_one_file_are_refused(tmp_path, ending):
    pages = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE // 2)]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r": expected one picture, got 3 in one file; write each into its own file"):
        read_image(tmp_path / f"a.{ending}")


def test_whatever_its_name_says_postscript_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not an image that Pillow can read"):
        read_image(tmp_path / "a.png")


def test_a_picture_too_large_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"larger than 40 pixels, the most that is read; cut it into parts"):
        read_image(save(tmp_path / "a.png", PICTURE))


def test_what_is_no_file_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, lambda path: read_image(File(path))):
        with pytest.raises(UserError, match=r"pipe\.png: cannot be read \(a pipe, socket or device, not a file\)"):
            read(tmp_path / "pipe.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_warnings_of_the_decoder_are_damage(tmp_path, progressive):
    picture = Image.fromarray(GENERATOR.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.jpg", quality=90, progressive=progressive)
    data = (tmp_path / "a.jpg").read_bytes()
    assert damage(data) is None
    assert damage(data[: len(data) // 2] + b"\xff\xd9") is not None, "a lost half, with an end"
    assert damage(data[: len(data) // 2] + bytes(300) + data[len(data) // 2 + 300 :]) is not None, "a block of zeros"
    for mode in ("L", "CMYK"):
        picture.convert(mode).save(tmp_path / "b.jpg")
        assert damage((tmp_path / "b.jpg").read_bytes()) is None


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_bytes_behind_the_end_are_no_damage(tmp_path, ending):
    data = save(tmp_path / f"a.{ending}", PICTURE).read_bytes()
    behind = b"SEFH" + bytes(400) + b"\xff\xd9SEFT"
    assert damage(data + behind) is None and bytes_behind(data + behind) == len(behind) and bytes_behind(data) == 0


def test_a_second_picture_behind_the_first_is_a_part_of_the_format(tmp_path):
    large = Image.fromarray(np.tile(PICTURE, (8, 8, 1)))
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[large.resize((20, 12))])
    data = (tmp_path / "a.jpg").read_bytes()
    assert damage(data) is None and bytes_behind(data) == 0 and read_image(tmp_path / "a.jpg").shape == (48, 72, 3)


def test_transparent_paint_is_none(tmp_path):
    alpha = np.where(np.arange(9) < 4, 0, 255).astype(np.uint8)
    painted = np.dstack([PICTURE, np.broadcast_to(alpha, (6, 9))])
    picture, transparent = read_painted(save(tmp_path / "a.png", painted))
    np.testing.assert_array_equal(picture, PICTURE)
    np.testing.assert_array_equal(transparent, np.broadcast_to(alpha == 0, (6, 9)))
    assert not read_painted(save(tmp_path / "b.png", PICTURE))[1].any()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n",
            "a pointer of Git LFS .* 'git lfs pull'",
        ),
        (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "a web page, as failed downloads leave"),
        (b"", r"not an image that Pillow can read \(0 bytes\)"),
    ],
)
def test_what_lies_in_place_of_a_picture(tmp_path, content, told):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("mode", "told"), [("RGB", "or list 'colours' in place of 'ids'"), ("LA", "$")])
def test_the_cure_for_labels_of_several_channels(tmp_path, mode, told):
    label = Image.fromarray(np.array([[0, 3], [7, 255]], np.uint8))
    label.convert(mode).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"got Pillow mode {mode}; save its ids as 8-bit grey.*{told}"):
        read_label(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").convert("L").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), np.array(label))
