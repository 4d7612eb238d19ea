"""Dark Zurich: its times of day, and the two ways in which its frames are named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.dark_zurich import COUNTS, SPLITS
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures" / "dark_zurich"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
GENERATED = "GOPR0356_frame_000321"


def names(dataset):
    return [dataset.name(k) for k in range(len(dataset))]


def save(path, red=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (red, 0, 0)).save(path)


@pytest.mark.parametrize("missing", [(), ("*_labelIds.png",)], ids=["ids", "train ids"])
def test_generated_frame(tmp_path, missing):
    root = shutil.copytree(FIXTURES, tmp_path / "Dark_Zurich_val_anon").parent
    for pattern in missing:
        next(root.rglob(pattern)).unlink()
    dataset = get_dataset("dark_zurich", root, "val", "19")
    assert names(dataset) == [GENERATED]
    np.testing.assert_array_equal(dataset[0]["label"], GOLDEN["dark_zurich_train19"])
    stored = GOLDEN["dark_zurich_train19" if missing else "dark_zurich_labelIds"]
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], stored)
    (path,) = FIXTURES.rglob("*_rgb_anon.png")
    np.testing.assert_array_equal(dataset[0]["image"], np.array(Image.open(path)))


@pytest.mark.parametrize(("top", "ending"), [("rgb_anon", "_rgb_anon.png"), ("rgb", "_rgb.png")])
def test_times_of_day_and_names(tmp_path, top, ending):
    for k, (split, folder) in enumerate(SPLITS.items()):
        name = f"GOPR000{k}_frame_000001" + ("_ref" if split.endswith("_ref") and top == "rgb_anon" else "")
        save(tmp_path / top / folder / f"GOPR000{k}" / f"{name}{ending}", 10 * k)
    for k, split in enumerate(SPLITS):
        dataset = get_dataset("dark_zurich", tmp_path, split)
        assert names(dataset) == [f"GOPR000{k}_frame_000001"]
        assert dataset[0]["image"][0, 0].tolist() == [10 * k, 0, 0] and "label" not in dataset[0]
    assert set(COUNTS) <= set(SPLITS)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"dark_zurich: unknown split 'train_nigth'; did you mean 'train_night'\?"):
        get_dataset("dark_zurich", tmp_path, "train_nigth")
    with pytest.raises(UserError, match=r"no folder .*rgb_anon/train/day; 'root' must hold rgb_anon/train/day"):
        get_dataset("dark_zurich", tmp_path, "train_day")
    save(tmp_path / "rgb_anon/val/night/a/a_frame_000001_rgb_anon.png")
    save(tmp_path / "rgb_anon/val/night/a/a_frame_000001_rgb.png")
    (problem,) = open_dataset("dark_zurich", tmp_path, "val").problems
    assert problem.frame == "a/a_frame_000001" and "shares the stem" in problem.message
