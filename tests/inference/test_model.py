"""A model as a function of images, with a network whose answer is known for every pixel."""

import dataclasses

import jax
import numpy as np
import pytest
from throwaway import Counting

from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.model import Model, of_method
from uda_jax.inference.options import Inference

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
SPACE = LabelSpace(("ground", "wall", "thing"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
TRACED = []


@dataclasses.dataclass(frozen=True)
class Recording(Counting):
    """Notes what it is traced for."""

    def predict(self, state, images, size):
        TRACED.append((images.shape, images.dtype.name, tuple(size)))
        return Counting.predict(self, state, images, size)


@pytest.fixture(scope="module")
def weights():
    return np.asarray(Recording().init(jax.random.key(0), {}).params["segmenter"]["weights"])


def model(domain):
    method = Recording()
    return Model.of(SPACE, of_method(method, method.init(jax.random.key(0), {}), Inference(), domain))


def test_a_batch_and_a_single_image(weights):
    segment = model(Domain())
    result = segment(IMAGES)
    scores = IMAGES.astype(np.float32) / 255 @ weights
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    np.testing.assert_array_equal(result.labels, scores.argmax(-1))
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(result.confidence, probabilities.max(-1), atol=1e-5)
    np.testing.assert_array_equal(result.colours, np.array(SPACE.colours)[result.labels])
    kinds = {name: getattr(result, name).dtype.name for name in ("labels", "scores", "confidence", "colours")}
    assert kinds == {"labels": "uint8", "scores": "float32", "confidence": "float32", "colours": "uint8"}
    single = segment(IMAGES[1])
    for name in kinds:
        np.testing.assert_allclose(getattr(single, name), getattr(result, name)[1], atol=1e-6)
    with jax.disable_jit():
        np.testing.assert_allclose(model(Domain())(IMAGES).scores, result.scores, atol=1e-6)
    assert segment.classes == SPACE.names
    np.testing.assert_array_equal(segment.palette, np.array(SPACE.colours, np.uint8))


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_images_are_resized_as_those_that_the_run_was_scored_on(weights, fit):
    domain = Domain(size=(4, 4), fit=fit)
    resized = np.stack([domains.resized({"image": image}, domain)["image"] for image in IMAGES])
    whole = domains.padded_size(domain, (6, 8))
    assert whole == ((6, 8) if fit == "stretch" else (8, 8))
    scores = jax.image.resize(resized.astype(np.float32) / 255 @ weights, (2, *whole, 3), "nearest")
    np.testing.assert_allclose(model(domain)(IMAGES).scores, scores[:, :6, :8], atol=1e-5)


def test_it_is_compiled_once_for_each_size():
    TRACED.clear()
    segment = model(Domain())
    for image in (IMAGES, IMAGES + 1, IMAGES[0], IMAGES[1], IMAGES[:, :4], IMAGES):
        assert segment(image).labels.dtype == np.uint8
    assert TRACED == [((count, height, 8, 3), "uint8", (height, 8)) for count, height in ((2, 6), (1, 6), (2, 4))]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (IMAGES.astype(np.float32), r"got float32; convert with .astype\('uint8'\), the model normalises by itself"),
        (IMAGES / 255, r"got float64; multiply by 255 and convert"),
        (IMAGES.astype(np.int64), r"got int64; convert"),
        (IMAGES[0, ..., 0], r"got the shape \[6, 8\]; give an image"),
        (IMAGES[None], r"got the shape \[1, 2, 6, 8, 3\]; give an image"),
        (IMAGES[:0], r"got the shape \[0, 6, 8, 3\]; give an image"),
        (IMAGES[..., :1], r"got the shape \[2, 6, 8, 1\]; convert it to RGB"),
        (np.moveaxis(IMAGES, -1, 1), r"got the shape \[2, 3, 6, 8\]; move the channels last"),
        ("frame.png", r"got the shape \[\]; give an image"),
    ],
)
def test_what_is_no_image_is_refused(wrong, words):
    with pytest.raises(UserError, match=rf"^image: expected uint8 RGB \[H, W, 3\] or \[B, H, W, 3\], {words}"):
        model(Domain())(wrong)


def test_a_method_without_classes_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Depths(Counting):
        def predict(self, state, images, size):
            return {"depth": images[..., :1]}

    segment = Model.of(SPACE, of_method(Depths(), Counting().init(jax.random.key(0), {}), Inference(), Domain()))
    with pytest.raises(UserError, match="Depths: expected a method of classes, got \\['depth'\\] alone"):
        segment(IMAGES)
