"""IDD-Lite: both layouts hold the same frames, labels are classes of their own, and val is cut in two."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.idd_lite import COUNTS, SPLITS
from uda_jax.data.labels.label_spaces import CLASS_NAMES, label_space, lookup_table, train19_table
from uda_jax.errors import UserError

# In the order of their names, "10_" before "1_"; that of the folders would be another.
FRAMES = ("10/000003", "10/000011", "1/000007", "9/000002")
NAMES = tuple(frame.replace("/", "_") for frame in FRAMES)
IDS = np.array([[0, 1, 2, 3, 4, 5, 6, 255]], np.uint8).repeat(4, 0)


def make_idd_lite(root, published, split="val", labels=True):
    for k, frame in enumerate(FRAMES):
        image, label = f"leftImg8bit/{split}/{frame}_image.jpg", f"gtFine/{split}/{frame}_label.png"
        if not published:
            image, label = f"{split}/images/{NAMES[k]}.jpg", f"{split}/labels/{NAMES[k]}.png"
        for path in (root / image, root / label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4), (60 * k, 90, 90)).save(root / image)
        if labels:
            Image.fromarray(IDS).save(root / label)
            if published:
                Image.fromarray(IDS).save((root / label).with_name(f"{frame.split('/')[1]}_inst_label.png"))
    return root


@pytest.mark.parametrize("published", [True, False])
def test_both_layouts(tmp_path, published):
    root = make_idd_lite(tmp_path, published)
    dataset = open_dataset("idd_lite", root, "val", "idd_lite")
    assert tuple(dataset.name(k) for k in range(len(dataset))) == NAMES and not dataset.problems
    for k, frame in enumerate(dataset):
        np.testing.assert_array_equal(frame["label"], IDS)
        assert abs(int(frame["image"][0, 0, 0]) - 60 * k) <= 2
    halves = [open_dataset("idd_lite", root, split, "idd_lite") for split in ("val_dev", "val_test")]
    assert [[half.name(k) for k in range(len(half))] for half in halves] == [list(NAMES[::2]), list(NAMES[1::2])]
    assert not any(half.problems for half in halves)


@pytest.mark.parametrize("published", [True, False])
def test_frames_without_labels(tmp_path, published):
    dataset = open_dataset("idd_lite", make_idd_lite(tmp_path, published, "test", labels=False), "test", "idd_lite")
    assert len(dataset) == 4 and dataset.maps == ("image",) and not dataset.problems


def test_a_lost_label_and_a_lost_image_are_named(tmp_path):
    root = make_idd_lite(tmp_path, published=True)
    (root / "gtFine/val/10/000011_label.png").unlink()
    (root / "leftImg8bit/val/9/000002_image.jpg").unlink()
    problems = open_dataset("idd_lite", root, "val", "idd_lite").problems
    assert any("9/000002_label.png: there is no image '9_000002'" in problem.message for problem in problems)
    assert {(problem.frame, problem.field) for problem in problems} >= {("10_000011", "label")}


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"idd_lite: unknown split 'vall'; did you mean 'val'\?"):
        get_dataset("idd_lite", tmp_path, "vall", "idd_lite")
    with pytest.raises(UserError, match="idd_lite: label_space: expected idd_lite, since the labels merge"):
        get_dataset("idd_lite", tmp_path, "val", "19")
    with pytest.raises(UserError, match=r"no folder .*leftImg8bit/val; 'root' must hold leftImg8bit and gtFine"):
        get_dataset("idd_lite", tmp_path, "val", "idd_lite")


def test_classes_of_cityscapes_in_its_terms():
    classes = label_space("idd_lite").names
    assert len(classes) == 7 and lookup_table("idd_lite", "idd_lite")[:8].tolist() == [*range(7), 255]
    table = train19_table("idd_lite")
    found = {name: classes[table[k]] for k, name in enumerate(CLASS_NAMES)}
    assert found["road"] == "drivable" and found["sidewalk"] == found["terrain"] == "non-drivable"
    assert found["building"] == found["vegetation"] == "far objects" and found["sky"] == "sky"
    assert {name for name in CLASS_NAMES if found[name] == "living things"} == {"person", "rider"}
    roadside = {name for name in CLASS_NAMES if found[name] == "roadside objects"}
    assert roadside == {"wall", "fence", "pole", "traffic light", "traffic sign"}
    vehicles = {"car", "truck", "bus", "train", "motorcycle", "bicycle"}
    assert {name for name in CLASS_NAMES if found[name] == "vehicles"} == vehicles
    np.testing.assert_array_equal(lookup_table("streets", "idd_lite"), table)


def test_counts_and_class_shares_of_the_real_frames(shared):
    root = shared / "data" / "idd_lite"
    assert {split: len(open_dataset("idd_lite", root, split, "idd_lite")) for split in SPLITS} == COUNTS
    dev, test = (open_dataset("idd_lite", root, split, "idd_lite") for split in ("val_dev", "val_test"))
    labels = [half.read(k, ("label",))["label"] for half in (dev, test) for k in range(len(half))]
    histogram = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    shares = 100 * histogram / histogram.sum()
    expected = [31.78, 2.40, 1.61, 8.54, 11.94, 23.64, 20.07]
    np.testing.assert_allclose(shares[:7], expected, atol=0.005)
    assert round(float(shares[255]), 2) == 0.02
