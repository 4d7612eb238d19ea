"""Semantic-level adversarial losses: the golden file through the network, hand constants, properties."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax import losses, networks, ops, weights

GOLDEN = vectors.load("adaptsegnet-ass/semantic_adversarial.npz")
KINDS = pytest.mark.parametrize("kind", ["class_conditional", "binary"])
# The outputs for the mean of class 0 and for that of class 1, K = 2.
LOGITS = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], np.float32))
# One program is quicker to compile than each of its operations; the golden file is compared both ways.
semantic_adversarial = jax.jit(losses.semantic_adversarial, static_argnames=("domain", "kind"))
semantic_adversarial_map = jax.jit(losses.semantic_adversarial_map, static_argnames=("domain", "kind"))


def normal(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def judge():
    """The stand-in discriminator of the golden file: a function of class means `[..., D]`."""
    state_dict = vectors.stand_in("adaptsegnet-ass/semantic_discriminator_manifest.json")
    variables = weights.from_torch(state_dict, "semantic_discriminator")
    hidden, outputs = variables["params"]["fc3"]["kernel"].shape
    network = networks.build("semantic_discriminator", outputs // 2, hidden=hidden)
    return jax.jit(lambda means: network.apply(variables, means))


def discriminator_loss(source, source_present, target, target_present, **kind):
    on_source = semantic_adversarial(source, source_present, 0, **kind)
    return 0.5 * (on_source + semantic_adversarial(target, target_present, 1, **kind))


@KINDS
@pytest.mark.parametrize("case", GOLDEN["cases"].tolist())
def test_golden(judge, case, kind):
    # A leading axis: one image.
    golden = {name.removeprefix(f"{case}_"): GOLDEN[name][None] for name in GOLDEN.files if name.startswith(f"{case}_")}
    present = golden["source_present"], golden["target_present"]

    def fool(means):
        return losses.semantic_adversarial(judge(means), present[1], 0, kind=kind)

    with jax.default_matmul_precision("highest"):
        source, target = judge(golden["source_mean"]), judge(golden["target_mean"])
        eager = fool(golden["target_mean"])
        value, gradient = jax.jit(jax.value_and_grad(fool))(golden["target_mean"])
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(source, golden["source_logit"], **tolerance)
    np.testing.assert_allclose(target, golden["target_logit"], **tolerance)
    prefix = "binary_" if kind == "binary" else ""
    learned = discriminator_loss(source, present[0], target, present[1], kind=kind)
    np.testing.assert_allclose(learned, golden[f"{prefix}loss_d"][0], **tolerance)
    for result in (eager, value):
        np.testing.assert_allclose(result, golden[f"{prefix}loss_adv"][0], **tolerance)
    if kind == "class_conditional":
        np.testing.assert_allclose(gradient, golden["grad_target_adv"], **tolerance)
    np.testing.assert_array_equal(gradient[~present[1]], 0)
    assert gradient[present[1]].all(axis=-1).all()


def test_hand_values():
    both, first = np.array([True, True]), np.array([True, False])
    np.testing.assert_allclose(semantic_adversarial(LOGITS, both, 0), -math.log(0.1 * 0.3) / 2, rtol=1e-6)
    np.testing.assert_allclose(semantic_adversarial(LOGITS, both, 1), -math.log(0.3 * 0.1) / 2, rtol=1e-6)
    np.testing.assert_allclose(semantic_adversarial(LOGITS, first, 1), -math.log(0.3), rtol=1e-6)
    # softplus(log p) = log(1 + p), of the own class's output alone.
    binary = [float(semantic_adversarial(LOGITS, both, domain, kind="binary")) for domain in (0, 1)]
    np.testing.assert_allclose(binary[0], math.log(1.1 * 1.3) / 2, rtol=1e-6)
    np.testing.assert_allclose(binary[1], math.log(1.1 * 1.3) / 2 - math.log(0.1 * 0.3) / 2, rtol=1e-6)


def test_a_pair_weighs_the_same_in_every_image():
    # Two classes in the first image, one in the second: three pairs, not two images.
    logits = np.stack([LOGITS, LOGITS[::-1]])
    present = np.array([[True, True], [True, False]])
    expected = -math.log(0.1 * 0.3 * 0.4) / 3
    np.testing.assert_allclose(semantic_adversarial(logits, present, 0), expected, rtol=1e-6)
    np.testing.assert_allclose(semantic_adversarial(logits[None], present[None], 0), expected, rtol=1e-6)


@pytest.mark.parametrize(("kind", "outcomes"), [("class_conditional", 10), ("binary", 2)])
def test_an_undecided_discriminator(kind, outcomes):
    present, logits = np.array([[True, False, True, True, False]]), np.zeros((1, 5, 10), np.float32)
    for domain in (0, 1):
        value = semantic_adversarial(logits, present, domain, kind=kind)
        np.testing.assert_allclose(value, math.log(outcomes), rtol=1e-6)
    learned = discriminator_loss(logits, present, logits, ~present, kind=kind)
    np.testing.assert_allclose(learned, math.log(outcomes), rtol=1e-6)


def test_swapping_the_halves_with_the_domains_changes_nothing():
    source, target = normal(0, 2, 3, 4, 8)
    shown, seen = normal(1, 2, 3, 4) > 0
    expected = discriminator_loss(source, shown, target, seen)
    swapped = [np.roll(logits, 4, axis=-1) for logits in (target, source)]
    np.testing.assert_allclose(discriminator_loss(swapped[0], seen, swapped[1], shown), expected, rtol=1e-6)
    # Without the domains it is another loss.
    assert abs(discriminator_loss(swapped[1], shown, swapped[0], seen) - expected) > 0.01


def test_binary_is_the_adversarial_loss_of_the_own_outputs():
    logits = normal(2, 2, 3, 6)
    own = np.diagonal(logits[..., :3], axis1=1, axis2=2)
    for domain in (0, 1):
        value = semantic_adversarial(logits, np.ones((2, 3), bool), domain, kind="binary")
        np.testing.assert_allclose(value, losses.adversarial(own, domain), rtol=1e-6)


@KINDS
def test_absent_classes_have_no_influence(kind):
    present = np.array([True, False])
    function = jax.jit(jax.value_and_grad(lambda z: semantic_adversarial(z, present, 1, kind=kind)))
    value, gradient = function(LOGITS)
    for wild in (1e30, np.inf, np.nan):
        other_value, other_gradient = function(np.where(present[:, None], LOGITS, np.float32(wild)))
        np.testing.assert_array_equal(other_value, value)
        np.testing.assert_array_equal(other_gradient, gradient)
    assert gradient[0].any() and not gradient[1].any()


@KINDS
def test_an_empty_set_is_zero_with_zero_gradient(kind):
    logits = normal(3, 2, 3, 6)
    absent, ignored = np.zeros((2, 3), bool), np.full((2, 3), 255)
    for loss in (
        lambda z: semantic_adversarial(z, absent, 1, kind=kind),
        lambda z: semantic_adversarial_map(z[None], ignored[None], 1, kind=kind),
    ):
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        assert value == 0.0
        np.testing.assert_array_equal(gradient, np.zeros_like(logits))


@KINDS
def test_extreme_outputs_are_finite(kind):
    logits = np.array([[500.0, -500.0, 1e4, -1e4], [-1e4, -500.0, 500.0, 1e4]], np.float32)
    loss = jax.value_and_grad(lambda z, domain: semantic_adversarial(z, np.ones(2, bool), domain, kind=kind))
    for domain in (0, 1):
        value, gradient = loss(logits, domain)
        assert np.isfinite(gradient).all()
        # Own outputs 500 and -500: softplus(500) and 0, or 0 and softplus(500).
        expected = {"binary": 250.0, "class_conditional": [(9500 + 10500) / 2, 0.0][domain]}[kind]
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@KINDS
def test_bfloat16_is_computed_in_float32(kind):
    logits, present = jnp.asarray(5 * normal(4, 3, 6), jnp.bfloat16), np.ones(3, bool)
    value = semantic_adversarial(logits, present, 0, kind=kind)
    assert value.dtype == jnp.float32
    expected = semantic_adversarial(logits.astype(jnp.float32), present, 0, kind=kind)
    np.testing.assert_array_equal(value, expected)


def test_the_gradient_reaches_the_pixels_of_the_present_classes(judge):
    """The segmenter's term as a whole: features -> class means -> frozen discriminator -> loss."""
    depth = GOLDEN[f"{GOLDEN['cases'][0]}_target_mean"].shape[-1]
    features = normal(5, 1, 2, 3, depth)
    classes = judge(features).shape[-1] // 2
    labels = np.array([[[0, 0, 255], [classes - 1, -1, classes]]])

    def loss(features):
        means, counts = ops.class_means(features, labels, classes)
        return semantic_adversarial(judge(means), counts > 0, 0)

    gradient = np.asarray(jax.jit(jax.grad(loss))(features))
    np.testing.assert_array_equal(gradient.any(axis=-1), [[[True, True, False], [True, False, False]]])
    np.testing.assert_allclose(gradient[0, 0, 0], gradient[0, 0, 1], rtol=1e-6)


@KINDS
def test_map_of_means_equals_the_loss_on_means(kind):
    logits = normal(6, 2, 3, 6)
    present = np.array([[True, False, True], [False, True, True]])
    labels = np.where(present, np.arange(3), 255)
    for domain in (0, 1):
        expected = semantic_adversarial(logits, present, domain, kind=kind)
        value = semantic_adversarial_map(logits[:, None], labels[:, None], domain, kind=kind)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_map_by_hand():
    # Two locations of class 1, one of class 0, one ignored.
    logits = np.stack([LOGITS, LOGITS[::-1]])[None]
    labels = np.array([[[1, 0], [1, 255]]])
    expected = -math.log(0.2 * 0.4 * 0.3) / 3
    np.testing.assert_allclose(semantic_adversarial_map(logits, labels, 0), expected, rtol=1e-6)
    np.testing.assert_allclose(semantic_adversarial_map(logits, labels, 1), -math.log(0.4 * 0.2 * 0.1) / 3, rtol=1e-6)
    unsigned = semantic_adversarial_map(logits, labels.astype(np.uint8), 1)
    np.testing.assert_array_equal(unsigned, semantic_adversarial_map(logits, labels, 1))


@KINDS
def test_labels_outside_the_classes_are_no_outputs_of_the_target(kind):
    logits = np.stack([LOGITS, LOGITS])[None]
    for domain in (0, 1):
        expected = semantic_adversarial_map(logits, np.array([[[0, 1], [255, 255]]]), domain, kind=kind)
        for other in (-1, -2, 2, 3, 4, 254):
            labels = np.array([[[0, 1], [other, other]]])
            value = semantic_adversarial_map(logits, labels, domain, kind=kind)
            np.testing.assert_array_equal(value, expected)


def test_mistakes_are_named():
    present = np.ones(2, bool)
    with pytest.raises(ValueError, match="kind: expected one of class_conditional, binary, got 'ternary'"):
        losses.semantic_adversarial(LOGITS, present, 0, kind="ternary")
    with pytest.raises(ValueError, match=r"domain: expected 0 \(source\) or 1 \(target\), got 2"):
        losses.semantic_adversarial(LOGITS, present, 2)
    with pytest.raises(ValueError, match=r"logits: expected shape \(2, 4\) for present \(2,\), got \(2, 2\)"):
        losses.semantic_adversarial(LOGITS[:, :2], present, 0)
    with pytest.raises(ValueError, match=r"logits: expected shape \(1, 1, 2, '2K'\), got \(1, 2, 4\)"):
        losses.semantic_adversarial_map(LOGITS[None], np.zeros((1, 1, 2), np.int32), 0)
    with pytest.raises(ValueError, match=r"logits: expected shape \(1, 1, 2, '2K'\), got \(1, 1, 2, 3\)"):
        losses.semantic_adversarial_map(LOGITS[None, None, :, :3], np.zeros((1, 1, 2), np.int32), 0)
