"""Convolutions with explicit PyTorch padding, in the form that trains fastest."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Initialiser = Callable[..., jax.Array]

FLOAT32 = jnp.dtype(jnp.float32)
# From here on our kernel gradient is quicker on the CPU than that of XLA: `python -m benchmarks.dilated`.
WIDE_DILATION = 4
COMPUTE_DTYPES = (FLOAT32, jnp.dtype(jnp.bfloat16))


class ConvParameters(nn.Module):
    """The `kernel` `[k, k, C, features]` and `bias` `[features]` of one convolution, without its computation.

    Attributes:
      features: output channels.
      size: kernel height and width k.
      use_bias: whether there is a bias; it starts as PyTorch's, U(-b, b) with b = 1 / sqrt(k * k * C).
      kernel_init: initialiser of the kernel; None takes the bias's distribution, PyTorch's default.
    """

    features: int
    size: int
    use_bias: bool = False
    kernel_init: Initialiser | None = None

    @nn.compact
    def __call__(self, in_features: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns (kernel, bias or None) in float32."""
        default = uniform_fan_in(self.size**2 * in_features)
        shape = (self.size, self.size, in_features, self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape, jnp.float32)
        bias = self.param("bias", default, (self.features,), jnp.float32) if self.use_bias else None
        return kernel, bias


class Conv(ConvParameters):
    """A convolution with `padding` pixels on each side (never "SAME", which pads otherwise at stride 2).

    Attributes (besides those of `ConvParameters`):
      stride, dilation, padding: as in PyTorch, equal in both directions.
      dtype: type of the computation and of the result.
    """

    stride: int = 1
    dilation: int = 1
    padding: int = 0
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[B, h, w, features]` for `x` `[B, H, W, C]`, h = floor((H + 2p - d(k-1) - 1) / stride) + 1."""
        kernel, bias = super().__call__(x.shape[-1])
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation, self.padding)
        return y if bias is None else y + bias.astype(self.dtype)


def uniform_fan_in(fan_in: int) -> Initialiser:
    """Returns PyTorch's default initialiser of kernels and biases: U(-b, b) with b = 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, padding: int = 0) -> jax.Array:
    """Returns the convolution `[B, h, w, D]` of `x` `[B, H, W, C]`, padded on every side, with `kernel` `[k, k, C, D]`.

    A 1x1 kernel becomes a matrix product. Larger ones are XLA's convolution; on the CPU, the kernel gradient of a
    widely dilated one is our own.
    """
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return project(x[:, ::stride, ::stride], kernel[0, 0])
    widely_dilated = kernel.shape[:2] == (3, 3) and stride == 1 and padding == dilation >= WIDE_DILATION
    if widely_dilated and jax.default_backend() == "cpu":
        return dilated_conv(x, kernel, dilation)
    return plain_conv(x, kernel, stride, dilation, padding)


def plain_conv(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int) -> jax.Array:
    """Computes `convolve` as XLA's convolution, with its gradients."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dilated_conv(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Computes a "same"-padded 3x3 convolution whose kernel gradient is one matrix product per kernel element.

    XLA's CPU backend computes that gradient as a convolution with a window as large as the map. Forward-mode
    differentiation is not available.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, C, D]`.
      dilation: also the padding on every side.

    Returns:
      `[B, H, W, D]`.
    """
    return plain_conv(x, kernel, 1, dilation, dilation)


def _dilated_conv_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple]:
    return dilated_conv(x, kernel, dilation), (x, kernel)


def _dilated_conv_backward(dilation: int, saved: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    height, width, channels = x.shape[1:]
    x_gradient = plain_conv(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, dilation, dilation)
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    flat = cotangent.reshape(-1, cotangent.shape[-1])

    def element(row: int, column: int) -> jax.Array:
        top, left = row * dilation, column * dilation
        return padded[:, top : top + height, left : left + width].reshape(-1, channels).T @ flat

    elements = jnp.stack([element(row, column) for row in range(3) for column in range(3)])
    return x_gradient, elements.reshape(kernel.shape).astype(kernel.dtype)


dilated_conv.defvjp(_dilated_conv_forward, _dilated_conv_backward)


def project(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns `x` `[B, H, W, C]` times `matrix` `[C, D]`.

    On the CPU this form trains faster than a 1x1 convolution, and than an einsum over the four axes, whose gradient
    transposes the map.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


def sum_of_dilated_convs(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Returns the sum of "same"-padded 3x3 convolutions of one map.

    Args:
      x: `[B, H, W, C]`.
      kernels: each `[3, 3, C, D]`.
      dilations: one per kernel.

    Returns:
      `[B, H, W, D]`, added up in float32.
    """
    if jax.default_backend() == "cpu":
        return project_then_shift(x, kernels, dilations)
    parts = (convolve(x, k, dilation=d, padding=d) for k, d in zip(kernels, dilations, strict=True))
    return sum(part.astype(jnp.float32) for part in parts)


def project_then_shift(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Computes `sum_of_dilated_convs` as one matrix product for all kernel elements, then a sum of shifted results.

    Where D is much smaller than C, as in a classifier, shifting results costs little, and on the CPU this form trains
    faster than the convolutions. The central elements of all kernels meet the same pixel and are added up first.
    """
    height, width = x.shape[1:3]
    matrices = {}
    for kernel, dilation in zip(kernels, dilations, strict=True):
        for row in range(3):
            for column in range(3):
                shift = ((row - 1) * dilation, (column - 1) * dilation)
                # An element that reaches past the map from everywhere meets padding only.
                if abs(shift[0]) < height and abs(shift[1]) < width:
                    matrices[shift] = matrices.get(shift, 0) + kernel[row, column]
    projected = project(x, jnp.concatenate(list(matrices.values()), axis=1)).astype(jnp.float32)
    return sum(
        # Padding by a negative number cuts off.
        lax.pad(part, 0.0, [(0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)])
        for part, (down, right) in zip(jnp.split(projected, len(matrices), axis=-1), matrices, strict=True)
    )
