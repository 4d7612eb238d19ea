"""Depthwise convolution in the form that the CPU needs, beside those of `kernels`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted_products(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: tuple[tuple[int, int], ...]
) -> jax.Array:
    """Computes a depthwise convolution as a sum of shifted maps, each times one kernel element of every channel.

    XLA's grouped convolution has only a naive loop on the CPU; the gradients are of this form, too, with the padded
    cotangent as a map of its own (`python -m benchmarks.depthwise`). Forward-mode differentiation is not available.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`.
      stride, dilation: equal in both directions.
      padding: of rows and columns, before and after.

    Returns:
      `[B, h, w, C]`.
    """
    return sum_of_shifted_maps(x, kernel, stride, dilation, padding)


# A program of its own, here and below: traced once per shape, not once per block, forward and domain.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def sum_of_shifted_maps(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: tuple[tuple[int, int], ...]
) -> jax.Array:
    """Computes `shifted_products`, added up in float32, and leaves its gradients to JAX."""
    maps = _shifted(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.shape[0], stride, dilation)
    elements = kernel.reshape(-1, kernel.shape[3]).astype(jnp.float32)
    return sum(each * element for each, element in zip(maps, elements, strict=True)).astype(x.dtype)


def _shifted(padded: jax.Array, size: int, stride: int, dilation: int) -> list[jax.Array]:
    """Returns what each element of a kernel meets of a padded map, `[B, h, w, C]`, row by row."""
    height, width = _reach(padded, size, stride, dilation)
    starts = [step * dilation for step in range(size)]
    return [padded[:, top : top + height : stride, left : left + width : stride] for top in starts for left in starts]


def _reach(padded: jax.Array, size: int, stride: int, dilation: int) -> list[int]:
    """Returns the rows and columns from the first to the last pixel that one element of a kernel meets."""
    return [(n - dilation * (size - 1) - 1) // stride * stride + 1 for n in padded.shape[1:3]]


def _shifted_products_forward(x: jax.Array, kernel: jax.Array, *geometry: Any) -> tuple[jax.Array, tuple]:
    return shifted_products(x, kernel, *geometry), (x, kernel)


def _shifted_products_backward(
    stride: int, dilation: int, padding: tuple[tuple[int, int], ...], saved: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, reach = kernel.shape[0], dilation * (kernel.shape[0] - 1)
    # The cotangent of every pixel of the map, with zeros where the stride left one out, padded as far as kernels reach.
    holes = [
        (reach - before, n + before - (m - 1) * stride - 1, stride - 1)
        for n, m, (before, _) in zip(x.shape[1:3], cotangent.shape[1:3], padding, strict=True)
    ]
    spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [(0, 0, 0), *holes, (0, 0, 0)])
    # Otherwise each of the shifted maps would be made anew from the cotangent.
    spread = lax.optimization_barrier(spread)
    x_gradient = sum_of_shifted_maps(spread, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))
    elements = _products_with_shifted_maps(x, cotangent, size, stride, dilation, padding)
    return x_gradient, elements.reshape(kernel.shape).astype(kernel.dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _products_with_shifted_maps(
    x: jax.Array, cotangent: jax.Array, size: int, stride: int, dilation: int, padding: tuple[tuple[int, int], ...]
) -> jax.Array:
    """Returns the gradient of each kernel element, float32 `[k * k, C]`.

    One after the other, in a loop: side by side, XLA would keep all shifted maps, and compile for longer.
    """
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = _reach(padded, size, stride, dilation)

    def element(index: jax.Array) -> jax.Array:
        starts = (0, index // size * dilation, index % size * dilation, 0)
        met = lax.dynamic_slice(padded, starts, (x.shape[0], height, width, x.shape[3]))[:, ::stride, ::stride]
        return jnp.sum((met * cotangent).astype(jnp.float32), (0, 1, 2))

    return lax.map(element, jnp.arange(size * size))


shifted_products.defvjp(_shifted_products_forward, _shifted_products_backward)
