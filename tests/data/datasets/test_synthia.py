"""SYNTHIA: classes out of 16-bit colour PNGs and their 8-bit copies, depth in centimetres, and what 8-bit tools do."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures" / "synthia"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
NAME = "0000000.png"


@pytest.fixture
def copy(tmp_path):
    """A copy of the generated frame, to be damaged."""
    return shutil.copytree(FIXTURES, tmp_path / "copy") / "RAND_CITYSCAPES"


@pytest.mark.parametrize("root", [FIXTURES, FIXTURES / "RAND_CITYSCAPES"])
def test_generated_frame(root):
    dataset = get_dataset("synthia", root, "train", "19")
    example = dataset[0]
    assert (len(dataset), example["name"]) == (1, "0000000")
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN["synthia_class"])
    np.testing.assert_array_equal(example["label"], GOLDEN["synthia_train19"])
    np.testing.assert_allclose(example["depth"], GOLDEN["synthia_depth_m"], rtol=1e-6)
    np.testing.assert_array_equal(example["image"], np.array(Image.open(FIXTURES / "RAND_CITYSCAPES" / "RGB" / NAME)))
    assert (example["label"].dtype, example["depth"].dtype) == (np.uint8, np.float32)
    assert example["depth"].max() == np.float32(655.35)
    np.testing.assert_array_equal(get_dataset("synthia", root, "train", "16")[0]["label"], GOLDEN["synthia_16"])


def test_depth_of_one_channel_directly_in_its_folder(copy):
    shutil.rmtree(copy / "Depth")
    (copy / "Depth_single_channel").rename(copy / "Depth")
    depth = get_dataset("synthia", copy, "train")[0]["depth"]
    np.testing.assert_allclose(depth, GOLDEN["synthia_depth_m"], rtol=1e-6)
    shutil.rmtree(copy / "Depth")
    assert "depth" not in get_dataset("synthia", copy, "train")[0]


@pytest.mark.parametrize("folder", ["synthia_mapped_to_cityscapes", "parsed_LABELS", "GT/LABELS"])
def test_copies_of_8_bits_in_one_channel(copy, folder):
    shutil.rmtree(copy / "GT")
    (copy / folder).mkdir(parents=True)
    Image.fromarray(GOLDEN["synthia_class"]).save(copy / folder / NAME)
    example = get_dataset("synthia", copy, "train")[0]
    np.testing.assert_array_equal(example["label"], GOLDEN["synthia_train19"])


def pillow_converts(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        # What Pillow by itself makes of the file, in three channels and in one.
        (pillow_converts, "expected a PNG with channels of 16 bits, or one of 8 bits, got 8 bits in three"),
        (lambda path: pillow_converts(path)[..., 0], r"expected ids of classes, got void \(0\) in every pixel"),
        (lambda path: pillow_converts(path).astype(np.uint16)[..., 0], "expected ids of classes, got void"),
        # The picture of colours instead of the ids; the instances instead of the classes.
        (lambda path: np.array(Image.open(path.parents[1] / "COLOR" / NAME)), ".*got 8 bits in three"),
        (lambda path: GOLDEN["synthia_instance"] + np.uint16(300), r"class id \d+ in the first channel"),
    ],
)
def test_destroyed_labels_are_refused(copy, damage, message):
    path = copy / "GT" / "LABELS" / NAME
    Image.fromarray(damage(path)).save(path)
    with pytest.raises(UserError, match=rf"GT/LABELS/0000000\.png: {message}"):
        get_dataset("synthia", copy, "train")[0]


def test_labels_that_are_no_png_or_cut_off_are_refused(copy):
    path = copy / "GT" / "LABELS" / NAME
    Image.fromarray(GOLDEN["synthia_class"]).save(path, format="JPEG")
    with pytest.raises(UserError, match=r"0000000\.png: .*got JPEG"):
        get_dataset("synthia", copy, "train")[0]
    path.write_bytes((FIXTURES / "RAND_CITYSCAPES" / "GT" / "LABELS" / NAME).read_bytes()[:-200])
    with pytest.raises(UserError, match=r"0000000\.png: damaged image"):
        get_dataset("synthia", copy, "train")[0]


def test_depth_of_8_bits_is_refused(copy):
    path = copy / "Depth" / "Depth" / NAME
    Image.fromarray(np.minimum(GOLDEN["synthia_depth_raw"], 255).astype(np.uint8)).save(path)
    dataset = get_dataset("synthia", copy, "train")
    with pytest.raises(UserError, match=r"Depth/0000000\.png: expected a PNG .* of 16 bits, got 8 bits"):
        dataset[0]
    assert set(dataset.read(0, ("image", "label"))) == {"image", "label", "name", "index"}


def test_mistakes(tmp_path, copy):
    with pytest.raises(UserError, match="synthia: unknown split 'val'"):
        get_dataset("synthia", copy, "val")
    shutil.rmtree(copy / "GT")
    with pytest.raises(UserError, match=r"synthia: no folder .*GT/LABELS; 'root' must hold RGB and GT/LABELS or synth"):
        get_dataset("synthia", copy, "train")
    with pytest.raises(UserError, match=r"synthia: no folder .*RGB"):
        get_dataset("synthia", tmp_path / "copy" / "RAND_CITYSCAPES" / "Depth", "train")
