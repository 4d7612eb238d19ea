"""Losses of few labels and of consistency against the released code, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nhwc

from uda_jax import losses, ops


def test_cross_entropy_over_valid_pixels():
    golden = vectors.load("vfm-uda/cross_entropy_valid_mean.npz")
    value, gradient = jax.value_and_grad(losses.cross_entropy)(nhwc(golden["logits"]), golden["label"])
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-6)
    assert_map_close(gradient, golden["grad"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", range(3))
def test_ohem(case):
    golden = vectors.load("vfm-uda/ohem_cross_entropy.npz")
    loss = lambda x: losses.ohem_cross_entropy(  # noqa: E731
        x,
        golden[f"case{case}_label"],
        min_kept=int(golden[f"case{case}_min_kept"]),
        threshold=float(golden["threshold"]),
    )
    logits = nhwc(golden[f"case{case}_logits"])
    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, golden[f"case{case}_loss"], rtol=1e-5)
    assert_map_close(gradient, golden[f"case{case}_grad"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(logits), value, rtol=1e-6)


def test_ohem_by_hand():
    # Probabilities of the true class: 0.9, 0.5, 0.8; the last pixel is ignored.
    chosen = jnp.array([0.9, 0.5, 0.8, 0.1])
    logits = jnp.log(jnp.stack([chosen, 1 - chosen], axis=-1))[None, None]
    labels = jnp.array([[[0, 0, 0, 255]]])
    loss = lambda kept: losses.ohem_cross_entropy(logits, labels, min_kept=kept, threshold=0.7)  # noqa: E731
    np.testing.assert_allclose(loss(1), -np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(loss(2), -np.log([0.5, 0.8]).mean(), rtol=1e-6)
    np.testing.assert_allclose(loss(9), -np.log([0.9, 0.5, 0.8]).mean(), rtol=1e-6)
    assert losses.ohem_cross_entropy(logits, jnp.full((1, 1, 4), 255), min_kept=2) == 0


def test_cutmix_consistency():
    golden = vectors.load("vfm-uda/cutmix_consistency.npz")
    probabilities = jax.nn.softmax(nhwc(golden["teacher_logits"]))
    label, confidence = jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1)
    box, reversed_batch = golden["box"] == 1, lambda x: x[::-1]
    mixed = {
        "image": ops.mix(box, reversed_batch(nhwc(golden["image"])), nhwc(golden["image"])),
        "label": ops.mix(box, reversed_batch(label), label),
        "confidence": ops.mix(box, reversed_batch(confidence), confidence),
        "ignore": ops.mix(box, reversed_batch(golden["ignore_mask"]), golden["ignore_mask"]),
    }
    assert_map_close(mixed["image"], golden["mixed_image"], rtol=0, atol=0)
    np.testing.assert_array_equal(mixed["label"], golden["mixed_label"])
    np.testing.assert_allclose(mixed["confidence"], golden["mixed_confidence"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mixed["ignore"], golden["mixed_ignore"])
    loss = lambda x: losses.confident_cross_entropy(  # noqa: E731
        x, mixed["label"], mixed["confidence"], mixed["ignore"] == 255, threshold=float(golden["threshold"])
    )
    value, gradient = jax.value_and_grad(loss)(nhwc(golden["student_logits"]))
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    assert_map_close(gradient, golden["grad"], rtol=0, atol=1e-6)
    nothing = losses.confident_cross_entropy(
        nhwc(golden["student_logits"]), mixed["label"], mixed["confidence"], jnp.ones(box.shape, bool), threshold=0.5
    )
    assert nothing == 0


def test_distance_to_frozen_features_by_hand():
    features, frozen = jnp.array([[[[3.0, 0.0]]], [[[0.0, 0.0]]]]), jnp.array([[[[0.0, 4.0]]], [[[0.0, 0.0]]]])
    # Smooth L1: (2.5 + 3.5) / 2; the directions are at right angles. Nothing against nothing has no direction.
    np.testing.assert_allclose(losses.frozen_feature_distance(features, frozen)[:, 0, 0], [0.3 + 0.9, 0.9], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.frozen_feature_distance(x, frozen).sum())(features)
    assert np.isfinite(gradient).all() and not gradient[1].any()
    assert not jax.grad(lambda x: losses.frozen_feature_distance(features, x).sum())(frozen).any()
