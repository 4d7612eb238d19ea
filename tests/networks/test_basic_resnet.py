"""ResNet-18 and -34 against their definition, written out with JAX's own convolutions; strides and dilations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from uda_jax import networks

IMAGES = jax.random.normal(jax.random.key(0), (2, 64, 96, 3))


def conv(x, layer, stride=1, dilation=1):
    kernel = layer["kernel"]
    pads = [(dilation * (kernel.shape[0] // 2),) * 2] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def norm(x, params, statistics):
    return (x - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5) * params["scale"] + params["bias"]


def block(x, params, statistics, stride, dilation):
    """torchvision's basic block; the first convolution of a stage has its stride, and none is dilated then."""
    y = conv(x, params["conv1"], stride, dilation if stride == 1 else 1)
    y = nn.relu(norm(y, params["bn1"], statistics["bn1"]))
    y = norm(conv(y, params["conv2"], 1, dilation), params["bn2"], statistics["bn2"])
    if "downsample_0" in params:
        x = norm(conv(x, params["downsample_0"], stride), params["downsample_1"], statistics["downsample_1"])
    return nn.relu(x + y)


def resnet(images, variables, blocks, strides, first_dilations, dilations):
    params, statistics = variables["params"], variables["batch_stats"]
    x = nn.relu(norm(conv(images, params["conv1"], 2), params["bn1"], statistics["bn1"]))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, count in enumerate(blocks):
        for i in range(count):
            name = f"layer{stage + 1}_{i}"
            stride, dilation = (strides[stage], first_dilations[stage]) if i == 0 else (1, dilations[stage])
            x = block(x, params[name], statistics[name], stride, dilation)
    return x


@pytest.mark.parametrize(
    ("name", "output_stride", "geometry"),
    [
        ("resnet18", 32, ((2, 2, 2, 2), (1, 2, 2, 2), (1, 1, 1, 1), (1, 1, 1, 1))),
        ("resnet18", 8, ((2, 2, 2, 2), (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4))),
        ("resnet34", 16, ((3, 4, 6, 3), (1, 2, 2, 1), (1, 1, 1, 1), (1, 1, 1, 2))),
    ],
)
def test_it_is_what_its_definition_says(name, output_stride, geometry, filled):
    encoder = networks.build_encoder(name, width=4, output_stride=output_stride)
    variables = filled(encoder, IMAGES)
    assert "downsample_0" not in variables["params"]["layer1_0"] and "downsample_0" in variables["params"]["layer2_0"]
    found = jax.jit(encoder.apply)(variables, IMAGES)["layer4"]
    blocks, strides, first, dilations = geometry
    run = functools.partial(resnet, blocks=blocks, strides=strides, first_dilations=first, dilations=dilations)
    expected = jax.jit(run)(IMAGES, variables)
    assert found.shape == (2, 64 // output_stride, 96 // output_stride, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
