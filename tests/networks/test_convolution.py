"""The forms of convolution agree in value and gradient, and with sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.networks.convolution import Conv, convolve
from uda_jax.networks.kernels import plain_conv
from uda_jax.ops.platform import LOWERING, made_for


def random(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def looped(x, kernel, stride, dilation, padding):
    """A convolution as a sum over kernel elements, in float64."""
    size = kernel.shape[0]
    x = np.pad(np.asarray(x, np.float64), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    height, width = ((n - dilation * (size - 1) - 1) // stride + 1 for n in x.shape[1:3])
    total = 0
    for row in range(size):
        for column in range(size):
            part = x[:, row * dilation :: stride, column * dilation :: stride][:, :height, :width]
            total = total + part @ np.asarray(kernel[row, column], np.float64)
    return total


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "padding"),
    [(1, 1, 1, 0), (1, 2, 1, 0), (3, 1, 2, 2), (3, 1, 4, 4), (4, 2, 1, 1), (7, 2, 1, 3)],
)
@pytest.mark.parametrize("height", [9, 12])
def test_convolve(size, stride, dilation, padding, height):
    x, kernel = random(0, 2, height, 11, 3), random(1, size, size, 3, 5)
    expected = looped(x, kernel, stride, dilation, padding)
    np.testing.assert_allclose(convolve(x, kernel, stride, dilation, padding), expected, rtol=1e-4, atol=1e-4)


def test_own_gradient_is_chosen_by_dilation_and_platform():
    x, kernel = random(0, 1, 9, 9, 4), random(1, 3, 3, 4, 4)

    def is_own(dilation, platform):
        with made_for(platform):
            return "custom_vjp" in str(jax.make_jaxpr(lambda x: convolve(x, kernel, 1, dilation, dilation))(x))

    for platform in ("cpu", "gpu"):
        assert [is_own(dilation, platform) for dilation in (1, 2, 4)] == [False, True, True]
    assert not is_own(4, "tpu")


@pytest.mark.parametrize("platform", LOWERING)
def test_gradients_of_a_dilated_convolution_agree(platform):
    """In the form of every platform, with more than one image and sides that the dilation does not divide."""
    x, kernel, weights = random(0, 2, 7, 10, 3), random(1, 3, 3, 3, 5), random(2, 2, 7, 10, 5)

    def loss(convolution):
        return jax.grad(lambda x, kernel: (convolution(x, kernel) * weights).sum(), (0, 1))(x, kernel)

    expected = loss(lambda x, kernel: plain_conv(x, kernel, 1, 4, 4))
    with made_for(platform):
        found = loss(lambda x, kernel: convolve(x, kernel, 1, 4, 4))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_parameters_start_as_in_pytorch():
    variables = Conv(64, 4, use_bias=True, stride=2, padding=1).init(jax.random.key(0), jnp.zeros((1, 8, 8, 19)))
    bound = (16 * 19) ** -0.5
    for leaf in jax.tree.leaves(variables):
        largest = float(jnp.abs(leaf).max())
        assert 0.9 * bound < largest <= bound
    np.testing.assert_allclose(variables["params"]["kernel"].std(), bound / 3**0.5, rtol=0.02)
