"""Adaptive label smoothing: the golden file, its fixed point, and both sides of it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/plca/lsr.npz")


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def test_golden():
    cases = [name.removeprefix("logits_") for name in GOLDEN.files if name.startswith("logits_")]
    assert cases
    for i in cases:
        logits = nhwc(GOLDEN[f"logits_{i}"])
        for kind, strength in (("adaptive", 10.0), ("plain", 0.0)):
            function = jax.value_and_grad(lambda z, s=strength: losses.adaptive_label_smoothing(z, strength=s))
            value, gradient = jax.jit(function)(logits)
            np.testing.assert_allclose(value, GOLDEN[f"loss_{kind}_{i}"], rtol=1e-5)
            expected = nhwc(GOLDEN[f"grad_{kind}_{i}"])
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        pixels = jax.vmap(lambda z: losses.adaptive_label_smoothing(z, strength=0.0))(
            logits.reshape(-1, logits.shape[-1])
        )
        np.testing.assert_allclose(pixels, GOLDEN[f"per_pixel_{i}"].reshape(-1), rtol=1e-5)


def test_by_hand_below_at_and_above_the_fixed_point():
    # Two classes with logits (z, 0): r = log(1 + exp(z)) - z / 2, and its slope is p - 1/2.
    z = np.array([1.0, 3.0, 6.0])
    r = np.log(1 + np.exp(z)) - z / 2
    slope = jax.vmap(
        jax.grad(lambda z, s: losses.adaptive_label_smoothing(jnp.stack([z, 0 * z]), strength=s)), (0, None)
    )
    gradient = np.asarray(slope(jnp.asarray(z), float(r[1])))
    expected = (r / r[1] - 1) * (1 / (1 + np.exp(-z)) - 0.5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    # It sharpens the first prediction, leaves the second alone and smooths the third.
    assert gradient[0] < -0.01 < abs(gradient[1]) < 1e-6 < 0.01 < gradient[2]


def test_plain_form_is_cross_entropy_against_uniform_labels():
    logits = np.random.RandomState(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    each = [losses.cross_entropy(logits, np.full((2, 3, 4), c)) for c in range(5)]
    for strength in (0.0, -1.0):
        value, gradient = jax.value_and_grad(lambda z, s=strength: losses.adaptive_label_smoothing(z, strength=s))(
            logits
        )
        np.testing.assert_allclose(value, np.mean(each), rtol=1e-6)
        np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-8)
    # Its least value, and that of untrained logits: r = log 5, weighted by r / 10 - 1.
    blank = np.zeros((2, 3, 4, 5), np.float32)
    np.testing.assert_allclose(losses.adaptive_label_smoothing(blank, strength=0.0), np.log(5), rtol=1e-6)
    np.testing.assert_allclose(losses.adaptive_label_smoothing(blank), (np.log(5) / 10 - 1) * np.log(5), rtol=1e-6)


def test_bfloat16_is_computed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 19), jnp.bfloat16)
    value = losses.adaptive_label_smoothing(logits)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, losses.adaptive_label_smoothing(logits.astype(jnp.float32)))
