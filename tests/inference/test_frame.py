"""One frame: its prediction, and the maps of the network's encoder."""

import jax
import numpy as np
import pytest
from throwaway import Counting

from uda_jax.errors import UserError
from uda_jax.inference import frame
from uda_jax.inference.options import Inference
from uda_jax.methods.adda import Adda
from uda_jax.methods.base import Segmenter
from uda_jax.methods.source_only import SourceOnly
from uda_jax.training.initialisation import initialise

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def build(cls, name, **options):
    method = cls(num_classes=3, segmenter=Segmenter(name=name, input_norm="imagenet_rgb", **options))
    batch = {"image": IMAGE[None], "label": np.zeros((1, 16, 24), np.uint8)}
    return method, initialise(lambda key: method.init(key, {"source": batch, "target": batch}), jax.random.key(0))


@pytest.fixture(scope="module")
def counting():
    method = Counting()
    return method, method.init(jax.random.key(0), {})


def test_a_frame_is_predicted_at_the_size_asked_for(counting):
    method, state = counting
    scores = IMAGE.astype(np.float32) / 255 @ np.asarray(state.params["segmenter"]["weights"])
    found = frame.predict(method, state, IMAGE)
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, scores.argmax(-1))
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = -(probabilities * np.log(probabilities)).sum(-1) / np.log(3)
    np.testing.assert_allclose(found.entropy, expected, rtol=1e-4)
    assert frame.predict(method, state, IMAGE, (8, 12)).labels.shape == (8, 12)


def test_a_frame_is_predicted_as_runs_are_scored(counting):
    method, state = counting
    # Pixels are independent of each other, so that windows change nothing; two scales of an image do.
    plain = frame.predict(method, state, IMAGE)
    sliding = frame.predict(method, state, IMAGE, section=Inference(window=(8, 8)))
    np.testing.assert_allclose(sliding.entropy, plain.entropy, rtol=1e-4)
    scaled = frame.predict(method, state, IMAGE, section=Inference(scales=(0.5, 1.0)))
    assert np.abs(scaled.entropy - plain.entropy).max() > 1e-3


@pytest.mark.parametrize("wrong", [IMAGE[None], IMAGE[..., :1], IMAGE.astype(np.float32)])
def test_what_is_no_image_is_refused(counting, wrong):
    with pytest.raises(UserError, match=r"image: expected uint8 RGB \[H, W, 3\], got"):
        frame.predict(*counting, wrong)


def test_maps_of_an_encoder_come_from_the_stem_on():
    method, state = build(SourceOnly, "deeplab_v2_resnet14", width=2)
    maps = frame.encoder_maps(method, state, IMAGE)
    assert list(maps) == ["unpooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    assert [each.shape[-1] for each in maps.values()] == [2, 2, 8, 16, 32, 64]
    (name, found), *others = frame.encoder_maps(method, state, IMAGE, ["layer3"]).items()
    assert (name, others) == ("layer3", []) and found.dtype == np.float32
    np.testing.assert_allclose(found, maps["layer3"], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="unknown map 'layer5'; known: unpooled"):
        frame.encoder_maps(method, state, IMAGE, ["layer5"])


def test_a_network_without_an_encoder_is_named(counting):
    method = Adda(segmenter=Segmenter(name="lenet"))
    with pytest.raises(UserError, match="lenet: has no encoder that hands out its maps"):
        frame.encoder_maps(method, None, IMAGE)
    with pytest.raises(UserError, match="Counting: has no encoder"):
        frame.encoder_maps(*counting, IMAGE)


def test_a_method_of_depth_alone_has_no_classes_to_show(counting):
    class Depth(Counting):
        def predict(self, state, images, size):
            return {"depth": images[..., :1]}

    with pytest.raises(UserError, match=r"Depth: expected a method of classes, got \['depth'\] alone"):
        frame.predict(Depth(), counting[1], IMAGE)
