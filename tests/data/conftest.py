"""What the data tests share: a small folder data set made on the spot."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.base import Dataset
from uda_jax.data.labels.label_spaces import LabelSpace


class InMemory(Dataset):
    """A data set of given frames and three classes."""

    label_space = LabelSpace(("road", "sky", "tram"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))

    def __init__(self, frames):
        self._frames = list(frames)

    def __len__(self):
        return len(self._frames)

    def __getitem__(self, index):
        return self._frames[index]

    def name(self, index):
        return self._frames[index]["name"]


@pytest.fixture
def in_memory():
    """Returns a function that makes a data set of examples."""
    return InMemory


@pytest.fixture
def make_folder(tmp_path):
    """Returns a function that writes a folder data set and returns its root."""

    def make(count=10, size=(12, 16), yaml="classes: [road, sky, tram]\n", split="train", labels=True, root="folder"):
        generator = np.random.default_rng(count)
        base = tmp_path / root
        for name in ("images", "labels") if labels else ("images",):
            (base / split / name).mkdir(parents=True, exist_ok=True)
        (base / "dataset.yaml").write_text(yaml)
        for k in range(count):
            image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(image).save(base / split / "images" / f"f{k:03d}.png")
            if labels:
                label = generator.integers(0, 3, size, dtype=np.uint8)
                Image.fromarray(label).save(base / split / "labels" / f"f{k:03d}.png")
        return base

    return make
