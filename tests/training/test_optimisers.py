"""Optimisers against PyTorch's trajectories, and the per-parameter rules on the real network's names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import vectors

from uda_jax import networks
from uda_jax.errors import UserError
from uda_jax.training import optimisers, schedules
from uda_jax.training.optimisers import Adam, Rule, Sgd
from uda_jax.training.precision import compute_dtype
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.load("adaptsegnet-ass/optimizer.npz")
SCHEDULE = Schedule(horizon=int(GOLDEN["max_iter"]))
BASE_RATE = float(GOLDEN["base_lr"])
CONSTANT = Schedule(name="constant")


def train(optimiser, params, gradients):
    """Returns the parameters after each step, from a compiled step."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = optimiser.init(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        trajectory.append(params)
    return trajectory


def segmenter_params():
    network = networks.build("deeplab_v2_resnet14", 3, multi_level=True, width=4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 17, 17, 3)))["params"]
    return {"segmenter": jax.tree.map(lambda x: jnp.full(x.shape, 0.5), shapes)}


def by_path(tree):
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree.leaves_with_path(tree)}


def test_golden_rate():
    rate = schedules.make(SCHEDULE, BASE_RATE)
    np.testing.assert_allclose([rate(i) for i in range(len(GOLDEN["lr"]))], GOLDEN["lr"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "path"),
    [
        ("sgd", Sgd(learning_rate=BASE_RATE), ("encoder", "layer1_0", "conv1", "kernel")),
        ("sgd", Sgd(learning_rate=BASE_RATE, head_multiplier=1.0), ("head", "branch_0", "bias")),
        ("sgd", Sgd(learning_rate=BASE_RATE, update_multiplicity="reference"), ("encoder", "conv1", "kernel")),
        (
            "sgd_multiplicity3",
            Sgd(learning_rate=BASE_RATE, update_multiplicity="reference"),
            ("encoder", "layer3_22", "conv2", "kernel"),
        ),
        (
            "sgd_multiplicity4",
            Sgd(learning_rate=BASE_RATE, update_multiplicity="reference"),
            ("encoder", "layer4_0", "downsample_0", "kernel"),
        ),
        ("adam", Adam(learning_rate=BASE_RATE), ("anything",)),
    ],
)
def test_golden_trajectory(name, config, path):
    def nest(leaf):
        for key in reversed(path):
            leaf = {key: leaf}
        return leaf

    params = nest(jnp.asarray(GOLDEN["param0"]))
    trajectory = train(optimisers.build(config, SCHEDULE, params), params, [nest(g) for g in GOLDEN["grads"]])
    for params, expected in zip(trajectory, GOLDEN[name], strict=True):
        np.testing.assert_allclose(jax.tree.leaves(params)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_repetition_equals_optax(nesterov):
    rate = schedules.make(Schedule(horizon=10), 0.1)
    ours = optimisers.torch_sgd(rate, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    theirs = optax.chain(
        optax.add_decayed_weights(0.01), optax.trace(0.9, nesterov=nesterov), optax.scale_by_learning_rate(rate)
    )
    params = {"w": jnp.array([0.3, -1.0, 2.0])}
    gradients = [{"w": jax.random.normal(jax.random.key(i), (3,))} for i in range(5)]
    for a, b in zip(train(ours, params, gradients), train(theirs, params, gradients), strict=True):
        np.testing.assert_allclose(a["w"], b["w"], rtol=1e-6)


def test_adam_weight_decay_is_added_to_the_gradient():
    params = {"kernel": jnp.array([2.0, -4.0])}
    zeros = {"kernel": jnp.zeros(2)}
    after = train(optimisers.build(Adam(learning_rate=0.1, weight_decay=0.5), CONSTANT, params), params, [zeros])[0]
    # The decay is all there is of the gradient, and Adam's first step has the length of the rate.
    np.testing.assert_allclose(after["kernel"], [1.9, -3.9], rtol=1e-5)


def test_rules_on_the_network():
    params = segmenter_params()
    groups = by_path(optimisers.assign_groups(params, Sgd(update_multiplicity="reference").rules()))
    expected = {
        "encoder/conv1/kernel": "stem",
        "encoder/bn1/scale": "frozen",
        "encoder/layer1_0/conv1/kernel": "convolutions",
        "encoder/layer4_0/conv3/kernel": "convolutions",
        "encoder/layer2_0/bn2/bias": "frozen",
        "encoder/layer3_0/downsample_0/kernel": "shortcuts",
        "encoder/layer3_0/downsample_1/scale": "frozen",
        "head/branch_3/kernel": "head",
        "aux_head/branch_0/bias": "head",
    }
    for path, group in expected.items():
        assert groups[f"segmenter/{path}"] == group
    counts = {group: list(groups.values()).count(group) for group in set(groups.values())}
    # Four blocks of three convolutions and one shortcut; 1 + 4 * 4 batch norms; two heads of four branches.
    assert counts == {"stem": 1, "convolutions": 12, "shortcuts": 4, "frozen": 34, "head": 16}
    trained = by_path(optimisers.assign_groups(params, Sgd(train_norm_affine=True).rules()))
    assert trained["segmenter/encoder/bn1/scale"] == "backbone" and "frozen" not in trained.values()
    repeated = Sgd(train_norm_affine=True, update_multiplicity="reference").rules()
    repeated = by_path(optimisers.assign_groups(params, repeated))
    assert repeated["segmenter/encoder/bn1/bias"] == "stem"
    assert repeated["segmenter/encoder/layer1_0/downsample_1/scale"] == "shortcuts"


def test_first_match_wins_and_nothing_is_unmatched():
    params = {"a": {"kernel": 0.0, "bias": 0.0}}
    rules = (Rule("biases", "bias"), Rule("rest", "a/"))
    assert optimisers.assign_groups(params, rules) == {"a": {"kernel": "rest", "bias": "biases"}}
    assert optimisers.assign_groups(params, rules[::-1]) == {"a": {"kernel": "rest", "bias": "rest"}}
    with pytest.raises(UserError, match="expected parameter 'a/kernel' to be in one of biases, got no match"):
        optimisers.assign_groups(params, rules[:1])
    with pytest.raises(UserError, match="'strange/table'"):
        optimisers.build(Sgd(), SCHEDULE, {"strange": {"table": 0.0}})
    # Another network has no known multiplicity.
    with pytest.raises(UserError, match="'encoder/fc6/kernel'"):
        optimisers.build(Sgd(update_multiplicity="reference"), SCHEDULE, {"encoder": {"fc6": {"kernel": 0.0}}})


def test_new_branches_train_as_heads():
    """CorDA's own batch norms train, those of its encoder do not; DADA's depth branch takes the heads' rate."""
    for name, branches in [
        ("corda_resnet14", {"correlation", "depth_features", "segmentation_features", "depth_head", "aux_depth_head"}),
        ("dada_resnet14", {"depth_branch"}),
    ]:
        network = networks.build(name, 5, width=2)
        params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        groups = by_path(optimisers.assign_groups({"segmenter": params}, Sgd(update_multiplicity="reference").rules()))
        parts = {group: {path.split("/")[1] for path, g in groups.items() if g == group} for group in groups.values()}
        assert parts["head"] > branches and "encoder" not in parts["head"]
        assert parts["frozen"] == parts["stem"] == parts["convolutions"] == parts["shortcuts"] == {"encoder"}


def test_frozen_parameters_never_change_and_hold_no_state():
    params = segmenter_params()
    optimiser = optimisers.build(Sgd(), CONSTANT, params, accumulation=2, frozen=(r"head/branch_[23]/",))
    state = optimiser.init(params)
    held = {path for path in by_path(state) if "frozen" in path or "bn" in path or "branch_3" in path}
    assert not held
    ones = jax.tree.map(jnp.ones_like, params)
    after = by_path(train(optimiser, params, [ones] * 4)[-1])
    for path, before in by_path(params).items():
        still = "bn" in path or "downsample_1" in path or "branch_2" in path or "branch_3" in path
        assert np.array_equal(after[path], before) == still, path


def test_head_moves_ten_times_as_fast():
    params = jax.tree.map(jnp.zeros_like, segmenter_params())
    after = train(optimisers.build(Sgd(), SCHEDULE, params), params, [jax.tree.map(jnp.ones_like, params)])[0]
    after = by_path(after)
    np.testing.assert_allclose(after["segmenter/encoder/conv1/kernel"], -2.5e-4, rtol=1e-5)
    np.testing.assert_allclose(after["segmenter/head/branch_0/kernel"], -2.5e-3, rtol=1e-5)
    np.testing.assert_allclose(after["segmenter/aux_head/branch_1/bias"], -2.5e-3, rtol=1e-5)


@pytest.mark.parametrize("config", [Sgd(learning_rate=0.1), Adam(learning_rate=0.1)])
def test_accumulation_is_one_update_with_the_mean_gradient(config):
    params = {"kernel": jnp.array([1.0, -2.0])}
    gradients = [{"kernel": jnp.array(g)} for g in ([1.0, 0.0], [3.0, 2.0], [-1.0, 5.0], [0.5, -1.0])]
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *gradients[i : i + 2]) for i in (0, 2)]
    # The horizon counts gradients: 8 of them are 4 updates.
    accumulated = train(optimisers.build(config, Schedule(horizon=8), params, accumulation=2), params, gradients)
    expected = train(optimisers.build(config, Schedule(horizon=4), params), params, means)
    np.testing.assert_array_equal(accumulated[0]["kernel"], params["kernel"])
    for got, want in zip((accumulated[1], accumulated[3]), expected, strict=True):
        np.testing.assert_allclose(got["kernel"], want["kernel"], rtol=1e-6)


def test_precision_names():
    assert compute_dtype("fp32") == jnp.float32 and compute_dtype("bf16") == jnp.bfloat16
    with pytest.raises(ValueError, match="expected one of fp32, bf16, got 'fp16'"):
        compute_dtype("fp16")
