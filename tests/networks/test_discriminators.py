"""The discriminators against golden outputs, gradients, counts and sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import networks, weights
from uda_jax.errors import UserError
from uda_jax.losses import adversarial

GOLDEN = vectors.FOLDER


def load(folder, name, manifest, dialect):
    """Returns the golden arrays, with maps in NHWC, and the converted stand-in weights."""
    arrays = vectors.load(f"{folder}/{name}.npz")
    maps = {k: nhwc(arrays[k]) if arrays[k].ndim == 4 else arrays[k] for k in arrays.files}
    return maps, weights.from_torch(vectors.stand_in(f"{folder}/{manifest}"), dialect)


def close_to_maximum(value, expected):
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def joint_output():
    name = "output_discriminator"
    return load("gio-ada", name, f"{name}.manifest.json", "adaptsegnet_discriminator")


def joint_loss(variables, label, kind):
    """The loss of a pixel discriminator on probabilities and depth, as a function of logits and depth."""
    network = networks.build("pixel_discriminator", variables["params"]["conv1"]["kernel"].shape[2] - 1)

    def loss(seg_logits, depth):
        x = jnp.concatenate([jax.nn.softmax(seg_logits), depth], axis=-1)
        logits = network.apply(variables, x)
        return adversarial(logits, label, kind=kind), (x, logits)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
@pytest.mark.parametrize("label", [0, 1])
def test_joint_output(joint_output, kind, label):
    golden, variables = joint_output
    with jax.default_matmul_precision("highest"):
        (value, (x, logits)), gradients = joint_loss(variables, label, kind)(golden["seg_logits"], golden["depth"])
    name = f"{'bce' if kind == 'bce' else 'ls'}_label{label}"
    close_to_maximum(x, golden["d_input"])
    close_to_maximum(logits, golden["d_out"])
    np.testing.assert_allclose(value, golden[name], rtol=1e-5)
    stored = [
        (gradient, golden[f"grad_{name}_{argument}"])
        for gradient, argument in zip(gradients, ("seg_logits", "depth"), strict=True)
        if f"grad_{name}_{argument}" in golden
    ]
    assert len(stored) == {"bce_label0": 2, "ls_label0": 1}.get(name, 0)
    for gradient, expected in stored:
        close_to_maximum(gradient, expected)


def test_joint_output_without_depth(joint_output):
    """A kernel that is zero for depth makes the discriminator of the probabilities alone."""
    golden, variables = joint_output
    params = {**variables["params"], "conv1": dict(variables["params"]["conv1"])}
    kernel = np.array(params["conv1"]["kernel"])
    kernel[:, :, -1] = 0
    params["conv1"]["kernel"] = kernel
    (value, _), (to_logits, to_depth) = joint_loss({"params": params}, 0, "bce")(golden["seg_logits"], golden["depth"])
    np.testing.assert_array_equal(to_depth, 0)
    assert np.abs(to_logits).max() > 0
    params["conv1"]["kernel"] = kernel[:, :, :-1]
    network = networks.build("pixel_discriminator", kernel.shape[2] - 1)
    alone = network.apply({"params": params}, golden["d_input"][..., :-1])
    np.testing.assert_allclose(value, adversarial(alone, 0), rtol=1e-5)


@pytest.mark.parametrize("file", sorted((GOLDEN / "gio-ada").glob("patch_discriminator*.npz")), ids=lambda f: f.stem)
def test_patch_golden(file):
    golden, variables = load("gio-ada", file.stem, f"{file.stem}.manifest.json", "cyclegan_discriminator")
    network = networks.build("patch_discriminator", 1, width=variables["params"]["conv1"]["bias"].size)

    def loss(x):
        logits = network.apply(variables, x)
        return adversarial(logits, 1, kind="least_squares"), logits

    with jax.default_matmul_precision("highest"):
        (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(golden["x"])
    close_to_maximum(logits, golden["out"])
    np.testing.assert_allclose(value, golden["lsgan_true"], rtol=1e-5)
    np.testing.assert_allclose(adversarial(logits, 0, kind="least_squares"), golden["lsgan_false"], rtol=1e-5)
    close_to_maximum(gradient, golden["grad_lsgan_true_x"])


def test_patch_size_and_start():
    network = networks.build("patch_discriminator", 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    kernels = [3 * 64, 64 * 128, 128 * 256, 256 * 512, 512]
    count = 16 * sum(kernels) + 64 + 128 + 256 + 512 + 1
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count == 2_764_737
    for size, expected in [((64, 64), (6, 6)), ((24, 31), (1, 1)), ((376, 1240), (45, 153)), ((375, 1242), (44, 153))]:
        logits = jax.eval_shape(network.apply, shapes, jnp.zeros((2, *size, 3)))
        assert (logits.shape, logits.dtype) == ((2, *expected, 1), jnp.float32)
    small = networks.build("patch_discriminator", 1, width=8)
    params = jax.jit(small.init)(jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
    for name, layer in params["params"].items():
        np.testing.assert_allclose(np.std(layer["kernel"]), 0.02, rtol=0.15, err_msg=name)
        np.testing.assert_array_equal(layer["bias"], 0)


@functools.cache
def small_patch():
    """A tiny patch discriminator, variables from NumPy and images."""
    network = networks.build("patch_discriminator", 1, width=4)
    images = jax.random.uniform(jax.random.key(0), (2, 24, 40, 3), minval=-1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.1, leaf.shape), jnp.float32), shapes)
    return network, variables, images


def test_patch_norm_is_of_the_image():
    network, variables, images = small_patch()
    run = jax.jit(network.apply)
    logits = run(variables, images)
    np.testing.assert_allclose(logits[:1], run(variables, images[:1]), rtol=1e-4, atol=1e-6)
    # A norm hides the scale and the bias of the layers before it, of the second to the fourth only.
    for name, hidden in {"conv1": False, "conv2": True, "conv3": True, "conv4": True, "classifier": False}.items():
        layer = {"kernel": 3 * variables["params"][name]["kernel"], "bias": variables["params"][name]["bias"] + 1}
        other = run({"params": {**variables["params"], name: layer}}, images)
        assert np.allclose(other, logits, rtol=1e-2, atol=1e-3) == hidden, name


def test_patch_bfloat16():
    network, variables, images = small_patch()
    compute = networks.build("patch_discriminator", 1, width=4, dtype=jnp.bfloat16)
    expected, logits = jax.jit(network.apply)(variables, images), jax.jit(compute.apply)(variables, images)
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "smallest"), [("pixel_discriminator", 32), ("patch_discriminator", 24)])
def test_too_small(name, smallest):
    network = networks.build(name, 3)
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, smallest, smallest, 3)))
    with pytest.raises(
        UserError, match=f"network.{name}: .* at least {smallest}x{smallest} pixels, got 64x{smallest - 1}"
    ):
        network.init(jax.random.key(0), jnp.zeros((1, 64, smallest - 1, 3)))


def class_cross_entropy(logits, outputs):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), outputs[:, None], axis=1)[:, 0]


def present_mean(values, present):
    return jnp.where(present, values, 0).sum() / max(present.sum(), 1)


SEMANTIC = ("adaptsegnet-ass", "semantic_adversarial", "semantic_discriminator_manifest.json", "semantic_discriminator")


@pytest.mark.parametrize("case", np.load(GOLDEN / "adaptsegnet-ass/semantic_adversarial.npz")["cases"].tolist())
def test_semantic_golden(case):
    arrays, variables = load(*SEMANTIC)
    golden = {name.removeprefix(f"{case}_"): array for name, array in arrays.items()}
    source, target = golden["source_present"], golden["target_present"]
    k = jnp.arange(len(source))
    hidden = variables["params"]["fc1"]["bias"].size
    network = networks.build("semantic_discriminator", len(source), hidden=hidden)

    def judge(means):
        return network.apply(variables, means[None])[0]

    def fool(means):
        return present_mean(class_cross_entropy(judge(means), k), target)

    with jax.default_matmul_precision("highest"):
        on_source, on_target = judge(golden["source_mean"]), judge(golden["target_mean"])
        value, gradient = jax.value_and_grad(fool)(golden["target_mean"])
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(on_source, golden["source_logit"], **tolerance)
    np.testing.assert_allclose(on_target, golden["target_logit"], **tolerance)
    learn = present_mean(class_cross_entropy(on_source, k), source)
    learn += present_mean(class_cross_entropy(on_target, len(k) + k), target)
    np.testing.assert_allclose(learn / 2, golden["loss_d"], **tolerance)
    np.testing.assert_allclose(value, golden["loss_adv"], **tolerance)
    np.testing.assert_allclose(gradient, golden["grad_target_adv"], **tolerance)
    np.testing.assert_array_equal(gradient[~target], 0)
    own_source, own_target = on_source[k, k], on_target[k, k]
    binary = present_mean(jax.nn.softplus(own_source), source) + present_mean(jax.nn.softplus(-own_target), target)
    np.testing.assert_allclose(binary / 2, golden["binary_loss_d"], **tolerance)
    fooled = present_mean(jax.nn.softplus(own_target), target)
    np.testing.assert_allclose(fooled, golden["binary_loss_adv"], **tolerance)


def test_semantic_size_and_start():
    network = networks.build("semantic_discriminator", 19)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 19, 2048)))
    count = (2048 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 38 + 38)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count == 3_186_726
    network = networks.build("semantic_discriminator", 3, hidden=50, dtype=jnp.bfloat16)
    logits, variables = jax.jit(network.init_with_output)(jax.random.key(0), jnp.ones((2, 3, 20)))
    assert (logits.shape, logits.dtype) == ((2, 3, 6), jnp.float32)
    for name, fan_in in (("fc1", 20), ("fc2", 50), ("fc3", 50)):
        for leaf in variables["params"][name].values():
            assert leaf.dtype == jnp.float32
            assert np.abs(leaf).max() <= fan_in**-0.5
        np.testing.assert_allclose(np.std(variables["params"][name]["kernel"]), (3 * fan_in) ** -0.5, rtol=0.1)


def test_scores_by_hand():
    network = networks.build("score_discriminator", 10)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1, 1, 10)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_500 + 250_500 + 1_002
    network = networks.build("score_discriminator", 10, hidden=50)
    scores = jax.random.normal(jax.random.key(1), (2, 3, 4, 10))
    logits, variables = jax.jit(network.init_with_output)(jax.random.key(0), scores)
    x = np.asarray(scores, np.float64)
    for name, fan_in in (("fc1", 10), ("fc2", 50), ("fc3", 50)):
        layer = variables["params"][name]
        assert max(np.abs(leaf).max() for leaf in layer.values()) <= fan_in**-0.5
        np.testing.assert_allclose(np.std(layer["kernel"]), (3 * fan_in) ** -0.5, rtol=0.15)
        x = (x if name == "fc1" else np.maximum(x, 0)) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    assert (logits.shape, logits.dtype) == ((2, 3, 4, 2), jnp.float32)
    np.testing.assert_allclose(logits, x, rtol=1e-4, atol=1e-5)
