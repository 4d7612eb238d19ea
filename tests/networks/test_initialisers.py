"""Vectors of few lengths give every kernel the numbers that a draw of its own shape would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.networks import initialisers

KEY = jax.random.key(7)
# The last but one is as long as the longest vector and the last a little longer.
SHAPES = [(3,), (1, 1, 8, 16), (3, 3, 20, 40), (2, 2, 1024, 1024), (3, 1, 1024, 1400)]
PAIRS = {
    "normal": (initialisers.normal(0.02), jax.nn.initializers.normal(0.02)),
    "he": (initialisers.he_normal(), jax.nn.initializers.he_normal()),
    "xavier": (initialisers.xavier_normal(), jax.nn.initializers.xavier_normal()),
    "uniform": (initialisers.uniform(), jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_the_numbers_are_jaxs_own(name, shape):
    ours, jaxs = PAIRS[name]
    np.testing.assert_array_max_ulp(np.asarray(ours(KEY, shape)), np.asarray(jaxs(KEY, shape)), maxulp=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_length(shape):
    found = initialisers.uniform_fan_in(25)(KEY, shape)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, jax.random.uniform(KEY, shape, jnp.float32, -0.2, 0.2))


def test_a_bias_has_no_fans_of_its_own():
    """Its bound is given, since its shape does not tell the inputs of an output."""
    found = initialisers.uniform_fan_in(100)(KEY, (4000,))
    assert 0.099 < jnp.abs(found).max() <= 0.1
