"""Blobs: what both looks share, and what sets them apart."""

import numpy as np
import pytest

from uda_jax.data.rendering.blobs import LOOKS, render


@pytest.mark.parametrize("look", LOOKS)
def test_structures_are_brighter_than_the_background_and_in_every_frame(look):
    for seed in range(20):
        image, label = render(look, seed)
        assert image.shape == (64, 64, 3) and label.shape == (64, 64) and set(np.unique(label)) == {0, 1}
        assert 0.005 < label.mean() < 0.6
        assert np.median(image[label == 1]) > np.median(image[label == 0])


def test_a_seed_is_a_frame_and_a_size_another_sampling_of_it():
    image, label = render("soft", 3)
    again, same = render("soft", 3)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, same)
    assert (render("soft", 4)[1] != label).any() and (render("sharp", 3)[1] != label).any()
    wide = render("soft", 3, (128, 128))[1]
    assert (wide[::2, ::2] == label).mean() > 0.97


def test_the_soft_look_is_less_sharp_and_darker():
    def contrast(look):
        """Steps of brightness across outlines."""
        image, label = render(look, 0, (256, 256))
        rows, columns = np.nonzero(label[:, :-8] < label[:, 8:])
        brightness = image.mean(axis=-1)
        return np.mean(brightness[rows, columns + 8] - brightness[rows, columns])

    assert contrast("soft") < contrast("sharp") / 2
    means = {look: np.mean([render(look, seed)[0].mean() for seed in range(5)]) for look in LOOKS}
    assert means["soft"] < means["sharp"]
