"""Class means: the golden file, hand constants, and what a mean over labelled pixels must fulfil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import ops

GOLDEN = vectors.load("adaptsegnet-ass/class_mean_features.npz")
CLASSES = 4
# One program is quicker to compile than each of its operations; the golden file is compared both ways.
class_means = jax.jit(ops.class_means, static_argnames="num_classes")


@pytest.fixture(scope="module")
def maps():
    """Features and labels of two images: class 2 is in neither, class 3 in the first only, some pixels are ignored."""
    rng = np.random.RandomState(0)
    labels = rng.choice([0, 1, 255, -1, CLASSES], (2, 5, 6))
    labels[0, 1, 2] = 3
    return rng.normal(3, 1, (2, 5, 6, 7)).astype(np.float32), labels


@pytest.mark.parametrize("case", GOLDEN["cases"].tolist())
def test_golden(case):
    golden = {name: GOLDEN[f"{case}_{name}"] for name in ("feature", "label", "label_small", "count", "mean")}
    features = nhwc(golden["feature"])
    labels = ops.resize_nearest_legacy(golden["label"], features.shape[1:3])
    np.testing.assert_array_equal(labels, golden["label_small"])

    def means(features):
        return ops.class_means(features, labels, len(golden["count"]))

    for run in (means, jax.jit(means)):
        value, pullback, counts = jax.vjp(run, features, has_aux=True)
        np.testing.assert_array_equal(counts, golden["count"][None])
        np.testing.assert_allclose(value, golden["mean"][None], rtol=0, atol=1e-5)
        gradient = pullback(jnp.asarray(GOLDEN[f"{case}_cotangent"])[None])[0]
        np.testing.assert_allclose(gradient, nhwc(GOLDEN[f"{case}_grad_feature"]), rtol=0, atol=1e-5)


def test_hand_values():
    features = np.array([[1, 2], [3, 4], [5, -6], [7, 8]], np.float32).reshape(1, 2, 2, 2)
    labels = np.array([[[0, 0], [2, 255]]])
    means, counts = class_means(features, labels, 3)
    np.testing.assert_array_equal(means, [[[2, 3], [0, 0], [5, -6]]])
    np.testing.assert_array_equal(counts, [[2, 0, 1]])
    assert means.dtype == jnp.float32 and counts.dtype == jnp.int32
    np.testing.assert_array_equal(class_means(features, labels.astype(np.uint8), 3)[0], means)
    gradient = jax.jit(jax.grad(lambda f: class_means(f, labels, 3)[0].sum()))(features)
    np.testing.assert_array_equal(np.asarray(gradient)[0, ..., 0], [[0.5, 0.5], [1.0, 0.0]])


def test_equals_loops(maps):
    features, labels = maps
    means, counts = map(np.asarray, class_means(features, labels, CLASSES))
    for b in range(2):
        for k in range(CLASSES):
            pixels = features[b][labels[b] == k]
            assert counts[b, k] == len(pixels)
            np.testing.assert_allclose(means[b, k], pixels.mean(axis=0) if len(pixels) else 0, rtol=1e-5)
    np.testing.assert_allclose(means[0, 3], features[0, 1, 2], rtol=1e-6)
    assert counts[0, 3] == 1 and not counts[:, 2].any() and counts[1, 3] == 0


def test_images_do_not_mix(maps):
    features, labels = maps
    together, apart = class_means(features, labels, CLASSES), class_means(features[1:], labels[1:], CLASSES)
    for both, one in zip(together, apart, strict=True):
        np.testing.assert_allclose(both[1:], one, rtol=1e-6)


def test_weighted_means_sum_to_the_labelled_features(maps):
    features, labels = maps
    means, counts = map(np.asarray, class_means(features, labels, CLASSES))
    labelled = np.where(((labels >= 0) & (labels < CLASSES))[..., None], features, 0).sum(axis=(1, 2))
    np.testing.assert_allclose((counts[..., None] * means).sum(axis=1), labelled, rtol=1e-5)


def test_order_scale_and_constants(maps):
    features, labels = maps
    means, counts = map(np.asarray, class_means(features, labels, CLASSES))
    order = np.random.RandomState(1).permutation(30)
    shuffled = features.reshape(2, 30, 7)[:, order].reshape(features.shape)
    others = class_means(shuffled, labels.reshape(2, 30)[:, order].reshape(labels.shape), CLASSES)
    np.testing.assert_allclose(others[0], means, rtol=1e-5)
    np.testing.assert_array_equal(others[1], counts)
    np.testing.assert_allclose(class_means(-3 * features, labels, CLASSES)[0], -3 * means, rtol=1e-5)
    constant = class_means(np.full_like(features, 1.7), labels, CLASSES)[0]
    np.testing.assert_allclose(constant, np.where(counts > 0, 1.7, 0)[..., None] * np.ones(7), rtol=1e-6)


def test_nothing_labelled_is_zero_with_zero_gradient(maps):
    features, _ = maps
    labels = np.full((2, 5, 6), 255)
    means, pullback, counts = jax.vjp(lambda f: class_means(f, labels, CLASSES), features, has_aux=True)
    assert not np.any(means) and not np.any(counts)
    np.testing.assert_array_equal(pullback(np.ones_like(means))[0], np.zeros_like(features))


def test_bfloat16_is_summed_in_float32():
    # In bfloat16 a sum of ones stops growing at 256.
    features, labels = np.ones((1, 32, 32, 1), jnp.bfloat16), np.zeros((1, 32, 32), np.int32)
    features[0, 0, 0] = 33
    means, _ = class_means(features, labels, 1)
    np.testing.assert_allclose(means, [[[1 + 32 / 1024]]], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda f: class_means(f, labels, 1)[0].sum()))(features)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient, np.float32), np.full(features.shape, 1 / 1024))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"labels: expected shape \[B, h, w\] of features \(1, 2, 3, 4\)"):
        ops.class_means(np.zeros((1, 2, 3, 4)), np.zeros((1, 3, 2), np.int32), 5)
    with pytest.raises(ValueError, match="labels: expected shape"):
        ops.class_means(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.int32), 5)
