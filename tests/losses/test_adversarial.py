"""Adversarial losses: golden files, hand constants, extreme outputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax.losses import adversarial

GOLDEN = vectors.FOLDER


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("kind", "short"), [("bce", "bce"), ("least_squares", "ls")])
def test_golden_adaptsegnet(kind, short, label):
    golden = np.load(GOLDEN / "adaptsegnet-ass/adversarial_losses.npz")
    function = jax.value_and_grad(lambda z: adversarial(z, label, kind=kind))
    for run in (function, jax.jit(function)):
        value, gradient = run(golden["logit"])
        np.testing.assert_allclose(value, golden[f"{short}_label{label}"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, golden[f"grad_{short}_label{label}"], rtol=1e-5, atol=1e-6)


def test_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/bce_loss.npz")
    i = 0
    while f"case{i}_logits" in golden:
        for label in (0, 1):
            value, gradient = jax.value_and_grad(adversarial)(golden[f"case{i}_logits"], label)
            np.testing.assert_allclose(value, golden[f"case{i}_loss_label{label}"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(gradient, golden[f"case{i}_grad_label{label}"], rtol=1e-5, atol=1e-7)
        i += 1
    assert i > 0


def test_hand_values():
    zero = jnp.zeros((1, 2, 2, 1))
    for label in (0, 1):
        np.testing.assert_allclose(adversarial(zero, label), math.log(2), rtol=1e-6)
        assert adversarial(zero + label, label, kind="least_squares") == 0.0
    assert adversarial(zero + 3.0, 1, kind="least_squares") == 4.0
    outputs = np.array([-2.0, 0.5, 3.0])
    for label, sign in ((0, 1), (1, -1)):
        np.testing.assert_allclose(adversarial(outputs, label), np.log1p(np.exp(sign * outputs)).mean(), rtol=1e-6)
    np.testing.assert_allclose(adversarial(outputs, 0) - adversarial(outputs, 1), outputs.mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_extreme_outputs_are_finite(kind):
    for label in (0, 1):
        for outputs in (jnp.array([500.0, -500.0]), jnp.array([1e4, -1e4])):
            value, gradient = jax.value_and_grad(lambda z, y=label: adversarial(z, y, kind=kind))(outputs)
            assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
    np.testing.assert_allclose(adversarial(jnp.array([500.0]), 0), 500.0)


def test_bfloat16_is_computed_in_float32():
    outputs = jnp.array([0.3, -1.7, 2.1], jnp.bfloat16)
    assert adversarial(outputs, 1).dtype == jnp.float32
    np.testing.assert_array_equal(adversarial(outputs, 1), adversarial(outputs.astype(jnp.float32), 1))


def test_unknown_kind():
    with pytest.raises(ValueError, match="got 'hinge'"):
        adversarial(jnp.zeros(3), 0, kind="hinge")
