"""The forms for the CPU agree with XLA's own in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from uda_jax.networks.convolution import convolve, small_conv
from uda_jax.networks.kernels import (
    dilated_conv,
    max_pool,
    phase_gradient,
    plain_conv,
    product_gradient,
    relu,
    sum_of_dilated_convs,
)
from uda_jax.ops.platform import made_for


def random(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def assert_same_gradients(one, other, *arguments):
    """Compares values and the gradients of half the sum of squares."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, *arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, pullback(y)

    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
    jax.tree.map(compare, run(one, *arguments), run(other, *arguments))


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding", "few_channels"),
    [
        ((2, 3, 4, 5), 4, 1, 1, False),  # a result smaller than its kernel
        ((2, 12, 9, 2), 5, 1, 0, True),
        ((2, 9, 12, 3), 4, 2, 1, True),
    ],
)
def test_patches_of_small_maps(shape, size, stride, padding, few_channels):
    pads, strides = [(padding, padding)] * 2, (stride, stride)
    numbers = lax.conv_dimension_numbers(shape, (size, size, shape[-1], 4), ("NHWC", "HWIO", "NHWC"))

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=numbers)

    def ours(x, kernel):
        return small_conv(x, kernel, strides, pads, few_channels=few_channels, dimension_numbers=numbers)

    x, kernel = random(0, *shape), random(1, size, size, shape[-1], 4)
    with made_for("cpu"):
        assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, kernel))
        assert_same_gradients(plain, ours, x, kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_product_form_of_1x1(stride):
    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, kernel):
        return convolve(x, kernel, stride)

    assert_same_gradients(ours, plain, random(0, 2, 9, 12, 3), random(1, 1, 1, 3, 5))


@pytest.mark.parametrize("size", [(9, 13), (3, 2), (1, 1)])
@pytest.mark.parametrize("dilation", [1, 4, 5])
@pytest.mark.parametrize("kernel_gradient", [product_gradient, phase_gradient])
def test_own_gradient_of_dilated_convolution(size, dilation, kernel_gradient):
    """Also where the dilation reaches past the map, so that most kernel elements have no gradient."""
    x, kernel = random(0, 2, *size, 4), random(1, 3, 3, 4, 6)

    def plain(x, kernel):
        return plain_conv(x, kernel, 1, dilation, dilation)

    assert_same_gradients(lambda x, kernel: dilated_conv(x, kernel, dilation, kernel_gradient), plain, x, kernel)


@pytest.mark.parametrize("size", [(9, 13), (30, 26), (1, 1)])
def test_sum_of_dilated_convolutions(size):
    """Also where a dilation is larger than the map, so that some elements meet padding only."""
    dilations = (6, 12, 18, 24)
    x, kernels = random(0, 2, *size, 4), [random(i, 3, 3, 4, 2) for i in range(1, 5)]

    def plain(x, kernels):
        return sum(convolve(x, k, 1, d, d) for k, d in zip(kernels, dilations, strict=True))

    assert_same_gradients(lambda x, k: sum_of_dilated_convs(x, k, dilations), plain, x, kernels)


def test_max_pool():
    x = jnp.asarray([[1.0, 5.0, 2.0, 4.0], [3.0, 0.0, 9.0, -1.0]])[None, :, :, None] - 20

    def pooled(x, *geometry, **options):
        return max_pool(x, *geometry, **options)[0, :, :, 0] + 20

    # Four columns: windows begin at -1, 1 and, in ceil mode, 3; that last one holds only the last column.
    np.testing.assert_array_equal(pooled(x, 3, 2, padding=1, ceil_mode=True), [[5, 9, 4], [3, 9, -1]])
    np.testing.assert_array_equal(pooled(x, 3, 2, padding=1), [[5, 9]])
    # Three columns end where a window does, so both modes agree.
    for ceil_mode in (False, True):
        odd = pooled(x[:, :, :3], 3, 2, padding=1, ceil_mode=ceil_mode)
        np.testing.assert_array_equal(odd, [[5, 9], [3, 9]] if ceil_mode else [[5, 9]])
        np.testing.assert_array_equal(pooled(x, 3, 1, padding=1, ceil_mode=ceil_mode), [[5, 9, 9, 9], [5, 9, 9, 9]])
    np.testing.assert_array_equal(pooled(x, 2, 2), [[5, 9]])
    np.testing.assert_array_equal(pooled(x[:, :, :3], 2, 2), [[5]])

    def gradient(**options):
        return jax.grad(lambda x: max_pool(x, **options).sum())(x)[0, :, :, 0]

    stem = {"size": 3, "stride": 2, "padding": 1}
    np.testing.assert_array_equal(gradient(**stem, ceil_mode=True), [[0, 1, 0, 1], [1, 0, 2, 1]])
    np.testing.assert_array_equal(gradient(**stem), [[0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(gradient(size=2, stride=2), [[0, 1, 0, 0], [0, 0, 1, 0]])


def test_relu():
    x = jnp.array([-2.0, 0.0, 3.0, jnp.nan])
    np.testing.assert_array_equal(relu(x), [0.0, 0.0, 3.0, np.nan])
    np.testing.assert_array_equal(jax.grad(lambda x: relu(x).sum())(x[:3]), [0.0, 0.0, 1.0])


def test_the_gradient_of_equal_maxima_goes_to_the_first():
    x = jnp.array([[0.0, 2.0, 2.0], [2.0, 1.0, 0.0], [0.0, 0.0, jnp.nan]])[None, :, :, None]
    pool = lambda x: max_pool(x, 2, 1, first_of_equals=True)  # noqa: E731
    np.testing.assert_array_equal(pool(x)[0, :, :, 0], max_pool(x, 2, 1)[0, :, :, 0])
    gradient = jax.grad(lambda x: pool(x)[0, 0, 0, 0])(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
