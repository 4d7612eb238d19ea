"""How scores are made, with networks whose scores are known functions of the pixels."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nhwc

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.schema import from_mapping

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), dtype=np.uint8)


def pointwise(images, size):
    """Scores that are the pixels themselves, and a depth that is the red channel."""
    pixels = ops.resize_bilinear(images.astype(jnp.float32), size, align_corners=False)
    return {"scores": pixels, "depth": pixels[..., :1]}


def position(images, size):
    """Scores that tell a pixel's column within what the network sees, in each row of each image."""
    columns = jnp.broadcast_to(jnp.arange(size[1], dtype=jnp.float32)[None, None, :, None], (len(images), *size, 1))
    return {"scores": columns}


class Method:
    """Scores that are the pixels times the state; counts how often it is traced."""

    def __init__(self):
        self.traces = []

    def predict(self, state, images, size):
        self.traces.append(images.shape)
        return {"scores": state * pointwise(images, size)["scores"]}


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("window", "stride"), [((3, 4), (2, 3)), ((3, 4), (3, 4)), ((7, 4), (1, 1)), ((20, 5), (9, 2))]
)
def test_windows_of_a_pointwise_network_give_the_whole_image(window, stride):
    size = IMAGES.shape[1:3]
    found = jax.jit(scores.sliding(pointwise, window, stride), static_argnums=1)(IMAGES, size)
    for name, expected in pointwise(IMAGES, size).items():
        close(found[name], expected)


@pytest.mark.parametrize("window", [(7, 9), (20, 30)])
def test_one_window_is_the_whole_image(window):
    # Not of a pointwise network alone: this one tells what it sees of the image.
    found = jax.jit(scores.sliding(position, window, window), static_argnums=1)(IMAGES, (7, 9))
    np.testing.assert_array_equal(np.asarray(found["scores"]), np.asarray(position(IMAGES, (7, 9))["scores"]))


def test_overlapping_windows_are_averaged_and_the_last_one_ends_at_the_border():
    # Windows of 4 columns start at 0, 3 and, instead of at 6, at 5.
    found = scores.sliding(position, (7, 4), (7, 3))(IMAGES, (7, 9))["scores"]
    close(found[1, 6, :, 0], [0, 1, 2, (3 + 0) / 2, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3])


def test_windows_are_interpolated_to_the_wanted_size():
    found = scores.sliding(pointwise, (3, 4), (2, 3))(IMAGES, (14, 18))["scores"]
    close(found, pointwise(IMAGES, (14, 18))["scores"])


def test_flip_is_symmetric_and_the_mean_with_the_mirrored_image():
    flipped = scores.flipped(position)
    found = flipped(IMAGES, (7, 9))["scores"]
    close(found, jnp.full((2, 7, 9, 1), 4.0))  # column c and column 8 - c
    lopsided = lambda images, size: {"scores": jnp.cumsum(images.astype(jnp.float32), axis=2)}  # noqa: E731
    once, mirrored = (scores.flipped(lopsided)(images, (7, 9))["scores"] for images in (IMAGES, IMAGES[:, :, ::-1]))
    close(once, mirrored[:, :, ::-1])
    assert np.abs(np.asarray(once - lopsided(IMAGES, None)["scores"])).max() > 1


def test_scales_resize_the_image_on_its_own_scale_of_values_and_average_at_the_size():
    seen = []

    def record(images, size):
        seen.append((images.shape[1:3], images.dtype))
        return pointwise(images, size)

    found = scores.scaled(record, (0.5, 1.0, 2.0))(IMAGES, (7, 9))["scores"]
    assert seen == [((4, 4), jnp.float32), ((7, 9), np.uint8), ((14, 18), jnp.float32)]
    resized = [
        ops.resize_bilinear(jnp.asarray(IMAGES), size, align_corners=False) for size in ((4, 4), (7, 9), (14, 18))
    ]
    close(found, sum(pointwise(images, (7, 9))["scores"] for images in resized) / 3)


def test_an_ensemble_is_the_mean_of_the_maps_that_all_have():
    constant = lambda images, size: {"scores": jnp.full((2, *size, 3), 6.0, jnp.bfloat16)}  # noqa: E731
    found = scores.ensemble([pointwise, constant, constant])(IMAGES, (7, 9))
    assert set(found) == {"scores"} and found["scores"].dtype == jnp.float32
    close(found["scores"], (IMAGES.astype(np.float32) + 12) / 3)


def test_probabilities_are_averaged_and_returned_as_logits():
    member = lambda values: lambda images, size: {"scores": jnp.broadcast_to(jnp.array(values), (1, *size, 2))}  # noqa: E731
    first, second = member([0.0, 9.0]), member([0.0, -10.0])
    members = [scores.averaged(predict, "probabilities") for predict in (first, second)]
    found = scores.logits(scores.ensemble(members), "probabilities")(None, (1, 1))["scores"]
    probabilities = [
        (1 / (1 + np.exp(9)) + 1 / (1 + np.exp(-10))) / 2,
        (1 / (1 + np.exp(-9)) + 1 / (1 + np.exp(10))) / 2,
    ]
    close(jax.nn.softmax(found)[0, 0, 0], probabilities)
    # Logits are of another opinion.
    assert (
        found[0, 0, 0, 0] > found[0, 0, 0, 1]
        and scores.ensemble([first, second])(None, (1, 1))["scores"][0, 0, 0, 1] < 0
    )
    sure = scores.logits(scores.averaged(member([0.0, 900.0]), "probabilities"), "probabilities")(None, (1, 1))
    assert np.isfinite(np.asarray(sure["scores"])).all()


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_whole_image_is_the_methods_own_prediction(average):
    method = Method()
    found = scores.compose(method, 2.0, Inference(average=average))(IMAGES, (7, 9))
    np.testing.assert_array_equal(found["scores"], method.predict(2.0, IMAGES, (7, 9))["scores"])


def test_everything_at_once_by_hand():
    section = Inference(window=(3, 3), stride=(2, 2), flip=True, scales=(1.0, 2.0), average="probabilities")
    found = jax.jit(scores.Composed(Method(), section).predict, static_argnames="size")(0.01, IMAGES, size=(7, 9))
    twice = ops.resize_bilinear(jnp.asarray(IMAGES), (14, 18), align_corners=False)
    resize = lambda images, size: ops.resize_bilinear(images, size, align_corners=False)  # noqa: E731
    softmax = lambda images: jax.nn.softmax(0.01 * jnp.asarray(images, jnp.float32))  # noqa: E731
    # A pointwise network sees no difference in windows; the mirrored image only in how it was resized, which is none.
    expected = (softmax(IMAGES) + resize(softmax(twice), (7, 9))) / 2
    np.testing.assert_allclose(jax.nn.softmax(found["scores"]), expected, rtol=1e-4, atol=1e-6)


def test_windows_trace_the_network_for_one_window_alone():
    method = Method()
    section = Inference(window=(3, 4), stride=(1, 1))
    program = jax.jit(scores.Composed(method, section).predict, static_argnames="size")
    for state in (1.0, 2.0):
        program(state, IMAGES, size=(7, 9))
    # Once for the shapes, and once for the loop over 5 x 6 windows.
    assert method.traces == [(2, 3, 4, 3)] * 2


EIGHT_DEVICES = """
import jax, numpy as np
from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.training import sharding

class Method:
    def predict(self, state, images, size):
        return {"scores": state * images.astype("float32")}

assert jax.device_count() == 8
images = np.random.default_rng(1).integers(0, 256, (8, 7, 9, 3), dtype=np.uint8)
section = Inference(window=(3, 4), stride=(2, 3), flip=True)
program = jax.jit(scores.Composed(Method(), section).predict, static_argnames="size")
sharded = sharding.to_global(images, sharding.split_over_batch(sharding.data_mesh()))
found = program(0.1, sharded, size=(7, 9))["scores"]
assert len(found.addressable_shards) == 8 and found.addressable_shards[0].data.shape[0] == 1
np.testing.assert_allclose(found, program(0.1, images, size=(7, 9))["scores"], rtol=1e-6)
np.testing.assert_allclose(found, 0.1 * images, rtol=1e-5)
"""


def test_eight_devices_share_a_batch_and_give_what_one_gives():
    environment = dict(os.environ)
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
    done = subprocess.run([sys.executable, "-c", EIGHT_DEVICES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": ()}, r"config.scales: expected at least one factor"),
        ({"stride": (2, 2)}, r"config.stride: expected at most the window's size None"),
        ({"window": (4, 4), "stride": (2, 5)}, r"config.stride: expected at most the window's size \(4, 4\)"),
        ({"average": "votes"}, "config.average: expected one of 'logits', 'probabilities'"),
        ({"window": (0, 4)}, r"config.window\[0\]: expected an integer >= 1, got 0"),
    ],
)
def test_mistakes_in_the_section(values, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Inference, values)
    assert dataclasses.is_dataclass(from_mapping(Inference, {"window": [4, 4], "scales": [1]}))


def test_probabilities_of_windows():
    """The released code of VFM-UDA averages the probabilities of overlapping windows."""
    golden = vectors.load("vfm-uda/slide_probabilities.npz")
    crops, lefts = nhwc(golden["crop_logits"]), golden["boxes"][:, 2]
    height, width = golden["count"].shape
    # Each pixel holds its column, so that a window knows which one it is.
    images = np.broadcast_to(np.arange(width, dtype=np.float32)[:, None], (1, height, width, 3))

    def predict(images, size):
        del size
        return {"scores": jnp.asarray(crops)[jnp.argmax(lefts == images[0, 0, 0, 0])][None]}

    windows = scores.sliding(scores.averaged(predict, "probabilities"), (8, 8), (8, int(lefts[1] - lefts[0])))
    found = jax.jit(lambda x: windows(x, (height, width))["scores"])(images)
    assert_map_close(found, golden["probabilities"][None], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[0].argmax(-1), golden["prediction"])
