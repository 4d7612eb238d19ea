"""LeNet and DTN against a forward pass written out in NumPy; dropout; counts."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.errors import UserError

GREY = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1), minval=-1)
COLOUR = jax.random.uniform(jax.random.key(1), (3, 32, 32, 3), minval=-1)
INPUTS = {"lenet": GREY, "dtn": COLOUR}


@functools.cache
def start(name):
    return jax.jit(networks.build(name, 10).init)(jax.random.key(2), INPUTS[name])


@functools.cache
def network_and_variables(name):
    """Variables away from their start: biases and running statistics that are neither 0 nor 1."""
    generator = np.random.default_rng(0)

    def shake(leaf):
        return jnp.asarray(leaf + generator.uniform(0.1, 0.5, leaf.shape), jnp.float32) if leaf.ndim == 1 else leaf

    return networks.build(name, 10), jax.tree.map(shake, start(name))


@functools.cache
def training(name):
    network, _ = network_and_variables(name)

    @jax.jit
    def run(variables, images, key):
        states = [collection for collection in variables if collection != "params"]
        return network.apply(variables, images, train=True, rngs={"dropout": key}, mutable=states)

    return run


def convolve(x, layer, stride, padding):
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, layer["kernel"]) + layer["bias"]


def normalise(x, layer, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * layer["scale"] + layer["bias"]


def pool(x):
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def dense(x, layer):
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def lenet_by_hand(variables, x):
    p = variables["params"]
    x = np.maximum(pool(convolve(x, p["conv1"], 1, 0)), 0)
    x = np.maximum(pool(convolve(x, p["conv2"], 1, 0)), 0)
    features = dense(x, p["fc1"])
    return features, dense(np.maximum(features, 0), p["fc2"])


def dtn_by_hand(variables, x):
    p, statistics = variables["params"], variables["batch_stats"]
    for i in (1, 2, 3):
        x = normalise(convolve(x, p[f"conv{i}"], 2, 2), p[f"bn{i}"], statistics[f"bn{i}"])
        x = np.maximum(x, 0)
    features = normalise(dense(x, p["fc1"]), p["bn4"], statistics["bn4"])
    return features, dense(np.maximum(features, 0), p["fc2"])


@pytest.mark.parametrize(
    ("name", "by_hand", "size"),
    [("lenet", lenet_by_hand, 28), ("lenet", lenet_by_hand, 16), ("dtn", dtn_by_hand, 32), ("dtn", dtn_by_hand, 28)],
)
def test_evaluation(name, by_hand, size):
    network, variables = network_and_variables(name)
    images = INPUTS[name][:, :size, :size]
    if size == 16:  # one pixel is left to the dense layer
        params = variables["params"]
        fc1 = {"kernel": params["fc1"]["kernel"][:50], "bias": params["fc1"]["bias"]}
        variables = {"params": {**params, "fc1": fc1}}
    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(network.apply)(variables, images)
        classified = network.apply(variables, outputs["features"], method="classify")
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    features, logits = by_hand(double, np.asarray(images, np.float64))
    assert outputs["logits"].shape == (3, 1, 1, 10)
    assert features.min() < -0.1  # so that it matters that features are taken before the ReLU
    np.testing.assert_allclose(outputs["features"][:, 0, 0], features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["logits"][:, 0, 0], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(classified, outputs["logits"], rtol=1e-5, atol=1e-5)


DENSE = {"lenet": (800 * 500 + 500) + (500 * 10 + 10), "dtn": (4096 * 512 + 512) + (512 * 10 + 10)}


@pytest.mark.parametrize(
    ("name", "channels", "convolutions", "norms"),
    [
        ("lenet", 1, (25 * 1 * 20 + 20) + (25 * 20 * 50 + 50), 0),
        ("lenet", 3, (25 * 3 * 20 + 20) + (25 * 20 * 50 + 50), 0),
        ("dtn", 3, (25 * 3 * 64 + 64) + (25 * 64 * 128 + 128) + (25 * 128 * 256 + 256), 2 * (64 + 128 + 256 + 512)),
    ],
)
def test_counts(name, channels, convolutions, norms):
    network = networks.build(name, 10)
    size = INPUTS[name].shape[1]
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == convolutions + norms + DENSE[name]
    assert hash(network) == hash(networks.build(name, 10))


def test_in_grey_equal_channels_count_once():
    """Three equal channels are the one channel of the released code, in its start and in its rate."""
    network, variables = network_and_variables("lenet")
    grey = networks.build("lenet", 10, grey=True)
    shapes = jax.eval_shape(grey.init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    assert shapes["params"]["conv1"]["kernel"].shape == (5, 5, 1, 20)
    ours, theirs = (jax.jit(n.apply)(variables, x) for n, x in ((grey, jnp.tile(GREY, 3)), (network, GREY)))
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-5, atol=1e-5)
    colours = jnp.concatenate([GREY, 0 * GREY, -GREY], axis=-1)
    dark, black = (jax.jit(grey.apply)(variables, x) for x in (colours, 0 * colours))
    np.testing.assert_allclose(dark["logits"], black["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lenet", "dtn"])
def test_start(name):
    params = start(name)["params"]
    for layer in [layer for layer in params if layer.startswith(("conv", "fc"))]:
        *window, inputs, outputs = params[layer]["kernel"].shape
        expected = (2 / (np.prod(window) * (inputs + outputs))) ** 0.5
        np.testing.assert_allclose(np.std(params[layer]["kernel"]), expected, rtol=0.1, err_msg=layer)
        np.testing.assert_array_equal(params[layer]["bias"], 0)


@pytest.mark.parametrize("name", ["lenet", "dtn"])
def test_dropout_follows_its_key(name):
    network, variables = network_and_variables(name)
    run = training(name)
    first, _ = run(variables, INPUTS[name], jax.random.key(5))
    again, _ = run(variables, INPUTS[name], jax.random.key(5))
    other, _ = run(variables, INPUTS[name], jax.random.key(6))
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert np.abs(first["logits"] - other["logits"]).max() > 0.01
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        network.apply(variables, INPUTS[name], train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("lenet", {"channel_dropout": ("conv2", 0.5)}),
        ("dtn", {f"channel_dropouts_{i}": (f"bn{i + 1}", rate) for i, rate in enumerate((0.1, 0.3, 0.5))}),
    ],
)
def test_whole_channels_are_dropped(name, layers):
    network, variables = network_and_variables(name)
    images = jnp.tile(INPUTS[name][:2], (16, 1, 1, 1))
    _, captured = jax.jit(
        lambda v, x, key: network.apply(
            v,
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
    )(variables, images, jax.random.key(3))
    maps = jax.tree.map(lambda leaf: leaf[0], captured["intermediates"], is_leaf=lambda node: isinstance(node, tuple))
    for dropout, (before, rate) in layers.items():
        x, y = maps[before]["__call__"], maps[dropout]["__call__"]
        kept = np.abs(y).max((1, 2)) > 0
        np.testing.assert_allclose(y, np.where(kept[:, None, None], x / (1 - rate), 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(1 - kept.mean(), rate, atol=0.05, err_msg=dropout)
    features = np.maximum(maps["__call__"]["features"], 0)
    dropped = maps["feature_dropout"]["__call__"]
    np.testing.assert_allclose(dropped[dropped > 0], 2 * features[dropped > 0], rtol=1e-5)
    np.testing.assert_allclose((dropped > 0).sum() / (features > 0).sum(), 0.5, atol=0.03)


def test_batch_norm_of_dtn_follows_the_batch():
    network, variables = network_and_variables("dtn")
    outputs, updated = training("dtn")(variables, COLOUR, jax.random.key(3))
    params, bn4 = variables["params"], variables["params"]["bn4"]
    np.testing.assert_allclose(outputs["features"].mean((0, 1, 2)), bn4["bias"], rtol=1e-3, atol=1e-4)
    x = convolve(np.asarray(COLOUR, np.float64), params["conv1"], 2, 2).reshape(-1, 64)
    old = variables["batch_stats"]["bn1"]
    new = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * x.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * x.var(0, ddof=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "dtn"])
def test_bfloat16(name):
    network, variables = network_and_variables(name)
    compute = networks.build(name, 10, dtype=jnp.bfloat16)
    outputs, expected = (jax.jit(module.apply)(variables, INPUTS[name]) for module in (compute, network))
    for key in ("logits", "features"):
        assert outputs[key].dtype == jnp.float32
        error = np.abs(outputs[key] - expected[key]).max()
        assert 0 < error < 0.03 * np.abs(expected[key]).max(), key


def test_too_small():
    with pytest.raises(UserError, match="network.lenet: expected images of at least 16x16 pixels, got 15x28;"):
        networks.build("lenet", 10).init(jax.random.key(0), jnp.zeros((1, 15, 28, 1)))
