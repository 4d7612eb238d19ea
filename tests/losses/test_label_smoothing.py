"""Adaptive label smoothing: the golden file, its fixed point, and both sides of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import vectors
from vectors import nhwc

from uda_jax import losses

GOLDEN = vectors.load("plca/lsr.npz")


@functools.partial(jax.jit, static_argnums=1)
def run(logits, strength):
    """Returns the value of a batch and its gradient, and the values of its pixels alone."""
    smoothing = functools.partial(losses.adaptive_label_smoothing, strength=strength)
    return *jax.value_and_grad(smoothing)(logits), jax.vmap(smoothing)(logits.reshape(-1, logits.shape[-1]))


def test_golden():
    cases = [name.removeprefix("logits_") for name in GOLDEN.files if name.startswith("logits_")]
    assert cases
    for i in cases:
        for kind, strength in (("adaptive", 10.0), ("plain", 0.0)):
            value, gradient, pixels = run(nhwc(GOLDEN[f"logits_{i}"]), strength)
            np.testing.assert_allclose(value, GOLDEN[f"loss_{kind}_{i}"], rtol=1e-5)
            expected = nhwc(GOLDEN[f"grad_{kind}_{i}"])
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(pixels, GOLDEN[f"per_pixel_{i}"].reshape(-1), rtol=1e-5)


def test_by_hand_below_at_and_above_the_fixed_point():
    # Two classes with logits (z, 0): r = log(1 + exp(z)) - z / 2, and its slope is p - 1/2.
    z = np.array([1.0, 3.0, 6.0])
    r = np.log(1 + np.exp(z)) - z / 2
    value, gradient, pixels = run(np.stack([z, 0 * z], axis=-1), float(r[1]))
    np.testing.assert_allclose(pixels, (r / r[1] - 1) * r, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, np.mean((r / r[1] - 1) * r), rtol=1e-5)
    slope = 3 * np.asarray(gradient)[:, 0]
    np.testing.assert_allclose(slope, (r / r[1] - 1) * (1 / (1 + np.exp(-z)) - 0.5), rtol=1e-4, atol=1e-6)
    # It sharpens the first prediction, leaves the second alone and smooths the third.
    assert slope[0] < -0.01 < abs(slope[1]) < 1e-6 < 0.01 < slope[2]


def test_plain_form_is_cross_entropy_against_uniform_labels():
    logits = np.random.RandomState(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    uniform = [losses.cross_entropy(logits, np.full((2, 3, 4), c)) for c in range(5)]
    for strength in (0.0, -1.0):
        value, gradient, _ = run(logits, strength)
        np.testing.assert_allclose(value, np.mean(uniform), rtol=1e-6)
        np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-8)
    # The least value, and that of untrained logits by default: r = log 5, weighted by r / 10 - 1.
    np.testing.assert_allclose(run(0 * logits, 0.0)[0], np.log(5), rtol=1e-6)
    value = losses.adaptive_label_smoothing(0 * logits)
    np.testing.assert_allclose(value, (np.log(5) / 10 - 1) * np.log(5), rtol=1e-6)


def test_bfloat16_is_computed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 19), jnp.bfloat16)
    value = losses.adaptive_label_smoothing(logits)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, losses.adaptive_label_smoothing(logits.astype(jnp.float32)))
