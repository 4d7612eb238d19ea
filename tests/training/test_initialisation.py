"""A first state by small programs is that of one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.networks import initialisers
from uda_jax.training import initialisation, sharding
from uda_jax.training.initialisation import initialise

KEY = jax.random.key(3)


def draw(key):
    """A state with everything that methods' have: draws of one length, zeros, the key, and one array twice."""
    kernel = initialisers.he_normal()(jax.random.fold_in(key, 1), (3, 3, 4, 8))
    bias = initialisers.uniform_fan_in(9)(jax.random.fold_in(jax.random.fold_in(key, 2), 5), (8,))
    other = initialisers.uniform_fan_in(4)(jax.random.fold_in(key, 3), (5,))
    return {
        "kernel": kernel,
        "teacher": kernel,
        "biases": (bias, 2 * other),
        "momentum": jnp.zeros(7),
        "key": key,
        "step": jnp.zeros((), jnp.int32),
    }


def numbers(tree):
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)


def test_it_is_that_of_one_program():
    found, expected = initialise(draw, KEY), jax.jit(draw)(KEY)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), numbers(found), numbers(expected))


def test_one_trace_serves_shapes_and_all_keys():
    """And it keeps nothing of a forward that only gave a shape."""
    calls, images = [], np.ones((64, 64), np.float32)

    def state(key):
        calls.append(key)
        return {"drawn": draw(key), "as many": jnp.zeros((jnp.asarray(images) @ images).shape[0])}

    traced = initialisation.trace(state)
    assert traced.shapes["as many"].shape == (64,) and traced.shapes["drawn"]["kernel"].shape == (3, 3, 4, 8)
    assert not traced.program.consts and "dot_general" not in str(traced.program)
    for key in (KEY, jax.random.key(4)):
        found, expected = initialisation.draw(traced, key), jax.jit(draw)(key)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *map(numbers, (found["drawn"], expected))
        )
    assert len(calls) == 1


def test_every_array_can_be_donated():
    """Two leaves in one buffer, as a teacher's would be, end the process."""
    found = initialise(draw, KEY)
    arrays = [leaf for leaf in jax.tree.leaves(found) if leaf.size > 2]
    assert len({leaf.unsafe_buffer_pointer() for leaf in arrays}) == len(arrays) == 5


def test_it_lies_where_it_is_told_to():
    replicated = sharding.replicated(sharding.data_mesh())
    assert {leaf.sharding for leaf in jax.tree.leaves(initialise(draw, KEY, replicated))} == {replicated}


@pytest.mark.parametrize("layers", [2, 5])
def test_draws_of_one_length_are_one_program(layers, monkeypatch):
    """Whatever their keys, shapes and bounds; the other program derives keys."""
    compiled = []
    lowered = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: compiled.append(self) or lowered(self))

    def draw_layers(key):
        return [initialisers.uniform_fan_in(n)(jax.random.fold_in(key, n), (3, 3, n, 8)) for n in range(4, 4 + layers)]

    assert len(initialise(draw_layers, KEY)) == layers
    assert len(compiled) == 2
