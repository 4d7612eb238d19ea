"""Lovasz-Softmax, sorted and counted: golden files, hand constants, an independent computation, degenerate inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import losses
from uda_jax.losses import lovasz

GOLDEN = vectors.FOLDER / "plca"
FILES = sorted(path.name for path in GOLDEN.glob("segmentation_losses*.npz"))


@pytest.fixture(scope="module", params=["sorted", "counted"])
def run(request):
    """A function to value and gradient of small batches of up to 4 classes, which it makes take either way."""
    gradient = jax.jit(jax.value_and_grad(losses.lovasz_softmax))

    def padded(probabilities, labels):
        # All of one shape, so that one program serves them.
        count, classes = np.size(labels), np.shape(probabilities)[-1]
        p, y = np.zeros((60, 4), np.float32), np.full(60, 255)
        p[:count, :classes], y[:count] = np.reshape(probabilities, (count, classes)), np.ravel(labels)
        value, slope = jax.device_get(gradient(p, y))
        assert not slope[count:].any() and not slope[:, classes:].any()
        return value, slope[:count, :classes].reshape(np.shape(probabilities))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lovasz, "_MOST_SORTED", 2**17 if request.param == "sorted" else 0)
        yield padded


def check(found, value, gradient):
    """Compares value and gradient; NaN, the reference's word for no labelled pixel, means 0 here."""
    (found, slope), value, gradient = jax.device_get(found), np.nan_to_num(value), np.nan_to_num(gradient)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("name", FILES)
def test_golden(name):
    golden = np.load(GOLDEN / name)
    logits, labels = nhwc(golden["logits"]), golden["label"]
    gradients = {name: nhwc(golden[f"grad_{name}"]) for name in ("logits_lovasz", "probs_lovasz", "logits_ce")}
    probabilities = jax.nn.softmax(logits)

    @jax.jit
    def run(logits, probabilities):
        of_logits = jax.value_and_grad(lambda z: losses.lovasz_softmax(jax.nn.softmax(z), labels))(logits)
        cross_entropy = jax.value_and_grad(losses.cross_entropy)(logits, labels)
        return of_logits, jax.value_and_grad(losses.lovasz_softmax)(probabilities, labels), cross_entropy

    of_logits, of_probabilities, cross_entropy = run(logits, probabilities)
    check(of_logits, golden["lovasz"], gradients["logits_lovasz"])
    check(of_probabilities, golden["lovasz"], gradients["probs_lovasz"])
    check(cross_entropy, golden["cross_entropy"], gradients["logits_ce"])


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
    exponentials = np.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float32))
    return exponentials / exponentials.sum(axis=-1, keepdims=True), labels


RUN = jax.jit(jax.value_and_grad(losses.lovasz_softmax))


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 10.0])
def test_large_batches_are_counted_as_if_sorted(sharpness):
    probabilities, labels = sample((2, 100, 100), 7, sharpness)
    assert probabilities.size > lovasz._MOST_SORTED
    value, gradient = expected(probabilities, labels)
    found, slope = jax.device_get(RUN(probabilities, labels))
    np.testing.assert_allclose(found, value, rtol=1e-6)
    # The order of equal errors, 0 above all, is open; the gradient of the logits hardly depends on it.
    gradient, slope = (probabilities * (x - np.sum(probabilities * x, -1, keepdims=True)) for x in (gradient, slope))
    assert np.linalg.norm(slope - gradient) < 1e-3 * np.linalg.norm(gradient)


def test_small_batches_are_sorted():
    probabilities, labels = sample((2, 40, 40), 7, 3.0)
    check(RUN(probabilities, labels), *expected(probabilities, labels))


def test_by_hand(run):
    # Class 0: the other pixel's 0.4 comes first (J = 1/2), then the own 0.3 (J = 1). Class 1: the own 0.4 has J = 1.
    probabilities, labels = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 1])
    value, gradient = run(probabilities, labels)
    np.testing.assert_allclose(value, (0.5 * 0.4 + 0.5 * 0.3 + 0.4) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0.0], [0.25, -0.5]], rtol=1e-6)
    # A perfect prediction costs nothing, a wholly wrong one everything.
    for prediction, cost in ((labels, 0.0), (1 - labels, 1.0)):
        np.testing.assert_allclose(run(np.eye(2)[prediction], labels)[0], cost, atol=1e-6)


def test_only_labelled_pixels_and_present_classes_count(run):
    probabilities, labels = sample((2, 5, 6), 4, 2.0)
    labels[labels == 3] = 255
    value, gradient = run(probabilities, labels)
    assert not gradient[labels == 255].any() and not gradient[..., 3].any() and gradient.any()
    spoilt = np.where((labels == 255)[..., None], np.nan, probabilities)
    other, slope = run(spoilt, np.where(labels == 255, -1, labels))
    np.testing.assert_array_equal(other, value)
    np.testing.assert_array_equal(slope, gradient)
    # The whole batch counts as one image, in any order.
    order = np.random.RandomState(1).permutation(labels.size)
    other, slope = run(probabilities.reshape(-1, 4)[order], labels.reshape(-1)[order])
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient.reshape(-1, 4)[order], rtol=1e-5)


def test_one_labelled_pixel_and_none(run):
    probabilities = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    value, gradient = run(probabilities, np.array([255, 2]))
    np.testing.assert_allclose(value, 0.2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, 0, -1]], atol=1e-6)
    value, gradient = run(probabilities, np.array([255, 255]))
    assert value == 0 and not gradient.any()


def test_equal_errors_have_finite_weights(run):
    # Every class: the 3 errors of its own pixels are the largest, 0.75, and bring J to 1.
    value, gradient = run(np.full((3, 4, 4), 0.25), np.arange(12).reshape(3, 4) % 4)
    np.testing.assert_allclose(value, 0.75, rtol=1e-6)
    np.testing.assert_allclose(gradient.sum(axis=(0, 1)), -0.25, rtol=1e-5)


def test_nan_stays_visible(run):
    probabilities, labels = sample((2, 5, 6), 4, 2.0)
    probabilities[0, labels[0] != 255] = np.nan
    assert np.isnan(run(probabilities, labels)[0])


def on_devices(probabilities, labels, group):
    """What the devices of PLCA's released code sum up to, in float64: weights of all pixels, means of their own."""
    num_classes, total, slope = probabilities.shape[-1], 0.0, np.zeros(probabilities.shape)
    weights = np.zeros(probabilities.shape)
    for c in range(num_classes):
        own, valid = labels == c, labels < num_classes
        errors = np.where(own, 1 - probabilities[..., c].astype(np.float64), probabilities[..., c])[valid]
        order = np.argsort(-errors, kind="stable")
        found, others = np.cumsum(own[valid][order]), np.cumsum(~own[valid][order])
        steps = np.zeros(errors.size)
        steps[order] = np.diff(1 - (own.sum() - found) / np.maximum(own.sum() + others, 1), prepend=0)
        weights[..., c][valid] = steps
    for first in range(0, len(labels), group):
        mine = slice(first, first + group)
        present = [c for c in range(num_classes) if (labels[mine] == c).any()]
        for c in present:
            own, valid = labels[mine] == c, labels[mine] < num_classes
            errors = np.where(own, 1 - probabilities[mine][..., c], probabilities[mine][..., c])
            total += (errors * weights[mine][..., c])[valid].sum() / len(present)
            slope[mine][..., c] = np.where(own, -1, 1) * weights[mine][..., c] * valid / len(present)
    return total, slope


def test_groups_by_hand():
    """Two images of two pixels, each of a class of its own: neither pays for the class that only the other shows."""
    p = np.array([[[0.7, 0.3], [0.6, 0.4]], [[0.45, 0.55], [0.1, 0.9]]], np.float32)
    labels = np.array([[0, 0], [1, 1]])
    # Class 0: 0.45 of the other image comes first, with J = 1/3, then the own 0.4 (2/3) and 0.3 (1).
    # Class 1: the own 0.45 has J = 1/2; 0.4 and 0.3 of the other image 2/3 and 3/4; the own 0.1 has 1.
    own = (0.4 + 0.3) / 3, 0.45 / 2 + 0.1 / 4
    others = 0.45 / 3, 0.4 / 6 + 0.3 / 12
    found = losses.grouped_lovasz_softmax(p, labels, 1), losses.lovasz_softmax(p, labels)
    np.testing.assert_allclose(found, [sum(own), (sum(own) + sum(others)) / 2], rtol=1e-6)


@pytest.mark.parametrize("most_sorted", [2**17, 0])
def test_groups_are_the_devices_of_the_released_code(most_sorted, monkeypatch):
    monkeypatch.setattr(lovasz, "_MOST_SORTED", most_sorted)
    probabilities, labels = sample((4, 6, 7), 5, 2.0)
    labels[:2][labels[:2] == 4] = 255
    labels[3] = 255
    # A function of its own for each way, lest one finds the other's program.
    run = jax.jit(jax.value_and_grad(lambda p, y: losses.grouped_lovasz_softmax(p, y, 2)))
    check(run(probabilities, labels), *on_devices(probabilities, labels, 2))
    # A group without labels adds nothing, and one group is the plain loss.
    whole = losses.grouped_lovasz_softmax(probabilities, labels, 4)
    assert whole == losses.lovasz_softmax(probabilities, labels) != run(probabilities, labels)[0]
    with pytest.raises(ValueError, match="group: expected a divisor of the 4 images, got 3"):
        losses.grouped_lovasz_softmax(probabilities, labels, 3)


def test_shapes_are_checked():
    with pytest.raises(
        ValueError, match=r"labels: expected shape \(2, 3\) for probabilities \(2, 3, 4\), got \(3, 2\)"
    ):
        losses.lovasz_softmax(jnp.ones((2, 3, 4)), jnp.ones((3, 2), int))
