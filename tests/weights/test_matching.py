"""Loading converted weights into a network: everything fits or is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks, weights
from uda_jax.errors import UserError


def initialised(num_classes=3, **options):
    """A tiny network's variables, all zero."""
    network = networks.build("deeplab_v2_resnet14", num_classes, width=2, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def network():
    return initialised()


@pytest.fixture
def converted(network):
    """Weights of the same network, all one."""
    return jax.tree.map(np.ones_like, network)


def error(*args, **options):
    with pytest.raises(UserError) as caught:
        weights.fit(*args, where="w.pth", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_fits(network, converted):
    merged, report = weights.fit(converted, network, where="w.pth")
    jax.tree.map(np.testing.assert_array_equal, merged, converted)
    assert len(report.loaded) == len(jax.tree.leaves(network))
    assert (report.skipped, report.missing, report.unused) == ({}, (), ())


def test_head_of_other_classes_is_skipped_and_told(network, converted):
    converted["params"]["head"] = initialised(num_classes=21)["params"]["head"]
    merged, report = weights.fit(converted, network, fresh=["head"], where="w.pth")
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["head"], network["params"]["head"])
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["encoder"], converted["params"]["encoder"])
    assert report.skipped["params/head/branch_0/bias"] == ((21,), (3,))
    assert str(report).splitlines() == [
        "loaded: 85 arrays (encoder 85)",
        "kept as initialised, though in the weights: 8 arrays (head 8); 'params/head/branch_0/bias' has shape (21,) in "
        "the weights, (3,) in the network",
        "kept as initialised, missing from the weights: none",
        "unused: none",
    ]


def test_a_fresh_part_keeps_its_start_though_the_shape_fits(network, converted):
    merged, report = weights.fit(converted, network, fresh=["head", "encoder/bn1"], where="w.pth")
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["head"], network["params"]["head"])
    assert set(merged["batch_stats"]["encoder"]["bn1"]["mean"].tolist()) == {0.0}
    # encoder/bn1 is not the start of encoder/bn10: names are compared part by part.
    assert len(report.skipped) == 8 + 4


def test_missing_head(network, converted):
    del converted["params"]["head"]
    told = "'params/head/branch_0/bias', 'params/head/branch_0/kernel' and 6 more are missing from the weights"
    advice = "check the network's name and options, or name parts that start afresh"
    assert error(converted, network) == f"w.pth: {told}; {advice}"
    merged, report = weights.fit(converted, network, fresh=["head"], where="w.pth")
    assert len(report.missing) == 8
    assert merged["params"]["head"]["branch_0"]["kernel"] is network["params"]["head"]["branch_0"]["kernel"]


def test_shape_of_the_backbone(network, converted):
    block = converted["params"]["encoder"]["layer2_0"]["conv1"]
    block["kernel"] = np.zeros((1, 1, 8, 5), np.float32)
    told = "'params/encoder/layer2_0/conv1/kernel' has shape (1, 1, 8, 5), the network's (1, 1, 8, 4)"
    assert error(converted, network, fresh=["head"]) == f"w.pth: {told}; check the network's name and options"


def test_weights_of_a_deeper_network(network, converted):
    converted["params"]["encoder"]["layer3_1"] = {"conv1": {"kernel": np.zeros((1, 1, 4, 4), np.float32)}}
    told = "'params/encoder/layer3_1/conv1/kernel' is not in the network"
    assert error(converted, network, fresh=["head"]).startswith(f"w.pth: {told}; ")


def test_leftovers(network, converted):
    converted["params"]["fc"] = {"kernel": np.zeros((64, 10), np.float32)}
    converted["params"]["aux_head"] = converted["params"]["head"]
    _, report = weights.fit(converted, network, where="w.pth")
    assert str(report).splitlines()[-1] == "unused: 9 arrays (fc 1, aux_head 8)"
    # An earlier head is a leftover only where the network has none.
    assert "'params/aux_head/branch_0/bias'" in error(
        {**converted, "params": {k: v for k, v in converted["params"].items() if k != "aux_head"}},
        initialised(multi_level=True),
    )


def test_part_that_the_network_does_not_have(network, converted):
    told = "the network has no part 'haed' to start afresh; did you mean 'head'?"
    assert error(converted, network, fresh=["haed"]) == f"w.pth: {told}"


def test_an_optional_part_that_a_network_does_without_is_no_mistake(network, converted):
    """A network of one head starts from the file of one of two, and from the list of what starts afresh there."""
    _, report = weights.fit(converted, network, fresh=["head", "aux_head", "depth_head"], where="w.pth")
    assert report.missing == () and len(report.skipped) == 8
    assert "the network has no part 'aux_hed' to start afresh" in error(converted, network, fresh=["aux_hed"])
