"""BDD100K: both layouts, grey pictures, and labels that hold training ids."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.bdd100k import COUNTS, SPLITS
from uda_jax.errors import UserError

LAYOUTS = {
    "new": ("images/10k", "labels/sem_seg/masks", ".png"),
    "archive": ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks", ".png"),
    "old": ("bdd100k/seg/images", "bdd100k/seg/labels", "_train_id.png"),
}
TRAIN_IDS = np.array([[0, 1, 7, 11, 18, 255]], np.uint8).repeat(4, 0)


def make_bdd100k(root, layout="new", split="train", names=("0004a4c0-d4dff0ad", "00067cfb-e535423e"), mode="RGB"):
    images, labels, ending = LAYOUTS[layout]
    for folder in (root / images / split, root / labels / split):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new(mode, (6, 4), 90 if mode == "L" else (90, 90, 90)).save(root / images / split / f"{name}.jpg")
        Image.fromarray(TRAIN_IDS).save(root / labels / split / f"{name}{ending}")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_hold_train_ids_in_every_layout(tmp_path, layout):
    root = make_bdd100k(tmp_path, layout)
    if layout == "old":
        # Colours lie beside the masks.
        Image.new("RGB", (6, 4)).save(root / LAYOUTS["old"][1] / "train" / "0004a4c0-d4dff0ad_train_color.png")
    dataset = get_dataset("bdd100k", root, "train")
    assert [example["name"] for example in dataset] == ["0004a4c0-d4dff0ad", "00067cfb-e535423e"]
    np.testing.assert_array_equal(dataset[0]["label"], TRAIN_IDS)
    # Road, sidewalk, traffic sign, person and bicycle among the 13 classes.
    assert get_dataset("bdd100k", root, "train", "13")[0]["label"][0].tolist() == [0, 1, 4, 7, 12, 255]


def test_grey_pictures_become_rgb(tmp_path):
    image = get_dataset("bdd100k", make_bdd100k(tmp_path, mode="L"), "train")[0]["image"]
    assert image.shape == (4, 6, 3) and (image == image[..., :1]).all() and abs(int(image[0, 0, 0]) - 90) <= 2


def test_problems_name_the_files(tmp_path):
    root = make_bdd100k(tmp_path)
    (root / LAYOUTS["new"][0] / "train" / "0004a4c0-d4dff0ad.jpg").unlink()
    (root / LAYOUTS["new"][1] / "train" / "00067cfb-e535423e.png").unlink()
    lost, missing = open_dataset("bdd100k", root, "train").problems
    assert "0004a4c0-d4dff0ad.png: there is no image '0004a4c0-d4dff0ad'" in lost.message
    assert (missing.frame, missing.field) == ("00067cfb-e535423e", "label")


def test_test_split_and_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"bdd100k: unknown split 'vall'; did you mean 'val'\?"):
        get_dataset("bdd100k", tmp_path, "vall")
    with pytest.raises(UserError, match=r"no folder .*images/10k/test; 'root' must hold images/10k, or seg/images"):
        get_dataset("bdd100k", tmp_path, "test")
    folder = tmp_path / "images/10k/test"
    folder.mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(folder / "a.jpg")
    assert "label" not in get_dataset("bdd100k", tmp_path, "test")[0]
    assert set(COUNTS) == set(SPLITS)


def test_real_names_and_masks(shared):
    root = shared / "data" / "real_frames" / "bdd100k_fixture"
    train, val = (get_dataset("bdd100k", root, split) for split in ("train", "val"))
    assert [train.name(k) for k in range(3)] == ["0004a4c0-d4dff0ad", "00054602-3bf57337", "00067cfb-e535423e"]
    assert [val.name(k) for k in range(3)] == ["7d06fefd-f7be05a6", "7d128593-0ccfea4c", "7d15b18b-1e0d6e3f"]
    for dataset in (train, val):
        assert all(example["image"].shape == (8, 8, 3) for example in dataset)
        assert all(set(np.unique(example["label"])) <= dataset.known for example in dataset)
