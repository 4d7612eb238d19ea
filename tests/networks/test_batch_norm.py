"""Batch norm against constants computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.networks.batch_norm import BatchNorm, normalise

# Channel 0: mean 2, squared deviations 4, 0, 4, 0; channel 1 is constant.
X = jnp.asarray([[[[0.0, 7.0], [2.0, 7.0]]], [[[4.0, 7.0], [2.0, 7.0]]]])
VARIABLES = {
    "params": {"scale": jnp.asarray([3.0, 1.0]), "bias": jnp.asarray([1.0, -1.0])},
    "batch_stats": {"mean": jnp.asarray([1.0, 0.0]), "var": jnp.asarray([4.0, 1.0])},
}


def apply(x, mode="batch", **options):
    return BatchNorm(mode, **options).apply(VARIABLES, x, True, mutable=["batch_stats"])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_training(wrap):
    y, updated = wrap(apply)(X)
    z = 2 / np.sqrt(2 + 1e-5)
    np.testing.assert_allclose(y[..., 0].ravel(), 1 + 3 * np.array([-z, 0, z, 0]), rtol=1e-6)
    np.testing.assert_array_equal(y[..., 1], np.full((2, 1, 2), -1.0))
    # The running variance takes 8 / 3, not 8 / 4.
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.9 * 1 + 0.1 * 2, 0.7], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 4 + 0.1 * 8 / 3, 0.9], rtol=1e-6)


def test_stored_statistics():
    expected = 1 + 3 * (np.array([0, 2, 4, 2]) - 1) / np.sqrt(4 + 1e-5)
    evaluated = BatchNorm().apply(VARIABLES, X, False)
    np.testing.assert_allclose(evaluated[..., 0].ravel(), expected, rtol=1e-6)
    frozen, updated = apply(X, "frozen")
    np.testing.assert_array_equal(frozen, evaluated)
    np.testing.assert_array_equal(updated["batch_stats"]["var"], VARIABLES["batch_stats"]["var"])


def test_single_value_per_channel():
    y, updated = apply(X[:1, :, :1])
    np.testing.assert_array_equal(y.ravel(), [1.0, -1.0])
    np.testing.assert_allclose(updated["batch_stats"]["var"], [3.6, 0.9], rtol=1e-6)
    gradient = jax.grad(lambda x: apply(x)[0].sum())(X[:1, :, :1])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_gradient_is_that_of_the_statistics(offset, wrap):
    """In closed form as by differentiating mean and variance, also where the mean is large beside the deviation."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3)) + offset
    weights = jax.random.normal(jax.random.key(1), x.shape)
    scale, bias = jnp.asarray([3.0, -1.0, 0.5]), jnp.asarray([1.0, 0.0, -2.0])

    def expected(x, scale, bias):
        mean = x.mean((0, 1, 2))
        var = ((x - mean) ** 2).mean((0, 1, 2))
        return ((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias) * weights

    def ours(x, scale, bias):
        return normalise(x, scale, bias, jnp.float32)[0] * weights

    found, wanted = (wrap(jax.grad(lambda *a, f=f: f(*a).sum(), (0, 1, 2)))(x, scale, bias) for f in (ours, expected))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_large_mean():
    deviations = jnp.asarray([-1.0, 1.0, -1.0, 1.0]).reshape(4, 1, 1, 1)
    y, updated = BatchNorm().init_with_output(jax.random.key(0), deviations + 30000, True)
    np.testing.assert_allclose(y.ravel(), deviations.ravel(), rtol=1e-4)
    # Initialising in training mode makes the statistics but does not count as a batch.
    np.testing.assert_array_equal(updated["batch_stats"]["mean"], [0.0])


def test_bfloat16():
    y, updated = apply(X.astype(jnp.bfloat16), dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 4 + 0.1 * 8 / 3, 0.9], rtol=1e-6)
