"""Parameters are drawn once and looked up from then on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn

from uda_jax.networks.parameters import parameter

DRAWN = []


def draw(key, shape, dtype):
    DRAWN.append(shape)
    return jax.random.normal(key, shape, dtype)


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * parameter(self, "scale", draw, (x.shape[-1],))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Scaled(name="inner")(x)


def test_a_parameter_is_drawn_once():
    DRAWN.clear()
    variables = Outer().init(jax.random.key(0), jnp.ones((2, 3)))
    scale = variables["params"]["inner"]["scale"]
    assert DRAWN == [(3,)] and scale.dtype == jnp.float32
    np.testing.assert_array_equal(Outer().apply(variables, jnp.ones((2, 3))), jnp.broadcast_to(scale, (2, 3)))
    assert DRAWN == [(3,)]


def test_one_of_another_shape_is_named():
    variables = Outer().init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(errors.ScopeParamShapeError, match='"scale" in "/inner"'):
        Outer().apply(variables, jnp.ones((2, 4)))


def test_a_missing_one_is_named():
    with pytest.raises(errors.ScopeParamNotFoundError, match="scale"):
        Outer().apply({"params": {"inner": {"other": jnp.ones(3)}}}, jnp.ones((2, 3)))
