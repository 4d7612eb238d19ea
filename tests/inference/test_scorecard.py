"""What a score of a split tells beside the figures of its row."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.evaluate import Evaluator, evaluation_step
from uda_jax.inference.options import Evaluation, Inference
from uda_jax.inference.scorecard import frame_iou, frequency_weighted_iou, scorecard
from uda_jax.training import sharding


class Brightness:
    """Tells the tiny folder's classes by their colours."""

    def predict(self, state, images, size):
        colours = jnp.array([(90, 90, 90), (180, 60, 40), (40, 60, 200)], jnp.float32) + state
        return {"scores": -jnp.abs(images[..., None, :].astype(jnp.float32) - colours).mean(axis=-1)}


@pytest.fixture(scope="module")
def domain(tiny_folder):
    return Domain(dataset="folder", root=str(tiny_folder), split="val", label_space="own", size=(32, 64))


def make(domain, **fields):
    section = Evaluation(final=domain, **({"batch_size": 3, "protocol": "own"} | fields))
    step = evaluation_step(Brightness(), section, sharding.data_mesh(), details=True)
    return Evaluator(domain, section, step, sharding.data_mesh(), path="config.evaluation.final"), section


def test_details_are_those_of_the_pass_that_scores(domain):
    # Eight frames in batches of three: the last one is filled up.
    evaluator, section = make(domain, count_void_labels=True)
    details = evaluator.details(20.0)
    totals, _ = evaluator.totals(20.0)
    for name in ("confusion", "void"):
        np.testing.assert_array_equal(details.totals[name], totals[name])
    assert totals["void"].sum() == 8  # one pixel of each frame has no label
    assert [name for name, _ in details.frames] == [evaluator.dataset.name(i) for i in range(8)]
    np.testing.assert_array_equal(sum(matrix for _, matrix in details.frames), totals["confusion"])
    assert details.calibration[0].sum() == totals["confusion"].sum()
    assert details.calibration[1].sum() == np.trace(totals["confusion"])

    card = scorecard(evaluator, details, section, worst=2)
    scores = {name: frame_iou(matrix, (0, 1, 2)) for name, matrix in details.frames}
    assert card["worst_frames"] == [
        {"name": name, "miou": scores[name]} for name in sorted(scores, key=lambda name: (scores[name], name))[:2]
    ]
    assert card["protocol"] == (
        "folder/val, 8 frames resized to 64x32, labels resized alike; miou of protocol own, 3 classes, those labelled "
        "in the split averaged; labelled pixels predicted as a class outside it count as errors, pixels without a "
        "label are errors of the predicted class; whole image"
    )
    assert 0 <= card["calibration"]["ece"] <= 1 and "worst_frames" not in scorecard(evaluator, details, section)


def test_how_scores_are_made_is_told(domain):
    evaluator, _ = make(domain)
    section = Evaluation(
        final=domain,
        protocol="own",
        count_void_predictions=False,
        inference=Inference(window=(32, 32), flip=True, scales=(0.5, 1.0)),
    )
    card = scorecard(evaluator, evaluator.details(0.0), dataclasses.replace(section, batch_size=3))
    assert card["protocol"].endswith(
        "outside it are left out, pixels without a label are left out; windows of 32x32 every 32x32 pixels, mirrored "
        "as well, scales 0.5, 1.0, mean of logits"
    )


def test_padding_has_no_label_either(domain):
    with pytest.raises(UserError, match="config.evaluation.final.fit: expected 'stretch' together with .*void_labels"):
        make(dataclasses.replace(domain, fit="pad"), count_void_labels=True)


def test_weights_are_labelled_pixels():
    matrix = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    assert frequency_weighted_iou(matrix, (0, 1, 2)) == pytest.approx(0.8 * 6 / 8 + 0.2 * 2 / 4)
    assert frequency_weighted_iou(matrix, (0,)) == pytest.approx(6 / 8)
    assert frequency_weighted_iou(np.zeros((3, 3), int), (0, 1)) is None


def test_a_frame_is_scored_by_the_classes_it_shows():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [0, 1, 1]])
    assert frame_iou(matrix, (0, 1, 2)) == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert frame_iou(matrix, (1,)) is None
    assert frame_iou(matrix, (0, 2), count_void_predictions=False) == pytest.approx(1)
