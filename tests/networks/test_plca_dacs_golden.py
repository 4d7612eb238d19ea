"""The single-head ResNet-101 of PLCA and of DACS against outputs of the released PyTorch code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nchw, nhwc, relative_error

from uda_jax import networks, weights

GOLDEN = vectors.FOLDER
PLCA = GOLDEN / "plca"
DACS = GOLDEN / "dacs-corda"


def plca_network(num_classes):
    return networks.build("deeplab_v2_resnet101", num_classes, aspp_bias=False, head_init="uniform")


def resized(manifest, classifier, num_classes):
    """The shapes of a manifest, the classifier widened or narrowed to `num_classes`."""
    return {
        name: [num_classes, *shape[1:]] if name.startswith(classifier) else shape for name, shape in manifest.items()
    }


def plca_manifest(num_classes):
    return resized(vectors.manifest("plca/network_manifest.json"), "classifier.", num_classes)


def dacs_manifest(num_classes):
    return resized(vectors.manifest("dacs-corda/network_dacs_manifest.json"), "layer5.", num_classes)


def trainable(manifest):
    """Returns the number of parameters of a manifest, running statistics and counters left out."""
    skipped = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for name, shape in manifest.items() if name.rpartition(".")[2] not in skipped)


@pytest.fixture(scope="module")
def plca_training():
    """The arrays of `network_train_bn`, our logits of both forwards, and the state dict after them."""
    golden = np.load(PLCA / "network_train_bn.npz")
    network = plca_network(golden["logits_target"].shape[1])
    variables = weights.from_torch(vectors.stand_in_state_dict(plca_manifest(network.num_classes)), "plca")
    step = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
    logits = {}
    for domain in ("target", "source"):
        with jax.default_matmul_precision("highest"):
            outputs, updated = step(variables, nhwc(golden[f"image_{domain}"]))
        logits[domain] = outputs["logits"]
        variables = {**variables, **updated}
    return golden, logits, weights.to_torch(variables, "plca")


def test_plca_evaluation():
    golden = np.load(PLCA / "network.npz")
    network = plca_network(golden["logits"].shape[1])
    variables = weights.from_torch(vectors.stand_in_state_dict(plca_manifest(network.num_classes)), "plca")
    both = jax.jit(lambda v, x: network.apply(v, x, method=lambda m, x: (m(x), m.encoder(x)["layer3"])))
    with jax.default_matmul_precision("highest"):
        outputs, layer3 = both(variables, nhwc(golden["image"]))
    np.testing.assert_allclose(nchw(outputs["logits"]), golden["logits"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(nchw(outputs["features"])[:, ::32], golden["feat_every_32nd"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(nchw(layer3)[:, ::32], golden["aux_feat_every_32nd"], rtol=0, atol=1e-3)


def test_plca_training_logits(plca_training):
    golden, logits, _ = plca_training
    for domain, ours in logits.items():
        assert relative_error(nchw(ours), golden[f"logits_{domain}"]) <= 5e-3


def test_plca_running_statistics(plca_training):
    golden, _, state = plca_training
    names = [name for name in golden.files if ".running_" in name]
    assert names
    for name in names:
        expected = golden[name]
        assert relative_error(state[name][: len(expected)], expected) <= 1e-3, name


@pytest.mark.parametrize("file", sorted(PLCA.glob("inference_aggregated*.npz")), ids=lambda file: file.stem)
def test_plca_classifier(file):
    golden = np.load(file)
    state_dict = vectors.stand_in(PLCA / f"{file.stem}_manifest.json")
    head = {
        f"branch_{i}": {"kernel": state_dict[f"classifier.0.convs.{i}.0.weight"].transpose(2, 3, 1, 0)}
        for i in range(4)
    }
    network = plca_network(golden["logits_plain"].shape[1])
    with jax.default_matmul_precision("highest"):
        plain, mixed = (
            network.apply({"params": {"head": head}}, nhwc(golden[name]), method="classify")
            for name in ("feat", "feat_mixed")
        )
    np.testing.assert_allclose(nchw(plain), golden["logits_plain"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(nchw(jax.nn.softmax(mixed)), golden["probs_before"], rtol=0, atol=1e-5)


def test_dacs_evaluation():
    golden = np.load(DACS / "network_dacs.npz")
    # The image is stored once for all networks of this folder.
    images = nhwc(np.load(DACS / "network_synthia.npz")["image"])
    state_dict = vectors.stand_in("dacs-corda/network_dacs_manifest.json")
    network = networks.build("deeplab_v2_resnet101", golden["logits"].shape[1], aspp_branches=2)
    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(network.apply)(weights.from_torch(state_dict, "dacs"), images)
    np.testing.assert_allclose(nchw(outputs["logits"]), golden["logits"], rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("manifest", "num_classes", "options", "count"),
    [
        (plca_manifest(19), 19, {"aspp_bias": False}, 43_900_992),
        (dacs_manifest(19), 19, {"aspp_branches": 2}, 43_901_068),
    ],
    ids=["plca", "dacs"],
)
def test_parameter_counts(manifest, num_classes, options, count):
    network = networks.build("deeplab_v2_resnet101", num_classes, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 65, 97, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count == trainable(manifest)
