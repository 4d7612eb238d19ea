"""Entropy losses: golden files, hand constants, finite gradients at the corners of the simplex."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import losses

GOLDEN = vectors.FOLDER / "advent-intrada"


INFORMATION = jax.jit(lambda z: losses.self_information(jax.nn.softmax(z)))
ENTROPY = jax.jit(jax.value_and_grad(lambda z: losses.entropy(jax.nn.softmax(z))))


def cases(name):
    golden = np.load(GOLDEN / name)
    result = []
    while f"case{len(result)}_logits" in golden:
        prefix = f"case{len(result)}_"
        arrays = {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}
        result.append({key: nhwc(value) if value.ndim == 4 else value for key, value in arrays.items()})
    assert result
    return result


def test_self_information_golden():
    for case in cases("prob_2_entropy.npz"):
        information, pullback = jax.vjp(losses.self_information, case["prob"])
        np.testing.assert_allclose(information, case["self_info"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(pullback(jnp.asarray(case["cotangent"]))[0], case["grad_prob"], rtol=1e-4, atol=1e-6)
        composed = jax.jit(lambda z: losses.self_information(jax.nn.softmax(z)))
        information, pullback = jax.vjp(composed, case["logits"])
        np.testing.assert_allclose(information, case["self_info"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            pullback(jnp.asarray(case["cotangent"]))[0], case["grad_logits"], rtol=1e-5, atol=1e-6
        )


def test_entropy_golden():
    for case in cases("entropy_loss.npz"):
        value, gradient = jax.value_and_grad(losses.entropy)(case["prob"])
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(gradient, case["grad_prob"], rtol=1e-5, atol=1e-7)
        gradient = jax.jit(jax.grad(lambda z: losses.entropy(jax.nn.softmax(z))))(case["logits"])
        np.testing.assert_allclose(gradient, case["grad_logits"], rtol=1e-5, atol=1e-7)


def test_hand_values():
    uniform, certain = jnp.full((1, 2, 2, 16), 1 / 16), jnp.eye(16)[:4].reshape(1, 2, 2, 16)
    np.testing.assert_allclose(losses.entropy(uniform), 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses.entropy(certain), 0.0, atol=1e-6)
    # Two equal classes of 16: one bit of four.
    half = jnp.zeros((1, 1, 1, 16)).at[..., :2].set(0.5)
    np.testing.assert_allclose(losses.entropy(half), 0.25, rtol=1e-6)
    np.testing.assert_allclose(losses.self_information(half)[0, 0, 0, :3], [0.125, 0.125, 0.0], atol=1e-7)
    peak = losses.self_information(jnp.full((19,), 1 / math.e)).max()
    np.testing.assert_allclose(peak, 0.12494, atol=1e-5)


def test_entropy_is_classes_times_mean_self_information():
    probabilities = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 4, 19)))
    expected = 19 * losses.self_information(probabilities).mean()
    np.testing.assert_allclose(losses.entropy(probabilities), expected, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("classes", [2, 19])
def test_range(classes, spread):
    logits = spread * np.random.RandomState(0).normal(size=(500, classes)).astype(np.float32)
    information = np.asarray(INFORMATION(logits))
    assert information.min() >= 0
    assert information.max() <= math.log2(math.e) / (math.e * math.log2(classes)) + 1e-6
    assert information.sum(axis=-1).max() <= 1 + 1e-5


def test_entropy_ignores_order_and_shift():
    rng = np.random.RandomState(1)
    logits = rng.normal(size=(2, 3, 4, 19)).astype(np.float32)
    expected = ENTROPY(logits)[0]
    by_class, by_pixel = logits[..., rng.permutation(19)], rng.permutation(logits.reshape(-1, 19)).reshape(logits.shape)
    for other in (by_class, by_pixel, logits + 7, logits + rng.normal(size=(2, 3, 4, 1)).astype(np.float32)):
        np.testing.assert_allclose(ENTROPY(other)[0], expected, rtol=1e-5)


def test_gradient_moves_no_pixel_as_a_whole():
    logits = np.random.RandomState(2).normal(size=(2, 3, 4, 19)).astype(np.float32)
    logits[0, 0, 0], logits[0, 0, 1] = 1.5, 80 * np.eye(19)[3]
    gradient = np.asarray(ENTROPY(logits)[1])
    np.testing.assert_allclose(gradient.sum(axis=-1), np.zeros((2, 3, 4)), atol=1e-7)
    # Nothing to do where the pixel is uniform or certain.
    np.testing.assert_allclose(gradient[0, 0, :2], np.zeros((2, 19)), atol=1e-8)
    assert np.abs(gradient[0, 1:]).max(axis=-1).min() > 1e-4


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-38, 1e-45])
def test_gradient_is_finite_at_the_corners(p):
    probabilities = jnp.array([[[[p, 1.0 - p]]]])
    for run in (jax.grad(losses.entropy), jax.jit(jax.grad(losses.entropy))):
        gradient = run(probabilities)
        assert jnp.isfinite(gradient).all()
        if p == 0.0:
            # -(log2(1e-30) + 0) and -(log2(1) + 1 / ln 2), for two classes.
            np.testing.assert_allclose(gradient.ravel(), [99.65784, -1 / math.log(2)], rtol=1e-5)


def test_extreme_logits():
    logits = jnp.array([1e4, -1e4, 0.0]).reshape(1, 1, 1, 3)
    value, gradient = jax.value_and_grad(lambda z: losses.entropy(jax.nn.softmax(z)))(logits)
    assert value == 0.0 and jnp.isfinite(gradient).all()


def test_bfloat16_is_computed_in_float32():
    probabilities = jnp.array([0.0, 0.25, 0.75], jnp.bfloat16).reshape(1, 1, 1, 3)
    information = losses.self_information(probabilities)
    assert information.dtype == jnp.float32
    np.testing.assert_array_equal(information, losses.self_information(probabilities.astype(jnp.float32)))


def test_hard_entropy_takes_each_images_uncertain_share():
    # Entropy per pixel of two images: 0 / 1 in different shares.
    certain, uncertain = jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])
    first = jnp.stack([uncertain] * 3 + [certain] * 7)
    second = jnp.stack([uncertain] * 1 + [certain] * 9)
    probabilities = jnp.stack([first, second]).reshape(2, 2, 5, 2)
    np.testing.assert_allclose(losses.hard_entropy(probabilities), (1 + 1 / 3) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        losses.hard_entropy(probabilities, fraction=1.0), losses.entropy(probabilities), rtol=1e-6
    )
    gradient = jax.jit(jax.grad(losses.hard_entropy))(probabilities).reshape(2, 10, 2)
    assert gradient[0, :3].all() and not gradient[0, 3:].any()


def test_class_ratio_prior_by_hand():
    # Shown shares: 0.9 / 0.1 / 0 and 0.2 / 0.4 / 0.4; asked for: 0.25 / 0.15 / 0.1.
    probabilities = jnp.array([[0.9, 0.1, 0.0], [0.2, 0.4, 0.4]]).reshape(2, 1, 1, 3)
    prior = jnp.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(losses.class_ratio_prior(probabilities, prior), (0.15 + 0.05) / 2, rtol=1e-6)
    np.testing.assert_allclose(losses.class_ratio_prior(probabilities, prior, relaxation=0.0), 0.0)
    gradient = jax.grad(losses.class_ratio_prior)(probabilities, prior).reshape(2, 3)
    np.testing.assert_allclose(gradient, [[0, -0.5, -0.5], [-0.5, 0, 0]])
