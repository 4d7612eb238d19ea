"""ACDC: its conditions one by one and together, reference frames, and the flat copy."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.acdc import CONDITIONS, COUNTS, SPLITS
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures" / "acdc"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
LUTS = vectors.load("datasets/luts.npz")
GENERATED = "GOPR0475_frame_000041"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_acdc(root, part="train", conditions=CONDITIONS, labels=True):
    """Writes one frame for each condition, whose red and whose label say which one it is."""
    for condition in conditions:
        k = CONDITIONS.index(condition)
        frame, ref = f"GOPR000{k}/GOPR000{k}_frame_000001", "_ref" if part.endswith("_ref") else ""
        image = root / "rgb_anon" / condition / part / f"{frame}_rgb{ref}_anon.png"
        save(image, np.full((2, 3, 3), (10 * k, 0, 0), np.uint8))
        if labels:
            save(root / "gt" / condition / part / f"{frame}_gt_labelIds.png", np.full((2, 3), 23 + k, np.uint8))
            save(root / "gt" / condition / part / f"{frame}_gt_invIds.png", np.full((2, 3), 1, np.uint8))
    return root


def names(dataset):
    return [dataset.name(k) for k in range(len(dataset))]


def test_generated_frame():
    dataset = get_dataset("acdc", FIXTURES, "fog_train", "19")
    assert names(dataset) == [GENERATED]
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN["acdc_labelIds"])
    np.testing.assert_array_equal(dataset[0]["label"], GOLDEN["acdc_train19"])
    (path,) = FIXTURES.rglob("*_rgb_anon.png")
    np.testing.assert_array_equal(dataset[0]["image"], np.array(Image.open(path)))


def test_converted_labels_stand_in_where_there_are_no_others(tmp_path):
    root = shutil.copytree(FIXTURES, tmp_path / "copy")
    next(root.rglob("*_labelIds.png")).unlink()
    dataset = get_dataset("acdc", root, "fog_train")
    np.testing.assert_array_equal(dataset[0]["label"], GOLDEN["acdc_train19"])
    np.testing.assert_array_equal(
        get_dataset("acdc", root, "fog_train", "16")[0]["label"], LUTS["train19_to_16"][GOLDEN["acdc_train19"]]
    )
    assert dataset.known == frozenset([*range(19), 255])


def test_conditions_together_and_one_by_one(tmp_path):
    root = make_acdc(tmp_path)
    together = get_dataset("acdc", root, "train")
    assert names(together) == [f"GOPR000{k}_frame_000001" for k in range(4)]
    # Sky, person, rider and car.
    assert [example["label"][0, 0] for example in together] == [10, 11, 12, 13]
    for k, condition in enumerate(CONDITIONS):
        alone = get_dataset("acdc", root, f"{condition}_train")
        assert names(alone) == [f"GOPR000{k}_frame_000001"] and alone[0]["image"][0, 0, 0] == 10 * k


def test_unlabelled_splits(tmp_path):
    root = make_acdc(make_acdc(tmp_path, "val_ref", labels=False), "test", labels=False)
    for split in ("val_ref", "snow_val_ref", "test", "night_test"):
        dataset = get_dataset("acdc", root, split)
        assert "label" not in dataset[0] and len(dataset) == (1 if "_" in split.removesuffix("_ref") else 4)
    assert names(get_dataset("acdc", root, "snow_val_ref")) == ["GOPR0003_frame_000001"]


def test_flat_copy(tmp_path):
    nested = make_acdc(tmp_path / "nested")
    flat = tmp_path / "flat"
    for top in ("rgb_anon", "gt"):
        for condition in CONDITIONS:
            shutil.copytree(nested / top / condition / "train", flat / top / "train", dirs_exist_ok=True)
    dataset = get_dataset("acdc", flat, "train")
    assert [(e["name"], e["label"][0, 0]) for e in dataset] == [(f"GOPR000{k}_frame_000001", 10 + k) for k in range(4)]
    with pytest.raises(UserError, match=r"no folder .*rgb_anon/fog/train; 'root' must hold rgb_anon"):
        get_dataset("acdc", flat, "fog_train")
    # Beside the original folders the copy adds nothing.
    for top in ("rgb_anon", "gt"):
        shutil.copytree(flat / top / "train", nested / top / "train")
    assert len(get_dataset("acdc", nested, "train")) == 4


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"acdc: unknown split 'nigth_train'; did you mean 'night_train'\?"):
        get_dataset("acdc", tmp_path, "nigth_train")
    root = make_acdc(tmp_path, conditions=("fog", "night", "rain"))
    assert len(get_dataset("acdc", root, "train")) == 3, "conditions that are there"
    with pytest.raises(UserError, match=r"no folder .*rgb_anon/snow/train; 'root' must hold rgb_anon"):
        get_dataset("acdc", root, "snow_train")
    next((root / "gt" / "rain").rglob("*_labelIds.png")).unlink()
    assert "label" not in get_dataset("acdc", root, "rain_train")[0]
    next((root / "rgb_anon" / "night").rglob("*.png")).unlink()
    (problem,) = open_dataset("acdc", root, "night_train").problems
    assert "there is no image 'GOPR0001_frame_000001'" in problem.message


def test_published_counts_add_up():
    assert set(COUNTS) <= set(SPLITS) and len(SPLITS) == len(set(SPLITS)) == 30
    for part in ("train", "val", "test"):
        assert COUNTS[part] == sum(COUNTS[f"{condition}_{part}"] for condition in CONDITIONS)
    assert COUNTS["train"] + COUNTS["val"] + COUNTS["test"] == 4006
