"""GTA5: its files in folders and archives, its known faults, and CorDA's disparity."""

import dataclasses
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.pipeline.domains import Domain, resized
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
LUTS = vectors.load("datasets/luts.npz")


def make_gta5(root, names=("00001", "15188", "17705", "24966"), size=(3, 4)):
    for k, name in enumerate(names):
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (k, 20, 30)).save(root / "images" / f"{name}.png")
        label = Image.fromarray(np.full(size, 7 + k, np.uint8))
        label.putpalette(np.arange(105, dtype=np.uint8).tobytes())
        label.save(root / "labels" / f"{name}.png")
    return root


def names(dataset):
    return [dataset.name(k) for k in range(len(dataset))]


def test_label_of_another_size_is_fitted():
    dataset = get_dataset("gta5", FIXTURES / "gta5_mismatch", "train")
    assert names(dataset) == ["20801"]
    stored = GOLDEN["gta5_mismatch_label"]
    assert stored.shape == (40, 56) and 34 in stored
    # Apart, as streams take them, the maps keep their own sizes.
    apart = dataset.read(0, ("image", "label"))
    np.testing.assert_array_equal(apart["label"], LUTS["gta5_id_to_train19"][stored])
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], stored)
    picture = Image.open(FIXTURES / "gta5_mismatch" / "images" / "20801.png")
    np.testing.assert_array_equal(apart["image"], np.array(picture))
    together = dataset[0]
    fitted = np.array(Image.fromarray(stored).resize(picture.size, Image.NEAREST))
    np.testing.assert_array_equal(together["label"], LUTS["gta5_id_to_train19"][fitted])
    assert together["image"].shape[:2] == together["label"].shape == (40, 64)


def test_only_the_60_known_frames_may_differ_in_size(tmp_path):
    root = make_gta5(tmp_path, ["20800", "20801", "20860", "20861"])
    for name in ("20800", "20801", "20860", "20861"):
        Image.fromarray(np.full((3, 5), 7, np.uint8)).save(root / "labels" / f"{name}.png")
    dataset = get_dataset("gta5", root, "train")
    assert dataset[1]["label"].tolist() == dataset[2]["label"].tolist() == [[0] * 4] * 3
    for k in (0, 3):
        with pytest.raises(UserError, match=r"labels/208..\.png: 3x5 \(height x width\), but .* is 3x4"):
            dataset[k]


def test_faulty_frames_are_left_out_unless_asked_for(tmp_path):
    root = make_gta5(tmp_path)
    assert names(get_dataset("gta5", root, "train")) == ["00001", "24966"]
    assert names(get_dataset("gta5", root, "train", exclude=())) == ["00001", "15188", "17705", "24966"]
    assert names(get_dataset("gta5", root, "train", exclude=["00001"])) == ["15188", "17705", "24966"]
    for wrong in ("15188", [15188], 15188):
        with pytest.raises(UserError, match=r"gta5: exclude: expected a list of frame names, got"):
            get_dataset("gta5", root, "train", exclude=wrong)


@pytest.mark.parametrize("inner", ["", "GTA5/"])
def test_archives_read_as_one_tree(tmp_path, inner):
    unpacked = make_gta5(tmp_path / "unpacked", ["00001", "00002", "02501"])
    root = tmp_path / "archives"
    root.mkdir()
    for part, members in (("01", ["00001", "00002"]), ("02", ["02501"])):
        for folder in ("images", "labels"):
            with zipfile.ZipFile(root / f"{part}_{folder}.zip", "w") as archive:
                for name in members:
                    archive.write(unpacked / folder / f"{name}.png", f"{inner}{folder}/{name}.png")
    packed, plain = get_dataset("gta5", root, "train"), get_dataset("gta5", unpacked, "train")
    assert names(packed) == names(plain) == ["00001", "00002", "02501"]
    # Loader processes get a copy.
    packed = pickle.loads(pickle.dumps(packed))
    for k in range(3):
        for field in ("image", "label"):
            np.testing.assert_array_equal(packed[k][field], plain[k][field])
    assert packed[2]["label"][0, 0] == 255 and packed[1]["label"][0, 0] == 1


def test_disparity_of_corda(tmp_path):
    root = make_gta5(tmp_path, ["00001"], size=(40, 64))
    shutil.copytree(FIXTURES / "corda" / "gta" / "disparity", root / "disparity")
    assert "disparity" not in get_dataset("gta5", root, "train")[0]
    disparity = get_dataset("gta5", root, "train", depth="monocular")[0]["disparity"]
    assert disparity.dtype == np.float32
    np.testing.assert_array_equal(disparity, GOLDEN["corda_gta_disparity"] / np.float32(256))
    np.testing.assert_allclose(disparity + 1, GOLDEN["corda_gta_mono_target"], rtol=1e-6)


def test_disparity_of_another_size_is_resized(tmp_path):
    """CorDA's code resizes what its network wrote to the frame's size in one go: from its own, not by way of the image.

    Its rule for GTA5 is bilinear, which the domain says; by themselves, frames get the nearest value.
    """
    root = make_gta5(tmp_path, ["00001"], size=(40, 64))
    (root / "disparity").mkdir()
    counts = (1000 + 20 * np.arange(20)[:, None] + 300 * np.arange(32)).astype(np.uint16)
    Image.fromarray(counts).save(root / "disparity" / "00001.png")
    dataset, stored = get_dataset("gta5", root, "train", depth="monocular"), counts / np.float32(256)
    np.testing.assert_array_equal(dataset.read(0, ("disparity",))["disparity"], stored)
    np.testing.assert_array_equal(dataset[0]["disparity"], stored.repeat(2, 0).repeat(2, 1))
    options = {"fields": ("image", "disparity"), "options": {"depth": "monocular"}}
    domain = Domain(dataset="gta5", root=str(root), size=(10, 16), disparity_resampling="bilinear", **options)
    frame = resized(dataset.read(0, domain.fields), domain)
    expected = np.array(Image.fromarray(stored).resize((16, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(frame["disparity"], expected)
    assert frame["image"].shape == (10, 16, 3)
    # Without a size, the image's, by the domain's rule.
    frame = resized(dataset.read(0, domain.fields), dataclasses.replace(domain, size=None))
    expected = np.array(Image.fromarray(stored).resize((64, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(frame["disparity"], expected)


def test_disparity_turned_by_a_right_angle_is_refused(tmp_path):
    root = make_gta5(tmp_path, ["00001"], size=(3, 4))
    (root / "disparity").mkdir()
    Image.fromarray(np.ones((4, 3), np.uint16)).save(root / "disparity" / "00001.png")
    with pytest.raises(UserError, match=r"disparity/00001.png: 4x3 \(height x width\), but .*images/00001.png is 3x4"):
        get_dataset("gta5", root, "train", depth="monocular")[0]


def test_damaged_frames_are_named(tmp_path):
    root = make_gta5(tmp_path)
    shutil.copy(root / "images" / "00001.png", root / "images" / "00001 copy.png")
    shutil.copy(root / "labels" / "00001.png", root / "labels" / "00001 copy.png")
    shutil.copy(root / "labels" / "00001.png", root / "labels" / "00003.png")
    (root / "labels" / "24966.png").unlink()
    problems = open_dataset("gta5", root, "train").problems
    assert {(problem.frame, problem.field) for problem in problems} == {
        ("00001 copy", "image"),
        (None, "label"),
        ("24966", "label"),
    }
    messages = "\n".join(problem.message for problem in problems)
    assert "images/00001 copy.png: unexpected name, frames of gta5 are five digits such as 00001.png" in messages
    assert "labels/00003.png: there is no image '00003'" in messages
    assert "images/24966.png: there is no label of this frame" in messages


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"gta5: no folder .*images; 'root' must hold images, labels, unpacked or in"):
        get_dataset("gta5", tmp_path, "train")
    root = make_gta5(tmp_path)
    with pytest.raises(UserError, match="gta5: unknown split 'val'"):
        get_dataset("gta5", root, "val")
    with pytest.raises(UserError, match=r"gta5: no folder .*disparity; 'root' must hold images, labels, disparity"):
        get_dataset("gta5", root, "train", depth="monocular")


def test_real_frames_in_both_sizes(shared):
    for folder, shape in (("real_frames", (1052, 1914)), ("mini_gta2city", (288, 512))):
        dataset = get_dataset("gta5", shared / "data" / folder / "gta5", "train")
        assert names(dataset) == ["08688", "11851", "16742"]
        assert dataset[0]["image"].shape[:2] == dataset[0]["label"].shape == shape
        assert set(np.unique(dataset.stored(0, ("label",))["label"]).tolist()) <= dataset.known
