"""Illustrations: what the loop keeps of a method's own pictures."""

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax.methods.base import Pairs
from uda_jax.runs.illustrations import Illustrator
from uda_jax.training import sharding

PALETTE = np.array([(250, 0, 0), (0, 250, 0)], np.uint8)


class Shows:
    """A method that shows its source images, brightened by the state, and pairs of pixels."""

    def illustrate(self, state, batch):
        images = batch["source"]["image"] + state
        points = jax.numpy.tile(jax.numpy.array([[1, 1, 1, 6], [-1, -1, -1, -1]]), (len(images), 1, 1))
        classes = jax.numpy.tile(jax.numpy.array([1, 255]), (len(images), 1))
        return {"bright": images, "pairs": Pairs(images, images, points, classes)}


@pytest.fixture
def draw(tmp_path):
    def run(method, *, write=True):
        mesh = sharding.data_mesh()
        drawn = Illustrator(method, tmp_path / "illustrations", PALETTE, mesh, write=write)
        images = np.arange(jax.device_count() * 4 * 8 * 8 * 3, dtype=np.uint8).reshape(-1, 8, 8, 3)
        batch = sharding.to_global({"source": {"image": images}}, sharding.split_over_batch(mesh))
        return images, drawn.draw(np.uint8(3), batch)

    return run


def test_the_first_two_images_are_written_and_returned(draw, tmp_path):
    images, found = draw(Shows())
    assert sorted(found) == ["bright/0", "bright/1", "pairs/0", "pairs/1"]
    for i in range(2):
        np.testing.assert_array_equal(found[f"bright/{i}"], images[i] + np.uint8(3))
    for name, image in found.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "illustrations" / f"{name}.png")), image)
    height, width, _ = found["pairs/0"].shape
    assert height % 8 == 0 and width == 20 * height // 8
    assert found["pairs/0"][3 * height // 16, width // 2].tolist() == [0, 250, 0]  # the line, in the colour of class 1


def test_other_processes_and_other_methods_write_nothing(draw, tmp_path):
    assert draw(object())[1] == {}
    assert draw(Shows(), write=False)[1].keys() == {"bright/0", "bright/1", "pairs/0", "pairs/1"}
    assert not (tmp_path / "illustrations").exists()
