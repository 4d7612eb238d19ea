"""CutMix's boxes and CowMix's blots: areas, places, blur, and one draw per key and position."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from uda_jax import ops
from uda_jax.ops import mix_masks

COW = functools.partial(ops.cow_masks, sigmas=(2.0, 6.0))
KINDS = [ops.box_masks, COW]


@pytest.mark.parametrize(("height", "width"), [(24, 40), (7, 5), (2, 6)])
def test_a_box_has_half_the_area_and_any_place(height, width):
    masks = np.asarray(jax.jit(ops.box_masks, static_argnums=(1, 2))(jax.random.key(0), 300, (height, width)))
    assert masks.shape == (300, height, width) and masks.dtype == bool
    places = set()
    for mask in masks:
        rows, columns = np.flatnonzero(~mask.all(axis=1)), np.flatnonzero(~mask.all(axis=0))
        box = np.ix_(rows, columns)
        # Connected and full, and nothing but it is left out.
        assert not mask[box].any() and (~mask).sum() == rows.size * columns.size
        assert rows[-1] - rows[0] + 1 == rows.size and columns[-1] - columns[0] + 1 == columns.size
        assert width // 2 <= columns.size <= width
        assert rows.size == min(height, round(height * width / 2 / columns.size))
        places.add((rows[0], columns[0], columns.size))
    widths = {columns for _, _, columns in places}
    assert widths == set(range(max(1, width // 2), width + 1))
    for wide in widths:
        high = min(height, round(height * width / 2 / wide))
        seen = {left for _, left, columns in places if columns == wide}
        # Every place is possible, the last one included; those of large frames are more than these draws.
        assert seen <= set(range(width - wide + 1))
        assert {top for top, _, columns in places if columns == wide} <= set(range(height - high + 1))
        assert width > 10 or seen == set(range(width - wide + 1))


def test_blots_cover_half_of_the_area_and_are_as_coarse_as_the_blur():
    draw = jax.jit(ops.cow_masks, static_argnums=(1, 2))
    fine, coarse = (np.asarray(draw(jax.random.key(1), 16, (96, 96), (s, s))) for s in (2.0, 8.0))
    assert fine.shape == coarse.shape == (16, 96, 96) and fine.dtype == bool
    shares = np.concatenate([fine, coarse]).mean(axis=(1, 2))
    assert shares.mean() == pytest.approx(0.5, abs=0.05) and (abs(shares - 0.5) < 0.25).all()
    borders = [(masks[:, :, 1:] != masks[:, :, :-1]).mean() for masks in (fine, coarse)]
    assert borders[0] > 2 * borders[1] > 0
    # Between the bounds every image has a blur of its own.
    mixed = np.asarray(draw(jax.random.key(1), 16, (96, 96), (2.0, 8.0)))
    each = (mixed[:, :, 1:] != mixed[:, :, :-1]).mean(axis=(1, 2))
    assert each.max() > 1.5 * each.min()


def test_blur_is_that_of_scipy():
    """The filter of the released code, whose border is mirrored with its own pixel and whose tail ends at 4 sigma."""
    noise = np.random.default_rng(0).normal(size=(20, 33)).astype(np.float32)
    blurred = jax.jit(mix_masks._blurred)
    for sigma in (2.0, 8.0):
        expected = ndimage.gaussian_filter(noise.astype(np.float64), sigma)
        found = blurred(noise, sigma)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("draw", KINDS)
def test_one_draw_per_key_and_position(draw):
    key, size = jax.random.key(5), (24, 40)
    compiled = jax.jit(draw, static_argnums=(1, 2))
    four, eager = np.asarray(compiled(key, 4, size)), np.asarray(draw(key, 4, size))
    # A blot's rim may lie within the rounding of its threshold.
    assert (four != eager).mean() < 1e-2
    np.testing.assert_array_equal(four, compiled(key, 4, size))
    assert len({mask.tobytes() for mask in four}) == 4
    assert (four != np.asarray(compiled(jax.random.key(6), 4, size))).any()
