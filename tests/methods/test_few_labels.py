"""Few labels: with no unlabelled weight plain supervision, views and what they share, the teacher, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses, networks, ops
from uda_jax.configs import few_labels as configs
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.few_labels import FewLabels
from uda_jax.methods.parts.augmentation import Augmentation
from uda_jax.methods.parts.paired_views import PastedBoxes, View, paired_dropout
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.methods.parts.updates import initial_state
from uda_jax.methods.source_only import SourceOnly
from uda_jax.training.optimisers import adamw

OPTIONS = {"input_norm": "imagenet_rgb", "align_corners": False, "width": 16, "depth": 1, "heads": 2, "table": 2}
SHARED = {
    "num_classes": 3,
    "segmenter": Segmenter("light_dinov2_vits14", **OPTIONS),
    "optimiser": adamw(learning_rate=1e-3, head_multiplier=1.0),
}
PLAIN = {"augmentation": Augmentation(jitter=0.0, blur=0.0), "boxes": PastedBoxes(probability=0.0)}


@pytest.fixture(scope="module")
def batch():
    """Two images of 28x42 pixels of each domain, with ignored pixels among the labels."""
    generator = np.random.default_rng(0)
    image = lambda: generator.integers(0, 256, (2, 28, 42, 3), dtype=np.uint8)  # noqa: E731
    label = lambda: generator.choice([0, 1, 2, 255], (2, 28, 42)).astype(np.uint8)  # noqa: E731
    labelled = {name: {"image": image(), "label": label()} for name in ("source", "labelled_target")}
    distrust = np.zeros((2, 28, 42), np.float32)
    distrust[:, 20:] = 1.0
    return labelled | {"target": {"image": image(), "distrust": distrust}}


def stepped(method, batch, steps):
    state = jax.jit(lambda key: method.init(key, batch))(jax.random.key(0))
    step, found = jax.jit(method.train_step), [state]
    for _ in range(steps):
        state, metrics = step(state, batch)
        found.append(state)
    return found, metrics


def test_without_unlabelled_images_it_is_supervised_training(batch):
    """Step by step, where all pixels are hard: what source_only does with the same labels."""
    labelled = {name: batch[name] for name in ("labelled_target",)}
    method = FewLabels(**SHARED, unlabelled_weight=0.0, labelled_weight=1.0, hard_threshold=1.0)
    ours, metrics = stepped(method, labelled | {"target": batch["target"]}, 2)
    others, expected = stepped(SourceOnly(**SHARED), labelled, 2)
    np.testing.assert_allclose(metrics["loss/labelled"], expected["loss/labelled_target_segmentation"], rtol=1e-5)
    # Adam divides small gradients by their own size.
    compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)  # noqa: E731
    for state, other in zip(ours, others, strict=True):
        jax.tree.map(compare, state.params, other.params)


@pytest.fixture(scope="module")
def whole(batch):
    """A step of all parts on views that are the images themselves: method, states before and after, metrics."""
    method = FewLabels(**SHARED, **PLAIN, threshold=0.34, min_kept=50, channel_dropout=False)
    (first, second), metrics = stepped(method, batch, 1)
    return method, first, second, metrics


def test_a_step_is_the_formula(batch, whole):
    method, first, _, metrics = whole
    images = np.concatenate([batch[name]["image"] for name in ("source", "labelled_target", "target")])
    labels = np.concatenate([batch[name]["label"] for name in ("source", "labelled_target")])
    logits = jax.jit(method.predict, static_argnums=2)(first, images, images.shape[1:3])["scores"]
    hard = losses.ohem_cross_entropy(logits[:4], labels, min_kept=50, threshold=0.7)
    np.testing.assert_allclose(metrics["loss/labelled"], 0.5 * hard, rtol=1e-4)
    # The teacher is the student still, and both views are the image.
    best = np.asarray(jax.nn.log_softmax(logits[4:])).max(-1)
    trusted, image = np.exp(best) >= 0.34, batch["target"]["distrust"] == 0
    expected = -np.sum(best, where=trusted & image) / image.sum()
    # A pixel whose confidence is the threshold up to rounding may count on one side alone.
    np.testing.assert_allclose(metrics["loss/consistency"], 0.5 * expected, rtol=5e-3)
    np.testing.assert_allclose(metrics["teacher/confident_share"], trusted.mean(), atol=2e-3)


def test_the_teacher_is_the_student_after_the_first_step(whole):
    _, first, second, _ = whole
    jax.tree.map(np.testing.assert_array_equal, second.teacher["params"], second.params["segmenter"])
    moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), first.params, second.params)
    assert all(jax.tree.leaves(moved["segmenter"]["head"]))


def test_statistics_are_averaged_as_parameters_are():
    student = {"params": {"x": jnp.ones(())}, "batch_stats": {"mean": jnp.full((), 4.0)}}
    teacher = {"params": {"x": jnp.zeros(())}, "model_state": {"batch_stats": {"mean": jnp.zeros(())}}}
    state = initial_state(jax.random.key(0), {"segmenter": student}, {}).replace(step=jnp.int32(2))
    # The second update: half of each; its own statistics a teacher in training mode keeps.
    for statistics, mean in (("averaged", 2.0), ("own", 0.0)):
        found = MeanTeacher(alpha=0.9, statistics=statistics).update(teacher, state, 1).teacher
        assert found["params"]["x"] == 0.5 and found["model_state"]["batch_stats"]["mean"] == mean


def test_boxes_hold_all_of_the_reversed_batch():
    number = jnp.broadcast_to(jnp.arange(3)[:, None, None], (3, 20, 30))
    view = View(jnp.stack([number] * 3, -1).astype(jnp.float32), number, number / 10, number > 1)
    found = PastedBoxes(probability=1.0).paste(jax.random.key(0), view)
    pasted = found.label != number
    assert pasted[0].any() and pasted[2].any() and not pasted[1].any()
    np.testing.assert_array_equal(found.label, np.where(pasted, number[::-1], number))
    np.testing.assert_array_equal(found.image, np.stack([found.label] * 3, -1))
    np.testing.assert_allclose(found.confidence, found.label / 10)
    np.testing.assert_array_equal(found.padding, found.label > 1)
    unchanged = PastedBoxes(probability=0.0).paste(jax.random.key(0), view)
    jax.tree.map(np.testing.assert_array_equal, unchanged, view)


def test_boxes_are_within_bounds():
    boxes = np.asarray(ops.bounded_boxes(jax.random.key(1), 200, (100, 100), (0.02, 0.4), (0.3, 1 / 0.3)))
    shares = boxes.mean((1, 2))
    # A box is made of whole pixels, and cut where it is higher or wider than the image.
    assert 0.015 < shares.min() < 0.06 and 0.33 < shares.max() < 0.42
    high, wide = boxes.any(2).sum(1), boxes.any(1).sum(1)
    np.testing.assert_array_equal(high * wide, boxes.sum((1, 2)))
    assert (high / wide).max() < 3.7 and (high / wide).min() > 0.27 and (high > wide).any() and (high < wide).any()


@pytest.mark.parametrize("name", ["linear_dinov2_vits14", "deeplab_v2_resnet14"])
def test_what_one_view_drops_the_other_keeps(name):
    """Both heads are linear, so that two views of one image add up to twice what it gives without dropout."""
    options = {"width": 16, "depth": 1, "heads": 2, "table": 2} if "dino" in name else {"width": 4, "aspp_bias": False}
    network = networks.build(name, 3, **options)
    images = jax.random.normal(jax.random.key(0), (4, 28, 42, 3))
    variables = jax.jit(network.init)(jax.random.key(1), images)

    @jax.jit
    def both(variables, images):
        with paired_dropout(jax.random.key(2)):
            dropped = network.apply(variables, jnp.concatenate([images, images]))["logits"]
        return jnp.split(dropped, 2), network.apply(variables, images)["logits"]

    (first, second), whole = both(variables, images)
    np.testing.assert_allclose(first + second, 2 * whole, rtol=0, atol=1e-5)
    changed = np.abs(first - whole).max((1, 2, 3)) > 1e-6
    assert changed.sum() == 2


def test_what_is_refused(batch):
    with pytest.raises(UserError, match="m.channel_dropout: expected False with the network 'pyramid_dinov2_vits14'"):
        FewLabels(segmenter=Segmenter("pyramid_dinov2_vits14", width=16, depth=4, heads=2)).check("m")
    other = {"source": {"image": np.zeros((2, 14, 14, 3), np.uint8), "label": np.zeros((2, 14, 14), np.uint8)}}
    with pytest.raises(UserError, match="expected source and labelled_target frames of one size"):
        FewLabels(**SHARED).labelled(batch | other)
    with pytest.raises(UserError, match="data: expected the domains labelled_target, target, source, got no labelled"):
        FewLabels(**SHARED).check_domains(["target"], "data")


def test_published_values():
    found = configs.get_config("gta5_cityscapes,186,alone")
    method, data = found.method, found.data
    assert set(data) == {"labelled_target", "target"} and data.labelled_target["count"] == 186
    assert (method.min_kept, method.hard_threshold, method.threshold) == (200_000, 0.7, 0.95)
    assert method.segmenter.name == "dpt_dinov2_vitb14" and method.segmenter.align_corners
    assert (method.optimiser.learning_rate, method.optimiser.head_multiplier) == (5e-6, 40.0)
    assert (method.teacher.alpha, method.teacher.first_update, method.teacher.statistics) == (0.996, 0, "averaged")
    assert (method.labelled_weight, method.unlabelled_weight) == (0.5, 0.5)
    assert {tuple(domain.crop) for domain in data.values()} == {(798, 798)} and found.train.batch_size == 8
    assert configs.get_config("gta5_cityscapes,100").data.source.rare_classes.temperature == 0.05
    assert dataclasses.asdict(FewLabels().boxes) == {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3)}
