"""Warping by depth and motion: golden vectors, planes and rotations by hand, points that no camera sees, streets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from jax.test_util import check_grads

from uda_jax import ops
from uda_jax.data import rendering
from uda_jax.data.datasets import streets
from uda_jax.data.io import cameras
from uda_jax.data.pipeline.examples import Augment
from uda_jax.data.pipeline.transforms import HorizontalFlip, RandomCrop, RandomScale, Resampling

CAMERA = np.array([[[8.0, 0.0, 3.5], [0.0, 10.0, 2.5], [0.0, 0.0, 1.0]]], np.float32)
SIZE = 6, 8
STILL = np.eye(4, dtype=np.float32)[None]
warp = jax.jit(ops.synthesise_view)


@pytest.fixture(scope="module")
def golden():
    return vectors.load("dacs-corda/photometric.npz")


def picture(seed=0):
    return np.random.default_rng(seed).random((1, *SIZE, 3), np.float32)


def moved(*translation):
    return ops.rigid_motion(jnp.zeros((1, 3)), jnp.array([translation], jnp.float32))


def test_depth_of_monodepth2(golden):
    depth = ops.depth_from_disparity(golden["disp_0"])
    np.testing.assert_allclose(depth, golden["depth_scale0"], rtol=1e-4)


@pytest.mark.parametrize("name", ["prev", "next"])
def test_motions_and_views_of_monodepth2(golden, name):
    motion = ops.rigid_motion(
        golden[f"axisangle_{name}"][:, 0], golden[f"translation_{name}"][:, 0], inverse=name == "prev"
    )
    np.testing.assert_allclose(motion, golden[f"cam_T_{name}"], atol=1e-6)
    view, depth = vectors.nhwc(golden[f"frame_{name}"]), golden["depth_scale0"][:, 0]
    rebuilt, seen = warp(view, depth, golden["K"][:, :3, :3], motion)
    vectors.assert_map_close(rebuilt, golden[f"warped_{name}_scale0"], rtol=0, atol=1e-4)
    assert 0 < np.asarray(seen).mean() < 1


def test_range_of_depths():
    disparity = jnp.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(ops.depth_from_disparity(disparity), [100, 1 / 5.005, 0.1], rtol=1e-6)
    np.testing.assert_allclose(ops.depth_from_disparity(disparity, nearest=1, farthest=2), [2, 4 / 3, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="expected 0 < nearest < farthest, got 2 and 1"):
        ops.depth_from_disparity(disparity, nearest=2, farthest=1)


def test_back_projection_by_hand_and_back():
    """Also of a camera whose axes are not at right angles, and of a batch with two cameras."""
    cameras = np.concatenate([CAMERA, CAMERA])
    cameras[1, 0, 1] = 0.5
    depth = np.random.default_rng(0).uniform(1, 20, (2, *SIZE)).astype(np.float32)
    points = np.asarray(ops.back_project(depth, cameras))
    expected = depth[0, 4, 6] * np.array([(6 - 3.5) / 8, (4 - 2.5) / 10, 1])
    np.testing.assert_allclose(points[0, 4, 6], expected, rtol=1e-6)
    pixels, distance = ops.project(points, cameras, np.concatenate([STILL, STILL]))
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(6)), axis=-1)
    np.testing.assert_allclose(pixels, np.broadcast_to(grid, pixels.shape), atol=1e-5)
    np.testing.assert_array_equal(distance, depth)


def test_rotations_by_hand():
    quarter = np.pi / 2
    axes = jnp.array([[0, 0, quarter], [0, quarter, 0], [quarter, 0, 0], [0, 0, 1e-3]])
    turned = np.asarray(ops.rigid_motion(axes, jnp.zeros((4, 3))))[:, :3, :3]
    np.testing.assert_allclose(turned[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(turned[1], [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(turned[2], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(turned[3][:2, :2], [[1 - 5e-7, -1e-3], [1e-3, 1 - 5e-7]], atol=1e-7)


def test_inverse_motion_undoes_the_motion():
    """The rotation comes first, then the translation; angles on both sides of where the series is used."""
    axis_angle = jnp.array([[0.3, -0.2, 0.5], [0.0099, 0.0, 0.0], [0.0101, 0.0, 0.0]])
    translation = jnp.array([[1.0, 2.0, 3.0]] * 3)
    forth = np.asarray(ops.rigid_motion(axis_angle, translation))
    back = np.asarray(ops.rigid_motion(axis_angle, translation, inverse=True))
    np.testing.assert_allclose(back @ forth, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-6)
    np.testing.assert_array_equal(forth[:, :, 3], [[1, 2, 3, 1]] * 3)
    np.testing.assert_allclose(np.linalg.det(forth[:, :3, :3]), 1, rtol=1e-6)
    np.testing.assert_allclose(forth[1:, 1, 1], np.cos([0.0099, 0.0101]), atol=1e-7)


def test_rotation_has_its_gradient_at_rest():
    """There the derivative of R v is the cross product with v."""
    turned = jax.jacfwd(lambda a: ops.rigid_motion(a[None], jnp.zeros((1, 3)))[0, :3, :3] @ jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(turned(jnp.zeros(3)), [[0, 3, -2], [-3, 0, 1], [2, -1, 0]], atol=1e-6)


def test_a_yaw_moves_the_centre_by_focal_length_times_tangent():
    motion = ops.rigid_motion(jnp.array([[0.0, 0.2, 0.0]]), jnp.zeros((1, 3)))
    pixels, _ = ops.project(jnp.array([[[[0.0, 0.0, 7.0]]]]), CAMERA, motion)
    np.testing.assert_allclose(pixels[0, 0, 0], [3.5 + 8 * np.tan(0.2), 2.5], rtol=1e-5)


def test_a_plane_moves_by_focal_length_times_translation_over_depth():
    """Two pixels: 8 * 1 / 4. What the view does not show is filled with its border."""
    view = picture()
    rebuilt, seen = warp(view, jnp.full((1, *SIZE), 4.0), CAMERA, moved(1.0, 0.0, 0.0))
    np.testing.assert_allclose(rebuilt[:, :, :-2], view[:, :, 2:], atol=1e-5)
    np.testing.assert_allclose(rebuilt[:, :, -2:], np.repeat(view[:, :, -1:], 2, axis=2), atol=1e-5)
    np.testing.assert_array_equal(seen[0], np.broadcast_to(np.arange(8) < 6, SIZE))
    half, _ = warp(view, jnp.full((1, *SIZE), 20.0), CAMERA, moved(0.0, 1.0, 0.0))  # half a pixel down
    np.testing.assert_allclose(half[:, :-1], (view[:, :-1] + view[:, 1:]) / 2, atol=1e-5)


def test_standing_still_rebuilds_the_image():
    view = picture()
    depth = np.random.default_rng(1).uniform(0.1, 100, (1, *SIZE)).astype(np.float32)
    rebuilt, seen = ops.synthesise_view(view, depth, CAMERA, STILL)
    np.testing.assert_allclose(rebuilt, view, atol=2e-5)
    assert np.asarray(seen).all()
    for eager, compiled in zip((rebuilt, seen), warp(view, depth, CAMERA, STILL), strict=True):
        np.testing.assert_allclose(eager, compiled, atol=1e-5)


def test_a_view_of_another_camera_and_size():
    """Twice the pixels in both directions: every pixel lies between four."""
    view = np.random.default_rng(0).random((1, 12, 16, 1), np.float32)
    camera = np.array([[[16.0, 0.0, 7.5], [0.0, 20.0, 5.5], [0.0, 0.0, 1.0]]], np.float32)
    rebuilt, seen = ops.synthesise_view(view, jnp.full((1, *SIZE), 5.0), CAMERA, STILL, view_intrinsics=camera)
    np.testing.assert_allclose(rebuilt[0, ..., 0], view.reshape(6, 2, 8, 2).mean(axis=(1, 3)), atol=1e-5)
    assert np.asarray(seen).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (4, 5)])
def test_sampling_reads_pixels_and_border_exactly(size):
    image = np.random.default_rng(0).random((2, *size, 2), np.float32)
    x, y = np.meshgrid(np.arange(-2, size[1] + 2), np.arange(-2, size[0] + 2))
    places = np.broadcast_to(np.stack([x, y], axis=-1), (2, *x.shape, 2)).astype(np.float32)
    expected = image[:, y.clip(0, size[0] - 1), x.clip(0, size[1] - 1)]
    np.testing.assert_array_equal(ops.sample_bilinear(image, places), expected)
    np.testing.assert_array_equal(ops.sample_bilinear(image, 1e30 * (places - 0.5))[:, 0, 0], image[:, 0, 0])


def test_no_gradient_to_places_outside():
    places = jnp.array([[[[-1.0, 2.5], [0.0, 2.5], [3.5, 2.5], [7.0, 2.5], [9.0, 9.0]]]])
    column = np.broadcast_to(np.arange(8, dtype=np.float32)[None, None, :, None], (1, *SIZE, 1))
    gradient = jax.grad(lambda at: jnp.sum(ops.sample_bilinear(column, at)))(places)
    np.testing.assert_array_equal(gradient[0, 0], [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0]])


def test_points_outside_and_behind_are_not_in_view():
    points = jnp.array([[[[0, 0, 2.0], [0, 0, -2.0], [0, 0, 0.0], [9, 0, 2.0], [0, -9, 2.0]]]])
    pixels, distance = ops.project(points, CAMERA, STILL)
    np.testing.assert_array_equal(ops.in_view(pixels, distance, SIZE)[0, 0], [True, False, False, False, False])
    edge = jnp.array([[[[-0.5, 5.5], [7.5, -0.5], [7.6, 0.0], [0.0, 5.6]]]])
    np.testing.assert_array_equal(ops.in_view(edge, jnp.ones((1, 1, 4)), SIZE)[0, 0], [True, True, False, False])


@pytest.mark.parametrize("depth", [0.0, 1e-7, 1e-30, 1.0, 2.0])
@pytest.mark.parametrize("forward", [0.0, -2e-7, -1.0, -3.0])
def test_gradients_are_finite_wherever_the_points_lie(depth, forward):
    """On the camera's centre, in its plane, where distance and offset cancel, and behind it."""

    def total(depth, axis_angle, translation):
        rebuilt, _ = ops.synthesise_view(picture(), depth, CAMERA, ops.rigid_motion(axis_angle, translation))
        return jnp.sum(rebuilt)

    arguments = jnp.full((1, *SIZE), depth), jnp.zeros((1, 3)), jnp.array([[0.0, 0.0, forward]])
    value, gradients = jax.value_and_grad(total, (0, 1, 2))(*arguments)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


def test_gradients_against_differences():
    """The view is linear in x and y, where interpolation has no kinks."""
    y, x = np.mgrid[:6, :8].astype(np.float32)
    view = np.stack([0.1 * x, 0.1 * y, 0.05 * (x - y)], axis=-1)[None]
    inner = np.s_[:, 2:4, 2:6]
    depth = np.random.default_rng(0).uniform(3, 5, (1, *SIZE)).astype(np.float32)

    def rebuilt(depth, axis_angle, translation):
        return ops.synthesise_view(view, depth, CAMERA, ops.rigid_motion(axis_angle, translation))[0][inner]

    arguments = depth, np.array([[0.02, -0.03, 0.05]], np.float32), np.array([[0.2, 0.1, -0.3]], np.float32)
    check_grads(jax.jit(rebuilt), arguments, order=1, modes=("rev",), eps=1e-2, atol=2e-3, rtol=2e-3)


def test_matrices_of_normalised_intrinsics():
    """The middle of 8x6 pixels is 3.5 columns and 2.5 rows from the centre of the first one."""
    normalised = jnp.array([[1.0, 10 / 6, 0.5, 0.5], [1.0, 1.0, 0.0, 1.0]])
    matrices = ops.camera_matrix(normalised, SIZE)
    np.testing.assert_allclose(matrices[0], CAMERA[0], rtol=1e-6)
    np.testing.assert_allclose(matrices[1], [[8, 0, -0.5], [0, 6, 5.5], [0, 0, 1]], rtol=1e-6)


def through_the_pipeline(seed, left, other, baseline):
    """Returns the examples of a frame and of another view after one scale, crop and flip, the same for both."""
    steps = Augment((RandomScale(0.7, 1.4, Resampling("bilinear")), RandomCrop((64, 128)), HorizontalFlip()))
    camera = cameras.calibrated((left.intrinsics[0, 0],) * 2, tuple(left.intrinsics[:2, 2]), left.depth.shape)
    maps = camera._replace(baseline=baseline).maps | {"name": "street", "index": 0}
    frames = ({"image": frame.image, "depth": frame.depth} | maps for frame in (left, other))
    return [steps(frame, np.random.default_rng(seed)) for frame in frames]


@pytest.mark.parametrize("look", ["simulator", "camera"])
def test_streets_rebuilt_from_their_neighbours(look):
    """True depth and motion rebuild a frame from the right eye, the past and the future, also cropped and mirrored.

    What another view does not see, its own depth tells; noise is that of each view.
    """
    left, right = rendering.render_stereo(look, 0, (96, 192), streets.BASELINE)
    previous, following = rendering.render_neighbours(look, 0, (96, 192))
    # Seeds 2 and 3 mirror, 0 and 1 do not.
    for seed, view, offset in ((0, right, 0), (2, right, 0), (1, previous, -1), (3, previous, -1), (2, following, 1)):
        frame, other = through_the_pipeline(seed, left, view, streets.BASELINE)
        sign = np.sign(frame["baseline"])
        assert sign == (-1 if seed > 1 else 1)
        mirror = np.diag([sign, 1.0, 1.0, 1.0])
        motion = moved(-frame["baseline"], 0.0, 0.0)
        if offset:
            motion = jnp.array((mirror @ rendering.motion(look, 0, offset) @ mirror)[None], jnp.float32)
        matrix = ops.camera_matrix(frame["intrinsics"][None], (64, 128))
        depth, far = (np.where(one["depth"] > 0, one["depth"], 1000.0)[None] for one in (frame, other))
        stacked = np.concatenate([other["image"][None] / 255.0, 1.0 / far[..., None]], axis=-1, dtype=np.float32)
        rebuilt, seen = warp(stacked, depth, matrix, motion)
        distance = ops.project(ops.back_project(depth, matrix), matrix, motion)[1]
        both = np.asarray(seen) & (np.abs(rebuilt[..., 3] * distance - 1.0) < 0.05)
        assert both.mean() > 0.65
        error = np.abs(rebuilt[..., :3] - frame["image"] / 255.0)[both].mean()
        unmoved = np.abs((other["image"] / 255.0 - frame["image"] / 255.0)[None])[both].mean()
        assert error < 0.03 and unmoved > 1.5 * error
