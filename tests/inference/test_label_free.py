"""Measuring without labels, with a method whose predictions are known."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference import label_free
from uda_jax.inference.criteria import CRITERIA
from uda_jax.inference.evaluate import Evaluator, evaluation_step
from uda_jax.inference.label_free import Frames, Measurer
from uda_jax.inference.options import Evaluation
from uda_jax.training import sharding

COLOURS = jnp.array([(90, 90, 90), (180, 60, 40), (40, 60, 200)], jnp.float32)


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Tells the tiny folder's classes by their colours; the state shifts them, the teacher's not."""

    predict_with: str = "student"
    PREDICTION_FIELDS: ClassVar[tuple[str, ...]] = ("predict_with",)

    def predict(self, state, images, size):
        colours = COLOURS + (state if self.predict_with == "student" else 0.0)
        distance = jnp.abs(images[..., None, :].astype(jnp.float32) - colours).mean(axis=-1)
        scores = jax.image.resize(-distance, (len(images), *size, 3), "nearest")
        return {"scores": scores.astype(jnp.float32)}


@pytest.fixture
def measured(tiny_folder):
    def measure(state, batch_size=8, names=tuple(CRITERIA), method=None, source=True, **fields):
        own = {"dataset": "folder", "root": str(tiny_folder), "label_space": "own"}
        target = Domain(split="val", fields=("image",), **own | fields)
        mesh, section = sharding.data_mesh(), Evaluation(batch_size=batch_size)
        method, evaluator = method or Brightness(), None
        if source:
            step = evaluation_step(method, section, mesh)
            evaluator = Evaluator(Domain(split="train", **own), section, step, mesh, path="source")
        frames = Frames(target, "target")
        found = Measurer(method, section, mesh, names, frames, evaluator)
        return found.measure(jnp.float32(state))

    return measure


def test_a_state_that_knows_the_classes_and_one_of_one_class(measured):
    good = measured(0.0)
    assert set(good.values) == set(CRITERIA) and None not in good.values.values()
    assert good.values["source_score"] > 0.95 and good.values["prior_distance"] < 0.02
    assert good.values["flip_agreement"] == 1.0 == good.values["teacher_agreement"]  # a pixel's colour is all it sees
    assert 0.8 < good.values["scale_agreement"] < 1.0 and good.values["mask_agreement"] < 0.6
    assert sum(good.shares) == pytest.approx(1) == sum(good.prior)
    # Only the wall's colour grows in red.
    bad = measured([[0, 0, 0], [1e4, 1e4, 1e4], [1e4, 1e4, 1e4]])
    assert bad.shares == [1.0, 0.0, 0.0] and bad.values["entropy"] < 1e-6
    assert bad.values["information"] == pytest.approx(0, abs=1e-6)
    assert [bad.values[name] for name in CRITERIA if name.endswith("agreement")] == [0.0] * 4
    assert bad.values["source_score"] < 0.3 and bad.values["prior_distance"] > good.values["prior_distance"]


def test_batches_do_not_matter_and_their_filling_does_not_count(measured):
    one, other = measured(3.0), measured(3.0, batch_size=5)
    # Sums of float32 in another order.
    assert one.values == pytest.approx(other.values, rel=1e-5) and one.shares == pytest.approx(other.shares)


def test_only_what_is_asked_for_and_applies_has_a_value(measured):
    found = measured(0.0, names=("entropy", "source_score"), source=False)
    assert found.values.keys() == {"entropy", "source_score"} and found.values["source_score"] is None
    assert found.prior is None
    kept = label_free.applicable(Brightness(), CRITERIA, whole_images=True, source=False)
    assert not {"flip_agreement", "scale_agreement", "source_score", "prior_distance"} & set(kept)
    assert "teacher_agreement" in kept and "teacher_agreement" not in label_free.applicable(
        object(), CRITERIA, whole_images=False, source=True
    )


def test_predictions_that_are_not_finite_are_named(measured):
    with pytest.raises(UserError, match="criterion entropy: nan, the predictions are not finite"):
        measured(np.nan, names=("entropy",), source=False)


def test_pixels_and_masks_are_each_frame_s_own():
    probabilities = jnp.arange(2 * 40 * 30, dtype=jnp.float32).reshape(2, 40, 30, 1)
    both = label_free.sampled(probabilities, jnp.array([7, 3]))
    assert both.shape == (2, label_free.PIXELS, 1)
    np.testing.assert_array_equal(label_free.sampled(probabilities[1:], jnp.array([3]))[0], both[1])
    # One of each part, and so none twice.
    assert len(np.unique(both[0])) == label_free.PIXELS and (np.diff(both[0, :, 0]) > 0).all()
    images = jnp.full((2, 64, 64, 3), 255, jnp.uint8)
    masks = label_free.masked(images, jnp.array([7, 3]), object())
    np.testing.assert_array_equal(label_free.masked(images[1:], jnp.array([3]), object())[0], masks[1])
    assert 0.5 < float((masks[..., 0] < 255).mean()) < 0.9 and float(jnp.abs(masks[0] - masks[1]).max()) > 0
