"""Checking a data set: what a report says, what counts as a problem, and the command around it."""

import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from uda_jax.cli import main
from uda_jax.data.base import Dataset
from uda_jax.data.checks import check, inspection
from uda_jax.data.checks.check import check_dataset
from uda_jax.data.checks.splits import available_splits, default_label_space
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError

DEPTH_YAML = "classes: [road, sky, tram]\ndepth_unit: 0.01\n"


def label_path(root, name):
    return root / "train" / "labels" / f"{name}.png"


def image_path(root, name):
    return root / "train" / "images" / f"{name}.png"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def camvid(tmp_path):
    """A copy of CamVid's layout: 10 training frames of 6x8 pixels, all of class 3 (road), and 2 of "val"."""
    root = tmp_path / "camvid"
    for split, start, count in (("train", "0006R0", 10), ("val", "0016E5", 2)):
        for k in range(count):
            save(root / split / f"{start}_{k}.png", np.full((6, 8, 3), k, np.uint8))
            save(root / f"{split}annot" / f"{start}_{k}.png", np.full((6, 8), 3, np.uint8))
    return root


def test_report_of_a_sound_folder(make_folder):
    root = make_folder(count=2, size=(2, 4), yaml=DEPTH_YAML)
    save(label_path(root, "f000"), np.array([[0, 0, 0, 1], [2, 2, 255, 255]], np.uint8))
    save(label_path(root, "f001"), np.array([[0, 0, 0, 0], [0, 0, 0, 1]], np.uint8))
    for name, nearest in (("f000", 50), ("f001", 200)):
        depth = np.array([[0, nearest, 300, 400]] * 2, np.uint16)
        save(root / "train" / "depth" / f"{name}.png", depth)
    report = check_dataset("folder", root, "train")
    assert report.problems == () and report.notes == () and report.good == ["f000", "f001"]
    assert dict(enumerate(report.pixels[[0, 1, 2, 255]])) == {0: 10, 1: 2, 2: 2, 3: 2} and report.pixels.sum() == 16
    assert report.maps == {"image": 2, "label": 2, "depth": 2} and report.sizes == {(2, 4): 2}
    assert report.ranges == {"depth": (0.5, 4.0, 12, 16)}
    assert report.published is None and report.label_space.names == ("road", "sky", "tram")
    lines = str(report).splitlines()
    assert lines[0] == "folder train: 2 frames, 2 good"
    assert "  depth     0.5 .. 4 m, 75.0 % of the pixels valid" in lines
    assert [line.split() for line in lines[-4:]] == [
        ["road", "62.500"],
        ["sky", "12.500"],
        ["tram", "12.500"],
        ["(ignored)", "12.500"],
    ]


def test_depth_of_another_size_is_one_note(make_folder):
    """A label of another size is a problem; depth, which is resized, is told of once for all frames."""
    root = make_folder(count=3, size=(4, 8), yaml=DEPTH_YAML)
    for name, shape in (("f000", (2, 4)), ("f001", (2, 4)), ("f002", (4, 8))):
        save(root / "train" / "depth" / f"{name}.png", np.full(shape, 50, np.uint16))
    report = check_dataset("folder", root, "train")
    assert report.problems == () and report.maps["depth"] == 3
    (note,) = [note for note in report.notes if "of another size" in note]
    assert note.startswith(
        "2 frames have a depth or disparity of another size than the image, which is resized to it: "
    )
    assert "f000.png" in note and "f001.png" in note and "f002.png" not in note
    save(label_path(root, "f000"), np.zeros((2, 4), np.uint8))
    (problem,) = check_dataset("folder", root, "train").problems
    assert problem.frame == "f000" and "labels/f000.png: 2x4 (height x width), but" in problem.message


def test_depth_of_another_unit_and_pictures_of_depth_are_told(make_folder):
    root = make_folder(count=3, size=(4, 8), yaml=DEPTH_YAML)
    beyond = np.full((4, 8), 60_000, np.uint16)
    beyond[0] = 500  # what is near is no proof
    for name, depth in (("f000", beyond.copy()), ("f001", np.full((4, 8), 5, np.uint8)), ("f002", beyond // 100)):
        depth[0, 0] += 1  # values of one kind alone are another note
        save(root / "train" / "depth" / f"{name}.png", depth)
    (root / "dataset.yaml").write_text(DEPTH_YAML.replace("0.01", "0.1"))
    notes = [note for note in check_dataset("folder", root, "train").notes if "depth" in note]
    assert [note.rpartition("/")[2] for note in notes if "so its unit may be wrong" in note] == ["f000.png"]
    assert [note.rpartition("/")[2] for note in notes if "of 8 bits" in note] == ["f001.png"]


def test_copies_of_an_image_are_told(make_folder):
    root = make_folder(count=4)
    shutil.copy(root / "train" / "images" / "f001.png", root / "train" / "images" / "f003.png")
    report = check_dataset("folder", root, "train")
    (note,) = [note for note in report.notes if inspection.SAME_IMAGE in note]
    assert note.startswith("2 frames") and "f001.png" in note and "f003.png" in note and not report.problems


def test_classes_of_another_label_space_and_published_count(camvid):
    report = check_dataset("camvid", camvid, "train", "camvid")
    assert report.pixels[3] == report.pixels.sum() == 480
    assert report.published == 367 and not report.problems
    incomplete, absent, *plain = report.notes
    assert incomplete == "10 frames listed, 367 published; the copy may be incomplete"
    assert absent.startswith("no label has a pixel of sky, building, pole, sidewalk")
    assert f"10 frames {inspection.ONE_CLASS}: " in "".join(plain)
    assert check_dataset("camvid", camvid, "train").pixels[0] == 480  # road is class 0 of the default, "19"


def test_one_problem_for_each_map_and_none_hides_another(make_folder):
    root = make_folder(count=6)
    image_path(root, "f001").write_bytes(b"")
    label_path(root, "f001").write_bytes(label_path(root, "f001").read_bytes()[:-1])
    save(label_path(root, "f004"), np.full((12, 16), 9, np.uint8))
    save(label_path(root, "f005"), np.zeros((12, 15), np.uint8))
    save(label_path(root, "lonely"), np.zeros((12, 16), np.uint8))
    report = check_dataset("folder", root, "train")
    assert [(problem.frame, problem.field) for problem in report.problems] == [
        (None, "label"),
        ("f001", "image"),
        ("f001", "label"),
        ("f004", "label"),
        ("f005", "label"),
    ]
    for problem, end in zip(
        report.problems,
        (
            "labels/lonely.png: there is no image 'lonely'; add it or remove this file",
            "images/f001.png: not an image that Pillow can read (0 bytes); replace or remove it",
            "labels/f001.png: damaged: its end, a part or a checksum is wrong; copy it again",
            f"labels/f004.png: id 9 is in no class; list it in 'ids' or 'ignore' of {root / 'dataset.yaml'}, "
            "or write 'ignore: others' there",
            "leave the frame out with a list from 'uda check folder --fix-list'",
        ),
        strict=True,
    ):
        assert problem.message.startswith(str(root)) and problem.message.endswith(end)
    assert "labels/f005.png: 12x15 (height x width)" in report.problems[-1].message
    assert report.good == ["f000", "f002", "f003"]


def test_ids_that_the_data_set_does_not_define(camvid):
    save(camvid / "trainannot" / "0006R0_4.png", np.array([[0, 11, 12, 12, 90, 200, 3, 255]] * 6, np.uint8))
    report = check_dataset("camvid", camvid, "train")
    (problem,) = report.problems
    assert (problem.frame, problem.field) == ("0006R0_4", "label")
    message = "0006R0_4.png: ids 12, 90, 200, ... are none of camvid; replace the file or leave the frame out"
    assert problem.message.endswith(message)
    assert report.pixels.sum() == 480 and report.pixels[0] == 438  # 9 frames of road, and 6 pixels of this one


def test_few_frames_unlike_the_others_are_problems(camvid):
    save(camvid / "train" / "0006R0_2.png", np.zeros((6, 8), np.uint8))
    for folder, channels in (("train", (3,)), ("trainannot", ())):
        save(camvid / folder / "0006R0_7.png", np.zeros((5, 8, *channels), np.uint8))
    messages = [problem.message for problem in check_dataset("camvid", camvid, "train").problems]
    assert messages == [
        f"{camvid}/train/0006R0_2.png: Pillow mode L, unlike RGB of the other image files; convert it",
        f"{camvid}/train/0006R0_7.png: 5x8 (height x width), unlike 6x8 of the others",
    ]


def test_many_frames_unlike_each_other_are_variety(camvid):
    for k in range(3):
        save(camvid / "train" / f"0006R0_{k}.png", np.zeros((6, 8), np.uint8))
    report = check_dataset("camvid", camvid, "train")
    assert not report.problems and "the image files have several Pillow modes: L (3), RGB (7)" in report.notes


def test_sizes_may_vary_in_a_folder(make_folder):
    root = make_folder(count=6)
    save(image_path(root, "f003"), np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    save(label_path(root, "f003"), np.eye(4, dtype=np.uint8))
    report = check_dataset("folder", root, "train")
    assert not report.problems and report.sizes == {(12, 16): 5, (4, 4): 1}
    path = image_path(root, "f003")
    assert report.notes == (f"1 frames are not 12x16 (height x width) as the others: {path}",)


def test_notes_name_frames(make_folder):
    root = make_folder(count=3, yaml=DEPTH_YAML)
    save(label_path(root, "f000"), np.full((12, 16), 255, np.uint8))
    label_path(root, "f001").unlink()
    save(root / "train" / "depth" / "f002.png", np.zeros((12, 16), np.uint16))
    for kind in ("images", "labels"):
        os.rename(root / "train" / kind / "f002.png", root / "train" / kind / "Zürich.png")
    os.rename(root / "train" / "depth" / "f002.png", root / "train" / "depth" / "Zürich.png")
    report = check_dataset("folder", root, "train")
    assert not report.problems and report.good == ["Zürich", "f000", "f001"]
    images = root / "train" / "images"
    assert set(report.notes) == {
        f"1 frames {inspection.NO_CLASS}: {images.parent}/labels/f000.png",
        f"1 frames have no label: {images}/f001.png",
        f"2 frames have no depth: {images}/f000.png, {images}/f001.png",
        f"1 frames {inspection.NO_VALUE.format('depth')}: {images.parent}/depth/Zürich.png",
        f"1 frames {inspection.NOT_ASCII}: {images}/Zürich.png",
        "50.0 % of the label pixels are ignored, which store 255 (100 %); list a value in 'ids' if it is a class",
    }
    assert "depth     no value, 0.0 % of the pixels valid" in str(report)


@pytest.mark.parametrize(
    ("name", "message"),
    [("0006R0_é", "unexpected name, those of camvid are ASCII"), ("0006R0_2 ", "the name begins or ends with a space")],
)
def test_names_that_a_published_set_or_a_list_cannot_hold(camvid, name, message):
    for folder in ("train", "trainannot"):
        os.rename(camvid / folder / "0006R0_2.png", camvid / folder / f"{name}.png")
    (problem,) = check_dataset("camvid", camvid, "train").problems
    assert problem.frame == name and message in problem.message


def test_damaged_archive_that_held_the_folder_asked_for(tmp_path):
    (tmp_path / "01_images.zip").write_bytes(b"PK\x03\x04 cut off")
    report = check_dataset("gta5", tmp_path, "train")
    assert [problem.message.partition(" (")[0].partition(";")[0] for problem in report.problems] == [
        f"{tmp_path}/01_images.zip: damaged archive",
        f"gta5: no folder {tmp_path}/images",
    ]
    assert report.good == [] and str(report).startswith("gta5 train: 0 frames, 0 good")


class Frames(Dataset):
    """A data set without files: it offers what the contract asks for, and no more."""

    def __init__(self, examples, space):
        self._examples, self.label_space = examples, space

    def __len__(self):
        return len(self._examples)

    def __getitem__(self, index):
        if isinstance(self._examples[index], Exception):
            raise self._examples[index]
        return self._examples[index]

    def name(self, index):
        return f"n{min(index, 3)}"


def test_data_sets_without_files(monkeypatch):
    from uda_jax.data.labels.label_spaces import LabelSpace

    image = np.zeros((2, 2, 3), np.uint8)
    examples = [
        {"image": image, "label": np.array([[0, 1], [1, 255]], np.uint8)},
        {"image": image, "label": np.array([[0, 2], [1, 255]], np.uint8)},
        UserError("record 2 is damaged; prepare it again"),
        {"image": image, "depth": np.array([[1, -1], [0, 0]], np.float32)},
        ValueError("unforeseen\nby the reader"),
    ]
    dataset = Frames(examples, LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1))))
    monkeypatch.setattr(check, "open_dataset", lambda *_, **__: dataset)
    report = check_dataset("folder", None, "train")
    assert [problem[:3] for problem in report.problems] == [
        ("n1", "label", "folder: frame 'n1': ids 2 are none of folder; replace the file or leave the frame out"),
        ("n2", "image", "record 2 is damaged; prepare it again"),
        ("n3", "depth", "folder: frame 'n3': depth holds negative or infinite values; replace the file"),
        ("n3", "image", "folder: frame 'n3': the name 'n3' belongs to several frames; rename or remove one"),
        (
            "n3",
            "image",
            "folder: frame 'n3': the reader failed (ValueError: unforeseen by the reader); "
            "replace the file or remove the frame",
        ),
    ]
    assert report.good == ["n0"] and report.pixels[[0, 1, 2, 255]].tolist() == [2, 3, 1, 2]


def test_workers_find_the_same(make_folder):
    root = make_folder(count=20, size=(4, 4))
    image_path(root, "f007").write_bytes(b"no picture")
    reports = [check_dataset("folder", root, "train", workers=workers) for workers in (0, 2)]
    fields = [{**vars(report), "pixels": report.pixels.tolist()} for report in reports]
    assert fields[0] == fields[1] and [problem.frame for problem in reports[1].problems] == ["f007"]
    assert str(pickle.loads(pickle.dumps(reports[1]))) == str(reports[0])
    with pytest.raises(UserError, match="workers: expected an integer >= 0, got -1"):
        check_dataset("folder", root, "train", workers=-1)


def test_default_label_space_is_that_of_the_reader():
    assert default_label_space("folder") == "own" and default_label_space("camvid") == "19"
    with pytest.raises(UserError, match="unknown data set 'camvod'; did you mean 'camvid'"):
        default_label_space("camvod")


def test_splits_that_a_folder_holds(camvid):
    # "day_train" and "day_val" hold no other frames than "train" and "val".
    splits, passed = available_splits("camvid", camvid)
    assert splits == ["train", "val"] and set(passed) == {"test", "dusk_train", "dusk_test"}
    assert passed["test"].startswith(f"camvid: no folder {camvid}/test")
    assert available_splits("streets", None) == (["simulator_train"], {})


def test_command_of_a_sound_folder(make_folder, capsys):
    root = make_folder(count=3)
    assert main(["check", "folder", "--root", str(root), "--option", "require_labels=true"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("folder train: 3 frames, 3 good\n") and "problem:" not in output.out
    assert "folder train: 100%" in output.err and "not in this folder: val, test\n" in output.err


def test_fix_list_leaves_out_what_is_wrong(make_folder, tmp_path, capsys):
    root = make_folder(count=4)
    image_path(root, "f002").write_bytes(image_path(root, "f002").read_bytes()[:50])
    listed = tmp_path / "lists" / "good.txt"
    assert main(["check", "folder", "--root", str(root), "--split", "train", "--fix-list", str(listed)]) == 1
    output = capsys.readouterr().out
    assert f"problem: {image_path(root, 'f002')}: damaged image (" in output and f"{listed}: 3 names" in output
    assert listed.read_text() == "f000\nf001\nf003\n" and [path.name for path in listed.parent.iterdir()] == [
        "good.txt"
    ]
    domain = Domain(dataset="folder", root=str(root), split="train", label_space="own", names_file=str(listed))
    dataset = open_domain(domain)
    assert [dataset[k]["name"] for k in range(len(dataset))] == ["f000", "f001", "f003"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "trian"], "no folder {root}/trian/images for split 'trian'; did you mean 'train'"),
        (["--split", "train", "--split", "train", "--fix-list", "x"], "--fix-list: a list belongs to one split"),
        (["--option", "require_labels"], "--option: expected key=value with an option of the data set"),
        (["--option", "split=val"], "--option: expected key=value with an option of the data set"),
        (["--split", "train", "--option", "requirelabels=1"], "unknown option 'requirelabels'; did you mean"),
        (["--option", "require_labels=["], "--option: require_labels: cannot read the value '['; quote it"),
        (["--split", "train", "--label-space", "20"], "label_space: unknown protocol '20'"),
        (["--split", "train", "--fix-list", "{root}"], "--fix-list: {root}: expected a file, found a folder"),
    ],
)
def test_wrong_usage_is_one_line(make_folder, capsys, words, message):
    root = make_folder(count=1)
    given = [word.format(root=root) for word in words]
    assert main(["check", "folder", "--root", str(root), *given]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("uda: error: ") and message.format(root=root) in line


def test_no_good_frame_gives_no_list(make_folder, tmp_path, capsys):
    root = make_folder(count=1)
    image_path(root, "f000").write_bytes(b"")
    words = ["check", "folder", "--root", str(root), "--split", "train", "--fix-list", str(tmp_path / "good.txt")]
    assert main(words) == 1
    assert "good.txt: not written, since no frame is good" in capsys.readouterr().out
    assert not (tmp_path / "good.txt").exists()


def test_a_class_without_a_pixel_and_values_that_are_ignored(make_folder):
    root = make_folder(4, yaml="classes: [background, crack]\n")
    for k in range(4):
        save(label_path(root, f"f{k:03d}"), np.where(np.arange(192).reshape(12, 16) < 96, 0, 255).astype(np.uint8))
    assert check_dataset("folder", root, "train").notes == (
        "no label has a pixel of crack",
        "50.0 % of the label pixels are ignored, which store 255 (100 %); list a value in 'ids' if it is a class",
    )


def test_a_split_without_labels(make_folder):
    root = make_folder(2, labels=False)
    assert check_dataset("folder", root, "train").notes == ("no frame has a label",)


def palette_label(root, name, ids, colours):
    image = Image.fromarray(np.asarray(ids, np.uint8))
    image.putpalette(np.array(colours, np.uint8).tobytes())
    image.save(label_path(root, name))


def test_palettes_are_compared(make_folder):
    root = make_folder(2)
    ids = np.arange(192).reshape(12, 16) % 3
    palette_label(root, "f000", ids, [[9, 0, 0], [0, 9, 0], [0, 0, 9]])
    palette_label(root, "f001", ids, [[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 2, 3]])
    assert not check_dataset("folder", root, "train").notes
    palette_label(root, "f001", ids, [[9, 0, 0], [0, 0, 9], [0, 9, 0]])
    (note,) = check_dataset("folder", root, "train").notes
    assert note.startswith("the palettes of label files differ: id 1 is [0, 9, 0] in ") and "[0, 0, 9] in" in note
    yaml = "classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours: [[9, 0, 0], [0, 9, 0], [0, 0, 9]]\n"
    (root / "dataset.yaml").write_text(yaml)
    report = check_dataset("folder", root, "train")
    assert report.good == ["f000"] and "its palette shows id 1 in the colour of id 2" in report.problems[0].message
    (root / "dataset.yaml").write_text(yaml.replace("ids: [0, 1, 2]\n", ""))
    report = check_dataset("folder", root, "train")
    assert not report.problems and not report.notes, "painted labels are read by their colours"


def test_what_is_wrong_alike_with_many_files_is_one_line(make_folder):
    root = make_folder(8)
    labels = sorted((root / "train" / "labels").iterdir())
    for number, path in enumerate(labels[:5]):
        label = np.array(Image.open(path))
        label[0, 0] = 100 + number
        Image.fromarray(label).save(path)
    report = check_dataset("folder", root, "train")
    (problem,) = report.problems
    assert problem.message.startswith(f"{labels[0]}: id 100 is in no class")
    assert problem.message.endswith("(and likewise 4 more label files)")
    assert report.good == ["f005", "f006", "f007"]


def test_few_damaged_files_are_named_one_by_one(make_folder):
    root = make_folder(8)
    for path in sorted((root / "train" / "images").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:100])
    assert [problem.frame for problem in check_dataset("folder", root, "train").problems] == ["f000", "f001"]
