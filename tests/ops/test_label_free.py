"""The functions behind the criteria without labels, against constants by hand and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import ops

# One frame of 1 x 2 pixels and two classes: one unsure pixel, one sure one.
HALF = jnp.array([[[0.5, 0.5], [1.0, 0.0]]])


def test_entropy_and_information_by_hand():
    assert float(ops.mean_entropy(HALF)) == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(ops.mean_prediction(HALF), [0.75, 0.25])
    apart = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    for probabilities, expected in (
        (apart, -1.0),
        (jnp.ones((1, 2, 2)) / 2, 0.0),
        (jnp.zeros((1, 2, 2)).at[..., 0].set(1), 0.0),
    ):
        entropy, mean = ops.mean_entropy(probabilities), ops.mean_prediction(probabilities)
        # float32 of a logarithm
        assert float(ops.information(entropy, mean)) == pytest.approx(expected, abs=1e-6)


def reference_density(probabilities, temperature):
    unit = probabilities / np.linalg.norm(probabilities, axis=1, keepdims=True)
    entropies = []
    for i, own in enumerate(unit):
        weights = np.exp(np.delete(unit, i, axis=0) @ own / temperature)
        weights /= weights.sum()
        entropies.append(-(weights * np.log(weights)).sum())
    return np.mean(entropies)


def test_density_is_that_of_the_paper_and_the_same_compiled():
    logits = np.random.default_rng(0).normal(size=(2, 7, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = [reference_density(each, 0.05) for each in probabilities]
    array = jnp.asarray(probabilities, jnp.float32)
    # Similarities over a temperature of 0.05: twenty times float32's rounding.
    np.testing.assert_allclose(ops.neighbourhood_density(array), expected, rtol=1e-4)
    compiled = jax.jit(ops.neighbourhood_density)(array)
    np.testing.assert_allclose(compiled, ops.neighbourhood_density(array), rtol=1e-5)
    alike = jnp.ones((5, 3)) / 3
    assert float(ops.neighbourhood_density(alike)) == pytest.approx(np.log(4), rel=1e-5)


def test_density_prefers_tight_groups_to_scattered_predictions():
    groups = jnp.repeat(jnp.eye(2), 4, axis=0)
    scattered = jnp.eye(8)
    # Of eight pixels in two groups each has three near ones; of eight different ones all others are alike, far.
    assert float(ops.neighbourhood_density(groups)) == pytest.approx(np.log(3), abs=1e-3)
    assert float(ops.neighbourhood_density(scattered)) == pytest.approx(np.log(7), abs=1e-3)


def test_divergence_and_shares_by_hand():
    one, other = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    assert float(ops.jensen_shannon(one, other)) == pytest.approx(1.0, abs=1e-6)
    assert float(ops.jensen_shannon(one, one)) == 0.0
    # H(3/4, 1/4) - (H(1) + H(1/2)) / 2 = 0.811278 - 0.5
    assert float(ops.jensen_shannon(one, jnp.array([0.5, 0.5]))) == pytest.approx(0.311278, abs=1e-5)
    labels = jnp.array([[[0, 2], [2, 2]], [[1, 1], [0, 0]]])
    np.testing.assert_allclose(ops.class_shares(labels, 3), [[0.25, 0, 0.75], [0.5, 0.5, 0]])
