"""Mapillary Vistas: both packagings of version 1.2, three mappings, and version 2.0 refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parent / "format_fixtures" / "mapillary_v1.2"
GOLDEN = vectors.load("datasets/format_fixtures.npz")
LUTS = vectors.load("datasets/luts.npz")
NAME = "A" * 22


@pytest.fixture
def copy(tmp_path):
    """A copy of the generated frame, to be changed."""
    return shutil.copytree(FIXTURES, tmp_path / "vistas")


def test_generated_frame():
    dataset = get_dataset("mapillary", FIXTURES, "train")
    np.testing.assert_array_equal(dataset.stored(0, ("label",))["label"], GOLDEN["mapillary_label"])
    example = dataset[0]
    assert example["name"] == NAME
    np.testing.assert_array_equal(example["label"], GOLDEN["mapillary_train19_recommended"])
    image = Image.open(FIXTURES / "training" / "images" / f"{NAME}.jpg")
    np.testing.assert_array_equal(example["image"], np.array(image))
    by_category = get_dataset("mapillary", FIXTURES, "train", "7")[0]["label"]
    np.testing.assert_array_equal(by_category, GOLDEN["mapillary_7_dada"])


@pytest.mark.parametrize("mapping", ["recommended", "strict", "mseg"])
def test_mappings(mapping):
    label = get_dataset("mapillary", FIXTURES, "train", mapping=mapping)[0]["label"]
    np.testing.assert_array_equal(label, LUTS[f"mapillary12_id_to_train19_{mapping}"][GOLDEN["mapillary_label"]])


def test_later_archive_of_both_versions(copy):
    labels = copy / "training" / "labels"
    (copy / "training" / "v2.0" / "labels").mkdir(parents=True)
    # What belongs to version 2.0 is not looked at.
    (copy / "config.json").write_text(json.dumps({"labels": [{}] * 124}))
    Image.fromarray(np.full((48, 72), 123, np.uint8)).save(copy / "training" / "v2.0" / "labels" / f"{NAME}.png")
    with pytest.raises(UserError, match=r"config\.json: labels: expected the 66 classes of .* 1\.2, got 124"):
        get_dataset("mapillary", copy, "train")
    (copy / "training" / "v1.2").mkdir()
    labels.rename(copy / "training" / "v1.2" / "labels")
    label = get_dataset("mapillary", copy, "train")[0]["label"]
    np.testing.assert_array_equal(label, GOLDEN["mapillary_train19_recommended"])
    shutil.rmtree(copy / "training" / "v1.2")
    with pytest.raises(UserError, match=r"mapillary: .*training holds labels of version 2\.0 only, expected v1\.2/lab"):
        get_dataset("mapillary", copy, "train")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"labels": 66}', b'{"classes": []}', b"\xff"])
def test_damaged_description(copy, content):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: labels: expected a list of 66 classes") as raised:
        get_dataset("mapillary", copy, "train")
    assert "\n" not in str(raised.value)


def test_splits_and_unlabelled_testing(copy):
    shutil.copytree(copy / "training", copy / "validation")
    shutil.copytree(copy / "training" / "images", copy / "testing" / "images")
    assert "label" in get_dataset("mapillary", copy, "val")[0]
    test = get_dataset("mapillary", copy, "test")
    assert set(test[0]) == {"image", "name", "index"} and test.missing("label") == [NAME]
    assert len(get_dataset("mapillary", copy, "validation")) == len(get_dataset("mapillary", copy, "val")) == 1
    with pytest.raises(UserError, match="mapillary: unknown split 'trian'; did you mean 'train'"):
        get_dataset("mapillary", copy, "trian")
    with pytest.raises(UserError, match="mapillary: mapping: expected one of recommended, strict, mseg, got 'dada'"):
        get_dataset("mapillary", copy, "train", mapping="dada")
    shutil.rmtree(copy / "testing")
    with pytest.raises(UserError, match=r"mapillary: no folder .*testing/images; 'root' must hold training, valid"):
        get_dataset("mapillary", copy, "test")


def test_real_frame(shared):
    dataset = get_dataset("mapillary", shared / "data" / "real_frames" / "mapillary_fixture", "train")
    stored = dataset.stored(0, ("image", "label"))
    assert np.unique(stored["label"]).tolist() == [17, 44, 45]
    assert stored["image"].shape == (100, 100, 3)
