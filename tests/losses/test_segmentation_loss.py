"""Cross entropy: golden files, hand constants, denominators and degenerate inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax.losses import cross_entropy, cross_entropy_map

GOLDEN = vectors.FOLDER


def check(logits, labels, loss, gradient, atol_gradient=1e-6, **options):
    """Compares eager and jitted value and gradient (NCHW in the files); NaN in the file means 0 here."""
    loss, gradient = np.nan_to_num(loss), np.nan_to_num(nhwc(gradient))
    function = jax.value_and_grad(lambda z: cross_entropy(z, labels, **options))
    for run in (function, jax.jit(function)):
        value, slope = run(nhwc(logits))
        np.testing.assert_allclose(value, loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=atol_gradient)


def test_golden_adaptsegnet():
    golden = np.load(GOLDEN / "adaptsegnet-ass/cross_entropy.npz")
    assert len(golden["cases"])
    for case in golden["cases"]:
        logits, labels, weights = (golden[f"{case}_{name}"] for name in ("logits", "label", "class_weight"))
        check(logits, labels, golden[f"{case}_ce2d"], golden[f"{case}_grad_ce2d"])
        weighted = golden[f"{case}_ce2d_weighted"], golden[f"{case}_grad_ce2d_weighted"]
        check(logits, labels, *weighted, class_weights=weights)


def test_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/cross_entropy_2d.npz")
    i = 0
    while f"case{i}_logits" in golden:
        check(*(golden[f"case{i}_{name}"] for name in ("logits", "labels", "loss", "grad_logits")))
        i += 1
    assert i > 0


def test_golden_dacs_pixel_weights():
    golden = np.load(GOLDEN / "dacs-corda/cross_entropy.npz")
    logits, labels, weights = (golden[name] for name in ("logits", "target", "pixel_weight"))
    weighted = golden["weighted_loss"], golden["weighted_grad"]
    check(logits, labels, *weighted, atol_gradient=1e-7, pixel_weights=weights)
    check(logits, labels, golden["masked_mean_loss"], golden["masked_mean_grad"], atol_gradient=1e-7)


LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.2, 0.2, 0.6]]))
LABELS = jnp.array([0, 1, 255])


def test_denominators_by_hand():
    first, second = -np.log(0.5), -np.log(0.75)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), (first + second) / 2, rtol=1e-6)
    weights = jnp.array([1.0, 3.0, 100.0])
    weighted = cross_entropy(LOGITS, LABELS, class_weights=weights)
    np.testing.assert_allclose(weighted, (first + 3 * second) / 4, rtol=1e-6)
    pixels = jnp.array([0.5, 2.0, 7.0])
    np.testing.assert_allclose(
        cross_entropy(LOGITS, LABELS, pixel_weights=pixels), (0.5 * first + 2 * second) / 3, rtol=1e-6
    )
    both = cross_entropy(LOGITS, LABELS, class_weights=weights, pixel_weights=pixels)
    np.testing.assert_allclose(both, (0.5 * first + 6 * second) / 3, rtol=1e-6)


def test_labels_outside_the_classes_are_ignored():
    expected = cross_entropy(LOGITS, LABELS)
    for other in (-1, 3, 254, 300):
        np.testing.assert_array_equal(cross_entropy(LOGITS, LABELS.at[2].set(other)), expected)
    only_first = cross_entropy(LOGITS, LABELS, ignore_label=1)
    np.testing.assert_allclose(only_first, -np.log(0.5), rtol=1e-6)
    np.testing.assert_array_equal(cross_entropy(LOGITS, LABELS.astype(jnp.uint8)), expected)
    np.testing.assert_array_equal(cross_entropy(LOGITS, LABELS.astype(jnp.uint8), ignore_label=-1), expected)


def test_pixels_of_all_images_are_pooled():
    # One labelled pixel in the first image, two in the second: not the mean of the images' means.
    logits = jnp.stack([LOGITS, LOGITS])[:, None]
    labels = jnp.array([[[0, 255, 255]], [[255, 1, 2]]])
    np.testing.assert_allclose(cross_entropy(logits, labels), -np.log(0.5 * 0.75 * 0.6) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"class_weights": jnp.ones(19)}, {"pixel_weights": jnp.ones((1, 3, 4))}],
    ids=["plain", "class_weights", "pixel_weights"],
)
def test_nothing_valid_is_zero_with_zero_gradient(options):
    logits = jax.random.normal(jax.random.key(0), (1, 3, 4, 19))
    loss = jax.jit(jax.value_and_grad(lambda z: cross_entropy(z, jnp.full((1, 3, 4), 255), **options)))
    value, gradient = loss(logits)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(logits))


def test_zero_class_weights_are_zero_not_nan():
    value, gradient = jax.value_and_grad(lambda z: cross_entropy(z, LABELS, class_weights=jnp.zeros(3)))(LOGITS)
    assert value == 0.0 and not gradient.any()


def test_ignored_pixels_have_no_influence():
    function = jax.value_and_grad(lambda z: cross_entropy(z, LABELS))
    value, gradient = function(LOGITS)
    for wild in (1e30, jnp.inf, jnp.nan):
        other_value, other_gradient = function(LOGITS.at[2].set(wild))
        np.testing.assert_array_equal(other_value, value)
        np.testing.assert_array_equal(other_gradient, gradient)
    assert not gradient[2].any() and gradient[:2].all()


def test_extreme_logits_and_shift():
    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    value, gradient = jax.value_and_grad(lambda z: cross_entropy(z, jnp.array([0, 1])))(logits)
    np.testing.assert_allclose(value, 1e4, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0.5, -0.5, 0]], atol=1e-6)
    for shift in (8.0, jnp.array([[-3.0], [8.0], [0.5]])):
        np.testing.assert_allclose(cross_entropy(LOGITS + shift, LABELS), cross_entropy(LOGITS, LABELS), rtol=1e-5)


def test_bfloat16_logits_are_computed_in_float32():
    logits = (10 * jax.random.normal(jax.random.key(1), (2, 5, 5, 19))).astype(jnp.bfloat16)
    labels = jnp.arange(50).reshape(2, 5, 5) % 19
    value = cross_entropy(logits, labels)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, cross_entropy(logits.astype(jnp.float32), labels))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\)"):
        cross_entropy(LOGITS, LABELS[:2])
    with pytest.raises(ValueError, match=r"class_weights: expected shape \(3,\)"):
        cross_entropy(LOGITS, LABELS, class_weights=jnp.ones(4))
    with pytest.raises(ValueError, match=r"pixel_weights: expected shape \(3,\)"):
        cross_entropy(LOGITS, LABELS, pixel_weights=jnp.ones(1))


def test_the_map_holds_each_pixels_loss():
    """By hand, eager and jitted; what is ignored is 0 with zero gradient, and the sum is what the scalar divides."""
    first, second = -np.log(0.5), -np.log(0.75)
    for run in (cross_entropy_map, jax.jit(cross_entropy_map)):
        np.testing.assert_allclose(run(LOGITS, LABELS), [first, second, 0.0], rtol=1e-6)
    weighted = cross_entropy_map(LOGITS, LABELS, class_weights=jnp.array([1.0, 3.0, 100.0]))
    np.testing.assert_allclose(weighted, [first, 3 * second, 0.0], rtol=1e-6)
    total, gradient = jax.value_and_grad(lambda z: cross_entropy_map(z, LABELS).sum())(LOGITS.at[2].set(jnp.nan))
    np.testing.assert_allclose(total, 2 * cross_entropy(LOGITS, LABELS), rtol=1e-6)
    assert np.isfinite(gradient).all() and not gradient[2].any()
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\) for logits \(3, 3\), got \(2,\)"):
        cross_entropy_map(LOGITS, LABELS[:2])
