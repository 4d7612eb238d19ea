"""Labels of images of any size: prepared as a split's, cut back from padding, in bounded memory."""

import jax
import numpy as np
import pytest

from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference import labels
from uda_jax.inference.labels import Labeller

RNG = np.random.default_rng(0)


class ByColour:
    """Scores pixels by their own colours, as far as nearest neighbours show them; records what it was asked."""

    def __init__(self):
        self.inputs, self.sizes = [], []

    def __call__(self, images, size, reduce):
        self.inputs.append(images)
        self.sizes.append(tuple(size))
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, images.shape[1:3], strict=True))
        scores = np.asarray(images, np.float32)[:, rows][:, :, columns]
        return reduce({"scores": scores, "depth": scores[..., :1]})


def predicted(label, picture, name="labels"):
    return np.asarray(label([label.prepared(picture)], picture.shape[:2])[name])


def image(height, width):
    """Bands that are wide enough to be seen at any size here."""
    classes = np.zeros((height, width), np.uint8)
    classes[height // 2 :] = 1
    classes[:, width // 2 :] = 2
    return np.where(classes[..., None] == np.arange(3), np.uint8(200), np.uint8(0)), classes


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("rule", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (64, 64), (7, 5)])
def test_the_network_sees_what_evaluation_shows_it(fit, rule, size, tmp_path):
    from PIL import Image

    from uda_jax.data.pipeline import streams

    picture = RNG.integers(0, 255, (*size, 3), np.uint8)
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "labels").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "val" / "images" / "a.png")
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "val" / "labels" / "a.png")
    (tmp_path / "dataset.yaml").write_text("classes: [road, car]\n")
    domain = Domain("folder", str(tmp_path), "val", "own", size=(32, 32), fit=fit, image_resampling=rule)
    (batch,) = streams.evaluation_batches(domain, 1)
    network = ByColour()
    found = predicted(Labeller(network, domain, 1), picture)
    np.testing.assert_array_equal(network.inputs[0], batch["image"])
    assert found.shape == (1, *size)


def test_labels_are_cut_back_from_padding():
    picture, classes = image(40, 20)
    network = ByColour()
    found = predicted(Labeller(network, Domain(size=(20, 40), fit="pad"), 1), picture)
    assert network.sizes == [(40, 80)]  # 10 of 40 columns show the image
    assert np.mean(found[0] == classes) > 0.9 and not network.inputs[0][:, :, 10:].any()
    stretched = predicted(Labeller(ByColour(), Domain(size=(20, 40)), 1), picture)
    assert np.mean(stretched[0] == classes) > 0.9


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_large_scores_are_made_in_two_steps(fit):
    picture, classes = image(300, 200)
    network = ByColour()
    label = Labeller(network, Domain(size=(30, 40), fit=fit), 4, most_pixels=10_000)
    found = predicted(label, picture)[0]
    assert np.mean(found == classes) > 0.95
    assert network.sizes[0][0] * network.sizes[0][1] <= 10_000 and len(network.sizes) == 1
    assert label.batch_size((300, 200)) == 1 and len(label.notes) == 2
    assert any("interpolated in two steps, to bound memory" in note for note in label.notes)


def test_strips_are_the_whole():
    scores = RNG.normal(size=(2, 9, 7, 4)).astype(np.float32)
    strips = labels._enlarged({"scores": scores}, (150, 33), labels.Reduction())
    found = np.concatenate([strip["labels"] for strip in strips], axis=1)
    from uda_jax import ops

    whole = np.asarray(ops.resize_bilinear(scores, (150, 33), align_corners=False).argmax(-1))
    assert found.shape == whole.shape and np.mean(found == whole) > 0.999


@pytest.mark.parametrize("size", [(150, 130), (500, 20), (21, 400), (101, 203)])
def test_large_images_that_are_not_resized_are_seen_by_windows(size):
    picture, classes = image(*size)
    network = ByColour()
    label = Labeller(network, Domain(size=None), 4, most_pixels=2_000)
    np.testing.assert_array_equal(predicted(label, picture)[0], classes)
    assert len(network.sizes) > 1 and len(set(network.sizes)) == 1
    assert all(height * width <= 2_000 for height, width in network.sizes)
    assert any("seen by windows" in note for note in label.notes)


def test_batches_of_large_images_are_smaller():
    label = Labeller(ByColour(), Domain(size=(512, 1024)), 8)
    assert [label.batch_size(size) for size in ((512, 1024), (1024, 2048), (2048, 2048), (4096, 8192))] == [8, 4, 2, 1]
    assert len(label.notes) == 3
    assert Labeller(ByColour(), Domain(size=(2048, 4096)), 8).batch_size((10, 10)) == 1


LOGITS = np.log(np.array([[[[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]]], np.float32))  # [1, 1, 2, 3]


def test_maps_are_made_of_scores_and_depths():
    wanted = ("labels", "confidence", "entropy", "probabilities", "depth")
    found = labels.Reduction(wanted)({"scores": LOGITS, "depth": np.array([[[[12.344], [700.0]]]], np.float32)})
    assert np.asarray(found["labels"])[0, 0].tolist() == [0, 0]
    np.testing.assert_allclose(np.asarray(found["confidence"])[0, 0] / 65535, [0.7, 1 / 3], atol=1e-5)
    certain = -sum(p * np.log(p) for p in (0.7, 0.2, 0.1)) / np.log(3)
    np.testing.assert_allclose(np.asarray(found["entropy"])[0, 0] / 65535, [certain, 1], atol=1e-5)
    np.testing.assert_allclose(np.asarray(found["probabilities"])[0, 0, 0], [0.7, 0.2, 0.1], atol=1e-3)
    assert np.asarray(found["depth"])[0, 0].tolist() == [1234, 65535]
    assert {name: str(values.dtype) for name, values in found.items()} == {
        "labels": "uint8", "confidence": "uint16", "entropy": "uint16", "probabilities": "float16", "depth": "uint16"
    }  # fmt: skip
    compiled = jax.jit(lambda scores: labels.Reduction(("entropy",))({"scores": scores}))(LOGITS)
    np.testing.assert_array_equal(np.asarray(compiled["entropy"]), np.asarray(found["entropy"]))
    with pytest.raises(
        UserError, match="depth: expected a method of depth, got .'scores'. alone; write what it has: labels, confid"
    ):
        labels.Reduction(("depth",))({"scores": LOGITS})


@pytest.mark.parametrize(("fit", "most"), [("stretch", 10**6), ("pad", 10**6), ("pad", 500), (None, 500)])
def test_a_chosen_size_shows_the_same(fit, most):
    picture, _ = image(40, 20)
    _, classes = image(60, 30)
    domain = Domain(size=(20, 40), fit=fit) if fit else Domain(size=None)
    label = Labeller(ByColour(), domain, 1, wanted=("labels", "depth"), size=(60, 30), most_pixels=most)
    found = predicted(label, picture)
    assert found.shape == (1, 60, 30) and np.mean(found[0] == classes) > 0.9
    assert predicted(label, picture, "depth").shape == (1, 60, 30)
