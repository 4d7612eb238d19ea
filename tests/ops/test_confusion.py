"""Confusion counts: constants, golden files, and that both forms count alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax import ops
from uda_jax.ops import confusion

GOLDEN = vectors.FOLDER


def test_hand_counts():
    labels = jnp.array([[0, 0, 1], [2, 255, 3]])
    predictions = jnp.array([[0, 1, 1], [0, 2, 2]])
    counts = ops.confusion_matrix(labels, predictions, 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(jax.jit(ops.confusion_matrix, static_argnums=2)(labels, predictions, 3), counts)


def test_everything_outside_the_classes_is_left_out():
    labels = jnp.array([-1, 3, 254, 255, 1000, 1, 1])
    predictions = jnp.array([0, 0, 0, 0, 0, -1, 3])
    assert ops.confusion_matrix(labels, predictions, 3).sum() == 0


def test_ignore_label_inside_the_classes():
    counts = ops.confusion_matrix(jnp.array([0, 1, 2]), jnp.array([0, 1, 2]), 3, ignore_label=1)
    np.testing.assert_array_equal(counts, np.diag([1, 0, 1]))


def test_uint8_labels_do_not_overflow():
    labels = jnp.full((7,), 18, jnp.uint8)
    counts = ops.confusion_matrix(labels, labels, 19)
    assert counts[18, 18] == 7 and counts.sum() == 7


def test_both_forms_agree():
    rng = np.random.RandomState(0)
    labels, predictions = rng.randint(-2, 9, 5000), rng.randint(-2, 9, 5000)
    counted = (labels >= 0) & (labels < 6) & (predictions >= 0) & (predictions < 6)
    arrays = (jnp.asarray(labels), jnp.asarray(predictions), jnp.asarray(counted), 6)
    by_bincount, by_product = confusion._by_bincount(*arrays), confusion._by_product(*arrays)
    np.testing.assert_array_equal(by_bincount, by_product)
    assert by_bincount.sum() == counted.sum() and by_product.dtype == jnp.int32


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one shape"):
        ops.confusion_matrix(jnp.zeros((2, 3), jnp.int32), jnp.zeros((3, 2), jnp.int32), 4)


def test_renaming_the_classes_permutes_the_counts():
    rng = np.random.RandomState(1)
    labels, predictions = rng.choice([0, 1, 2, 3, 255], 400), rng.randint(0, 4, 400)
    counts = ops.confusion_matrix(labels, predictions, 4)
    assert counts.sum() == (labels != 255).sum()
    renamed = np.full(256, 255)
    renamed[:4] = 2, 0, 3, 1
    others = ops.confusion_matrix(renamed[labels], renamed[predictions], 4)
    np.testing.assert_array_equal(np.asarray(others)[np.ix_(renamed[:4], renamed[:4])], counts)


def test_golden_adaptsegnet():
    golden = np.load(GOLDEN / "adaptsegnet-ass/iou.npz")
    counts = ops.confusion_matrix(golden["label"], golden["prediction"], len(golden["hist"]))
    np.testing.assert_array_equal(counts, golden["hist"])


def test_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/iou.npz")
    i = 0
    while f"case{i}_label" in golden:
        label, prediction = golden[f"case{i}_label"], golden[f"case{i}_pred"]
        counts = ops.confusion_matrix(label, prediction, int(golden[f"case{i}_num_classes"]))
        np.testing.assert_array_equal(counts, golden[f"case{i}_hist"])
        i += 1
    assert i > 0
