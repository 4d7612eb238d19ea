"""ClassMix: the golden file, how many classes are drawn and how often, and what a mask does to the maps."""

import jax
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import ops

GOLDEN = vectors.load("dacs-corda/classmix.npz")
choose_classes = jax.jit(ops.choose_classes, static_argnames="ignore_label")


def one_hot(values):
    """Rows of values, padded with -1, as bool [B, 256]."""
    return np.stack([np.isin(np.arange(256), row) for row in values])


def test_golden_mask_and_mixing():
    mask = ops.classmix_mask(GOLDEN["labels"], one_hot(GOLDEN["chosen_classes"]))
    np.testing.assert_array_equal(mask, GOLDEN["mask"].astype(bool))
    for source, target, mixed in (
        (nhwc(GOLDEN["source_image"]), nhwc(GOLDEN["target_image"]), nhwc(GOLDEN["mixed_image"])),
        (nhwc(GOLDEN["source_depth"]), nhwc(GOLDEN["target_depth"]), nhwc(GOLDEN["mixed_depth"])),
        (GOLDEN["labels"], GOLDEN["pseudo_label"], GOLDEN["mixed_label"]),
    ):
        np.testing.assert_array_equal(ops.mix(mask, source, target), mixed)


def test_golden_number_of_classes():
    present = one_hot(GOLDEN["present_classes"])
    for labels in (GOLDEN["labels"], GOLDEN["labels"].astype(np.uint8)):
        chosen = np.asarray(choose_classes(jax.random.key(0), labels))
        np.testing.assert_array_equal(chosen.sum(axis=1), GOLDEN["num_chosen"])
        assert not (chosen & ~present).any()


def test_half_of_any_number_of_values_rounded_up():
    """Image n shows the n values 0, 3, 6 ..., and in the place of the last one 255."""
    labels = np.stack([np.where(np.arange(60) % n < n - 1, np.arange(60) % n * 3, 255) for n in range(1, 21)])
    chosen = np.asarray(choose_classes(jax.random.key(1), labels.reshape(20, 6, 10)))
    np.testing.assert_array_equal(chosen.sum(axis=1), [(n + 1) // 2 for n in range(1, 21)])
    for row, label in zip(chosen, labels, strict=True):
        assert set(np.flatnonzero(row)) <= set(label)
    assert chosen[0, 255]  # a single value is always chosen, the ignored one, too


def test_every_value_is_drawn_equally_often():
    labels = np.tile(np.array([0, 1, 2, 7, 255]), (3000, 1, 1))
    share = np.asarray(choose_classes(jax.random.key(2), labels)).mean(axis=0)
    # Three of five; the standard deviation of a share is 0.009.
    np.testing.assert_allclose(share[[0, 1, 2, 7, 255]], 0.6, atol=0.04)
    assert share.sum() == pytest.approx(3.0)


def test_ignored_pixels_can_be_left_out():
    labels = np.array([[[0, 1, 255]], [[255, 255, 255]]])
    for seed in range(5):
        chosen = np.asarray(choose_classes(jax.random.key(seed), labels, ignore_label=255))
        assert chosen.sum(axis=1).tolist() == [1, 0] and not chosen[:, 255].any()
        assert not ops.classmix_mask(labels, chosen)[1].any()


def test_the_draw_of_an_image_depends_on_its_place_alone():
    labels = np.random.default_rng(0).integers(0, 19, (3, 8, 8))
    other = np.concatenate([labels[:1], 18 - labels[1:]])
    key = jax.random.key(3)
    ours, theirs = (np.asarray(choose_classes(key, x)) for x in (labels, other))
    np.testing.assert_array_equal(ours[0], theirs[0])
    same = np.asarray(choose_classes(key, np.repeat(labels[:1], 3, axis=0)))
    assert (same[0] != same[1]).any() or (same[0] != same[2]).any()


def test_mask_by_hand():
    labels = np.array([[[0, 1], [255, 2]], [[0, 1], [255, 2]]])
    chosen = one_hot([[0, 255], [2]])
    np.testing.assert_array_equal(
        ops.classmix_mask(labels, chosen), [[[True, False], [True, False]], [[False, False], [False, True]]]
    )
    # Values outside those of a label belong to nothing, not even to what they would be clipped to.
    outside = np.array([[[-1, 256], [0, 255]]])
    np.testing.assert_array_equal(ops.classmix_mask(outside, np.ones((1, 256), bool)), [[[False, False], [True, True]]])
    with pytest.raises(ValueError, match=r"chosen: expected shape \[B, 256\] for labels \(2, 2, 2\), got \(2, 19\)"):
        ops.classmix_mask(labels, chosen[:, :19])


def test_mixing_keeps_every_bit():
    source, target = np.array([[[1.5, np.nan]]], np.float32), np.array([[[-0.0, 3e38]]], np.float32)
    for mask, expected in ((True, source), (False, target)):
        mixed = np.asarray(ops.mix(np.full((1, 1, 2), mask), source, target))
        assert mixed.tobytes() == expected.tobytes()
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    mixed = ops.mix(np.array([[[True, False], [False, True]]]), images, 255 - images)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[0, 0], [[0, 1, 2], [252, 251, 250]])


def test_classes_of_the_whole_batch():
    """Each image draws for itself from what all of them show."""
    labels = np.stack([np.full((2, 2), value, np.uint8) for value in (1, 4, 7, 255)])
    draw = jax.jit(lambda key: ops.choose_classes(key, labels, of_batch=True))
    draws = np.stack([np.asarray(draw(jax.random.key(seed))) for seed in range(20)])
    assert (draws.sum(-1) == 2).all() and set(np.flatnonzero(draws.any((0, 1)))) == {1, 4, 7, 255}
    assert (draws != draws[:, :1]).any() and not draws.all(0).any()
