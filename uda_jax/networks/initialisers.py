"""Where parameters start: the distributions of the references, drawn in vectors of few lengths.

A program that draws random numbers takes XLA's CPU compiler half a second, whatever the number of numbers, and a
network has some forty forms of kernels. The element of an array of JAX's generator depends on its key and its place
alone (`jax_threefry_partitionable`, its default), so that the first n of a longer vector are those of an array of n;
one program for each of a few lengths, which `training.initialisation` compiles once, serves all kernels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Initialiser = Callable[..., jax.Array]

# Lengths of the vectors, and what longer ones are a multiple of.
LENGTHS = tuple(2**power for power in (12, 15, 18, 20, 22))
# Standard deviation of a normal distribution of 1 that is cut off at -2 and 2.
TRUNCATED_DEVIATION = 0.87962566103423978


def normal(deviation: float) -> Initialiser:
    """Returns the initialiser N(0, deviation^2)."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return _drawn(jax.random.normal, key, shape, dtype) * jnp.array(deviation, dtype)

    return draw


def he_normal() -> Initialiser:
    """Returns the initialiser of He et al. (2015): variance 2 / fan_in, cut off at two standard deviations."""
    return _truncated_normal(lambda fan_in, fan_out: 2 / fan_in)


def xavier_normal() -> Initialiser:
    """Returns the initialiser of Glorot and Bengio (2010): variance 2 / (fan_in + fan_out), cut off likewise."""
    return _truncated_normal(lambda fan_in, fan_out: 2 / (fan_in + fan_out))


def xavier_uniform() -> Initialiser:
    """Returns the initialiser of Glorot and Bengio (2010), U(-b, b) with b = sqrt(6 / (fan_in + fan_out))."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return _drawn(jax.random.uniform, key, shape, dtype, -1) * (6 / sum(_fans(shape))) ** 0.5

    return draw


def uniform() -> Initialiser:
    """Returns PyTorch's default of kernels: U(-b, b) with b = 1 / sqrt(fan_in), fan_in read from the shape."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        bound = jnp.sqrt(3 * jnp.array(1 / 3 / _fans(shape)[0], dtype))
        return _drawn(jax.random.uniform, key, shape, dtype, -1) * bound

    return draw


def uniform_fan_in(fan_in: int) -> Initialiser:
    """Returns PyTorch's default of kernels and of biases, whose shape does not tell it: b = 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: _drawn(jax.random.uniform, key, shape, dtype, -bound, bound)


def _truncated_normal(variance: Callable[[int, int], float]) -> Initialiser:
    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        deviation = jnp.sqrt(jnp.array(variance(*_fans(shape)), dtype)) / jnp.array(TRUNCATED_DEVIATION, dtype)
        # The bounds are positional here and come before the shape.
        cut_off = lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype)  # noqa: E731
        return _drawn(cut_off, key, shape, dtype) * deviation

    return draw


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the inputs of one output number of a kernel `[..., C, D]`, and the outputs of one input number."""
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _drawn(draw: Callable[..., jax.Array], key: jax.Array, shape: Sequence[int], dtype: Any, *bounds: Any) -> jax.Array:
    """Returns `draw(key, shape, dtype, *bounds)` by way of a vector of one of the lengths."""
    count = math.prod(shape)
    longest = LENGTHS[-1]
    length = next((length for length in LENGTHS if count <= length), -(-count // longest) * longest)
    return draw(key, (length,), dtype, *bounds)[:count].reshape(shape)
