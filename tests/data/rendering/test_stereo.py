"""Block matching: pairs of known disparity, what must stay without a value, and rendered streets."""

import numpy as np
import pytest

from uda_jax.data import rendering
from uda_jax.data.datasets import streets
from uda_jax.data.rendering import stereo

# Where nothing matches, chance still leaves patches: up to 0.15 of the pixels of these tests.
NO_MATCH = 0.2


def texture(seed, size=(48, 128)):
    """Returns random grey pictures, uint8 `[H, W, 3]`."""
    generator = np.random.default_rng(seed)
    return np.repeat(generator.integers(0, 256, (*size, 1), dtype=np.uint8), 3, -1)


def test_known_shift():
    wide = texture(0, (48, 135))
    left, right = wide[:, :128], wide[:, 7:]
    found = stereo.disparity(left, right, candidates=16)
    assert found.shape == (48, 128) and found.dtype == np.float32
    # The first 7 columns lie beyond the edge of the right image.
    assert not found[:, :7].any()
    assert (found[:, 12:] > 0).mean() > 0.99
    np.testing.assert_allclose(found[:, 12:][found[:, 12:] > 0], 7, atol=0.15)
    # Swapped, points would have to move the other way, which no candidate allows.
    assert (stereo.disparity(right, left, candidates=16) > 0).mean() < NO_MATCH


@pytest.mark.parametrize("shift", [2.25, 2.75, 5.5])
def test_shift_between_pixels(shift):
    """A picture of waves, so that it is known between pixels, too. Without noise matches lean to whole pixels."""
    generator = np.random.default_rng(1)
    wave, phase = generator.uniform(-0.9, 0.9, (2, 40)), generator.uniform(0, 6.3, 40)

    def picture(offset):
        y, x = np.mgrid[:40, :96]
        total = sum(np.sin(a * y + b * (x + offset) + c) for a, b, c in zip(*wave, phase, strict=True))
        return np.repeat(np.clip(128 + 12 * total, 0, 255).astype(np.uint8)[..., None], 3, -1)

    found = stereo.disparity(picture(0), picture(shift), candidates=12)[:, 12:]
    assert (found > 0).mean() > 0.95
    assert abs(np.median(found[found > 0]) - shift) < 0.18


def test_occluded_points_have_no_value():
    """A square 12 pixels near before a wall 3 pixels near: it hides the 9 columns of the wall to its left."""
    wall, square = texture(2, (48, 131)), texture(3, (24, 30))
    left, right = wall[:, :128].copy(), wall[:, 3:].copy()
    left[12:36, 60:90], right[12:36, 48:78] = square, square
    found = stereo.disparity(left, right, candidates=20)
    hidden, rows = np.s_[14:34, 51:60], np.s_[14:34]
    assert (found[hidden] > 0).mean() < 0.4
    np.testing.assert_allclose(np.median(found[rows][:, 62:88]), 12, atol=0.1)
    assert (found[rows][:, 62:88] > 0).mean() > 0.95
    for part in (found[:10, 8:], found[38:, 8:], found[:, 94:]):
        assert (part > 0).mean() > 0.95
        np.testing.assert_allclose(np.median(part), 3, atol=0.1)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_walls_have_no_value(value):
    blank = np.full((40, 96, 3), value, np.uint8)
    assert not stereo.disparity(blank, blank, candidates=16).any()


def test_noise_alone_has_no_value():
    generator = np.random.default_rng(4)
    left, right = np.clip(generator.normal(128, 6, (2, 60, 120, 3)), 0, 255).astype(np.uint8)
    assert (stereo.disparity(left, right, candidates=24) > 0).mean() < NO_MATCH


def test_points_nearer_than_the_candidates_reach_have_no_value():
    wide = texture(5, (40, 140))
    left, right = wide[:, :120], wide[:, 20:]
    assert (stereo.disparity(left, right, candidates=15) > 0).mean() < NO_MATCH
    assert (stereo.disparity(left, right, candidates=25)[:, 25:] > 0).mean() > 0.95


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 1), (3, 40), (40, 5)])
def test_any_size(size):
    image = texture(6, size)
    found = stereo.disparity(image, image, candidates=8)
    # Both images are one: everything is infinitely far, which is no disparity.
    assert found.shape == size and not found.any()


def test_islands_are_flooded_regions():
    """Against a flood fill, on maps with holes and steps."""
    generator = np.random.default_rng(7)
    for _ in range(5):
        values = generator.choice([0.0, 1.0, 1.9, 3.5, 4.0], (9, 13), p=[0.3, 0.2, 0.2, 0.15, 0.15])
        np.testing.assert_array_equal(np.where(values > 0, stereo._islands(values), 0), flooded(values))


def flooded(values):
    sizes = np.zeros(values.shape, int)
    for start in zip(*np.nonzero(values), strict=True):
        region, edge = {start}, [start]
        while edge:
            row, column = edge.pop()
            for place in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                inside = 0 <= place[0] < values.shape[0] and 0 <= place[1] < values.shape[1]
                if inside and place not in region and values[place] > 0:
                    if abs(values[place] - values[row, column]) <= 1:
                        region.add(place)
                        edge.append(place)
        sizes[start] = len(region)
    return sizes


def test_median_of_the_valid_neighbours():
    values = np.array([[5.0, 0.0, 9.0], [0.0, 20.0, 0.0], [0.0, 0.0, 6.0]])
    # 20 becomes the middle of 5, 6, 9 and 20; each other one the middle of itself and 20; holes stay.
    expected = [[12.5, 0, 14.5], [0, 7.5, 0], [0, 0, 13]]
    np.testing.assert_allclose(stereo._median(values), expected)


@pytest.fixture(scope="module")
def pairs():
    """Returns two rendered pairs per condition of the camera."""
    look, first, _ = streets.SPLITS["camera_dev"]
    return [
        rendering.render_stereo(look, first + k, (96, 192), streets.BASELINE, condition=condition)
        for k, condition in enumerate(("day", "dusk", "fog", "night") * 2)
    ]


def test_distances_in_rendered_streets(pairs):
    measured = np.stack([streets.stereo_depth(a.image, b.image, a.intrinsics[0, 0]) for a, b in pairs])
    exact = np.stack([left.depth for left, _ in pairs])
    valid = (exact > 0) & (measured > 0)
    assert 0.6 < valid.sum() / (exact > 0).sum() < 0.95
    error = measured[valid] / exact[valid] - 1
    near = exact[valid] < 12
    assert np.median(np.abs(error)) < 0.07 and np.median(np.abs(error[near])) < 0.035
    assert abs(np.median(error)) < 0.015
    assert (np.abs(error[near]) > 0.1).mean() < 0.15
    # Nothing is nearer than the candidates reach, or farther than half a pixel says.
    assert measured[measured > 0].min() >= 0.95 * streets.NEAREST and measured.max() < 160


def test_equal_pairs_give_equal_bytes(pairs):
    left, right = pairs[0]
    first, second = (stereo.disparity(left.image, right.image, candidates=32).tobytes() for _ in range(2))
    assert first == second
