"""What from_torch and to_torch refuse, each in one line, and what they tolerate."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks, weights
from uda_jax.errors import UserError


@pytest.fixture
def small():
    """A tiny network's variables and state dict: one block per stage, one head."""
    network = networks.build("deeplab_v2_resnet14", 3, width=2)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    return variables, weights.to_torch(variables, "advent")


def error(state_dict, dialect="advent"):
    """The one line with which a state dict is refused."""
    with pytest.raises(UserError) as caught:
        weights.from_torch(state_dict, dialect)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def renamed(state_dict, old, new):
    return {new if name == old else name: array for name, array in state_dict.items()}


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


ADVICE = "; check that the dialect is the right one"


def test_unknown_names(small):
    _, state_dict = small
    extra = np.zeros((10, 4), np.float32)
    assert error({**state_dict, "fc.weight": extra}) == f"advent weights: 'fc.weight' is unknown{ADVICE}"
    # A block number that no file can have is a stray name, not a reason to look for a thousand million blocks.
    name = "layer1.1000000000.conv1.weight"
    assert error({**state_dict, name: extra}) == f"advent weights: '{name}' is unknown{ADVICE}"
    six = {f"fc.{i}": extra for i in range(6)}
    listed = "'fc.0', 'fc.1', 'fc.2', 'fc.3', 'fc.4' and 1 more are unknown"
    assert error({**state_dict, **six}) == f"advent weights: {listed}{ADVICE}"


@pytest.mark.parametrize(
    "name", ["conv1.weight", "layer3.0.bn2.running_var", "layer2.0.downsample.0.weight", "layer6.conv2d_list.3.bias"]
)
def test_missing_name(small, name):
    _, state_dict = small
    del state_dict[name]
    assert error(state_dict) == f"advent weights: '{name}' is missing{ADVICE}"


def test_renamed_tensor(small):
    _, state_dict = small
    wrong = renamed(state_dict, "layer6.conv2d_list.0.weight", "layer6.conv2d_list.0.wieght")
    told = "'layer6.conv2d_list.0.wieght' is unknown, 'layer6.conv2d_list.0.weight' is missing"
    assert error(wrong) == f"advent weights: {told}{ADVICE}"
    # A dot of a template stands for itself.
    wrong = renamed(state_dict, "layer1.0.conv1.weight", "layer1x0.conv1.weight")
    told = "'layer1x0.conv1.weight' is unknown, 'layer1.0.conv1.weight' is missing"
    assert error(wrong) == f"advent weights: {told}{ADVICE}"


def test_missing_block(small):
    _, state_dict = small
    moved = {name.replace("layer3.0.c", "layer3.1.c"): array for name, array in state_dict.items()}
    listed = "'layer3.0.conv1.weight', 'layer3.0.conv2.weight', 'layer3.0.conv3.weight', 'layer3.1.bn1.weight'"
    assert error(moved).startswith(f"advent weights: {listed}, 'layer3.1.bn1.bias' and 10 more are missing")


def test_incomplete_second_head(small):
    _, state_dict = small
    head = {f"layer5.conv2d_list.{i}.weight": np.zeros((3, 32, 3, 3), np.float32) for i in range(4)}
    listed = ", ".join(f"'layer5.conv2d_list.{i}.bias'" for i in range(4))
    assert error({**state_dict, **head}) == f"advent weights: {listed} are missing{ADVICE}"


def test_other_dialect(small):
    _, state_dict = small
    # AdaptSegNet's only head is layer5.
    assert error(state_dict, "adaptsegnet").startswith("adaptsegnet weights: 'layer5.conv2d_list.0.weight'")
    assert error(state_dict, "advnt") == "weights dialect 'advnt' is unknown; did you mean 'advent'?"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", "(3, 2, 7, 7), expected (2, 3, 7, 7)"),
        ("layer3.0.conv1.weight", "(16, 8, 1, 1), expected (8, 16, 1, 1)"),
        ("layer4.0.conv3.weight", "(16, 64, 1, 1), expected (64, 16, 1, 1)"),
        ("layer2.0.downsample.0.weight", "(8, 16, 1, 1), expected (16, 8, 1, 1)"),
        ("layer6.conv2d_list.2.weight", "(64, 3, 3, 3), expected (3, 64, 3, 3)"),
    ],
)
def test_transposed_kernel(small, name, expected):
    _, state_dict = small
    state_dict[name] = state_dict[name].swapaxes(0, 1)
    assert error(state_dict) == f"advent weights: '{name}' has shape {expected} (out in height width)"


def test_wrong_shapes(small):
    _, state_dict = small
    wrong = {**state_dict, "conv1.weight": np.zeros((2, 3), np.float32)}
    assert error(wrong) == (
        "advent weights: 'conv1.weight' has shape (2, 3), expected (2, 3, 7, 7) (out in height width)"
    )
    wrong = {**state_dict, "layer1.0.bn1.running_var": np.zeros(5, np.float32)}
    assert error(wrong) == "advent weights: 'layer1.0.bn1.running_var' has shape (5,), expected (2,) (channels)"
    wrong = {**state_dict, "bn1.num_batches_tracked": np.zeros(1, np.int64)}
    assert error(wrong) == "advent weights: 'bn1.num_batches_tracked' has shape (1,), expected ()"
    # A kernel in Flax's order.
    wrong = {**state_dict, "layer1.0.conv2.weight": state_dict["layer1.0.conv2.weight"].transpose(2, 3, 1, 0)}
    assert "'layer1.0.conv2.weight' has shape (3, 3, 2, 2), expected (2, 2, 3, 3)" in error(wrong)


def test_transposed_kernel_of_published_width():
    _, state_dict = empty_two_level()
    state_dict["layer3.5.conv1.weight"] = state_dict["layer3.5.conv1.weight"].swapaxes(0, 1)
    told = "'layer3.5.conv1.weight' has shape (1024, 256, 1, 1), expected (256, 1024, 1, 1) (out in height width)"
    assert error(state_dict, "adaptsegnet") == f"adaptsegnet weights: {told}"


def empty_two_level():
    """A ResNet-101 with two heads that takes no memory: zero strides."""
    network = networks.build("deeplab_v2_resnet101", 19, multi_level=True)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    return variables, weights.to_torch(variables, "adaptsegnet")


def test_layer5_is_told_by_its_input_channels():
    variables, two = empty_two_level()
    assert two["layer5.conv2d_list.0.weight"].shape == (19, 1024, 3, 3)
    assert weights.from_torch(two, "adaptsegnet")["params"]["aux_head"]["branch_0"]["kernel"].shape[2] == 1024
    del variables["params"]["aux_head"]
    one = weights.to_torch(variables, "adaptsegnet")
    assert one["layer5.conv2d_list.0.weight"].shape == (19, 2048, 3, 3)
    assert not any(name.startswith("layer6") for name in one)
    assert weights.from_torch(one, "adaptsegnet")["params"]["head"]["branch_0"]["kernel"].shape[2] == 2048
    # A file that lost its layer6 does not pass for one with a single head, nor the other way round.
    lost = {name: array for name, array in two.items() if not name.startswith("layer6")}
    shape = "(19, 1024, 3, 3), expected (19, 2048, 3, 3)"
    for dialect in ("adaptsegnet", "dacs"):
        assert f"'layer5.conv2d_list.0.weight' has shape {shape}" in error(lost, dialect)
    mixed = {**two, **one}
    shape = "(19, 2048, 3, 3), expected (19, 1024, 3, 3)"
    assert f"'layer5.conv2d_list.0.weight' has shape {shape}" in error(mixed, "adaptsegnet")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_are_not_cast_silently(small, dtype):
    variables, state_dict = small
    name = "layer2.0.bn1.weight"
    wrong = {**state_dict, name: state_dict[name].astype(jnp.dtype(dtype))}
    assert error(wrong) == (
        f"advent weights: '{name}' is {dtype}, expected float32; convert the tensors first (weights.cast, uda convert "
        "--cast)"
    )
    variables["params"]["encoder"]["bn1"]["scale"] = np.ones(2, jnp.dtype(dtype))
    told = f"'params/encoder/bn1/scale' is {dtype}, expected float32; convert the variables first"
    with pytest.raises(UserError, match=re.escape(told)):
        weights.to_torch(variables, "advent")


def test_type_of_a_counter(small):
    _, state_dict = small
    state_dict["bn1.num_batches_tracked"] = np.zeros((), np.float16)
    assert error(state_dict).startswith("advent weights: 'bn1.num_batches_tracked' is float16, expected int64")


def test_wrong_variables(small):
    variables, _ = small
    extra = {**variables, "params": {**variables["params"], "extra": np.zeros(3, np.float32)}}
    with pytest.raises(UserError, match="advent weights: 'params/extra' is unknown"):
        weights.to_torch(extra, "advent")
    with pytest.raises(UserError, match="'batch_stats/encoder/bn1/mean', .* more are missing"):
        weights.to_torch({"params": variables["params"]}, "advent")
    kernel = variables["params"]["encoder"]["layer2_0"]["conv1"]
    kernel["kernel"] = kernel["kernel"].swapaxes(2, 3)
    told = "'params/encoder/layer2_0/conv1/kernel' has shape (1, 1, 4, 8), expected (1, 1, 8, 4) (height width in out)"
    with pytest.raises(UserError, match=re.escape(told)):
        weights.to_torch(variables, "advent")


def test_batch_norm_of_two_domains(small):
    variables, _ = small
    for branch in variables["params"]["head"].values():
        del branch["bias"]
    state_dict = weights.to_torch(variables, "plca")
    wrong = renamed(state_dict, "backbone.bn1.weight", "backbone.bn1.norm_layers.0.weight")
    assert error(wrong, "plca") == (
        "plca weights: 'backbone.bn1.norm_layers.0.weight' is a batch norm of one domain (0 source, 1 target); choose "
        "one with weights.select_domain or 'uda convert --domain'"
    )


def test_no_device_library_is_imported():
    code = "import sys, uda_jax.weights; print([m for m in ('jax', 'flax', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
