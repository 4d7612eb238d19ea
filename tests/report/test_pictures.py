"""Colours, overlays, heat maps and the saved pictures of a frame."""

import base64
import io

import numpy as np
from PIL import Image

from uda_jax.report import pictures

PALETTE = np.array([(128, 64, 128), (0, 0, 142)], np.uint8)


def test_colourise_paints_classes_and_leaves_the_rest_black():
    label = np.array([[0, 1, 2, 255]], np.uint8)
    assert pictures.colourise(label, PALETTE).tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0], [0, 0, 0]]]


def test_overlay_blends_and_rounds():
    image = np.array([[[255, 0, 101]]], np.uint8)
    colour = np.array([[[0, 100, 100]]], np.uint8)
    assert pictures.overlay(image, colour, alpha=0.25).tolist() == [[[191, 25, 101]]]


def test_heat_map_grows_in_lightness_and_clips():
    grey = pictures.heat_map(np.linspace(0, 1, 256)[None]).astype(int) @ [299, 587, 114]
    assert (np.diff(grey[0]) >= 0).all()
    steps = np.diff(grey[0].reshape(16, 16).mean(1))
    assert steps.max() < 2.5 * steps.min()  # evenly
    clipped = pictures.heat_map(np.array([[-1.0, 0.0, 1.0, 2.0, np.nan]]))[0]
    assert (
        clipped[0].tolist() == clipped[1].tolist() and clipped[2].tolist() == clipped[3].tolist() == clipped[4].tolist()
    )


def test_panel_separates_by_white_gaps():
    black, grey = np.zeros((2, 3, 3), np.uint8), np.full((2, 1, 3), 9, np.uint8)
    assert pictures.panel([black, grey], gap=2)[1, :, 0].tolist() == [0, 0, 0, 255, 255, 9]


def test_joined_draws_a_line_for_each_pair_and_none_for_absent_ones(monkeypatch):
    monkeypatch.setattr(pictures, "_LEGIBLE", 100)
    left, right = np.zeros((9, 10, 3), np.uint8), np.full((9, 12, 3), 40, np.uint8)
    points = np.array([[4, 2, 4, 5], [-1, -1, -1, -1]])
    colours = np.array([(200, 10, 20), (10, 200, 20)], np.uint8)
    picture = pictures.joined(left, right, points, colours, gap=2)
    assert picture.shape == (90, 240, 3)
    # From column 2 to column 5 of the right image, ten times as large, between two dots with white borders.
    assert (picture[45, 29:172] == (200, 10, 20)).all() and (picture[45, [22, 178]] == 255).all()
    assert not (picture == (10, 200, 20)).all(-1).any()
    untouched = pictures.joined(left, right, points[1:], colours[1:], gap=2)
    np.testing.assert_array_equal(untouched[5::10, 5::10], pictures.panel([left, right], 2))


def test_saved_frame_keeps_ids_and_colours(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (6, 9, 3), np.uint8)
    label = np.where(generator.random((6, 9)) < 0.3, 255, 1).astype(np.uint8)
    entropy = generator.random((6, 9))
    pictures.save_frame(tmp_path, "town/a.b.png", image, label, label % 2, entropy, PALETTE)
    pictures.save_frame(tmp_path, "unlabelled", image, None, label % 2, entropy, PALETTE)
    folder = tmp_path / "town__a.b.png"
    assert sorted(path.name for path in folder.iterdir()) == ["entropy.png", "image.png", "label.png", "prediction.png"]
    assert not (tmp_path / "unlabelled" / "label.png").exists()
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "image.png")), image)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "label.png")), label)
    painted = np.asarray(Image.open(folder / "label.png").convert("RGB"))
    np.testing.assert_array_equal(painted, pictures.colourise(label, PALETTE))
    heat = np.asarray(Image.open(folder / "entropy.png").convert("RGB"))
    np.testing.assert_array_equal(heat, pictures.heat_map(entropy))


def test_thumbnails_do_not_mix_classes(tmp_path):
    label = np.random.default_rng(1).integers(0, 2, (40, 100)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(pictures.png(pictures.label_picture(label, PALETTE)))
    address, *size = pictures.thumbnail(tmp_path / "a.png", 50)
    head, data = address.split(",")
    assert size == [50, 20]
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and small.size == (50, 20)
    assert {colour for _, colour in small.convert("RGB").getcolors()} == {tuple(row) for row in PALETTE.tolist()}


def test_tiny_thumbnails_grow_by_whole_pixels(tmp_path):
    image = np.random.default_rng(2).integers(0, 256, (28, 28, 3), np.uint8)
    (tmp_path / "digit.png").write_bytes(pictures.png(image))
    large = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(pictures.thumbnail(tmp_path / "digit.png", 360)[0][22:])))
    )
    np.testing.assert_array_equal(large, np.kron(image, np.ones((12, 12, 1), np.uint8)))
    (tmp_path / "frame.png").write_bytes(pictures.png(np.repeat(image, 3, axis=1)))
    kept = Image.open(io.BytesIO(base64.b64decode(pictures.thumbnail(tmp_path / "frame.png", 360)[0][22:])))
    assert kept.size == (84, 28)


def test_principal_components_tell_pixels_apart():
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.array([0, 1, 2, 3]), 6).reshape(4, 6)
    features = generator.normal(size=(4, 7)).astype(np.float32)[kinds]
    painted = pictures.components_picture(features)
    assert painted.shape == (4, 6, 3) and painted.dtype == np.uint8
    # Of four points, three components lose nothing.
    assert len({tuple(colour) for colour in painted.reshape(-1, 3).tolist()}) == 4
    assert (painted.min(axis=(0, 1)) == 0).all() and (painted.max(axis=(0, 1)) == 255).all()
    # The first one is that of the largest spread.
    first = np.zeros((1, 3, 2))
    first[0, :, 0], first[0, :, 1] = (0, 1, 0), (-10, 0, 10)
    assert pictures.components_picture(first)[0, :, 0].tolist() == [0, 128, 255]


def test_components_that_are_the_same_everywhere_are_grey():
    assert (pictures.components_picture(np.full((2, 3, 5), 4.0, np.float32)) == 128).all()
    one_channel = pictures.components_picture(np.arange(4.0).reshape(2, 2, 1))
    assert one_channel[..., 0].tolist() == [[0, 85], [170, 255]] and (one_channel[..., 1:] == 128).all()


def test_enlarging_mixes_no_colours():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(pictures.enlarged(image, (4, 6)), image.repeat(2, 0).repeat(3, 1))
