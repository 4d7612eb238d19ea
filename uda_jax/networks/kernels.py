"""Forms of computation for backends on which XLA's own are slow; the architectures lie in the other files.

Each computes what its neighbour in `convolution` or its name says, in another way. Where nothing is said, the CPU is
the backend; where one serves others, its docstring says so.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dilated_conv(x: jax.Array, kernel: jax.Array, dilation: int, kernel_gradient: Callable) -> jax.Array:
    """Computes a "same"-padded 3x3 convolution with a kernel gradient of its own.

    XLA computes that gradient as a convolution whose window is as large as the map: with it, a convolution and its
    gradients take up to twice as long on the CPU (`python -m benchmarks.dilated`), and four to nine times on a GPU
    (benchmarks/results/gpu_forms.json). Forward-mode differentiation is not available.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, C, D]`.
      dilation: also the padding on every side.
      kernel_gradient: `product_gradient` or `phase_gradient`.

    Returns:
      `[B, H, W, D]`.
    """
    return plain_conv(x, kernel, 1, dilation, dilation)


def _dilated_conv_forward(
    x: jax.Array, kernel: jax.Array, dilation: int, kernel_gradient: Callable
) -> tuple[jax.Array, tuple]:
    return dilated_conv(x, kernel, dilation, kernel_gradient), (x, kernel)


def _dilated_conv_backward(
    dilation: int, kernel_gradient: Callable, saved: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    x_gradient = plain_conv(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, dilation, dilation)
    return x_gradient, kernel_gradient(x, cotangent, dilation).astype(kernel.dtype)


dilated_conv.defvjp(_dilated_conv_forward, _dilated_conv_backward)


def product_gradient(x: jax.Array, cotangent: jax.Array, dilation: int) -> jax.Array:
    """Returns the kernel gradient `[3, 3, C, D]` of `dilated_conv` as one matrix product per kernel element.

    Args:
      x: `[B, H, W, C]`.
      cotangent: of the result, `[B, H, W, D]`.
      dilation: of the convolution.
    """
    height, width, channels = x.shape[1:]
    # Not the map is shifted, but what comes back: XLA would shift maps in the forward pass and keep all nine of them.
    padded = jnp.pad(cotangent, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    flat = x.reshape(-1, channels)

    def element(row: int, column: int) -> jax.Array:
        top, left = (2 - row) * dilation, (2 - column) * dilation
        return flat.T @ padded[:, top : top + height, left : left + width].reshape(flat.shape[0], -1)

    elements = jnp.stack([element(row, column) for row in range(3) for column in range(3)])
    return elements.reshape(3, 3, channels, -1)


def phase_gradient(x: jax.Array, cotangent: jax.Array, dilation: int) -> jax.Array:
    """Computes `product_gradient` as that of a convolution without dilation, which GPUs have fast kernels for.

    Every d-th row and column of a map is a small map that a dilation of d leaves within itself: d * d such phases, laid
    side by side in the batch, are convolved without dilation. Rows and columns that are missing at the end are zero, as
    the padding is.
    """

    def phases(y: jax.Array) -> jax.Array:
        batch, height, width, channels = y.shape
        rows, columns = -(-height // dilation), -(-width // dilation)
        y = jnp.pad(y, ((0, 0), (0, rows * dilation - height), (0, columns * dilation - width), (0, 0)))
        y = y.reshape(batch, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
        return y.reshape(-1, rows, columns, channels)

    # As above, the map is rearranged when the cotangent is there.
    x, cotangent = lax.optimization_barrier((x, cotangent))
    small, size = phases(x), (3, 3, x.shape[-1], cotangent.shape[-1])
    _, pullback = jax.vjp(lambda kernel: plain_conv(small, kernel, 1, 1, 1), jnp.zeros(size, x.dtype))
    return pullback(phases(cotangent))[0]


def patch_products(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """Computes a convolution as one matrix product of the patches under the kernel, laid out side by side.

    On the CPU this form trains several times as fast as XLA's where the result is smaller than the kernel, for whose
    gradients XLA has only a naive loop, and where there are few input channels, such as those of small grey pictures.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, l, C, D]`.
      strides, padding: of rows and columns, the padding before and after.

    Returns:
      `[B, h, w, D]`.
    """
    rows, columns, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (n - size) // step + 1 for n, size, step in zip(x.shape[1:3], (rows, columns), strides, strict=True)
    )
    ends = strides[0] * (height - 1) + 1, strides[1] * (width - 1) + 1
    parts = [
        x[:, row : row + ends[0] : strides[0], column : column + ends[1] : strides[1]]
        for row in range(rows)
        for column in range(columns)
    ]
    return project(jnp.concatenate(parts, axis=-1), kernel.reshape(rows * columns * channels, features))


def project(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns `x` `[B, H, W, C]` times `matrix` `[C, D]`.

    On the CPU this form trains faster than a 1x1 convolution, and than an einsum over the four axes, whose gradient
    transposes the map.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


def sum_of_dilated_convs(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Returns the sum of "same"-padded 3x3 convolutions of one map, as a matrix product and a sum of shifted results.

    One product serves all elements of all kernels; those in the centre meet the same pixel and are added up first.
    Where D is much smaller than C, as in a classifier, shifting results costs little, and this form trains faster than
    convolutions on every backend: many times on GPUs, whose kernels want a multiple of 8 channels and no dilation.

    Args:
      x: `[B, H, W, C]`.
      kernels: each `[3, 3, C, D]`.
      dilations: one per kernel.

    Returns:
      `[B, H, W, D]`, added up in float32.
    """
    height, width = x.shape[1:3]
    matrices = {}
    for kernel, dilation in zip(kernels, dilations, strict=True):
        for row in range(3):
            for column in range(3):
                shift = ((row - 1) * dilation, (column - 1) * dilation)
                # An element that reaches past the map from everywhere meets padding only.
                if _reaches(shift[0], height) and _reaches(shift[1], width):
                    matrices[shift] = matrices.get(shift, 0) + kernel[row, column]
    projected = project(x, jnp.concatenate(list(matrices.values()), axis=1)).astype(jnp.float32)
    return sum(
        # Padding by a negative number cuts off.
        lax.pad(part, 0.0, [(0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)])
        for part, (down, right) in zip(jnp.split(projected, len(matrices), axis=-1), matrices, strict=True)
    )


def _reaches(shift: int, length: int) -> bool:
    """Returns whether a pixel can have a neighbour `shift` away; in a program for any size, it can."""
    return not isinstance(length, int) or abs(shift) < length


def element_products(x: jax.Array, kernel: jax.Array) -> list[list[jax.Array]]:
    """Returns `x` `[B, H, W, C]` times each element of `kernel` `[k, l, C, D]`: k lists of l maps `[B, H, W, D]`."""
    rows, columns, channels, features = kernel.shape
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    parts = jnp.split(project(x, matrix), rows * columns, axis=-1)
    return [parts[row * columns : (row + 1) * columns] for row in range(rows)]


def interleaved_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `transposed_convolve` as one matrix product for all kernel elements, whose results are interleaved.

    An even row of the result meets the middle row of the kernel only, an odd one the outer two; columns likewise. On
    the CPU this form trains far faster than the convolution of a map with holes, for whose kernel gradient XLA has
    only a naive loop.
    """
    batch, height, width, _ = x.shape
    parts = element_products(x, kernel)

    def add_next(two, zero, axis):
        pads = [(0, 0, 0)] * 4
        # Padding by a negative number cuts off.
        pads[axis] = (-1, 1, 0)
        return two + lax.pad(zero, jnp.zeros((), zero.dtype), pads)

    rows = [parts[1], [add_next(two, zero, 1) for two, zero in zip(parts[2], parts[0], strict=True)]]
    pixels = [jnp.stack([row[1], add_next(row[2], row[0], 2)], axis=3) for row in rows]
    return jnp.stack(pixels, axis=2).reshape(batch, 2 * height, 2 * width, kernel.shape[3])


def max_pool(
    x: jax.Array, size: int, stride: int, *, padding: int = 0, ceil_mode: bool = False, first_of_equals: bool = False
) -> jax.Array:
    """Returns the max pool of `x` `[B, H, W, C]` with windows of `size` x `size`, in PyTorch's geometry.

    The output has floor((n + 2 * padding - size) / stride) + 1 rows or columns, in ceil mode the quotient rounded up:
    then the high side is padded as far as the last window reaches. `padding` + `stride` <= `size`, so that no window
    lies in the padding alone. Padding is minus infinity, so it never wins. The gradient of equal maxima is shared, or
    goes to the first of them, row after row, as PyTorch's does.
    """
    # As a maximum of shifted maps: on the CPU the gradient of a pooling window takes ten times as long.
    larger = _first_larger if first_of_equals else jnp.maximum
    for axis in (2, 1) if first_of_equals else (1, 2):
        n = x.shape[axis]
        free = n + 2 * padding - size
        last = (-(-free // stride) if ceil_mode else free // stride) * stride
        pads, reach = [(0, 0)] * 4, last + size - n - padding
        # In a program for any size, as much as some size needs.
        pads[axis] = (padding, max(reach, 0) if isinstance(n, int) else padding + ceil_mode * (stride - 1))
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        parts = (lax.slice_in_dim(padded, i, i + last + 1, stride, axis) for i in range(size))
        x = functools.reduce(larger, parts)
    return x


def _first_larger(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where((second > first) | jnp.isnan(second), second, first)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0), with a gradient of 0 at 0, as `nn.relu`; NaN stays NaN.

    What the backward pass keeps is the result, which the layer that reads it keeps anyway, and not what came in. A
    selection of two large operands, where XLA's CPU backend would fuse `maximum` into every reader, so that each
    block's sum were computed anew from those of all blocks before it.
    """
    return jnp.where(x <= 0, 0, x)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _relu_backward(y: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y <= 0, 0, cotangent),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Returns min(max(x, 0), 6), with a gradient of 0 at 0 and at 6, in the form of `relu`."""
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))


def _relu6_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu6(x)
    return y, y


def _relu6_backward(y: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((y <= 0) | (y >= 6), 0, cotangent),)


relu6.defvjp(_relu6_forward, _relu6_backward)
