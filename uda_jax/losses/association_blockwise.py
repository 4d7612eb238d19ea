"""The association's products with all pixels, without ever holding the matrix of all pixel pairs.

Tiles of the matrix, all rows by a block of columns or a block of rows by all columns, are computed in turns, and again
for the gradient (PLCA, arXiv 2011.00147, by the online softmax of memory-efficient attention). Beside a tile, memory
holds arrays of the maps' size. The last block starts early enough to be full, so that nothing is padded; what it
shares with the block before it is left out of every sum.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# What a matrix of products is made of: rows [L, C] and columns [M, C].
Factors = tuple[jax.Array, jax.Array]


def deviations(queries: jax.Array, keys: jax.Array) -> jax.Array:
    r"""Unbiased standard deviation of each query's products with all keys.

    :math:`\sigma_i^2 = a_i^\top V a_i`, where V is the covariance of the keys.

    Args:
      queries: `[L, C]`.
      keys: `[M, C]`.

    Returns:
      `[L]`, at least 0.
    """
    centred = keys - jnp.mean(keys, axis=0)
    covariance = _product("mc,md->cd", centred, centred) / max(len(keys) - 1, 1)
    variances = jnp.sum(_product("lc,cd->ld", queries, covariance) * queries, axis=-1)
    return jnp.sqrt(jnp.maximum(variances, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def blockwise_softmax_average(
    queries: jax.Array, keys: jax.Array, values: jax.Array, temperatures: jax.Array, block: int
) -> jax.Array:
    """Averages the values, for each query with the softmax of its products with the keys over its temperature.

    Args:
      queries: `[L, C]`.
      keys: `[M, C]`.
      values: `[M, D]`.
      temperatures: `[L]`, positive; they get no gradient.
      block: queries per tile, at most L.

    Returns:
      `[L, D]`.
    """

    def step(means, i):
        start, _ = _block(i, block, len(queries))
        weights = _weights(_part(queries, start, block), keys, _part(temperatures, start, block))
        return _put_part(means, _product("bm,md->bd", weights, values), start)

    return _sweep(step, jnp.zeros((len(queries), values.shape[1]), values.dtype), block, len(queries))


def _softmax_average_forward(queries, keys, values, temperatures, block):
    return blockwise_softmax_average(queries, keys, values, temperatures, block), (queries, keys, values, temperatures)


def _softmax_average_backward(block, saved, gradient):
    queries, keys, values, temperatures = saved

    def step(gradients, i):
        query_gradients, key_gradients, value_gradients = gradients
        start, new = _block(i, block, len(queries))
        query, temperature = _part(queries, start, block), _part(temperatures, start, block)
        own = jnp.where(new[:, None], _part(gradient, start, block), 0.0)
        weights = _weights(query, keys, temperature)
        slopes = _product("bd,md->bm", own, values)
        slopes = weights * (slopes - jnp.sum(weights * slopes, axis=-1, keepdims=True)) / temperature[:, None]
        return (
            _add_part(query_gradients, _product("bm,mc->bc", slopes, keys), start),
            key_gradients + _product("bm,bc->mc", slopes, query),
            value_gradients + _product("bm,bd->md", weights, own),
        )

    zeros = tuple(jnp.zeros_like(x) for x in (queries, keys, values))
    return *_sweep(step, zeros, block, len(queries)), None


blockwise_softmax_average.defvjp(_softmax_average_forward, _softmax_average_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def blockwise_argmax(
    there: Factors, back: Factors | None, row_temperatures: jax.Array, column_temperatures: jax.Array, block: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Finds the maximum of each row of one matrix, and of each column of another, and its log-probability.

    Args:
      there: factors `[L, C]`, `[M, C]` of the matrix whose rows are searched.
      back: factors `[L, C]`, `[M, C]` of the one whose columns are searched; None = the same matrix.
      row_temperatures: `[L]`, positive; what rows are divided by before their softmax. They get no gradient.
      column_temperatures: `[M]`, the same for columns.
      block: columns per tile, at most M.

    Returns:
      For the rows the column of the maximum, int32 `[L]`, and the logarithm of its softmax, `[L]`; for the columns
      the row and the logarithm, `[M]` each. Among equal entries the first is found.
    """
    return _argmax_forward(there, back, row_temperatures, column_temperatures, block)[0]


def _argmax_forward(there, back, row_temperatures, column_temperatures, block):
    rows, columns = len(there[0]), len(there[1])

    def step(carry, i):
        (best, total, index), found = carry
        start, new = _block(i, block, columns)
        tile, back_tile = _tile(there, start, block), _tile(back or there, start, block)

        # Columns are complete in a tile.
        top = jnp.max(back_tile, axis=0)
        scaled = (back_tile - top) / _part(column_temperatures, start, block)
        part = jnp.argmax(back_tile, axis=0), top, -jnp.log(jnp.sum(jnp.exp(scaled), axis=0))
        found = tuple(_put_part(x, y, start) for x, y in zip(found, part, strict=True))

        # Rows go on: their sum is kept relative to the best entry so far.
        tile = jnp.where(new, tile, -jnp.inf)
        top = jnp.max(tile, axis=1)
        index = jnp.where(top > best, start + jnp.argmax(tile, axis=1), index)
        top = jnp.maximum(top, best)
        scaled = (tile - top[:, None]) / row_temperatures[:, None]
        total = total * jnp.exp((best - top) / row_temperatures) + jnp.sum(jnp.exp(scaled), axis=1)
        return (top, total, index), found

    nothing = jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros(rows, jnp.int32)
    carry = nothing, (jnp.zeros(columns, jnp.int32), jnp.zeros(columns), jnp.zeros(columns))
    (best, total, index), (column_index, column_best, column_log) = _sweep(step, carry, block, columns)
    result = index, -jnp.log(total), column_index, column_log
    return result, (there, back, row_temperatures, column_temperatures, best, column_best, result)


def _argmax_backward(block, saved, gradients):
    there, back, row_temperatures, column_temperatures, best, column_best, result = saved
    index, log, column_index, column_log = result
    rows, columns = len(there[0]), len(there[1])
    row_slope, column_slope = gradients[1] / row_temperatures, gradients[3] / column_temperatures

    def step(carry, i):
        start, new = _block(i, block, columns)
        tile, back_tile = _tile(there, start, block), _tile(back or there, start, block)
        p = jnp.exp((tile - best[:, None]) / row_temperatures[:, None] + log[:, None])
        chosen = index[:, None] == start + jnp.arange(block)
        slopes = jnp.where(new, row_slope[:, None] * (chosen - p), 0.0)

        top, temperature, own_index, own_log, own_slope = (
            _part(x, start, block) for x in (column_best, column_temperatures, column_index, column_log, column_slope)
        )
        q = jnp.exp((back_tile - top) / temperature + own_log)
        chosen = jnp.arange(rows)[:, None] == own_index
        back_slopes = jnp.where(new, own_slope * (chosen - q), 0.0)
        if back is None:
            return _add_products(carry[0], there, slopes + back_slopes, start), None
        return _add_products(carry[0], there, slopes, start), _add_products(carry[1], back, back_slopes, start)

    zeros = jax.tree.map(jnp.zeros_like, (there, back))
    return *_sweep(step, zeros, block, columns), None, None


blockwise_argmax.defvjp(_argmax_forward, _argmax_backward)


def _weights(queries: jax.Array, keys: jax.Array, temperatures: jax.Array) -> jax.Array:
    return jax.nn.softmax(_product("bc,mc->bm", queries, keys) / temperatures[:, None])


def _tile(factors: Factors, start: jax.Array, block: int) -> jax.Array:
    """A block of columns `[L, block]` of a matrix."""
    return _product("lc,bc->lb", factors[0], _part(factors[1], start, block))


def _add_products(gradients: Factors, factors: Factors, slopes: jax.Array, start: jax.Array) -> Factors:
    """Adds to the gradients of a matrix's factors what the slopes `[L, block]` of a block of columns amount to."""
    columns = _part(factors[1], start, slopes.shape[1])
    row_gradients = gradients[0] + _product("lb,bc->lc", slopes, columns)
    return row_gradients, _add_part(gradients[1], _product("lb,lc->bc", slopes, factors[0]), start)


def _sweep(step: Callable[[Any, jax.Array], Any], carry: Any, block: int, length: int) -> Any:
    """Carries something through all blocks of an axis."""
    return jax.lax.scan(lambda carry, i: (step(carry, i), None), carry, jnp.arange(-(-length // block)))[0]


def _block(i: jax.Array, block: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Returns where block i starts, and for each of its positions whether no earlier block holds it."""
    start = jnp.minimum(i * block, length - block)
    return start, start + jnp.arange(block) >= i * block


def _part(x: jax.Array, start: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, block, axis=0)


def _add_part(x: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    return _put_part(x, _part(x, start, len(part)) + part, start)


def _put_part(x: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, axis=0)


def _product(subscripts: str, *factors: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *factors, precision=jax.lax.Precision.HIGHEST)
