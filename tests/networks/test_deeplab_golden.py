"""The ResNet-101 segmenters and the discriminators against outputs of the released PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nhwc

from uda_jax import networks, weights

GOLDEN = vectors.FOLDER


def stand_in(folder, manifest, dialect):
    return weights.from_torch(vectors.stand_in(f"{folder}/{manifest}"), dialect)


def evaluate(network, variables, images):
    """Returns the network's outputs and the encoder's maps, in one compiled program."""
    both = jax.jit(lambda v, x: network.apply(v, x, method=lambda m, x: (m(x), m.encoder(x))))
    with jax.default_matmul_precision("highest"):
        return both(variables, images)


def train(network, variables, images, dialect):
    """Returns the outputs of a training-mode forward and the state dict after it."""
    step = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
    with jax.default_matmul_precision("highest"):
        outputs, updated = step(variables, images)
    return outputs, weights.to_torch({"params": variables["params"], **updated}, dialect)


def two_level(variables, **options):
    """Returns the network that has as many classes as its stand-in weights, and these."""
    classes = variables["params"]["head"]["branch_0"]["bias"].size
    return networks.build("deeplab_v2_resnet101", classes, multi_level=True, **options), variables


@pytest.fixture(scope="module")
def adaptsegnet():
    return two_level(stand_in("adaptsegnet-ass", "deeplab_multi_manifest.json", "adaptsegnet"), aspp_branches=2)


@pytest.fixture(scope="module")
def advent():
    return two_level(stand_in("advent-intrada", "deeplab_v2_multi_manifest.json", "advent"))


def discriminator(variables):
    return networks.build("pixel_discriminator", variables["params"]["conv1"]["kernel"].shape[2])


def test_adaptsegnet_evaluation(adaptsegnet):
    golden = np.load(GOLDEN / "adaptsegnet-ass/deeplab_multi_eval.npz")
    outputs, maps = evaluate(*adaptsegnet, nhwc(golden["image"]))
    assert_map_close(maps["stem"], golden["stem"], rtol=1e-4, atol=0.02)
    for stage in range(1, 5):
        mean = maps[f"layer{stage}"].mean((1, 2))
        np.testing.assert_allclose(mean, golden[f"layer{stage}_spatial_mean"], rtol=1e-4, atol=0.02)
    assert_map_close(outputs["aux_logits"], golden["logits1"], rtol=1e-4, atol=0.02)
    assert_map_close(outputs["logits"], golden["logits2"], rtol=1e-4, atol=0.02)
    np.testing.assert_array_equal(outputs["features"], maps["layer4"])


def test_adaptsegnet_training(adaptsegnet):
    golden = np.load(GOLDEN / "adaptsegnet-ass/deeplab_multi_train_bn.npz")
    outputs, state = train(*adaptsegnet, nhwc(golden["image"]), "adaptsegnet")
    assert_map_close(outputs["aux_logits"], golden["logits1"], rtol=0, atol=0.02)
    assert_map_close(outputs["logits"], golden["logits2"], rtol=0, atol=0.02)
    names = [name for name in golden.files if ".running_" in name]
    assert names
    for name in names:
        np.testing.assert_allclose(state[name], golden[name], rtol=1e-4, atol=1e-3, err_msg=name)


def test_advent_evaluation(advent):
    golden = np.load(GOLDEN / "advent-intrada/deeplab_v2_multi_eval.npz")
    outputs, maps = evaluate(*advent, nhwc(golden["input"]))
    for ours, theirs in {"stem": "maxpool", **{f"layer{s}": f"layer{s}" for s in range(1, 5)}}.items():
        batch, channels, height, width = golden[f"{theirs}_shape"]
        assert maps[ours].shape == (batch, height, width, channels)
        np.testing.assert_allclose(maps[ours][0, 1, 1, :16], golden[f"{theirs}_first16"], rtol=0, atol=5e-3)
    assert_map_close(outputs["aux_logits"], golden["aux"], rtol=0, atol=5e-3)
    assert_map_close(outputs["logits"], golden["main"], rtol=0, atol=5e-3)
    # Where the two best logits differ by less than the tolerance, either may win.
    clear = np.diff(np.sort(golden["main"], axis=1)[:, -2:], axis=1).reshape(-1) > 2 * 5e-3
    assert clear.mean() > 0.9
    found, expected = outputs["logits"].argmax(-1).reshape(-1), golden["argmax_main"].reshape(-1)
    np.testing.assert_array_equal(found[clear], expected[clear])


def test_advent_training(advent):
    golden = np.load(GOLDEN / "advent-intrada/deeplab_v2_multi_train_bn.npz")
    outputs, state = train(*advent, nhwc(golden["input"]), "advent")
    assert_map_close(outputs["aux_logits"], golden["aux"], rtol=0, atol=3e-2)
    assert_map_close(outputs["logits"], golden["main"], rtol=0, atol=3e-2)
    modules = {
        "bn1": "bn1",
        "layer1_0_bn2": "layer1.0.bn2",
        "layer2_0_downsample_1": "layer2.0.downsample.1",
        "layer4_2_bn1": "layer4.2.bn1",
    }
    for theirs, name in modules.items():
        for kind in ("running_mean", "running_var"):
            expected = golden[f"{theirs}_{kind}"]
            np.testing.assert_allclose(state[f"{name}.{kind}"], expected, rtol=1e-3, atol=1e-3, err_msg=name)


def test_output_sizes(adaptsegnet):
    network, variables = adaptsegnet
    table = np.load(GOLDEN / "adaptsegnet-ass/output_sizes.npz")["table"].tolist()
    assert table
    for height, width, *expected in table:
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        outputs = jax.eval_shape(network.apply, variables, images)
        assert outputs["logits"].shape == outputs["aux_logits"].shape == (1, *expected, network.num_classes)


def test_adaptsegnet_discriminator():
    golden = np.load(GOLDEN / "adaptsegnet-ass/fc_discriminator.npz")
    variables = stand_in("adaptsegnet-ass", "fc_discriminator_manifest.json", "adaptsegnet_discriminator")
    network = discriminator(variables)

    def loss(x):
        logits = network.apply(variables, x)
        return jax.nn.softplus(logits).mean(), logits  # BCE with logits against the label 0

    with jax.default_matmul_precision("highest"):
        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(nhwc(golden["prob"]))
    assert_map_close(logits, golden["logit"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(value, golden["bce_label0"], rtol=1e-5)
    assert_map_close(gradient, golden["grad_prob_bce_label0"], rtol=1e-3, atol=1e-7)


def test_advent_discriminator():
    golden = np.load(GOLDEN / "advent-intrada/discriminator.npz")
    variables = stand_in("advent-intrada", "discriminator_manifest.json", "advent_discriminator")
    with jax.default_matmul_precision("highest"):
        logits = discriminator(variables).apply(variables, nhwc(golden["input"]))
    assert_map_close(logits, golden["output"], rtol=1e-4, atol=1e-5)
