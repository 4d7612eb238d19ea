"""Losses of self-supervised depth: golden vectors of Monodepth2's formulas, hand constants, what gets no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from jax.test_util import check_grads

from uda_jax import losses, ops

loss_and_gradients = jax.jit(jax.value_and_grad(losses.view_synthesis_loss))


@pytest.fixture(scope="module")
def golden():
    return vectors.load("dacs-corda/photometric.npz")


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def still(count=1):
    return jnp.broadcast_to(jnp.eye(4), (count, 4, 4))


def camera(count=1):
    return jnp.broadcast_to(jnp.array([[8.0, 0.0, 3.5], [0.0, 10.0, 3.5], [0.0, 0.0, 1.0]]), (count, 3, 3))


def ssim_loss_in_64_bits(one, other):
    def mean(images):
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).mean(axis=(-2, -1))

    one, other = np.float64(one), np.float64(other)
    product = mean(one) * mean(other)
    similarity = (2 * product + 1e-4) * (2 * (mean(one * other) - product) + 9e-4)
    squares = mean(one) ** 2 + mean(other) ** 2
    similarity /= (squares + 1e-4) * (mean(one**2 + other**2) - squares + 9e-4)
    return np.clip((1 - similarity) / 2, 0, 1)


def test_maps_of_monodepth2(golden):
    """Two values of the file's SSIM are more than 1e-4 off by its own rounding."""
    one, other = vectors.nhwc(golden["frame_prev"]), vectors.nhwc(golden["frame_0"])
    found, exact = losses.ssim_loss(one, other), ssim_loss_in_64_bits(one, other)
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6)
    expected = vectors.nhwc(golden["ssim_prev"])
    off = np.abs(expected - exact) > 1e-4
    assert off.mean() < 1e-3
    np.testing.assert_allclose(np.where(off, 0, found), np.where(off, 0, expected), rtol=0, atol=1e-4)
    error = losses.photometric_error(one, other)
    np.testing.assert_allclose(error, golden["reprojection_prev_identity"][:, 0], rtol=0, atol=1e-4)
    smooth = losses.edge_aware_smoothness(golden["disp_0"][:, 0], other)
    np.testing.assert_allclose(smooth, golden["smooth_scale0"], rtol=1e-4)


def test_selection_of_monodepth2(golden):
    frame = vectors.nhwc(golden["frame_0"])
    warped, unmoved = (
        [losses.photometric_error(vectors.nhwc(golden[name.format(view)]), frame) for view in ("prev", "next")]
        for name in ("warped_{}_scale0", "frame_{}")
    )
    error, moved = losses.minimum_error(warped, unmoved)
    np.testing.assert_array_equal(moved, golden["reprojection_selected_scale0"].astype(bool))
    assert 0 < moved.mean() < 1
    loss = error.mean() + 1e-3 * golden["smooth_scale0"]
    np.testing.assert_allclose(loss, golden["loss_scale_0"], rtol=1e-4)


def test_loss_and_gradients_of_monodepth2(golden):
    """From sigmoid outputs and motions of two views to one number, and back.

    At one pixel of the largest scale the two best views differ by 2e-6, so that rounding decides which gets the
    gradient. `other` = 1 gives it to the second instead, and one of both has to be that of the file.
    """
    frame, *views = (vectors.nhwc(golden[f"frame_{name}"]) for name in ("0", "prev", "next"))
    intrinsics = golden["K"][:, :3, :3]

    def loss(disparities, axes, translations, other):
        motions = [ops.rigid_motion(axes[k], translations[k], inverse=k == 0) for k in range(2)]
        depth = ops.depth_from_disparity(disparities[0])
        images = [ops.synthesise_view(views[k], depth, intrinsics, motions[k])[0] for k in range(2)] + views
        best, second = jnp.sort(jnp.stack([losses.photometric_error(image, frame) for image in images]), axis=0)[:2]
        equal = second - best < 1e-5
        switch = jnp.sum(jnp.where(equal, second - best, 0.0)) / best.size / len(disparities)
        value = losses.view_synthesis_loss(disparities, frame, views, intrinsics, motions)
        return value + other * switch, (value, equal)

    arguments = (
        [golden[f"disp_{scale}"][:, 0] for scale in range(4)],
        [golden[f"axisangle_{name}"][:, 0] for name in ("prev", "next")],
        [golden[f"translation_{name}"][:, 0] for name in ("prev", "next")],
    )
    expected = [golden[f"grad_disp_{scale}"][:, 0] for scale in range(4)]
    expected += [
        golden[f"grad_{kind}_{name}"][:, 0] for kind in ("axisangle", "translation") for name in ("prev", "next")
    ]
    compiled = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    found = [compiled(*arguments, other) for other in (0.0, 1.0)]
    value, equal = found[0][1]
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-4)
    np.testing.assert_allclose(value, np.mean([golden[f"loss_scale_{k}"] for k in range(4)]), rtol=1e-4)
    assert equal.sum() <= 1
    tolerances = [1e-6] * 4 + [1e-4] * 4
    agreeing = [
        all(
            np.allclose(one, other, rtol=1e-3, atol=atol)
            for one, other, atol in zip(jax.tree.leaves(gradients), expected, tolerances, strict=True)
        )
        for gradients, _ in found
    ]
    assert any(agreeing)


def test_ssim_by_hand():
    """Constant images have no variance; the window's mean reflects the border; black and white stripes turned round."""
    grey, white = jnp.full((1, 3, 4, 2), 0.5), jnp.ones((1, 3, 4, 2))
    expected = 0.5 * (1 - (2 * 0.5 + 1e-4) / (0.25 + 1 + 1e-4))
    np.testing.assert_allclose(losses.ssim_loss(grey, white), np.full((1, 3, 4, 2), expected), rtol=1e-3)
    stripes = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0, 1.0])[None, None, :, None], (1, 3, 4, 1))
    assert float(losses.ssim_loss(stripes, 1 - stripes).min()) > 0.8
    # One column: at the border its mean is (1 + 0 + 1) / 3, its variance 2 / 9; the grey of the same mean has none.
    found = losses.ssim_loss(stripes, jnp.full_like(stripes, 2 / 3))[0, 1, 0, 0]
    np.testing.assert_allclose(found, 0.5 * (1 - 9e-4 / (2 / 9 + 9e-4)), rtol=1e-4)


def test_equal_images_have_no_error():
    image = random(2, 5, 6, 3)
    assert float(losses.ssim_loss(image, image).max()) < 1e-6
    error = losses.photometric_error(image, image)
    assert error.shape == (2, 5, 6) and float(error.max()) < 1e-6


def test_shares_of_the_photometric_error():
    one, other = random(1, 5, 6, 3), random(1, 5, 6, 3, seed=1)
    np.testing.assert_allclose(
        losses.photometric_error(one, other, ssim_share=0.0), np.abs(one - other).mean(-1), rtol=1e-5
    )
    structural = losses.ssim_loss(one, other).mean(-1)
    np.testing.assert_allclose(losses.photometric_error(one, other, ssim_share=1.0), structural, rtol=1e-6)


def test_smoothness_by_hand():
    """A step of 2 in a disparity of mean 2, over an edge of 1 in two of three channels; nothing along y."""
    disparity = jnp.array([[[1.0, 3.0], [1.0, 3.0]]])
    image = np.zeros((1, 2, 2, 3), np.float32)
    np.testing.assert_allclose(losses.edge_aware_smoothness(disparity, image), 1.0, rtol=1e-6)
    image[:, :, 1, :2] = 1.0
    np.testing.assert_allclose(losses.edge_aware_smoothness(disparity, image), np.exp(-2 / 3), rtol=1e-6)
    turned = disparity.swapaxes(1, 2), image.swapaxes(1, 2)
    np.testing.assert_allclose(losses.edge_aware_smoothness(*turned), np.exp(-2 / 3), rtol=1e-6)
    # Whatever the scale of the disparity, and of no disparity at all.
    np.testing.assert_allclose(losses.edge_aware_smoothness(7.0 * disparity, image), np.exp(-2 / 3), rtol=1e-6)
    for constant in (0.0, 0.5):
        value, gradient = jax.value_and_grad(losses.edge_aware_smoothness)(jnp.full((1, 2, 2), constant), image)
        assert value == 0 and not np.asarray(gradient).any()


def test_only_the_best_view_gets_a_gradient():
    first, second = jnp.array([[[0.1, 0.4, 0.3]]]), jnp.array([[[0.2, 0.2, 0.3]]])
    unmoved = jnp.array([[[0.5, 0.1, 0.3]]])

    def total(first, second, unmoved):
        return jnp.sum(losses.minimum_error([first, second], unmoved)[0])

    gradients = jax.grad(lambda *errors: total(*errors[:2], []), (0, 1))(first, second)
    np.testing.assert_array_equal(np.concatenate(gradients)[:, 0], [[1, 0, 1], [0, 1, 0]])
    error, moved = losses.minimum_error([first, second], [unmoved, unmoved + 1.0])
    np.testing.assert_allclose(error[0, 0], [0.1, 0.1, 0.3])
    np.testing.assert_array_equal(moved[0, 0], [True, False, False])
    gradients = jax.grad(lambda *errors: total(*errors[:2], errors[2:]), (0, 1, 2))(first, second, unmoved)
    np.testing.assert_array_equal(np.concatenate(gradients)[:, 0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    _, moved = losses.minimum_error([first])
    assert np.asarray(moved).all()
    with pytest.raises(ValueError, match="expected the errors of at least one view"):
        losses.minimum_error([], [unmoved])


def test_noise_decides_between_equal_errors_alone():
    error = jnp.full((4, 16, 16), 0.25)
    key = jax.random.key(0)
    found, moved = losses.minimum_error([error], [error], key=key)
    assert 0.4 < np.asarray(moved).mean() < 0.6
    assert 0 < float(jnp.abs(found - error).max()) < 1e-4
    np.testing.assert_array_equal(moved, losses.minimum_error([error], [error], key=key)[1])
    assert (np.asarray(moved) != np.asarray(losses.minimum_error([error], [error], key=jax.random.key(1))[1])).any()
    assert not np.asarray(losses.minimum_error([error + 1e-3], [error], key=key)[1]).any()


def test_a_still_scene_is_masked_out():
    """Equal images and no motion: what is left is the smoothness, halved at the second scale."""
    frame = random(1, 8, 8, 3)
    disparities = [random(1, 8, 8, seed=1), random(1, 4, 4, seed=2)]
    means = frame.reshape(1, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    parts = [losses.edge_aware_smoothness(*pair) for pair in zip(disparities, (frame, means), strict=True)]
    value, gradient = loss_and_gradients(disparities, frame, [frame], camera(), [still()])
    np.testing.assert_allclose(value, 1e-3 * (parts[0] + parts[1] / 2) / 2, atol=1e-6)
    alone = jax.grad(losses.edge_aware_smoothness)(disparities[0], frame)
    np.testing.assert_allclose(gradient[0], 1e-3 * alone / 2, rtol=1e-4, atol=1e-9)


def test_each_scale_draws_its_own_noise():
    frame, key = random(1, 8, 8, 3), jax.random.key(0)
    constant = [jnp.full((1, size, size), 0.5) for size in (8, 4)]
    one, two = (
        loss_and_gradients(some, frame, [frame], camera(), [still()], key=key)[0] for some in (constant[:1], constant)
    )
    assert 0.1 * abs(one) < abs(one - two) < 1e-4


def test_gradients_are_finite_where_nothing_is_to_be_seen():
    """All points behind the view, in its plane, or masked out; a blank frame; disparities of 0 and 1."""
    frame, view = random(1, 8, 8, 3), random(1, 8, 8, 3, seed=1)
    for image in (frame, jnp.zeros_like(frame)):
        for forward in (-1000.0, -0.1, 0.0):
            motion = still().at[:, 2, 3].set(forward)
            for disparity in (0.0, 1.0):
                disparities = [jnp.full((1, 8, 8), disparity), jnp.full((1, 4, 4), disparity)]
                for views in ([view], [image]):
                    value, gradients = loss_and_gradients(disparities, image, views, camera(), [motion])
                    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


def test_gradients_against_differences():
    one, other = 0.4 + 0.2 * random(1, 5, 6, 2), 0.7 + 0.2 * random(1, 5, 6, 2, seed=1)
    error = jax.jit(lambda image: losses.photometric_error(image, other))
    check_grads(error, (one,), order=1, modes=("rev",), eps=1e-2, atol=5e-3, rtol=5e-3)
    disparity = 1.0 + np.arange(30, dtype=np.float32).reshape(1, 5, 6) ** 1.2  # no slope changes its sign
    smooth = jax.jit(lambda values: losses.edge_aware_smoothness(values, other))
    check_grads(smooth, (disparity,), order=1, modes=("rev",), eps=1e-2, atol=2e-3, rtol=2e-3)


def test_options_and_eager():
    """Without auto-masking a warped view counts even if it is worse; the noise changes little; eager = jit."""
    frame, views = random(2, 8, 8, 3), [random(2, 8, 8, 3, seed=1), random(2, 8, 8, 3, seed=2)]
    arguments = [random(2, 8, 8, seed=3), random(2, 4, 4, seed=4)], frame, views, camera(2), [still(2)] * 2
    arguments[4][0] = arguments[4][0].at[:, 0, 3].set(0.3)
    plain, _ = loss_and_gradients(*arguments)
    np.testing.assert_allclose(losses.view_synthesis_loss(*arguments), plain, rtol=1e-5)
    assert losses.view_synthesis_loss(*arguments, auto_mask=False) > plain
    noisy = losses.view_synthesis_loss(*arguments, key=jax.random.key(0))
    assert 0 < abs(noisy - plain) < 1e-4
    rough = losses.view_synthesis_loss(*arguments, smoothness=2e-3)
    parts = [losses.edge_aware_smoothness(arguments[0][0], frame)]
    parts += [losses.edge_aware_smoothness(arguments[0][1], frame.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))) / 2]
    np.testing.assert_allclose(rough - plain, 1e-3 * np.mean(parts), rtol=1e-3)
    assert losses.view_synthesis_loss(*arguments, nearest=1.0, farthest=2.0) != plain


def test_refusals():
    image = random(1, 4, 4, 3)
    with pytest.raises(ValueError, match="expected one shape"):
        losses.photometric_error(image, image[:, :2])
    with pytest.raises(ValueError, match="2x2 pixels or more"):
        losses.ssim_loss(image[:, :1], image[:, :1])
    with pytest.raises(ValueError, match="expected one size, 2x2 or more"):
        losses.edge_aware_smoothness(image[..., 0], image[:, :2])
    with pytest.raises(ValueError, match="a motion for each view, got 1, 1 and 0"):
        losses.view_synthesis_loss([image[..., 0]], image, [image], camera(), [])
    with pytest.raises(ValueError, match=r"sizes that divide the frame's, \(4, 4\), got \(3, 3\)"):
        losses.view_synthesis_loss([image[:, :3, :3, 0]], image, [image], camera(), [still()])
