"""CamVid: its splits on a made-up copy, and the published counts on the real frames."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError

STEMS = {
    "train": ["0001TP_1", "0006R0_2", "0016E5_3"],
    "val": ["0016E5_4"],
    "test": ["0001TP_5", "Seq05VD_6"],
}


def make_camvid(root, images="{}/images", labels="{}/labels"):
    for split, stems in STEMS.items():
        for folder in (images.format(split), labels.format(split)):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            Image.new("RGB", (4, 3), (10, 20, 30)).save(root / images.format(split) / f"{stem}.png")
            label = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
            label.save(root / labels.format(split) / f"{stem}.png")
    return root


@pytest.mark.parametrize("layout", [{}, {"images": "{}", "labels": "{}annot"}])
def test_labels_become_train_ids_in_both_layouts(tmp_path, layout):
    dataset = get_dataset("camvid", make_camvid(tmp_path, **layout), "val", "19")
    example = dataset[0]
    assert (example["name"], example["index"], dataset.name(0)) == ("0016E5_4", 0, "0016E5_4")
    assert example["image"].shape == (3, 4, 3) and example["image"][0, 0].tolist() == [10, 20, 30]
    assert example["label"].ravel().tolist() == [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18, 255]
    assert dataset.label_space.names[18] == "bicycle"


@pytest.mark.parametrize(
    ("split", "stems"),
    [
        ("train", STEMS["train"]),
        ("test", STEMS["test"]),
        ("day_train", ["0006R0_2", "0016E5_3"]),
        ("day_val", ["0016E5_4"]),
        ("dusk_train", ["0001TP_1"]),
        ("dusk_test", ["0001TP_5"]),
    ],
)
def test_splits(tmp_path, split, stems):
    dataset = get_dataset("camvid", make_camvid(tmp_path), split, "19")
    assert [dataset.name(k) for k in range(len(dataset))] == stems


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"camvid: root: expected the folder of the data set, got none"):
        get_dataset("camvid", None, "train")
    with pytest.raises(UserError, match=r"camvid: root: no folder .*gone; give it by --root"):
        get_dataset("camvid", tmp_path / "gone", "train")
    with pytest.raises(UserError, match=r"camvid: no folder .*train; 'root' must hold train/images and train/labels"):
        get_dataset("camvid", tmp_path, "train")
    root = make_camvid(tmp_path)
    with pytest.raises(UserError, match=r"camvid: unknown split 'day_trian'; did you mean 'day_train'\?"):
        get_dataset("camvid", root, "day_trian")
    with pytest.raises(UserError, match="label_space: unknown protocol 'own'"):
        get_dataset("camvid", root, "train", "own")
    (root / "test" / "labels" / "0001TP_5.png").unlink()
    assert get_dataset("camvid", root, "test").missing("label") == ["0001TP_5"]
    with pytest.raises(UserError, match=r"domain: .*images/0001TP_5\.png: there is no label of this frame"):
        open_domain(Domain("camvid", str(root), "test"))
    Image.new("L", (4, 3)).save(root / "val" / "labels" / "0016E5_9.png")
    assert "label" in get_dataset("camvid", root, "val")[0], "a label of a frame that was not downloaded does no harm"
    (root / "val" / "labels" / "0016E5_4.png").unlink()
    with pytest.raises(UserError, match=r"labels/0016E5_9\.png: there is no image '0016E5_9'"):
        get_dataset("camvid", root, "val")
    for folder in ("images", "labels"):
        (root / "test" / folder / "0001TP_5.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"images: no frame of the recordings 0001TP"):
        get_dataset("camvid", root, "dusk_test")


def test_counts_and_class_shares_of_the_real_frames(shared):
    root = shared / "data" / "camvid"
    counts = {
        split: len(get_dataset("camvid", root, split))
        for split in ("train", "val", "test", "day_train", "day_val", "dusk_train", "dusk_test")
    }
    assert counts == {
        "train": 367,
        "val": 101,
        "test": 233,
        "day_train": 305,
        "day_val": 101,
        "dusk_train": 62,
        "dusk_test": 62,
    }
    histogram = sum(np.bincount(frame["label"].ravel(), minlength=256) for frame in get_dataset("camvid", root, "val"))
    shares = 100 * histogram / histogram.sum()
    expected = {
        10: 9.13,
        2: 25.86,
        5: 0.56,
        0: 29.10,
        1: 8.72,
        8: 16.33,
        7: 0.89,
        4: 3.09,
        13: 1.75,
        11: 0.65,
        18: 2.22,
    }
    assert {k: round(float(shares[k]), 2) for k in expected} == expected
    assert round(float(shares[255]), 2) == 1.71
