"""Which files make a frame: what fits no image is told by its cause, in one line, with the frames that suffer."""

import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.checks.check import check_dataset
from uda_jax.data.io.archives import File
from uda_jax.data.pairing import by_name, pair
from uda_jax.data.pipeline.domains import Domain, open_domain, passed_over
from uda_jax.errors import UserError

IMAGES = [f"f{number}" for number in (9, 10, 11, 12)]


def files(folder, names, ending=".png"):
    return {name: File(Path(folder) / f"{name}{ending}") for name in names}


@pytest.mark.parametrize(
    ("rename", "cause"),
    [
        (lambda name: f"{name}_mask", "the name of an image with '_mask' behind it"),
        (lambda name: f"{name}-gt", "the name of an image with '-gt' behind it"),
        (lambda name: f"{name}.jpg", "the name of an image with '.jpg' behind it"),
        (str.upper, "the name of an image but for case or the form of letters"),
        (lambda name: f"part/{name}", "the name of an image in another folder"),
        (lambda name: f"mask_{name}", "the name of an image with another beginning or end"),
        (lambda name: name.replace("f", "label"), "the name of an image with another beginning or end"),
    ],
)
def test_one_line_tells_of_all_labels_named_in_one_way(rename, cause):
    frames, problems = pair(files("images", IMAGES), optional=("label",), label=files("labels", map(rename, IMAGES)))
    (problem,) = problems
    assert cause in problem.message and "such as 'f9'" in problem.message and "this and 3 more" in problem.message
    assert problem.frames == tuple(IMAGES) and not problem.note and len(frames) == 4


def test_forms_of_letters():
    composed, parted = (unicodedata.normalize(form, "K\u00f6ln") for form in ("NFC", "NFD"))
    _, (problem,) = pair(files("images", [composed]), optional=("label",), label=files("labels", [parted]))
    assert problem.frames == (composed,) and "form of letters" in problem.message


def test_files_beside_the_labels_are_a_note():
    labels = files("labels", [*IMAGES, *(f"{name}_labelTrainIds" for name in IMAGES)])
    frames, (problem,) = pair(files("images", IMAGES), label=labels)
    assert problem.note and not problem.concerned and all(frame.label is not None for frame in frames)
    assert "'_labelTrainIds' behind it; the frames have a label besides" in problem.message


def test_a_number_is_no_suffix():
    _, problems = pair(files("images", ["f1"]), optional=("label",), label=files("labels", ["f1", "f12"]))
    assert [problem.message for problem in problems] == [
        "labels/f12.png: there is no image 'f12'; add it or remove this file"
    ]


def test_many_strange_files_are_one_line():
    _, (problem,) = pair(files("images", ["f1"]), label=files("labels", ["f1", *(f"odd{k}" for k in "abcdefg")]))
    assert problem.message.startswith("labels/odda.png: this and 6 more label files have no image of their name")


def test_frames_that_a_line_tells_of_are_not_good(make_folder):
    root = make_folder(3)
    for path in (root / "train" / "labels").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    report = check_dataset("folder", root, "train")
    assert len(report.problems) == 1 and not report.good
    with pytest.raises(UserError, match="with '_mask' behind it"):
        get_dataset("folder", root, "train", "own")


def test_files_of_another_kind_are_counted(make_folder):
    root = make_folder(3)
    (root / "train" / "images" / "notes.txt").write_text("x")
    (root / "train" / "images" / "f000.json").write_text("{}")
    report = check_dataset("folder", root, "train")
    assert not report.problems and any(
        "images: 2 files are passed over: .json (1), .txt (1), the first is 'f000.json'" in note
        for note in report.notes
    )
    for path in list((root / "train" / "labels").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    report = check_dataset("folder", root, "train")
    assert not report.good and "labels: 3 files are passed over: .jpg (3)" in report.problems[0].message


@pytest.mark.parametrize("ending", [".bmp", ".tif", ".tiff", ".webp", ".ppm", ".JPG", ".jfif"])
def test_pictures_of_all_kinds_in_folders_of_any_depth(make_folder, ending):
    root = make_folder(2)
    for folder in ("images", "labels"):
        (root / "train" / folder / "drive" / "a").mkdir(parents=True)
        for path in list((root / "train" / folder).glob("*.png")):
            path.rename(root / "train" / folder / "drive" / "a" / path.name)
    for path in list((root / "train" / "images").rglob("*.png")):
        picture = Image.open(path)
        picture.save(path.with_suffix(ending), format="JPEG" if ending.lower() in (".jpg", ".jfif") else None)
        path.unlink()
    dataset = get_dataset("folder", root, "train", "own")
    assert dataset.names() == ["drive/a/f000", "drive/a/f001"] and "label" in dataset[0]


def test_other_folders_and_masks_among_the_images(make_folder):
    root = make_folder(3)
    (root / "train" / "labels").rename(root / "train" / "masks")
    dataset = open_dataset("folder", root, "train", "own")
    assert ["masks: this folder with 3 pictures is not read" in note.message for note in dataset.passed_over] == [True]
    # A map's name that is no folder's.
    (root / "train" / "masks").rename(root / "train" / "label")
    (note,) = open_dataset("folder", root, "train", "own").passed_over
    assert "label: this folder with 3 pictures is not read" in note.message
    (root / "train" / "label").rename(root / "train" / "masks")
    for path in (root / "train" / "masks").iterdir():
        path.rename(root / "train" / "images" / f"{path.stem}_mask.png")
    shutil.rmtree(root / "train" / "masks")
    report = check_dataset("folder", root, "train")
    assert report.good == ["f000", "f001", "f002"] and "3 of 6 images have the name of another" in str(report)


def test_a_folder_too_deep_is_named(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder / folder).mkdir(parents=True)
        Image.new("RGB" if folder == "images" else "L", (8, 4)).save(tmp_path / folder / folder / "00001.png")
    with pytest.raises(UserError, match=r"images: expected files .* but 1 in .*images/images; move these up"):
        get_dataset("gta5", tmp_path, "train")


def test_two_files_of_one_frame():
    problems = []
    found = by_name({"a.png": File(Path("a.png")), "a.jpg": File(Path("a.jpg"))}, (".png", ".jpg"), problems)
    assert not found and "shares the stem 'a'" in problems[0].message


def test_pictures_of_another_kind_than_the_data_set_has_are_one_note(tmp_path):
    image, label = Image.new("RGB", (16, 12)), Image.new("L", (16, 12), 7)
    for folder, picture, ending in (("image_2", image, ".jpg"), ("semantic", label, ".png")):
        (tmp_path / "training" / folder).mkdir(parents=True)
        for number in range(3):
            picture.save(tmp_path / "training" / folder / f"{number:06}_10{ending if number else '.png'}")
    # These belong to the set.
    image.save(tmp_path / "training" / "image_2" / "000000_11.png")
    (tmp_path / "training" / "semantic" / "000000_10.json").write_text("{}")
    dataset = open_dataset("kitti", tmp_path, "train", "19")
    (note,) = dataset.passed_over
    assert note.field == "image" and note.note and len(dataset) == 1
    assert note.message.endswith(
        "image_2: 2 files are passed over: .jpg (2), the first is '000001_10.jpg'; .png are read"
    )
    assert f"note: {note.message}" in str(check_dataset("kitti", tmp_path, "train"))
    (tmp_path / "training" / "image_2" / "000000_10.png").unlink()
    shutil.rmtree(tmp_path / "training" / "semantic")
    with pytest.raises(UserError, match=r"the split holds no frame \(.*2 files are passed over: .jpg"):
        get_dataset("kitti", tmp_path, "train", "19")


def test_labels_of_another_kind_are_named_where_they_lack(tmp_path):
    for number in range(2):
        for folder, ending in (("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_labelIds.jpg")):
            path = tmp_path / folder / "train" / "ulm" / f"ulm_{number:06}_000019_{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 12)).save(path)
    (note,) = open_dataset("cityscapes", tmp_path, "train").passed_over
    assert note.field == "label" and "2 files are passed over: .jpg (2)" in note.message
    with pytest.raises(UserError, match="2 frames have no label.*gtFine.*passed over: .jpg"):
        open_domain(Domain(dataset="cityscapes", root=str(tmp_path)))


def test_a_run_is_told_of_the_files_that_its_domains_pass_over(make_folder):
    root = make_folder(3, labels=False)
    (root / "train" / "images" / "f003.heic").write_bytes(b"")
    (root / "train" / "masks").mkdir()
    Image.new("L", (16, 12)).save(root / "train" / "masks" / "f000.png")
    domain = Domain(dataset="folder", root=str(root), label_space="own", fields=("image",))
    (note,) = passed_over(domain, "config.data.target")
    assert note.startswith("note: config.data.target: ") and ".heic (1)" in note
