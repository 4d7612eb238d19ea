"""Self-supervised depth: who learns from what, flips, scale, all views, what the published settings hold."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uda_jax.configs.common import depth

from uda_jax import config, losses
from uda_jax.errors import UserError
from uda_jax.methods.parts import scene as scenes
from uda_jax.methods.parts.scene import DisparityNetwork, MotionNetwork
from uda_jax.methods.self_supervised_depth import SelfSupervisedDepth
from uda_jax.runs import initial_weights, stages
from uda_jax.schema import from_mapping
from uda_jax.training.optimisers import adam
from uda_jax.training.schedules import Schedule
from uda_jax.weights import matching

SIZE = (16, 32)
CAMERA = np.tile(np.array([0.8, 1.6, 0.5, 0.5], np.float32), (2, 1))


def make(views="both", **fields):
    defaults = {
        "disparity": DisparityNetwork("disparity_resnet14", width=2, decoder_width=1),
        "motion": MotionNetwork("motion_resnet14", width=2, motion_width=2),
        "optimiser": adam(learning_rate=0.01),
        "schedule": Schedule(name="constant"),
        "metres_per_unit": 5.0,
        "jitter": 0.0,
    }
    return SelfSupervisedDepth(views=views, **defaults | fields)


@pytest.fixture(scope="module")
def maps():
    """Two frames with all other views; the second frame is mirrored, so that its right camera is to the left."""
    generator = np.random.default_rng(0)
    names = ("image", "image_previous", "image_next", "image_right")
    pictures = {name: generator.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8) for name in names}
    return pictures | {"intrinsics": CAMERA, "baseline": np.array([0.5, -0.5], np.float32)}


@pytest.fixture(scope="module")
def stepped(maps):
    """The method with all views, its first state, and what one step makes of it."""
    method, batch = make(), {"target": maps}
    state = jax.jit(lambda key: method.init(key, batch))(jax.random.key(0))
    return method, state, jax.jit(method.train_step)(state, batch)


def test_one_step_is_the_loss_of_its_parts(stepped, maps, flat):
    """Of what the networks predict the loss is `view_synthesis_loss`; both networks and their statistics move."""
    method, state, (after, metrics) = stepped
    scene = scenes.scene(maps, "both")

    @jax.jit
    def expected(state):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0), 1)
        disparities, _ = method._disparities(state.params, state.model_state, scene.frame, train=True)
        motions, _ = method._motions(state.params, state.model_state, scene, train=True)
        order = ["image_previous", "image_next", "image_right"]
        arguments = ([scene.views[name] for name in order], scene.cameras, [motions[name] for name in order])
        return losses.view_synthesis_loss(disparities, scene.frame, *arguments, key=key), motions

    loss, motions = expected(state)
    assert float(metrics["loss/rebuilding"]) == pytest.approx(float(loss), rel=1e-5)
    assert metrics["loss/total"] == metrics["loss/rebuilding"] and "norm/disparity" in metrics
    # A camera half a metre to the right, in units of five metres: points move to the left, mirrored to the right.
    np.testing.assert_allclose(motions["image_right"][:, :3, 3], [[-0.1, 0, 0], [0.1, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(motions["image_right"][:, :3, :3], np.tile(np.eye(3), (2, 1, 1)), atol=1e-7)
    for tree in ("params", "model_state"):
        before, now = flat(getattr(state, tree)), flat(getattr(after, tree))
        assert {path.split("/")[0] for path in before if not np.array_equal(before[path], now[path])} == {
            "disparity",
            "motion",
        }


def test_the_motion_to_an_earlier_frame_is_the_way_back(stepped, maps):
    """The network sees pairs in their order in time: of the same pair both ways, one motion undoes the other."""
    method, state, _ = stepped
    scene = scenes.scene(maps, "monocular")
    swapped = scene._replace(frame=scene.views["image_next"], views={"image_previous": scene.frame})
    forth = scene._replace(views={"image_next": scene.views["image_next"]})

    @jax.jit
    def both(state):
        (one, _), (other, _) = (
            method._motions(state.params, state.model_state, each, train=False) for each in (forth, swapped)
        )
        return one["image_next"] @ other["image_previous"]

    np.testing.assert_allclose(both(state), np.tile(np.eye(4), (2, 1, 1)), atol=1e-5)


def test_depth_is_in_metres_and_interpolated(stepped, maps):
    method, state, _ = stepped
    size = (2 * SIZE[0], 2 * SIZE[1])
    found = jax.jit(method.predict, static_argnums=2)(state, maps["image"], size)["depth"]
    disparity = jax.jit(method.disparities, static_argnums=2)(state, maps["image"], size)
    assert found.shape == (2, *size, 1) and 0 < float(disparity.min()) < float(disparity.max()) < 1
    np.testing.assert_allclose(found[..., 0], 5.0 / (0.01 + 9.99 * disparity), rtol=1e-5)


def test_pictures(stepped, maps):
    method, state, _ = stepped
    found = jax.jit(method.illustrate)(state, {"target": maps})
    assert set(found) == {"depth", "rebuilt", "mask"}
    assert all(x.dtype == np.uint8 and x.shape == (2, *SIZE, 3) for x in found.values())
    assert set(np.unique(found["mask"])) <= {0, 255} and found["depth"].max() == 255


def test_two_domains_add_up_and_keep_their_statistics_apart(maps):
    """Traced only: a loss for each, and a state like the one before."""
    method = make("stereo")
    batch = {
        name: {k: maps[k] for k in ("image", "image_right", "intrinsics", "baseline")} for name in ("target", "source")
    }
    state = jax.eval_shape(lambda key: method.init(key, batch), jax.random.key(0))
    assert set(state.params) == {"disparity"}
    after, metrics = jax.eval_shape(method.train_step, state, batch)
    assert after == state and {"loss/rebuilding_source", "loss/rebuilding_target"} < set(metrics)


def test_jitter_changes_a_frame_and_its_views_alike(maps):
    """Of equal images all stay equal; a probability of 0 leaves them, of 1 changes every frame."""
    same = maps | dict.fromkeys(("image_previous", "image_next", "image_right"), maps["image"])
    scene = scenes.scene(same, "both")
    assert make(jitter=0.0)._jittered(scene, jax.random.key(0)) is scene
    found = jax.jit(make(jitter=1.0)._jittered)(scene, jax.random.key(0))
    assert np.abs(np.asarray(found.frame - scene.frame)).max(axis=(1, 2, 3)).min() > 0.01
    for view in found.views.values():
        np.testing.assert_allclose(view, found.frame, atol=1e-6)


@pytest.mark.parametrize(
    ("views", "missing"), [("stereo", "baseline"), ("both", "image_next"), ("monocular", "intrinsics")]
)
def test_a_view_that_is_not_there(views, missing, maps):
    method, batch = make(views), {"target": {name: x for name, x in maps.items() if name != missing}}
    with pytest.raises(UserError, match=f"^config.data.target.fields: expected image.*got no {missing}; add it"):
        scenes.check_maps(batch, method.views)


def test_mistakes():
    with pytest.raises(UserError, match="^m.nearest: expected less than farthest = 1.0, got 2.0"):
        from_mapping(SelfSupervisedDepth, {"nearest": 2.0, "farthest": 1.0}, "m")
    with pytest.raises(UserError, match="m.disparity.name: unknown name 'resnet18'.*disparity_resnet18"):
        from_mapping(SelfSupervisedDepth, {"disparity": {"name": "resnet18"}}, "m")


def test_a_first_kernel_for_two_images_takes_half_of_that_for_one():
    """As ImageNet's weights start the motion's network: of the same image twice, the maps are those of it alone."""
    kernel = np.arange(27.0, dtype=np.float32).reshape(1, 3, 3, 3)
    given = {"params": {"encoder": {"conv1": {"kernel": kernel}, "other": {"kernel": kernel}}}}
    wanted = {"params": {"encoder": {"conv1": {"kernel": np.zeros((1, 3, 6, 3))}, "other": {"kernel": kernel}}}}
    found = matching.for_several_images(given, wanted)["params"]["encoder"]
    np.testing.assert_array_equal(found["conv1"]["kernel"], np.concatenate([kernel, kernel], axis=2) / 2)
    assert found["other"]["kernel"] is kernel


def test_published_settings():
    """Those of the trainer behind CorDA's depth of GTA5, on its video and on Cityscapes' pairs."""
    for word, views in (("", "stereo"), (",source", "monocular")):
        experiment = config.experiment(config.load(f"self_supervised_depth:gta5_cityscapes{word}"))
        (stage,) = stages.recipe(experiment, 19)
        method, (domain,) = stage.method, stage.domains.values()
        assert (method.views, method.disparity.name, method.motion.name) == (
            views,
            "disparity_resnet101",
            "motion_resnet18",
        )
        assert (domain.size, domain.crop, stage.train.steps, stage.train.batch_size) == (
            (512, 1024),
            (512, 512),
            350_000,
            4,
        )
        assert set(stage.init_from) == set(method.player.networks)
        state = jax.eval_shape(stage.initialise, jax.random.key(0))
        assert set(state.params) == set(method.player.networks)
        assert method.optimiser.groups == (("^disparity/encoder/", 0.1, None),)
        assert method.schedule.drop == pytest.approx(160 / 350)
    assert domain.dataset == "video" and domain.options == {"camera": "gta"}


def test_the_pretrained_variant_keeps_the_encoders_statistics(lite0_file, monkeypatch):
    monkeypatch.setenv("UDA_JAX_CACHE", str(lite0_file.parents[1]))
    (stage,) = stages.recipe(config.experiment(config.load("self_supervised_depth:smoke,pretrained")), 19)
    both = depth.on_encoder(depth.of_domain("smoke", "target", "both"))
    assert stage.method == dataclasses.replace(both.method, views="stereo", schedule=stage.method.schedule)
    method = dataclasses.replace(both.method, schedule=stage.method.schedule)
    stage = dataclasses.replace(stage, method=method, init_from=both.init_from)
    assert stage.method.disparity.bn_mode == stage.method.motion.bn_mode == "frozen"
    state = jax.eval_shape(stage.initialise, jax.random.key(0))
    started = initial_weights.start(state, stage)
    for network in ("disparity", "motion"):
        leaves = jax.tree.leaves_with_path(started.params[network])
        assert {path[0].key for path, leaf in leaves if isinstance(leaf, np.ndarray)} == {"encoder"}
    kernel = started.params["motion"]["encoder"]["conv_stem"]["kernel"]
    one = started.params["disparity"]["encoder"]["conv_stem"]["kernel"]
    np.testing.assert_array_equal(kernel, np.concatenate([one, one], axis=2) / 2)


def test_constant_images_teach_nothing_but_stay_finite():
    """No texture: every unwarped view matches, and only the smoothness has a gradient."""
    method = make("stereo")
    image = np.full((2, *SIZE, 3), 90, np.uint8)
    scene = scenes.scene({"image": image, "image_right": image, "intrinsics": CAMERA, "baseline": np.ones(2)}, "stereo")
    disparities = [jnp.full((2, SIZE[0] >> s, SIZE[1] >> s), 0.3) for s in range(4)]
    motion = scenes.stereo_motion(scene.right / method.metres_per_unit)

    @functools.partial(jax.jit, static_argnums=1)
    def value_and_gradient(maps, smoothness):
        views, key = list(scene.views.values()), jax.random.key(0)
        loss = lambda maps: losses.view_synthesis_loss(  # noqa: E731
            maps, scene.frame, views, scene.cameras, [motion], key=key, smoothness=smoothness
        )
        return jax.value_and_grad(loss)(maps)

    value, gradient = value_and_gradient(disparities, 0.0)
    assert abs(float(value)) < 1e-4 and all(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(gradient))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradient(disparities, 1e-3)))
