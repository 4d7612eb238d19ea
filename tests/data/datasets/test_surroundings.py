"""What surrounds a frame, of each data set that has it: neighbours in time, the right image, the camera."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from uda_jax.cli import main
from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.io import cameras
from uda_jax.data.pipeline.domains import Domain, open_domain, passed_over
from uda_jax.data.pipeline.streams import evaluation_batches
from uda_jax.errors import UserError

VIEWS = ("image_previous", "image_next", "image_right", "intrinsics", "baseline")
TRIPLET = ("image", "image_previous", "image_next")
DRIVE = "2011_09_26_drive_0001_sync"
SNIPPET = [f"bochum_000000_{number:06}" for number in range(18, 22)]


def save(path, value, size=(2, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def values(example):
    """Returns the value of each picture, which is one colour all over."""
    return {field: int(value.flat[0]) for field, value in example.items() if field.startswith("image")}


@pytest.fixture
def cityscapes(tmp_path):
    """One annotated frame, 19, within a video of four, and another city without a camera file."""
    for k, name in enumerate(SNIPPET):
        save(tmp_path / "leftImg8bit_sequence" / "train" / "bochum" / f"{name}_leftImg8bit.png", 10 + k)
        save(tmp_path / "rightImg8bit_sequence" / "train" / "bochum" / f"{name}_rightImg8bit.png", 20 + k)
    for folder, value in (("left", 11), ("right", 21)):
        save(tmp_path / f"{folder}Img8bit" / "train" / "bochum" / f"{SNIPPET[1]}_{folder}Img8bit.png", value)
    camera = {"extrinsic": {"baseline": 0.22}, "intrinsic": {"fx": 2048, "fy": 2048, "u0": 1024.0, "v0": 256.0}}
    path = tmp_path / "camera" / "train" / "bochum" / f"{SNIPPET[1]}_camera.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(camera))
    return tmp_path


def test_cityscapes_annotated_frames(cityscapes):
    assert get_dataset("cityscapes", cityscapes, "train").maps == ("image",)
    domain = Domain(dataset="cityscapes", root=str(cityscapes), fields=("image", *VIEWS))
    example = open_domain(domain).read(0, domain.fields)
    assert values(example) == {"image": 11, "image_previous": 10, "image_next": 12, "image_right": 21}
    np.testing.assert_array_equal(example["intrinsics"], np.float32([1, 2, 0.5, 0.25]))
    assert example["baseline"] == np.float32(0.22)


def test_cityscapes_video(cityscapes):
    domain = Domain(dataset="cityscapes", root=str(cityscapes), split="train_sequence", fields=("image", *VIEWS))
    dataset = open_domain(domain)
    assert dataset.names() == SNIPPET[1:3]
    example = dataset.read(1, domain.fields)
    assert values(example) == {"image": 12, "image_previous": 11, "image_next": 13, "image_right": 22}
    # The camera file of the annotated frame is the nearest one.
    assert example["intrinsics"][0] == 1
    (note,) = passed_over(domain, "data.target")
    assert note.startswith("note: data.target: 2 of 4 frames are left out, since they have no neighbours in time for")
    assert note.endswith(f"as the first and the last of a recording: {SNIPPET[0]}, {SNIPPET[3]}")


def test_cityscapes_without_camera_files(cityscapes):
    (cityscapes / "camera").rename(cityscapes / "elsewhere")
    dataset = open_dataset("cityscapes", cityscapes, "train", fields=("intrinsics", "baseline"))
    np.testing.assert_allclose(dataset[0]["intrinsics"], [1.104746, 2.212209, 0.535635, 0.501110], atol=1e-6)
    assert dataset[0]["baseline"] == np.float32(0.209313)
    assert any("intrinsics and baseline are those of most frames" in note.message for note in dataset.passed_over)


def test_cityscapes_frames_that_were_annotated_are_no_video(cityscapes):
    """Their numbers differ by minutes; without the video around them, there are no neighbours."""
    (cityscapes / "leftImg8bit_sequence").rename(cityscapes / "elsewhere")
    save(cityscapes / "leftImg8bit" / "train" / "bochum" / "bochum_000000_000800_leftImg8bit.png", 1)
    domain = Domain(dataset="cityscapes", root=str(cityscapes), fields=("image", "image_next"))
    with pytest.raises(UserError, match="no folder .*leftImg8bit_sequence/train, which image_next needs; add it"):
        open_domain(domain)
    assert get_dataset("cityscapes", cityscapes, "train").sequence(0) is None


def test_cityscapes_frame_without_its_neighbour(cityscapes):
    lost = cityscapes / "leftImg8bit_sequence" / "train" / "bochum" / f"{SNIPPET[2]}_leftImg8bit.png"
    lost.rename(cityscapes / "leftImg8bit" / "train" / "bochum" / lost.name)
    domain = Domain(dataset="cityscapes", root=str(cityscapes), fields=("image", "image_next"))
    with pytest.raises(UserError, match=f"{SNIPPET[1]}_leftImg8bit.png: there is no image_next of this frame"):
        open_domain(domain)


@pytest.fixture
def raw(tmp_path):
    """Four frames of a drive with the right ones, and depth of the two in the middle."""
    for k in range(4):
        for camera in (2, 3):
            path = tmp_path / "2011_09_26" / DRIVE / f"image_0{camera}" / "data" / f"{k:010}.jpg"
            save(path, 100 * (camera - 2) + 10 + 20 * k, (8, 16))
    for k in (1, 2):
        path = tmp_path / "train" / DRIVE / "proj_depth" / "groundtruth" / "image_02" / f"{k:010}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 16), 256, np.uint16)).save(path)
    return tmp_path


def test_kitti_raw_drives(raw):
    domain = Domain(dataset="kitti", root=str(raw), split="raw", fields=("image", *VIEWS))
    dataset = open_domain(domain)
    assert dataset.names() == [f"{DRIVE}/{k:010}" for k in (1, 2)]
    assert values(dataset.read(0, domain.fields)) == {
        "image": 30, "image_previous": 10, "image_next": 50, "image_right": 130
    }  # fmt: skip
    np.testing.assert_array_equal(dataset.read(0, VIEWS)["intrinsics"], np.float32([0.58, 1.92, 0.5, 0.5]))
    assert any("no calib_cam_to_cam.txt of this day" in note.message for note in dataset.passed_over)
    assert len(get_dataset("kitti", raw, "raw")) == 4 and get_dataset("kitti", raw, "raw").maps == ("image",)


def test_kitti_calibration_of_the_day(raw):
    projection = "P_rect_0{}: 8 0 7.5 {} 0 8 3.5 0 0 0 1 0\n"
    (raw / "2011_09_26" / "calib_cam_to_cam.txt").write_text(
        "S_rect_02: 16 8\n" + projection.format(2, 0) + projection.format(3, -4)
    )
    example = get_dataset("kitti", raw, "raw", fields=VIEWS)[3]
    np.testing.assert_array_equal(example["intrinsics"], np.float32([0.5, 1, 0.5, 0.5]))
    assert example["baseline"] == np.float32(0.5)


def test_kitti_frames_with_depth_take_neighbours_from_their_drive(raw):
    domain = Domain(dataset="kitti", root=str(raw), split="depth_train", fields=("depth", "image", *VIEWS))
    dataset = open_domain(domain)
    assert dataset.names() == [f"{DRIVE}/{k:010}" for k in (1, 2)]
    example = dataset.read(1, domain.fields)
    assert values(example) == {"image": 50, "image_previous": 30, "image_next": 70, "image_right": 150}
    assert (example["depth"] == 1).all()


def test_kitti_without_drives(tmp_path):
    with pytest.raises(UserError, match="no file .*image_02/.*'root' must hold the raw drives"):
        get_dataset("kitti", tmp_path, "raw")


def test_virtual_kitti(tmp_path):
    for camera in (0, 1):
        for k in range(3):
            save(tmp_path / f"Scene01/clone/frames/rgb/Camera_{camera}/rgb_{k:05}.jpg", 100 * camera + 20 * k, (8, 16))
    domain = Domain(dataset="virtual_kitti", root=str(tmp_path), split="clone", fields=("image", *VIEWS))
    (name,) = open_domain(domain).names()
    example = open_domain(domain).read(0, domain.fields)
    assert name == "Scene01/clone/00001"
    assert values(example) == {"image": 20, "image_previous": 0, "image_next": 40, "image_right": 120}
    # The middle of 1242x375 pixels, of a camera of 725 pixels.
    np.testing.assert_allclose(example["intrinsics"], [725 / 1242, 725 / 375, 0.5, 0.5], rtol=1e-6)
    assert example["baseline"] == np.float32(0.532725)
    right = dataclasses.replace(domain, options={"camera": 1}, fields=("image", "image_right"))
    with pytest.raises(UserError, match="frames have no image_right"):
        open_domain(right)


def test_folder_with_a_calibration(make_folder):
    root = make_folder(3, labels=False)
    domain = Domain(dataset="folder", root=str(root), label_space="own", fields=("image", "intrinsics", "baseline"))
    with pytest.raises(UserError, match=r"no file .*train/intrinsics.txt; write a line 'fx fy cx cy width height'"):
        open_domain(domain)
    (root / "train" / cameras.FILE).write_text("16 12 7.5 5.5 16 12")
    with pytest.raises(UserError, match="expected the baseline in metres behind 'fx fy cx cy width height'"):
        open_domain(domain)
    (root / "train" / cameras.FILE).write_text("16 12 7.5 5.5 16 12 0.25")
    (batch,) = evaluation_batches(domain, 3)
    np.testing.assert_array_equal(batch["intrinsics"], [[1, 1, 0.5, 0.5]] * 3)
    np.testing.assert_array_equal(batch["baseline"], [0.25] * 3)
    assert open_domain(domain).rule != get_dataset("folder", root, "train", "own").rule


@pytest.fixture
def drive(tmp_path):
    """A folder of frames in order, with a calibration."""
    for k in range(4):
        save(tmp_path / "drive" / f"{k}.png", 10 * k)
    (tmp_path / "drive" / cameras.FILE).write_text("4 4 1.5 0.5 4 2")
    return tmp_path / "drive"


def test_video_with_a_calibration(drive):
    assert get_dataset("video", drive, "train", "own").passed_over == []
    domain = Domain(dataset="video", root=str(drive), label_space="own", fields=(*TRIPLET, "intrinsics"))
    example = open_domain(domain).read(0, domain.fields)
    assert values(example) == {"image": 10, "image_previous": 0, "image_next": 20}
    np.testing.assert_array_equal(example["intrinsics"], np.float32([1, 2, 0.5, 0.5]))
    known = Domain(dataset="video", root=str(drive), options={"camera": "gta"}, fields=("image", "intrinsics"))
    np.testing.assert_array_equal(open_domain(known)[0]["intrinsics"], np.float32([1.206285, 2.144507, 0.5, 0.5]))


def test_check_shows_them_and_prepare_stores_them(drive, capsys, tmp_path):
    fields = ["--fields", "image,image_previous,image_next,intrinsics"]
    assert main(["check", "video", "--root", str(drive), "--workers", "0", *fields]) == 0
    told = capsys.readouterr().out
    assert "image_next     2 frames" in told and "intrinsics     1 2 0.5 0.5 (2)" in told
    assert "note: 2 of 4 frames are left out, since they have no neighbours in time for image_previous" in told
    out = tmp_path / "out"
    assert main(["prepare", "video", "--root", str(drive), "--out", str(out), "--workers", "1", *fields]) == 0
    prepared = get_dataset("video", out, "train", "own")
    assert prepared.maps == (*TRIPLET, "intrinsics") and values(prepared[1]) == {
        "image": 20, "image_previous": 10, "image_next": 30
    }  # fmt: skip
    np.testing.assert_array_equal(prepared[0]["intrinsics"], np.float32([1, 2, 0.5, 0.5]))
    capsys.readouterr()
    assert main(["check", "video", "--root", str(drive), "--workers", "0", "--fields", "image_right"]) == 2
    assert "--fields: no frame of video train has image_right; leave it out" in capsys.readouterr().err
