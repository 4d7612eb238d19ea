"""Lovasz-Softmax, sorted and counted: golden files, hand constants, an independent computation, degenerate inputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses
from uda_jax.losses import lovasz

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/plca"
FILES = sorted(path.name for path in GOLDEN.glob("segmentation_losses*.npz"))


@pytest.fixture(params=["sorted", "counted"])
def form(request, monkeypatch):
    """Makes small batches take either way."""
    monkeypatch.setattr(lovasz, "_MOST_SORTED", 2**17 if request.param == "sorted" else 0)


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def check(function, x, value, gradient):
    found, slope = jax.jit(jax.value_and_grad(function))(x)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("name", FILES)
def test_golden(name):
    golden = np.load(GOLDEN / name)
    logits, labels = nhwc(golden["logits"]), golden["label"]
    gradients = {name: nhwc(golden[f"grad_{name}"]) for name in ("logits_lovasz", "probs_lovasz", "logits_ce")}
    of_logits = lambda z: losses.lovasz_softmax(jax.nn.softmax(z), labels)  # noqa: E731
    check(of_logits, logits, golden["lovasz"], gradients["logits_lovasz"])
    probabilities = jax.nn.softmax(logits)
    check(lambda p: losses.lovasz_softmax(p, labels), probabilities, golden["lovasz"], gradients["probs_lovasz"])
    check(lambda z: losses.cross_entropy(z, labels), logits, golden["cross_entropy"], gradients["logits_ce"])


def test_golden_files_are_found():
    assert FILES


def expected(probabilities, labels):
    """Value and gradient in float64, class by class, from the differences of the Jaccard loss."""
    num_classes = probabilities.shape[-1]
    p, y = probabilities.reshape(-1, num_classes).astype(np.float64), labels.reshape(-1)
    present = [c for c in range(num_classes) if (y == c).any()]
    value, gradient = 0.0, np.zeros_like(p)
    for c in present:
        valid = np.flatnonzero(y < num_classes)
        own = y[valid] == c
        errors = np.where(own, 1 - p[valid, c], p[valid, c])
        order = np.argsort(-errors, kind="stable")
        found, others = np.cumsum(own[order]), np.cumsum(~own[order])
        jaccard = 1 - (own.sum() - found) / (own.sum() + others)
        steps = np.diff(jaccard, prepend=0)
        value += errors[order] @ steps / len(present)
        gradient[valid[order], c] = np.where(own[order], -steps, steps) / len(present)
    return value, gradient.reshape(probabilities.shape)


def sample(shape, num_classes, sharpness, seed=0):
    """Probabilities and labels that mostly agree, a tenth of them ignored."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, num_classes, shape)
    logits = sharpness * (random.normal(size=(*shape, num_classes)) + (labels[..., None] == np.arange(num_classes)))
    labels[random.rand(*shape) < 0.1] = 255
    return np.asarray(jax.nn.softmax(logits.astype(np.float32))), labels


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 10.0])
def test_large_batches_are_counted_as_if_sorted(sharpness):
    probabilities, labels = sample((2, 100, 100), 7, sharpness)
    assert probabilities.size > lovasz._MOST_SORTED
    value, gradient = expected(probabilities, labels)
    found, slope = jax.jit(jax.value_and_grad(losses.lovasz_softmax))(probabilities, labels)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    # The order of equal errors, 0 above all, is open; the gradient of the logits hardly depends on it.
    gradient, slope = (probabilities * (x - np.sum(probabilities * x, -1, keepdims=True)) for x in (gradient, slope))
    assert np.linalg.norm(slope - gradient) < 1e-3 * np.linalg.norm(gradient)


def test_small_batches_are_sorted():
    probabilities, labels = sample((2, 40, 40), 7, 3.0)
    check(lambda p: losses.lovasz_softmax(p, labels), probabilities, *expected(probabilities, labels))


def test_by_hand(form):
    # Class 0: the other pixel's 0.4 comes first (J = 1/2), then the own 0.3 (J = 1). Class 1: the own 0.4 has J = 1.
    probabilities, labels = jnp.array([[0.7, 0.3], [0.4, 0.6]]), jnp.array([0, 1])
    value, gradient = jax.value_and_grad(losses.lovasz_softmax)(probabilities, labels)
    np.testing.assert_allclose(value, (0.5 * 0.4 + 0.5 * 0.3 + 0.4) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0.0], [0.25, -0.5]], rtol=1e-6)
    # A perfect prediction costs nothing, a wholly wrong one everything.
    for prediction, cost in ((labels, 0.0), (1 - labels, 1.0)):
        np.testing.assert_allclose(losses.lovasz_softmax(jax.nn.one_hot(prediction, 2), labels), cost, atol=1e-6)


def test_only_labelled_pixels_and_present_classes_count(form):
    probabilities, labels = sample((2, 5, 6), 4, 2.0)
    labels[labels == 3] = 255
    value, gradient = jax.value_and_grad(losses.lovasz_softmax)(probabilities, labels)
    assert not gradient[labels == 255].any() and not gradient[..., 3].any() and gradient.any()
    spoilt = np.where((labels == 255)[..., None], np.nan, probabilities)
    other, slope = jax.value_and_grad(losses.lovasz_softmax)(spoilt, np.where(labels == 255, -1, labels))
    np.testing.assert_array_equal(other, value)
    np.testing.assert_array_equal(slope, gradient)
    # The whole batch counts as one image, in any order.
    order = np.random.RandomState(1).permutation(labels.size)
    other = losses.lovasz_softmax(probabilities.reshape(-1, 4)[order], labels.reshape(-1)[order])
    np.testing.assert_allclose(other, value, rtol=1e-6)


def test_one_labelled_pixel_and_none(form):
    probabilities = jnp.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    value, gradient = jax.value_and_grad(losses.lovasz_softmax)(probabilities, jnp.array([255, 2]))
    np.testing.assert_allclose(value, 0.2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, 0, -1]], atol=1e-6)
    value, gradient = jax.value_and_grad(losses.lovasz_softmax)(probabilities, jnp.array([255, 255]))
    assert value == 0 and not gradient.any()


def test_equal_errors_have_finite_weights(form):
    probabilities, labels = np.full((3, 4, 4), 0.25, np.float32), np.arange(12).reshape(3, 4) % 4
    value, gradient = jax.value_and_grad(losses.lovasz_softmax)(probabilities, labels)
    # Every class: 3 errors of 0.75 with J = 1 in the end, of which its own pixels make all.
    np.testing.assert_allclose(value, 0.75, rtol=1e-6)
    np.testing.assert_allclose(gradient.sum(axis=(0, 1)), -0.25, rtol=1e-5)


def test_shapes_are_checked():
    with pytest.raises(
        ValueError, match=r"labels: expected shape \(2, 3\) for probabilities \(2, 3, 4\), got \(3, 2\)"
    ):
        losses.lovasz_softmax(jnp.ones((2, 3, 4)), jnp.ones((3, 2), int))
