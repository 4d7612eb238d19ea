"""UrbanSyn: names that begin with their folder's, training ids, what is missing."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset, open_dataset
from uda_jax.errors import UserError

LABEL = np.array([[0, 5, 18, 19], [1, 13, 255, 2]], np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two frames of 2x4 pixels."""
    for folder in ("rgb", "ss"):
        (tmp_path / "UrbanSyn" / folder).mkdir(parents=True)
    for number in (1, 12):
        folder = tmp_path / "UrbanSyn"
        Image.new("RGB", (4, 2), (number, 0, 0)).save(folder / "rgb" / f"rgb_{number:04}.png")
        Image.fromarray(LABEL).save(folder / "ss" / f"ss_{number:04}.png")
    return tmp_path


def test_frames_and_classes(root):
    dataset = get_dataset("urbansyn", root, "train")
    assert [dataset.name(k) for k in range(len(dataset))] == ["0001", "0012"]
    example = dataset[1]
    assert example["image"].shape == (2, 4, 3) and example["image"][0, 0, 0] == 12
    assert example["label"].tolist() == [[0, 5, 18, 255], [1, 13, 255, 2]]
    sixteen = get_dataset("urbansyn", root, "train", "16")[0]["label"]
    assert sixteen[0].tolist() == [0, 5, 15, 255]


def test_what_is_missing_is_named(root):
    (root / "UrbanSyn" / "ss" / "ss_0012.png").unlink()
    assert [problem.frame for problem in open_dataset("urbansyn", root, "train").problems] == ["0012"]
    for file in (root / "UrbanSyn" / "ss").iterdir():
        file.unlink()
    (root / "UrbanSyn" / "ss").rmdir()
    with pytest.raises(UserError, match="urbansyn: no folder .*ss; 'root' must hold rgb and ss"):
        open_dataset("urbansyn", root, "train")
