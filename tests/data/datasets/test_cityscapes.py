"""Cityscapes: its folders and archives, what its labels store, its depths, and its video."""

import dataclasses
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax import ops
from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.cityscapes import COUNTS, SPLITS
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError

CORDA = Path(__file__).parent / "format_fixtures" / "corda" / "CityScapes"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
LUTS = vectors.load("datasets/luts.npz")
CORDA_NAME = "aachen_000000_000019"
IDS = np.arange(34, dtype=np.uint8).reshape(2, 17)
AACHEN, HAMBURG = "aachen_000000_000019", "hamburg_000000_046078"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def place(root, folder, part, name, ending):
    return root / folder / part / name.partition("_")[0] / f"{name}{ending}"


def make_cityscapes(root, part="train", names=(AACHEN, HAMBURG), images="leftImg8bit", labels="gtFine"):
    for k, name in enumerate(names):
        save(place(root, images, part, name, "_leftImg8bit.png"), np.full((*IDS.shape, 3), (k, 20, 30), np.uint8))
        if labels:
            save(place(root, labels, part, name, f"_{Path(labels).name}_labelIds.png"), IDS)
            # Lies beside in every download, and holds no ids of pixels.
            save(place(root, labels, part, name, f"_{Path(labels).name}_instanceIds.png"), IDS.astype(np.uint16))
    return root


def add_stereo(root, name, counts, camera, part="train"):
    save(place(root, "disparity", part, name, "_disparity.png"), np.array(counts, np.uint16))
    path = place(root, "camera", part, name, "_camera.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(camera))


def camera(baseline=0.2, focal_length=2000.0):
    return {"extrinsic": {"baseline": baseline, "x": 1.7}, "intrinsic": {"fx": focal_length, "fy": 1.0}}


def names(dataset):
    return [dataset.name(k) for k in range(len(dataset))]


@pytest.mark.parametrize(
    "layout",
    [{}, {"images": "leftImg8bit_trainvaltest/leftImg8bit", "labels": "gtFine_trainvaltest/gtFine"}],
    ids=["plain", "unpacked archives"],
)
def test_frames_are_paired_and_mapped(tmp_path, layout):
    dataset = get_dataset("cityscapes", make_cityscapes(tmp_path, **layout), "train")
    assert names(dataset) == [AACHEN, HAMBURG]
    example = dataset[1]
    assert (example["name"], example["index"]) == (HAMBURG, 1)
    assert example["image"].shape == (2, 17, 3) and example["image"][0, 0].tolist() == [1, 20, 30]
    np.testing.assert_array_equal(example["label"], LUTS["cityscapes_id_to_train19"][IDS])
    np.testing.assert_array_equal(dataset.stored(1, ("label",))["label"], IDS)
    np.testing.assert_array_equal(
        get_dataset("cityscapes", tmp_path, "train", "7")[0]["label"], LUTS["cityscapes_id_to_7"][IDS]
    )
    assert set(example) == {"image", "label", "name", "index"}


def test_archives_read_like_folders(tmp_path):
    folders = make_cityscapes(tmp_path / "folders")
    for name in (AACHEN, HAMBURG):
        add_stereo(folders, name, np.arange(34).reshape(2, 17), camera())
    (tmp_path / "archives").mkdir()
    for top, archive in (
        ("leftImg8bit", "leftImg8bit_trainvaltest"),
        ("gtFine", "gtFine_trainvaltest"),
        ("disparity", "disparity_trainvaltest"),
        ("camera", "camera_trainvaltest"),
    ):
        with zipfile.ZipFile(tmp_path / "archives" / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted((folders / top).rglob("*.*")):
                packed.write(path, path.relative_to(folders))
    plain = get_dataset("cityscapes", folders, "train", depth="disparity")
    packed = pickle.loads(pickle.dumps(get_dataset("cityscapes", tmp_path / "archives", "train", depth="disparity")))
    assert names(packed) == names(plain) == [AACHEN, HAMBURG]
    for k in range(2):
        assert set(packed[k]) == {"image", "label", "depth", "name", "index"}
        for field in ("image", "label", "depth"):
            np.testing.assert_array_equal(packed[k][field], plain[k][field])


def test_converted_labels_stand_in_where_there_are_no_others(tmp_path):
    root = make_cityscapes(tmp_path)
    train_ids = np.array([[*range(17)], [17, 18, 255] + [0] * 14], np.uint8)
    for name in (AACHEN, HAMBURG):
        save(place(root, "gtFine", "train", name, "_gtFine_labelTrainIds.png"), train_ids)
    assert get_dataset("cityscapes", root, "train")[0]["label"][0, 7] == 0, "id 7 is road"
    for name in (AACHEN, HAMBURG):
        place(root, "gtFine", "train", name, "_gtFine_labelIds.png").unlink()
    dataset = get_dataset("cityscapes", root, "train")
    np.testing.assert_array_equal(dataset[0]["label"], train_ids)
    assert dataset.known == frozenset([*range(19), 255])
    categories = get_dataset("cityscapes", root, "train", "7")[0]["label"]
    np.testing.assert_array_equal(categories[0], [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6])


def test_unlabelled_and_void_splits(tmp_path):
    dataset = get_dataset("cityscapes", make_cityscapes(tmp_path / "bare", labels=None), "train")
    assert "label" not in dataset[0] and dataset.missing("label") == [AACHEN, HAMBURG]
    root = make_cityscapes(tmp_path / "test", "test", ["berlin_000000_000019"])
    path = place(root, "gtFine", "test", "berlin_000000_000019", "_gtFine_labelIds.png")
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8).repeat(2, 0)).resize((17, 2)).save(path)
    assert (get_dataset("cityscapes", root, "test")[0]["label"] == 255).all()


def test_coarse_frames_leave_out_the_black_one(tmp_path):
    black, other = "troisdorf_000000_000073", "troisdorf_000000_000072"
    root = make_cityscapes(tmp_path, "train_extra", [other, black], labels="gtCoarse")
    dataset = get_dataset("cityscapes", root, "train_extra")
    assert names(dataset) == [other]
    np.testing.assert_array_equal(dataset[0]["label"], LUTS["cityscapes_id_to_train19"][IDS])
    assert names(get_dataset("cityscapes", root, "train_extra", exclude=())) == [other, black]
    # The black frame has no disparity; that is no problem unless somebody wants it.
    add_stereo(root, other, IDS, camera(), "train_extra")
    assert "depth" in get_dataset("cityscapes", root, "train_extra", depth="disparity")[0]
    wanted = Domain("cityscapes", str(root), "train_extra", options={"depth": "disparity", "exclude": ()})
    wanted = dataclasses.replace(wanted, fields=("image", "depth"))
    with pytest.raises(UserError, match="troisdorf_000000_000073_leftImg8bit.png: there is no depth of this frame"):
        open_domain(wanted)
    with pytest.raises(UserError, match=r"cityscapes: exclude: expected a list of frame names, got 'troisdorf'"):
        get_dataset("cityscapes", root, "train_extra", exclude="troisdorf")


def test_video_has_labels_where_frames_were_annotated(tmp_path):
    video = [f"hamburg_000000_0460{number}" for number in (77, 78, 79)]
    root = make_cityscapes(tmp_path, names=video, images="leftImg8bit_sequence", labels=None)
    make_cityscapes(root, names=[HAMBURG])
    add_stereo(root, HAMBURG, IDS, camera())
    dataset = get_dataset("cityscapes", root, "train_sequence", depth="disparity")
    assert names(dataset) == video and video[1] == HAMBURG
    assert [sorted(set(example) & {"label", "depth"}) for example in dataset] == [[], ["depth", "label"], []]
    assert dataset.missing("label") == [video[0], video[2]]
    assert names(get_dataset("cityscapes", root, "train")) == [HAMBURG]


def test_stereo_disparity_in_metres(tmp_path):
    root = make_cityscapes(tmp_path)
    counts = np.full(IDS.shape, 1 + 256 * 8)
    counts[0, :4] = [0, 1, 2, 65535]
    add_stereo(root, AACHEN, counts, camera(0.2, 2000.0))
    add_stereo(root, HAMBURG, counts, camera(0.25, 2400.0))
    depth = [example["depth"] for example in get_dataset("cityscapes", root, "train", depth="disparity")]
    # 0.2 m * 2000 px / d: 0 and zero disparity invalid, 1/256 px, (65534/256) px, and 8 px.
    np.testing.assert_allclose(depth[0][0, :5], [0, 0, 102400, 400 * 256 / 65534, 50], rtol=1e-6)
    np.testing.assert_allclose(depth[1][1], 600 / 8, rtol=1e-6)
    assert depth[0].dtype == np.float32
    # Unpacked into a folder of its own, beside CorDA's folder of the same name.
    (root / "disparity_trainvaltest").mkdir()
    (root / "disparity").rename(root / "disparity_trainvaltest" / "disparity")
    save(place(root, "disparity", "train", AACHEN, "_leftImg8bit.png"), counts.astype(np.uint16))
    again = get_dataset("cityscapes", root, "train", depth="disparity")[0]["depth"]
    np.testing.assert_array_equal(again, depth[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"intrinsic": {"fx": 2000.0}}', r"extrinsic\.baseline: expected a number above 0, got None"),
        ('{"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": "2000"}}', r"intrinsic\.fx: expected .* got '2000'"),
        ('{"extrinsic": {"baseline": -0.2}, "intrinsic": {"fx": 2.0}}', r"extrinsic\.baseline: expected .* got -0\.2"),
        ('{"extrinsic": {"baseline": NaN}, "intrinsic": {"fx": 2.0}}', r"extrinsic\.baseline: expected .* got nan"),
        ("[1, 2]", r"extrinsic\.baseline: expected a number above 0, got None"),
        ('{"extrinsic": {"base', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
)
def test_damaged_camera_files_name_file_and_field(tmp_path, content, message):
    root = make_cityscapes(tmp_path, names=[AACHEN])
    add_stereo(root, AACHEN, IDS, camera())
    place(root, "camera", "train", AACHEN, "_camera.json").write_text(content)
    dataset = get_dataset("cityscapes", root, "train", depth="disparity")
    with pytest.raises(UserError, match=rf"{AACHEN}_camera\.json: {message}"):
        dataset[0]
    assert dataset.read(0, ("image", "label"))["image"].shape == (2, 17, 3)


def test_missing_camera_files(tmp_path):
    root = make_cityscapes(tmp_path)
    for name in (AACHEN, HAMBURG):
        add_stereo(root, name, IDS, camera())
    place(root, "camera", "train", HAMBURG, "_camera.json").unlink()
    (problem,) = open_dataset("cityscapes", root, "train", depth="disparity").problems
    assert (problem.frame, problem.field) == (HAMBURG, "depth")
    assert f"there is no camera file {HAMBURG}_camera.json" in problem.message
    shutil.rmtree(root / "camera")
    with pytest.raises(UserError, match=r"no folder .*camera/train; depth='disparity' needs the camera files"):
        get_dataset("cityscapes", root, "train", depth="disparity")


def test_completed_stereo_depth_of_corda():
    dataset = get_dataset("cityscapes", CORDA, "train", depth="stereo")
    assert names(dataset) == [CORDA_NAME]
    depth, stored = dataset[0]["depth"], GOLDEN["corda_depth_map"]
    assert depth.dtype == np.float32 and stored.max() > 655.35 and (stored == 0).any()
    np.testing.assert_allclose(depth, stored, rtol=1e-6)
    np.testing.assert_allclose(ops.inverse_depth(depth), GOLDEN["corda_cs_stereo_target"], rtol=1e-6)


def test_monocular_disparity_of_corda():
    example = get_dataset("cityscapes", CORDA, "train", depth="monocular")[0]
    assert "depth" not in example and example["disparity"].dtype == np.float32
    np.testing.assert_array_equal(example["disparity"], GOLDEN["corda_cs_disparity"] / np.float32(256))
    np.testing.assert_allclose(
        ops.relative_inverse_depth(example["disparity"]), GOLDEN["corda_cs_mono_target"], rtol=1e-6
    )


def test_problems_name_the_files(tmp_path):
    root = make_cityscapes(tmp_path)
    place(root, "leftImg8bit", "train", AACHEN, "_leftImg8bit.png").unlink()
    place(root, "gtFine", "train", HAMBURG, "_gtFine_labelIds.png").unlink()
    shutil.copytree(root / "leftImg8bit" / "train" / "hamburg", root / "leftImg8bit" / "train" / "hamburg 2")
    found = {
        (problem.frame, problem.field): problem.message
        for problem in open_dataset("cityscapes", root, "train").problems
    }
    assert set(found) == {(None, "label"), (HAMBURG, "label"), (HAMBURG, "image")}
    assert f"aachen/{AACHEN}_gtFine_labelIds.png: there is no image" in found[None, "label"]
    assert f"{HAMBURG}_leftImg8bit.png: there is no label of this frame" in found[HAMBURG, "label"]
    assert f"hamburg/{HAMBURG}_leftImg8bit.png: frame '{HAMBURG}' has another file" in found[HAMBURG, "image"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"cityscapes: unknown split 'tarin'; did you mean 'train'\?"):
        get_dataset("cityscapes", tmp_path, "tarin")
    with pytest.raises(UserError, match=r"no folder .*leftImg8bit/train; 'root' must hold leftImg8bit/train/<city>"):
        get_dataset("cityscapes", tmp_path, "train")
    root = make_cityscapes(tmp_path)
    with pytest.raises(UserError, match=r"no folder .*leftImg8bit_sequence/val; 'root' must hold"):
        get_dataset("cityscapes", root, "val_sequence")
    with pytest.raises(UserError, match="depth: expected one of disparity, stereo, monocular or None, got 'mono'"):
        get_dataset("cityscapes", root, "train", depth="mono")
    with pytest.raises(UserError, match=r"depth: no file \*_depth_stereoscopic\.mat in .*depth/train/<city>; add"):
        get_dataset("cityscapes", root, "train", depth="stereo")
    with pytest.raises(UserError, match="label_space: unknown protocol '20'"):
        get_dataset("cityscapes", root, "train", "20")
    assert set(COUNTS) == set(SPLITS)
