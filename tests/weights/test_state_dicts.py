"""State dicts of the published layouts go to Flax and back bit for bit; mistakes are named."""

import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks, weights
from uda_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
stand_in_state_dict = runpy.run_path(str(GOLDEN / "torch_weights.py"))["stand_in_state_dict"]
MANIFESTS = {
    "adaptsegnet": "adaptsegnet-ass/deeplab_multi_manifest.json",
    "adaptsegnet_discriminator": "adaptsegnet-ass/fc_discriminator_manifest.json",
    "advent": "advent-intrada/deeplab_v2_multi_manifest.json",
    "advent_discriminator": "advent-intrada/discriminator_manifest.json",
}


def network_of(dialect):
    if dialect.endswith("discriminator"):
        return networks.build("pixel_discriminator", 19), 19
    return networks.build("deeplab_v2_resnet101", 19, multi_level=True), 3


@pytest.fixture(scope="module", params=sorted(MANIFESTS))
def case(request):
    manifest = json.loads((GOLDEN / MANIFESTS[request.param]).read_text())
    return request.param, stand_in_state_dict(manifest)


@pytest.fixture
def small():
    """A tiny network's variables and state dict: one block per stage, one head."""
    network = networks.build("deeplab_v2_resnet14", 3, width=2)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    return variables, weights.to_torch(variables, "advent")


def test_every_manifest_has_a_dialect():
    assert weights.dialects() == sorted(MANIFESTS)


def test_round_trip(case):
    dialect, state_dict = case
    back = weights.to_torch(weights.from_torch(state_dict, dialect), dialect)
    assert list(back) == list(state_dict)
    for name, array in state_dict.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_variables_fit_the_network(case):
    dialect, state_dict = case
    network, channels = network_of(dialect)
    expected = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, channels)))
    shapes = jax.tree.map(np.shape, weights.from_torch(state_dict, dialect))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, expected)


def test_kernels_are_views(case):
    dialect, state_dict = case
    kernels = [leaf for leaf in jax.tree.leaves(weights.from_torch(state_dict, dialect)) if leaf.ndim == 4]
    originals = [array for array in state_dict.values() if array.ndim == 4]
    assert len(kernels) == len(originals)
    assert all(kernel.base is not None for kernel in kernels)


def test_layouts(small):
    variables, state_dict = small
    assert state_dict["layer2.0.conv2.weight"].shape == (4, 4, 3, 3)
    kernel = variables["params"]["encoder"]["layer2_0"]["conv2"]["kernel"]
    assert state_dict["layer2.0.conv2.weight"][1, 2, 0, 1] == kernel[0, 1, 2, 1]
    counter = state_dict["layer4.0.downsample.1.num_batches_tracked"]
    assert (counter.dtype, counter.shape, int(counter)) == (np.int64, (), 0)
    assert "layer5.conv2d_list.0.weight" not in state_dict
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch(state_dict, "advent"), variables)


def test_files_without_counters(small):
    variables, state_dict = small
    old = {name: array for name, array in state_dict.items() if not name.endswith("num_batches_tracked")}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch(old, "advent"), variables)


def test_unknown_name(small):
    _, state_dict = small
    with pytest.raises(UserError, match=r"advent weights: no rule knows 'fc\.weight'"):
        weights.from_torch({**state_dict, "fc.weight": np.zeros((10, 4))}, "advent")
    with pytest.raises(UserError, match=r"no rule knows 'layer1x0\.conv1\.weight'"):
        weights.from_torch({**state_dict, "layer1x0.conv1.weight": np.zeros((1, 1, 1, 1))}, "advent")


@pytest.mark.parametrize(
    "name", ["conv1.weight", "layer3.0.bn2.running_var", "layer2.0.downsample.0.weight", "layer6.conv2d_list.3.bias"]
)
def test_missing_name(small, name):
    _, state_dict = small
    del state_dict[name]
    with pytest.raises(UserError, match=f"advent weights: '{name}' is missing"):
        weights.from_torch(state_dict, "advent")


def test_missing_block(small):
    _, state_dict = small
    moved = {name.replace("layer3.0.c", "layer3.1.c"): array for name, array in state_dict.items()}
    with pytest.raises(UserError, match=r"'layer3\.0\.conv1\.weight' is missing"):
        weights.from_torch(moved, "advent")


def test_incomplete_optional_head(small):
    _, state_dict = small
    with pytest.raises(UserError, match=r"'layer5\.conv2d_list\.0\.bias' is missing"):
        weights.from_torch({**state_dict, "layer5.conv2d_list.0.weight": np.zeros((3, 32, 3, 3))}, "advent")


def test_wrong_rank(small):
    variables, state_dict = small
    state_dict["conv1.weight"] = np.zeros((2, 3))
    with pytest.raises(UserError, match=r"'conv1\.weight': expected 4 dimensions .* got shape \(2, 3\)"):
        weights.from_torch(state_dict, "advent")


def test_wrong_variables(small):
    variables, _ = small
    with pytest.raises(UserError, match="no rule knows 'params/extra'"):
        weights.to_torch({**variables, "params": {**variables["params"], "extra": np.zeros(3)}}, "advent")
    with pytest.raises(UserError, match="'batch_stats/encoder/bn1/mean' is missing"):
        weights.to_torch({"params": variables["params"]}, "advent")


def test_unknown_dialect():
    with pytest.raises(UserError, match="weights dialect 'advnt' is unknown; did you mean 'advent'"):
        weights.from_torch({}, "advnt")
