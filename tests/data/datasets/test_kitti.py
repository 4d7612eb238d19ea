"""KITTI: the semantic benchmark, depth from its stereo disparity, and the sparse depth of the raw drives."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
DRIVE = "2011_09_26_drive_0001_sync"


@pytest.fixture
def root(tmp_path):
    """The generated frame in a folder as it unpacks, with an unlabelled test frame."""
    shutil.copytree(FIXTURES / "kitti", tmp_path / "data_semantics")
    (tmp_path / "data_semantics" / "testing" / "image_2").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "data_semantics" / "testing" / "image_2" / "000007_10.png")
    return tmp_path


def save_counts(path, counts):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(counts, np.uint16)).save(path)


def test_generated_frame(root):
    for label_space, expected in (("19", "kitti_train19"), ("10", "kitti_gio10")):
        dataset = get_dataset("kitti", root, "train", label_space)
        np.testing.assert_array_equal(dataset[0]["label"], GOLDEN[expected])
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN["kitti_semantic"])
    assert (dataset.name(0), set(dataset[0])) == ("000000_10", {"image", "label", "name", "index"})
    assert len(dataset.label_space.names) == 10


def test_testing_frames_have_no_label(root):
    dataset = get_dataset("kitti", root, "test")
    assert (len(dataset), dataset.name(0), set(dataset[0])) == (1, "000007_10", {"image", "name", "index"})
    assert dataset.missing("label") == ["000007_10"]


def test_depth_from_stereo_disparity(root):
    counts = np.zeros((40, 64), np.uint16)
    counts[0, :3] = [256, 25600, 65535]
    save_counts(root / "data_scene_flow" / "training" / "disp_occ_0" / "000000_10.png", counts)
    depth = get_dataset("kitti", root, "train")[0]["depth"]
    # 721.5377 px * 0.5327 m = 384.363... px m at 1242 columns; this frame has 64.
    expected = 721.5377 * 0.5327 * 64 / 1242 / np.array([1, 100, 65535 / 256])
    np.testing.assert_allclose(depth[0, :3], expected, rtol=1e-6)
    assert not depth[1:].any() and depth.dtype == np.float32


def test_depth_at_the_published_width(tmp_path):
    for folder in ("image_2", "semantic"):
        (tmp_path / "training" / folder).mkdir(parents=True)
    Image.new("RGB", (1242, 2)).save(tmp_path / "training" / "image_2" / "000003_10.png")
    Image.new("L", (1242, 2)).save(tmp_path / "training" / "semantic" / "000003_10.png")
    save_counts(tmp_path / "training" / "disp_occ_0" / "000003_10.png", np.full((2, 1242), 2560))
    depth = get_dataset("kitti", tmp_path, "train")[0]["depth"]
    np.testing.assert_allclose(depth, 38.436313, rtol=1e-6)


def test_second_frames_of_scene_flow_are_passed_over(root):
    images = root / "data_semantics" / "training" / "image_2"
    shutil.copy(images / "000000_10.png", images / "000000_11.png")
    assert len(get_dataset("kitti", root, "train")) == 1
    shutil.copy(images / "000000_10.png", images / "000001_10.png")
    (problem,) = open_dataset("kitti", root, "train").problems
    assert problem.frame == "000001_10" and "image_2/000001_10.png: there is no label of this frame" in problem.message


def test_sparse_depth_of_raw_drives(tmp_path):
    shutil.copytree(FIXTURES / "kitti_depth", tmp_path / "data_depth_annotated")
    raw = tmp_path / "raw" / "2011_09_26" / DRIVE / "image_02" / "data"
    raw.mkdir(parents=True)
    with pytest.raises(UserError, match=r"kitti: none of the 1 depth maps has its image"):
        get_dataset("kitti", tmp_path, "depth_train")
    for number in (4, 5):
        Image.new("RGB", (64, 40), (number, 0, 0)).save(raw / f"{number:010}.png")
    dataset = get_dataset("kitti", tmp_path, "depth_train")
    example = dataset[0]
    assert (len(dataset), example["name"], example["image"][0, 0, 0]) == (1, f"{DRIVE}/0000000005", 5)
    np.testing.assert_allclose(example["depth"], GOLDEN["kitti_depth_m"], rtol=1e-6)
    np.testing.assert_array_equal(example["depth"] == 0, GOLDEN["kitti_depth_raw"] == 0)
    assert "label" not in example
    with pytest.raises(UserError, match=r"kitti: no file .*val/\*_sync/proj_depth"):
        get_dataset("kitti", tmp_path, "depth_val")


def test_mistakes(root):
    with pytest.raises(UserError, match=r"kitti: unknown split 'depth_trian'; did you mean 'depth_train'\?"):
        get_dataset("kitti", root, "depth_trian")
    with pytest.raises(UserError, match=r"kitti: no folder .*testing/image_2; 'root' must hold training and testing"):
        get_dataset("kitti", root / "data_semantics" / "training", "test")
