"""Synscapes: ids of Cityscapes, pictures in two sizes, depth in OpenEXR."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures" / "synscapes"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
DEPTH = np.array([[1.5, 0, -1, 100], [np.inf, np.nan, 3e4, 0.25]], np.float32)


def write_exr(path, channels):
    openexr = pytest.importorskip("OpenEXR")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, channels) as file:
        file.write(str(path))


@pytest.fixture
def root(tmp_path):
    """Three frames of 2x4 pixels, the 2k picture twice as large."""
    for folder, mode, size in (("rgb", "RGB", (4, 2)), ("rgb-2k", "RGB", (8, 4)), ("class", "L", (4, 2))):
        (tmp_path / "Synscapes" / "img" / folder).mkdir(parents=True)
        for number in (1, 2, 10):
            picture = Image.new(mode, size, (number, 0, 0) if mode == "RGB" else 26)
            picture.save(tmp_path / "Synscapes" / "img" / folder / f"{number}.png")
    return tmp_path


def test_generated_frame():
    dataset = get_dataset("synscapes", FIXTURES, "train")
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN["synscapes_class"])
    example = dataset[0]
    np.testing.assert_array_equal(example["label"], GOLDEN["synscapes_train19"])
    np.testing.assert_array_equal(example["image"], np.array(Image.open(FIXTURES / "img" / "rgb" / "1.png")))
    assert set(example) == {"image", "label", "name", "index"}


def test_frames_are_in_the_order_of_their_numbers(root):
    dataset = get_dataset("synscapes", root, "train")
    assert [dataset.name(k) for k in range(3)] == ["1", "2", "10"]
    assert dataset[2]["image"][0, 0, 0] == 10


def test_large_pictures_get_fitted_labels(root):
    example = get_dataset("synscapes", root, "train", images="rgb-2k")[1]
    assert example["image"].shape == (4, 8, 3)
    assert example["label"].tolist() == [[13] * 8] * 4


@pytest.mark.parametrize("names", [("Y",), ("R", "G", "B")])
def test_depth_is_metres(root, names):
    for number in (1, 2, 10):
        write_exr(root / "Synscapes" / "img" / "depth" / f"{number}.exr", dict.fromkeys(names, DEPTH * number))
    dataset = get_dataset("synscapes", root, "train", depth=True)
    for k, number in enumerate((1, 2, 10)):
        depth = dataset[k]["depth"]
        assert depth.dtype == np.float32
        expected = np.array([[1.5, 0, 0, 100], [0, 0, 3e4, 0.25]], np.float32) * np.float32(number)
        np.testing.assert_array_equal(depth, expected)
    assert "depth" not in get_dataset("synscapes", root, "train")[0]


def test_damaged_depth_is_named(root):
    folder = root / "Synscapes" / "img" / "depth"
    write_exr(folder / "1.exr", {"Y": DEPTH})
    write_exr(folder / "2.exr", {"R": DEPTH, "G": DEPTH + 1, "B": DEPTH})
    whole = (folder / "1.exr").read_bytes()
    (folder / "10.exr").write_bytes(whole[: len(whole) // 2])
    dataset = get_dataset("synscapes", root, "train", depth=True)
    assert dataset[0]["depth"][0, 0] == 1.5
    with pytest.raises(UserError, match=r"2\.exr: expected a depth map with one channel, got 3 that differ"):
        dataset[1]
    for length in (0, 10, len(whole) // 2, len(whole) - 3):
        (folder / "10.exr").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"10\.exr: damaged OpenEXR picture") as raised:
            dataset[2]
        assert "\n" not in str(raised.value)


def test_missing_package_is_told_only_where_depth_is_wanted(root, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "OpenEXR" else find_spec(name))
    assert len(get_dataset("synscapes", root, "train")) == 3
    with pytest.raises(UserError, match=r"OpenEXR is missing; run pip install 'uda_jax\[exr\]'"):
        get_dataset("synscapes", root, "train", depth=True)


def test_mistakes(root):
    with pytest.raises(UserError, match="synscapes: images: expected one of rgb, rgb-2k, got 'rgb2k'"):
        get_dataset("synscapes", root, "train", images="rgb2k")
    with pytest.raises(UserError, match="synscapes: unknown split 'test'"):
        get_dataset("synscapes", root, "test")
    shutil.rmtree(root / "Synscapes" / "img" / "class")
    with pytest.raises(UserError, match=r"synscapes: no folder .*img/class; 'root' must hold img/class"):
        get_dataset("synscapes", root, "train")
