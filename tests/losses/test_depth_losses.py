"""Losses on depth: golden files of the public code that they are taken from, hand constants, empty masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax.losses import absolute_depth, adversarial, berhu
from uda_jax.methods.parts.alignment import domain_loss

GOLDEN = vectors.FOLDER
with_gradient = jax.jit(jax.value_and_grad(berhu))


def golden(path):
    return np.load(GOLDEN / f"{path}.npz")


@pytest.mark.parametrize("case", ["", "equal_", "single_"])
def test_berhu_of_corda(case):
    """A target of 1 is no supervision; the cases are residuals that are all equal, and one valid pixel."""
    arrays = golden("dacs-corda/berhu")
    target = arrays["single_gt" if case == "single_" else "gt"]
    value, gradient = with_gradient(arrays[f"{case}pred"], target, target > 1)
    np.testing.assert_allclose(value, arrays[f"{case}loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, arrays[f"{case}grad"], rtol=1e-5, atol=1e-6)
    assert (target > 1).sum() == (1 if case == "single_" else arrays["num_valid"])


@pytest.mark.parametrize("case", ["berhu_", "berhu_one_outlier_"])
def test_berhu_of_dada(case):
    """Every pixel counts."""
    arrays = golden("gio-ada/depth_losses")
    prediction = arrays[f"{case}pred"][:, 0]
    value, gradient = with_gradient(prediction, arrays[f"{case}target"], np.ones(prediction.shape, bool))
    np.testing.assert_allclose(value, arrays[f"{case}loss"], rtol=1e-5)
    expected = arrays[f"{case}grad"][:, 0]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_absolute_depth_of_virtual_kitti():
    """Depth in [-1, 1], -1 = invalid. The golden gradient is of the mean over all pixels, ours over the valid ones."""
    arrays = golden("gio-ada/depth_losses")
    prediction, target = arrays["l1_pred"], arrays["l1_target"]
    value, gradient = jax.jit(jax.value_and_grad(absolute_depth))(prediction, target, target > -1)
    share = (target > -1).mean()
    np.testing.assert_allclose(value, arrays["l1_mean_valid"], rtol=1e-5)
    np.testing.assert_allclose(value * share, arrays["l1_mean_all"], rtol=1e-5)
    expected = arrays["l1_mean_all_grad"]
    np.testing.assert_allclose(gradient * share, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_by_hand():
    """c = 2; errors of 0, 1, 5 and 10 cost 0, 1, 29/4 and 26, and what is added to both sides costs nothing."""
    prediction = jnp.array([0.0, 1.0, 5.0, 10.0]).reshape(1, 2, 2, 1)
    everywhere = jnp.ones((1, 2, 2, 1), bool)
    for offset in (0.0, -3.0):
        value, gradient = with_gradient(prediction + offset, jnp.full((1, 2, 2, 1), offset), everywhere)
        np.testing.assert_allclose(value, 8.5625, rtol=1e-6)
        np.testing.assert_allclose(gradient.ravel(), [0, 0.25, 0.625, 1.25], rtol=1e-6)
    # The largest error does not count here, so that c = 1: errors of 0, 1 and 5 cost 0, 1 and 13.
    value, gradient = with_gradient(prediction, jnp.zeros((1, 2, 2, 1)), prediction < 10)
    np.testing.assert_allclose(value, 14 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient.ravel(), [0, 1 / 3, 5 / 3, 0], rtol=1e-6)
    value, gradient = jax.value_and_grad(absolute_depth)(prediction, jnp.full((1, 2, 2, 1), 4.0), prediction < 10)
    np.testing.assert_allclose(value, 8 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient.ravel(), [-1 / 3, -1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("loss", [berhu, absolute_depth])
def test_nothing_to_learn_from(loss):
    """A perfect prediction, and no valid pixel, even where the target is not a number."""
    maps = jax.random.normal(jax.random.key(0), (2, 3, 4))
    function = jax.jit(jax.value_and_grad(loss))
    everywhere = jnp.ones(maps.shape, bool)
    for target, mask in ((maps, everywhere), (jnp.full(maps.shape, jnp.nan), ~everywhere)):
        value, gradient = function(maps, target, mask)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
    with pytest.raises(ValueError, match="mask: expected shape"):
        loss(maps, maps, jnp.ones((2, 3, 4, 1), bool))


@pytest.mark.parametrize(("kind", "short"), [("bce", "bce"), ("least_squares", "lsgan")])
def test_both_sides_of_a_discriminator(kind, short):
    """CycleGAN calls real 1; both halves of its discriminator's loss are those of `judgement`."""
    arrays = golden("gio-ada/gan_losses")
    for label, name in ((1, "true"), (0, "false")):
        function = jax.value_and_grad(lambda z, label=label: adversarial(z, label, kind=kind))
        value, gradient = function(arrays["pred_a"])
        np.testing.assert_allclose(value, arrays[f"{short}_{name}"], rtol=1e-5)
        expected = arrays[f"grad_{short}_{name}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    loss, _ = domain_loss(arrays["pred_b"], arrays["pred_a"], kind=kind)
    np.testing.assert_allclose(0.5 * loss, arrays[f"{short}_d_half_sum"], rtol=1e-5)


def test_an_undecided_discriminator():
    zero = jnp.zeros((1, 2, 2, 1))
    for kind, half, fooling in (("bce", np.log(2), np.log(2)), ("least_squares", 0.5, 1.0)):
        np.testing.assert_allclose(0.5 * domain_loss(zero, zero, kind=kind)[0], half, rtol=1e-6)
        np.testing.assert_allclose(adversarial(zero, 1, kind=kind), fooling, rtol=1e-6)
