"""Contents of data sets: what changes them, what does not, and what is named."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import contents, open_dataset
from uda_jax.data.contents import Contents, first_change
from uda_jax.data.pipeline.views import Selection

FIELDS = ("image", "label")


@pytest.fixture
def root(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "data")


def opened(root):
    return open_dataset("folder", root, "train", "own")


def change(recorded, root):
    return first_change(recorded, opened(root), Contents())


def test_a_copy_elsewhere_with_other_times_is_the_same(root, tmp_path):
    recorded = Contents().of(opened(root), FIELDS)
    assert change(recorded, shutil.copytree(root, tmp_path / "other", copy_function=shutil.copy)) is None


def test_a_label_pixel_is_seen_whatever_the_files_time_says(root):
    recorded, file = Contents().of(opened(root), FIELDS), root / "train" / "labels" / "003.png"
    before, label = file.stat(), np.array(Image.open(file))
    label[5, 7] = (label[5, 7] + 1) % 3
    Image.fromarray(label).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert change(recorded, root) == ("file", f"label of frame '003' is another one: {file}")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("renamed", "frame 3 is '004', was '003' (8 frames then, 8 now)"),
        ("gone", "frame 7 is none, was '007' (8 frames then, 7 now)"),
        ("exchanged", "image of frame '003' is what that of '005' was; files were exchanged"),
    ],
)
def test_the_order_is_told_from_the_content(root, how, message):
    recorded = Contents().of(opened(root), FIELDS)
    for folder in (root / "train" / "images", root / "train" / "labels"):
        if how == "renamed":
            (folder / "003.png").rename(folder / "900.png")
        elif how == "gone":
            (folder / "007.png").unlink()
        else:
            (folder / "003.png").rename(folder / "x")
            (folder / "005.png").rename(folder / "003.png")
            (folder / "x").rename(folder / "005.png")
    assert change(recorded, root) == ("order", message)


def test_other_ids_are_another_meaning(root):
    recorded = Contents().of(opened(root), FIELDS)
    (root / "dataset.yaml").write_text("classes: [ground, wall, thing]\nids: [1, 0, 2]\n")
    assert change(recorded, root).what == "meaning"


def test_maps_of_many_bytes_are_read_in_part_but_labels_are_not(root, monkeypatch):
    monkeypatch.setattr(contents, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(contents, "_SAMPLE", 16)
    recorded = Contents().of(opened(root), FIELDS)
    assert [recorded["maps"][field]["whole"] for field in FIELDS] == [False, True]
    assert change(recorded, root) is None
    file = root / "train" / "images" / "000.png"
    data = bytearray(file.read_bytes())
    data[40] ^= 1  # Between the samples, and in no pixel's code.
    file.write_bytes(data)
    assert change(recorded, root) is None
    file.write_bytes(data[:-1] + b"x")
    assert change(recorded, root).what == "file"


def test_files_are_read_once(root, monkeypatch):
    read, reader = [], Contents()
    monkeypatch.setattr(contents, "_whole", lambda file: read.append(file) or "digest")
    dataset = opened(root)
    for each in (dataset, Selection(dataset, [2, 1]), dataset):
        reader.of(each, FIELDS)
    assert len(read) == 16
