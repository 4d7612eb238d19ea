"""Blobs: the contract of a data set, its splits and its mistakes."""

import pickle

import numpy as np
import pytest

from uda_jax.data import fingerprint, get_dataset
from uda_jax.data.datasets.blobs import SPLITS
from uda_jax.errors import UserError


def blobs(split="soft_train", **options):
    return get_dataset("blobs", None, split, "own", **options)


def test_frames_are_drawn_alike_wherever_they_are_read():
    dataset = blobs(limit=3)
    assert len(dataset) == 3 and dataset.name(2) == "soft_train_00002" and dataset.sequence(2) is None
    assert dataset.label_space.names == ("background", "structure")
    example, again = dataset[1], pickle.loads(pickle.dumps(dataset))[1]
    assert list(example) == ["image", "label", "name", "index"] and example["index"] == 1
    np.testing.assert_array_equal(example["image"], again["image"])
    assert (example["image"].dtype, example["label"].dtype) == (np.uint8, np.uint8)
    assert dataset.read(-1, ("label",)).keys() == {"label", "name", "index"}
    assert blobs(size=(16, 24))[0]["image"].shape == (16, 24, 3)
    with pytest.raises(IndexError):
        dataset[3]


def test_splits_share_no_frame():
    drawn = {split: blobs(split, size=(16, 16), limit=5) for split in SPLITS}
    labels = [example["label"].tobytes() for dataset in drawn.values() for example in dataset]
    assert len(set(labels)) == len(labels)
    assert [len(blobs(split)) for split in SPLITS] == [500, 100, 500, 100, 200]


def test_other_pictures_are_told_by_the_fingerprint():
    prints = [fingerprint.fingerprint(blobs(limit=2, **change), None) for change in ({}, {}, {"size": (32, 32)})]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "blobs: unknown split 'train'"),
        ({"limit": 0}, "blobs: limit: expected an integer >= 1, got 0"),
        ({"size": (4, 64)}, "blobs: size: expected at least 8x8 pixels, got 4x64"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        blobs(**options)
    with pytest.raises(UserError, match="blobs: label_space: expected 'own'"):
        get_dataset("blobs", None, "soft_train", "19")
