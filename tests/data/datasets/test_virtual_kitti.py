"""Virtual KITTI: both versions on generated frames, colours that differ from drive to drive, and the tars."""

import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets import virtual_kitti
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
LUTS = vectors.load("datasets/luts.npz")
VERSIONS = {"1": (FIXTURES / "vkitti_1.3.1", "0001"), "2": (FIXTURES / "vkitti_2.0.3", "Scene01")}
ENCODING = "vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt"
TABLE = "Category(:id) r g b\nRoad 1 2 3\nCar:0 4 5 6\nCar:7 7 8 9\nSky 10 11 12\n"


@pytest.fixture(params=["1", "2"])
def version(request):
    return request.param


def write_drive(root, world, variation, table, label, frames=("00000",)):
    """Writes a drive of version 1.3.1 with one label for all of its frames."""
    for kind, array in (
        ("rgb", np.full((*label.shape[:2], 3), 9, np.uint8)),
        ("depthgt", np.full(label.shape[:2], 250, np.uint16)),
        ("scenegt", label),
    ):
        folder = root / f"vkitti_1.3.1_{kind}" / world / variation
        folder.mkdir(parents=True)
        for frame in frames:
            Image.fromarray(array).save(folder / f"{frame}.png")
    (root / "vkitti_1.3.1_scenegt" / f"{world}_{variation}_scenegt_rgb_encoding.txt").write_text(table)
    return root


def test_generated_frame(version):
    root, world = VERSIONS[version]
    dataset = get_dataset("virtual_kitti", root, "clone", "10")
    example = dataset[0]
    assert (len(dataset), example["name"], dataset.name(0)) == (1, f"{world}/clone/00000", f"{world}/clone/00000")
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN[f"vkitti{version}_class"])
    np.testing.assert_array_equal(example["label"], GOLDEN[f"vkitti{version}_gio10"])
    np.testing.assert_allclose(example["depth"], GOLDEN[f"vkitti{version}_depth_m"], rtol=1e-6)
    assert (example["label"].dtype, example["depth"].dtype) == (np.uint8, np.float32)
    assert example["depth"].max() == np.float32(655.35)
    picture = next(path for path in root.rglob("*00000.*") if "rgb" in str(path.relative_to(root)))
    np.testing.assert_array_equal(example["image"], np.array(Image.open(picture)))


def test_fixed_colours_are_the_published_ones():
    by_category = {category: colour for colour, category in virtual_kitti.COLOURS.items()}
    assert [by_category[name] for name in LUTS["names_vkitti15"]] == [
        tuple(c) for c in LUTS["palette_vkitti15"].tolist()
    ]
    assert virtual_kitti.CATEGORIES == tuple(LUTS["names_vkitti15"])


def test_colours_count_per_world_and_variation(tmp_path):
    label = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [0, 0, 0], [250, 250, 250]]], np.uint8)
    write_drive(tmp_path, "0001", "clone", TABLE, label)
    swapped = TABLE.replace("Road", "Truck").replace("Sky", "Van:3")
    write_drive(tmp_path, "0001", "fog", swapped, label)
    write_drive(tmp_path, "0020", "clone", TABLE.replace("Road", "GuardRail"), label)
    clone = get_dataset("virtual_kitti", tmp_path, "clone")
    assert [clone.name(k) for k in range(2)] == ["0001/clone/00000", "0020/clone/00000"]
    assert clone[0]["label"].tolist() == [[0, 13, 13, 10, 255, 255]]
    assert clone[1]["label"].tolist() == [[255, 13, 13, 10, 255, 255]]
    fog = get_dataset("virtual_kitti", tmp_path, "fog", "10")
    assert fog[0]["label"].tolist() == [[9, 8, 8, 8, 255, 255]]
    assert fog.stored(0, ("label",))["label"].tolist() == [[12, 13, 13, 14, 255, 255]]
    everything = get_dataset("virtual_kitti", tmp_path, "train")
    assert [everything.name(k) for k in range(3)] == ["0001/clone/00000", "0001/fog/00000", "0020/clone/00000"]
    assert [e["label"][0, 0] for e in pickle.loads(pickle.dumps(everything))] == [0, 14, 255]
    np.testing.assert_array_equal(everything[0]["depth"], np.full((1, 6), 2.5, np.float32))


def test_tars_need_not_be_unpacked(tmp_path, version):
    root, world = VERSIONS[version]
    for k, part in enumerate(sorted(root.iterdir())):
        with tarfile.open(tmp_path / f"{k}.tar", "w") as archive:
            archive.add(part, part.name)
    packed, unpacked = (get_dataset("virtual_kitti", place, "train", "10")[0] for place in (tmp_path, root))
    assert packed.keys() == unpacked.keys() == {"image", "label", "depth", "name", "index"}
    for field in ("image", "label", "depth"):
        np.testing.assert_array_equal(packed[field], unpacked[field])


def test_archives_of_version_2_each_in_a_folder_of_its_own(tmp_path):
    source = FIXTURES / "vkitti_2.0.3" / "Scene01" / "clone" / "frames"
    for kind in ("rgb", "depth", "classSegmentation"):
        shutil.copytree(source / kind, tmp_path / f"vkitti_2.0.3_{kind}" / "Scene01" / "clone" / "frames" / kind)
    example = get_dataset("virtual_kitti", tmp_path, "clone", "10")[0]
    np.testing.assert_array_equal(example["label"], GOLDEN["vkitti2_gio10"])
    np.testing.assert_allclose(example["depth"], GOLDEN["vkitti2_depth_m"], rtol=1e-6)


def test_second_camera(tmp_path):
    root = shutil.copytree(FIXTURES / "vkitti_2.0.3", tmp_path / "copy")
    for kind in ("rgb", "depth", "classSegmentation"):
        folder = root / "Scene01" / "clone" / "frames" / kind
        shutil.copytree(folder / "Camera_0", folder / "Camera_1")
    Image.new("RGB", (64, 40), (1, 2, 3)).save(root / "Scene01/clone/frames/rgb/Camera_1/rgb_00000.jpg", quality=100)
    right = get_dataset("virtual_kitti", root, "clone", camera=1)[0]["image"]
    assert abs(right.astype(int) - [1, 2, 3]).max() <= 2
    with pytest.raises(UserError, match=r"camera: expected 0, since version 1\.3\.1 has one camera only, got 1"):
        get_dataset("virtual_kitti", FIXTURES / "vkitti_1.3.1", "clone", camera=1)
    with pytest.raises(UserError, match=r"camera: expected 0 or 1, got 2"):
        get_dataset("virtual_kitti", root, "clone", camera=2)


def test_images_alone_are_an_unlabelled_domain(tmp_path):
    shutil.copytree(FIXTURES / "vkitti_1.3.1" / "vkitti_1.3.1_rgb", tmp_path / "vkitti_1.3.1_rgb")
    dataset = get_dataset("virtual_kitti", tmp_path, "clone")
    assert dataset[0].keys() == {"image", "name", "index"}
    assert dataset.missing("label") == dataset.missing("depth") == ["0001/clone/00000"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"encoding\.txt: no such file; without it the colours of these labels mean nothing"),
        ("Category r g b\n", r"encoding\.txt: expected lines such as 'Road 100 60 100' below the header, found none"),
        ("Road 1 2 3\nCar:0 4 5 6\n", r"encoding\.txt: expected the header 'Category r g b' in the first line"),
        (TABLE + "Car:1 4 5\n", r"encoding\.txt, line 6: expected a category and three numbers.*got 'Car:1 4 5'"),
        (TABLE + "Car:1 4 5 256\n", r"line 6: expected a category and three numbers from 0 to 255"),
        (TABLE + "Raod 4 5 60\n", r"line 6: unknown category 'Raod'; did you mean 'Road'\?"),
        (TABLE + "Van:1 1 2 3\n", r"line 6: Van has the colour \(1, 2, 3\) of Road"),
    ],
)
def test_missing_or_malformed_table_of_colours(tmp_path, text, message):
    label = np.full((2, 3, 3), [1, 2, 3], np.uint8)
    root = write_drive(tmp_path, "0001", "clone", text or "", label, frames=("00000", "00001"))
    if text is None:
        (root / ENCODING).unlink()
    with pytest.raises(UserError, match=message) as caught:
        get_dataset("virtual_kitti", root, "clone")
    assert "\n" not in str(caught.value)
    # Images and depth of the drive are sound, and each label names itself.
    dataset = open_dataset("virtual_kitti", root, "clone")
    assert dataset.read(1, ("image", "depth"))["depth"][0, 0] == 2.5
    with pytest.raises(UserError, match=r"00001\.png: the table of this drive's colours is missing or damaged"):
        dataset.read(1, ("label",))


def test_unexpected_colours_of_version_2(tmp_path):
    root = shutil.copytree(FIXTURES / "vkitti_2.0.3", tmp_path / "copy")
    table = root / "Scene01" / "clone" / "colors.txt"
    table.write_text(table.read_text().replace("Road 100 60 100", "Road 100 60 101"))
    with pytest.raises(UserError, match=r"colors\.txt: Road is painted \(100, 60, 101\), unlike in version 2"):
        get_dataset("virtual_kitti", root, "clone")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((2, 3), 100, np.uint8), r"00000\.png: expected a label of three colour channels, got one"),
        (np.full((2, 3, 3), 77, np.uint8), r"00000\.png: none of its colours is in .*encoding\.txt"),
        (np.full((2, 3, 4), 1, np.uint8), r"00000\.png: expected a PNG of counts.*got Pillow mode RGBA"),
    ],
)
def test_labels_that_are_none(tmp_path, label, message):
    root = write_drive(tmp_path, "0001", "clone", TABLE, label)
    with pytest.raises(UserError, match=message):
        get_dataset("virtual_kitti", root, "clone")[0]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"virtual_kitti: unknown split 'cloen'; did you mean 'clone'\?"):
        get_dataset("virtual_kitti", tmp_path, "cloen")
    with pytest.raises(UserError, match=r"virtual_kitti: no folder .*Scene01/fog/frames/rgb/Camera_0, nor that of ano"):
        get_dataset("virtual_kitti", tmp_path, "fog")
    root = shutil.copytree(FIXTURES / "vkitti_1.3.1", tmp_path / "copy")
    (root / "vkitti_1.3.1_depthgt/0001/clone/00000.png").rename(root / "vkitti_1.3.1_depthgt/0001/clone/00001.png")
    dataset = open_dataset("virtual_kitti", root, "clone")
    assert [(problem.frame, problem.field) for problem in dataset.problems] == [
        (None, "depth"),
        ("0001/clone/00000", "depth"),
    ]
