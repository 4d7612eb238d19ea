"""Optimisers against PyTorch's trajectories, and the per-parameter rules on the real network's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from trajectories import train

from uda_jax import config, networks
from uda_jax.errors import UserError
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers, schedules
from uda_jax.training.optimisers import Optimiser, Rule, adam, adamw, sgd
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.load("adaptsegnet-ass/optimizer.npz")
SCHEDULE = Schedule(horizon=int(GOLDEN["max_iter"]))
BASE_RATE = float(GOLDEN["base_lr"])
CONSTANT = Schedule(name="constant")


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
        ("sgd", sgd(learning_rate=BASE_RATE), ("encoder", "layer1_0", "conv1", "kernel")),
        ("sgd", sgd(learning_rate=BASE_RATE, head_multiplier=1.0), ("head", "branch_0", "bias")),
        ("sgd", sgd(learning_rate=BASE_RATE, update_multiplicity="reference"), ("encoder", "conv1", "kernel")),
        (
            "sgd_multiplicity3",
            sgd(learning_rate=BASE_RATE, update_multiplicity="reference"),
            ("encoder", "layer3_22", "conv2", "kernel"),
        ),
        (
            "sgd_multiplicity4",
            sgd(learning_rate=BASE_RATE, update_multiplicity="reference"),
            ("encoder", "layer4_0", "downsample_0", "kernel"),
        ),
        ("adam", adam(learning_rate=BASE_RATE), ("anything",)),
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


def test_the_form_of_repeated_decay_reaches_the_update():
    """What is listed three times differs by the form, a head does not; both forms by hand after one step."""
    params = {"encoder": {"layer1_0": {"conv1": {"kernel": jnp.array(4.0)}}}, "head": {"kernel": jnp.array(4.0)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    options = {"learning_rate": 0.5, "weight_decay": 0.5, "momentum": 0.0, "head_multiplier": 1.0}
    # Fixed: 4 * 0.75 ** 3. Accumulating: g = 2, p = 3; g = 3.5, p = 1.25; g = 4.125, p = -0.8125.
    for form, expected in (("fixed", 1.6875), ("accumulating", -0.8125)):
        section = sgd(**options, update_multiplicity="reference", repeated_decay=form)
        (after,) = train(optimisers.build(section, CONSTANT, params), params, [zeros])
        assert float(after["encoder"]["layer1_0"]["conv1"]["kernel"]) == expected
        assert float(after["head"]["kernel"]) == 3.0


def test_adam_weight_decay_is_added_to_the_gradient():
    params = {"kernel": jnp.array([2.0, -4.0])}
    zeros = {"kernel": jnp.zeros(2)}
    after = train(optimisers.build(adam(learning_rate=0.1, weight_decay=0.5), CONSTANT, params), params, [zeros])[0]
    # The decay is all there is of the gradient, and Adam's first step has the length of the rate.
    np.testing.assert_allclose(after["kernel"], [1.9, -3.9], rtol=1e-5)


def test_rules_on_the_network():
    params = segmenter_params()
    groups = by_path(optimisers.assign_groups(params, sgd(update_multiplicity="reference").rules()))
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
    trained = by_path(optimisers.assign_groups(params, sgd(train_norm_affine=True).rules()))
    assert trained["segmenter/encoder/bn1/scale"] == "backbone" and "frozen" not in trained.values()
    repeated = sgd(train_norm_affine=True, update_multiplicity="reference").rules()
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
    # Another network has no known multiplicity.
    with pytest.raises(UserError, match="'encoder/fc6/kernel'"):
        optimisers.build(sgd(update_multiplicity="reference"), SCHEDULE, {"encoder": {"fc6": {"kernel": 0.0}}})


def test_new_branches_train_as_heads():
    """CorDA's own batch norms train, those of its encoder do not; DADA's depth branch takes the heads' rate."""
    for name, branches in [
        ("corda_resnet14", {"correlation", "depth_features", "segmentation_features", "depth_head", "aux_depth_head"}),
        ("dada_resnet14", {"depth_branch"}),
    ]:
        network = networks.build(name, 5, width=2)
        params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        groups = by_path(optimisers.assign_groups({"segmenter": params}, sgd(update_multiplicity="reference").rules()))
        parts = {group: {path.split("/")[1] for path, g in groups.items() if g == group} for group in groups.values()}
        assert parts["head"] > branches and "encoder" not in parts["head"]
        assert parts["frozen"] == parts["stem"] == parts["convolutions"] == parts["shortcuts"] == {"encoder"}


def test_frozen_parameters_never_change_and_hold_no_state():
    params = segmenter_params()
    optimiser = optimisers.build(sgd(), CONSTANT, params, accumulation=2, frozen=(r"head/branch_[23]/",))
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
    after = train(optimisers.build(sgd(), SCHEDULE, params), params, [jax.tree.map(jnp.ones_like, params)])[0]
    after = by_path(after)
    np.testing.assert_allclose(after["segmenter/encoder/conv1/kernel"], -2.5e-4, rtol=1e-5)
    np.testing.assert_allclose(after["segmenter/head/branch_0/kernel"], -2.5e-3, rtol=1e-5)
    np.testing.assert_allclose(after["segmenter/aux_head/branch_1/bias"], -2.5e-3, rtol=1e-5)


@pytest.mark.parametrize("config", [sgd(learning_rate=0.1), adam(learning_rate=0.1)])
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


def test_parameters_of_any_name_train_with_the_part_they_lie_in():
    names = ("pos_embed", "cls_token", "gamma", "kernel")
    params = {"segmenter": {part: {"block1": dict.fromkeys(names, 0.0)} for part in ("encoder", "decoder")}}
    for section in (sgd(), adamw(head_multiplier=10.0)):
        groups = by_path(optimisers.assign_groups(params, section.rules()))
        for path, group in groups.items():
            assert group == ("backbone" if "/encoder/" in path else "head")
    assert set(by_path(optimisers.assign_groups(params, adam().rules())).values()) == {"all"}


def test_defaults_by_name():
    assert (sgd().learning_rate, sgd().weight_decay, sgd().head_multiplier) == (2.5e-4, 5e-4, 10.0)
    assert (sgd().momentum, sgd().nesterov, sgd().update_multiplicity) == (0.9, False, "off")
    assert sgd().repeated_decay == "fixed"
    assert (adam().learning_rate, adam().beta1, adam().beta2, adam().epsilon) == (1e-4, 0.9, 0.99, 1e-8)
    assert (adamw().learning_rate, adamw().weight_decay, adamw().beta2) == (6e-5, 0.01, 0.999)
    assert (adam().weight_decay, adam().head_multiplier, adamw().head_multiplier) == (0.0, 1.0, 1.0)
    assert (sgd().train_norm_affine, adam().train_norm_affine, adamw().train_norm_affine) == (False, True, True)
    for section in (sgd(), adam(), adamw()):
        assert (section.layer_decay, section.clip_norm, section.groups) == (1.0, 0.0, ())
    assert Optimiser() == sgd() and Optimiser(name="adam") == adam() and isinstance(adam(), Optimiser)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adam", "momentum": 0.5}, "o.momentum: unknown field of 'adam'; known: beta1, beta2, clip_norm"),
        ({"name": "sgd", "beta1": 0.5}, "o.beta1: unknown field of 'sgd'"),
        ({"name": "adamw", "update_multiplicity": "reference"}, "o.update_multiplicity: unknown field of 'adamw'"),
        ({"repeated_decay": "old"}, "o.repeated_decay: expected one of 'fixed', 'accumulating', got 'old'"),
        ({"name": "adamx"}, "o.name: unknown name 'adamx'; did you mean 'adam'?"),
        ({"layer_decay": 1.5}, "o.layer_decay: expected a number <= 1.0, got 1.5"),
        ({"clip_norm": -1}, "o.clip_norm: expected a number >= 0.0, got -1.0"),
        ({"groups": [("x", -1.0, None)]}, "o.groups[0][1]: expected a number >= 0.0, got -1.0"),
        ({"groups": [("x", 1.0)]}, "o.groups[0]: expected 3 values, got 2: ('x', 1.0)"),
        ({"groups": [("a", 1, None), ("(", 1, None)]}, "o.groups[1]: expected a regular expression, got '('"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(UserError) as caught:
        from_mapping(Optimiser, values, "o")
    assert str(caught.value).startswith(message)


def test_words_of_the_command_line():
    def section(*words):
        found = config.load("advent:smoke", [f"--config.method.{word}" for word in words]).method.to_dict()
        return from_mapping(Optimiser, found["optimiser"]), from_mapping(Optimiser, found["discriminator"]["optimiser"])

    segmenters, discriminators = section("optimiser.learning_rate=0.1", "discriminator.optimiser.beta1=0.5")
    assert (segmenters.name, segmenters.learning_rate) == ("sgd", 0.1)
    assert (discriminators.name, discriminators.beta1, discriminators.learning_rate) == ("adam", 0.5, 2e-3)
    groups = "optimiser.groups=(('bias$',2.0,0.0),('conv1',0.0,None))"
    assert section(groups)[0].groups == (("bias$", 2.0, 0.0), ("conv1", 0.0, None))
    # What the config sets stays, its defaults become those of the new name, and momentum is gone.
    segmenters, _ = section("optimiser.beta1=0.8", "optimiser.name=adamw")
    assert segmenters == adamw(learning_rate=0.2, beta1=0.8)
    with pytest.raises(UserError, match="config.method.optimiser.momentum: unknown field; known: beta1"):
        section("optimiser.name=adamw", "optimiser.momentum=0.5")


def adamw_by_hand(params, gradients, rate, beta1, beta2, epsilon, decay):
    """torch.optim.AdamW: the parameter shrinks by rate * decay, then takes Adam's step."""
    trajectory, mean, square = [], 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        params = params * (1 - rate * decay)
        mean, square = beta1 * mean + (1 - beta1) * gradient, beta2 * square + (1 - beta2) * gradient**2
        root = np.sqrt(square) / np.sqrt(1 - beta2**step) + epsilon
        params = params - rate / (1 - beta1**step) * mean / root
        trajectory.append(params)
    return trajectory


def test_adamw_is_pytorchs():
    """Every parameter decays, biases and norms included, by the share of the rate; the gradient does not matter."""
    numbers = np.array([1.5, -2.0, 0.1])
    gradients = [np.array(g) for g in ([0.3, -1.0, 0.0], [2.0, 0.5, 0.0])]
    section = adamw(learning_rate=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.25)
    for path in (("encoder", "conv1", "kernel"), ("encoder", "bn1", "bias"), ("head", "pos_embed")):
        nest = lambda leaf, path=path: functools.reduce(lambda x, key: {key: x}, reversed(path), jnp.asarray(leaf))  # noqa: E731
        params = nest(jnp.asarray(numbers, jnp.float32))
        found = train(optimisers.build(section, CONSTANT, params), params, [nest(g) for g in gradients])
        expected = adamw_by_hand(numbers, gradients, 0.1, 0.8, 0.95, 1e-3, 0.25)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(jax.tree.leaves(got)[0], want, rtol=1e-5)


def test_groups_come_before_the_other_rules():
    params = jax.tree.map(jnp.ones_like, segmenter_params())
    groups = (("head/branch_0/kernel", 0.0, None), ("head/.*kernel", 2.0, 0.5), ("bn1", 3.0, 0.0))
    section = sgd(learning_rate=0.1, weight_decay=0.25, groups=groups)
    optimiser = optimisers.build(section, CONSTANT, params, frozen=("head/branch_3",))
    zeros = jax.tree.map(jnp.zeros_like, params)
    after = by_path(train(optimiser, params, [zeros])[0])
    # Without a gradient the step is rate * multiple * decay.
    expected = {
        "encoder/conv1/kernel": 0.1 * 0.25,
        "head/branch_0/kernel": 0.0,
        "head/branch_1/kernel": 0.1 * 2 * 0.5,
        "head/branch_3/kernel": 0.0,
        "head/branch_1/bias": 0.1 * 10 * 0.25,
        "encoder/bn1/scale": 0.0,
        "encoder/layer1_0/bn2/scale": 0.0,
    }
    for path, step in expected.items():
        np.testing.assert_allclose(after[f"segmenter/{path}"], 1 - step, rtol=1e-6, err_msg=path)
    # The first norm is no longer frozen but trains, at three times the rate.
    after = by_path(train(optimiser, params, [jax.tree.map(jnp.ones_like, params)])[0])
    np.testing.assert_allclose(after["segmenter/encoder/bn1/scale"], 1 - 0.1 * 3, rtol=1e-6)
    np.testing.assert_array_equal(after["segmenter/encoder/layer1_0/bn2/scale"], 1.0)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_norm_of_all_that_trains_is_clipped(accumulation):
    """Clipped is the mean gradient, together for all groups; what is frozen adds nothing to the norm."""
    params = {"encoder": {"conv1": {"kernel": jnp.zeros(2)}, "bn1": {"scale": jnp.zeros(1)}}, "head": jnp.zeros(1)}
    section = sgd(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=2.5)
    optimiser = optimisers.build(section, CONSTANT, params, accumulation=accumulation)

    def gradient(scale):
        kernel, head = jnp.array([3.0, 0.0]) * scale, jnp.array([4.0]) * scale
        return {"encoder": {"conv1": {"kernel": kernel}, "bn1": {"scale": jnp.array([100.0])}}, "head": head}

    # Norm 5 is halved, whether of one gradient or of the mean of two, of which each alone would be cut otherwise.
    scales = [1.0] if accumulation == 1 else [0.4, 1.6]
    after = train(optimiser, params, [gradient(scale) for scale in scales])[-1]
    np.testing.assert_allclose(after["encoder"]["conv1"]["kernel"], [-1.5, 0.0], rtol=1e-5)
    np.testing.assert_allclose(after["head"], [-20.0], rtol=1e-5)
    np.testing.assert_array_equal(after["encoder"]["bn1"]["scale"], 0.0)
    # A short gradient stays as it is.
    after = train(optimiser, params, [gradient(0.1)] * accumulation)[-1]
    np.testing.assert_allclose(after["encoder"]["conv1"]["kernel"], [-0.3, 0.0], rtol=1e-5)
    assert not [path for path in by_path(optimiser.init(params)) if "bn1" in path]


def test_layer_decay_follows_the_networks_order():
    params = jax.tree.map(jnp.zeros_like, segmenter_params())
    section = sgd(learning_rate=1.0, layer_decay=0.5, groups=(("layer2_", 3.0, None),))
    depth = networks.layer_depth("deeplab_v2_resnet14")
    optimiser = optimisers.build(section, CONSTANT, params, depth=depth)
    after = by_path(train(optimiser, params, [jax.tree.map(jnp.ones_like, params)])[0])
    # Stem, four stages, heads: five layers below the heads, which train ten times as fast as ever.
    expected = {
        "encoder/conv1/kernel": 0.5**5,
        "encoder/layer1_0/conv1/kernel": 0.5**4,
        "encoder/layer2_0/conv3/kernel": 3 * 0.5**3,
        "encoder/layer4_0/downsample_0/kernel": 0.5,
        "head/branch_0/kernel": 10.0,
        "aux_head/branch_3/bias": 10.0,
        "encoder/bn1/scale": 0.0,
    }
    for path, step in expected.items():
        np.testing.assert_allclose(after[f"segmenter/{path}"], -step, rtol=1e-6, err_msg=path)
    with pytest.raises(UserError, match="optimiser.layer_decay: expected 1.0, since the network has no order of depth"):
        optimisers.build(section, CONSTANT, params)


def test_layer_decay_counts_the_layers_that_there_are():
    """The order of depth of a network's name holds for a shorter one, too: four blocks of twelve, and the head."""
    names = ["encoder/cls_token", *(f"encoder/blocks_{i}/norm1/scale" for i in range(4)), "head/kernel"]
    params = {"segmenter": {name: jnp.zeros(1) for name in names}}
    section = optimisers.adamw(learning_rate=1.0, layer_decay=0.5, weight_decay=0.0, epsilon=0.0)
    optimiser = optimisers.build(section, CONSTANT, params, depth=networks.layer_depth("linear_dinov2_vitb14"))
    after = train(optimiser, params, [jax.tree.map(jnp.ones_like, params)])[0]["segmenter"]
    for layer, name in enumerate(names):
        np.testing.assert_allclose(after[name], -(0.5 ** (5 - layer)), rtol=1e-5)


def test_learning_rate_at_a_step():
    section, schedule = sgd(learning_rate=0.5), Schedule(horizon=10, power=1.0)
    np.testing.assert_allclose(optimisers.learning_rate(section, schedule, 4), 0.3, rtol=1e-6)
    assert jax.jit(lambda step: optimisers.learning_rate(section, schedule, step))(jnp.int32(10)) == 0.0


def test_the_state_is_kept_by_group():
    """Checkpoints hold it: SGD by part of the network, an Adam without multiples as a whole."""
    params = segmenter_params()
    assert set(optimisers.build(sgd(), CONSTANT, params).init(params).inner_states) == {"frozen", "head", "backbone"}
    assert set(optimisers.build(adam(), CONSTANT, params).init(params).inner_states) == {"all"}
