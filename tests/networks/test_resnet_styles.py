"""The two structures of the encoder: where a block strides, how the stem pools, which dilation a stage begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.errors import UserError
from uda_jax.networks.resnet import Bottleneck, ResNet

STYLES = ("caffe", "torchvision")


# By hand for n pixels: a = ceil(n / 2), then ceil mode ceil((a - 1) / 2) + 1 or floor mode floor((a - 1) / 2) + 1, and
# half of that, rounded up.
@pytest.mark.parametrize(
    ("style", "size", "stem", "last"),
    [
        ("caffe", (64, 65), (17, 17), (9, 9)),
        ("torchvision", (64, 65), (16, 17), (8, 9)),
        ("caffe", (512, 1024), (129, 257), (65, 129)),
        ("torchvision", (512, 1024), (128, 256), (64, 128)),
        ("caffe", (97, 724), (25, 182), (13, 91)),
        ("torchvision", (97, 724), (25, 181), (13, 91)),
    ],
)
def test_output_sizes(style, size, stem, last):
    encoder = ResNet((1, 1, 1, 1), 4, style=style)
    maps = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, *size, 3)))
    assert maps["stem"].shape == (1, *stem, 4)
    assert maps["layer2"].shape[1:3] == maps["layer4"].shape[1:3] == last


@pytest.mark.parametrize(
    ("style", "expected"), [("caffe", [[20, 20], [20, 20]]), ("torchvision", [[10, 24], [51, 90]])]
)
def test_which_convolution_strides(style, expected):
    """All 3x3 kernel elements are 1: the sum over every second pixel, or every second sum over neighbours."""
    block = Bottleneck(1, 2, 1, True, "normal", "batch", jnp.float32, style)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    variables = jax.tree.map(jnp.ones_like, block.init(jax.random.key(0), x, False))
    variables["batch_stats"] = {
        name: {"mean": jnp.zeros_like(stats["mean"]), "var": stats["var"]}
        for name, stats in variables["batch_stats"].items()
    }
    for name in ("bn1", "bn2", "bn3"):
        variables["params"][name]["bias"] *= 0
    for name in ("downsample_0", "downsample_1"):
        variables["params"][name] = jax.tree.map(jnp.zeros_like, variables["params"][name])
    y = block.apply(variables, x, False)
    np.testing.assert_allclose(y[0], np.repeat(np.array(expected)[..., None], 4, axis=-1), rtol=1e-4)


LATE_BLOCKS = ("layer3_0", "layer3_1", "layer4_0", "layer4_1")


# A kernel of dilation d sees more than padding beside its centre on maps of more than d pixels. So on 2, 3 and 5 pixels
# those of dilation 1, of 1 and 2, and of 1, 2 and 4 do.
@pytest.mark.parametrize(
    ("style", "size", "pixels", "expected"),
    [
        ("caffe", 8, 2, set()),
        ("caffe", 16, 3, {"layer3_0", "layer3_1"}),
        ("caffe", 32, 5, set(LATE_BLOCKS)),
        ("torchvision", 16, 2, {"layer3_0"}),
        ("torchvision", 24, 3, {"layer3_0", "layer3_1", "layer4_0"}),
        ("torchvision", 40, 5, set(LATE_BLOCKS)),
    ],
)
def test_dilations(style, size, pixels, expected):
    encoder = ResNet((1, 1, 2, 2), 2, style=style)
    images = jax.random.normal(jax.random.key(1), (2, size, size, 3))
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(0, 1, leaf.shape), jnp.float32), shapes["params"])
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])
    kernels = {name: params[name]["conv2"]["kernel"] for name in LATE_BLOCKS}

    @jax.jit
    @jax.grad
    def gradient(kernels):
        replaced = {name: {**params[name], "conv2": {"kernel": kernel}} for name, kernel in kernels.items()}
        maps = encoder.apply({"params": {**params, **replaced}, "batch_stats": stats}, images)
        assert maps["layer4"].shape[1:3] == (pixels, pixels)
        return maps["layer4"].sum()

    gradients = gradient(kernels)
    assert all(np.all(kernel[1, 1]) for kernel in gradients.values())
    assert {name for name, kernel in gradients.items() if np.any(kernel[0]) or np.any(kernel[2])} == expected


def test_same_parameters():
    images = jnp.zeros((1, 33, 33, 3))
    caffe, torchvision, default = (
        jax.eval_shape(networks.build("deeplab_v2_resnet50", 5, **options).init, jax.random.key(0), images)
        for options in ({"encoder_style": "caffe"}, {"encoder_style": "torchvision"}, {})
    )
    assert caffe == torchvision == default


def test_default_is_caffe():
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    sizes = {}
    for style in (*STYLES, None):
        network = networks.build("deeplab_v2_resnet14", 5, **({"encoder_style": style} if style else {}))
        outputs = jax.eval_shape(lambda x, n=network: n.init_with_output(jax.random.key(0), x)[0], shape)
        sizes[style] = outputs["logits"].shape[1]
    assert sizes == {"caffe": 9, "torchvision": 8, None: 9}


def test_unknown_style():
    with pytest.raises(UserError, match="encoder_style: expected one of 'caffe', 'torchvision', 'v1c', got 'pytorch'"):
        networks.build("deeplab_v2_resnet101", 19, encoder_style="pytorch")
