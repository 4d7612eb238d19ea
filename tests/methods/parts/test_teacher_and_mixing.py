"""The mean teacher, pseudo-labels, weights and the augmentation that methods of self-training share."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.parts.mixing import Mixing, StrongAugmentation, pseudo_labels
from uda_jax.methods.parts.state import TrainState
from uda_jax.methods.parts.teacher import MeanTeacher, exponential_moving_average
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER / "dacs-corda"
PLAIN = StrongAugmentation(jitter=0.0, blur=0.0)
SEGMENTER = base.Segmenter()


def make(**fields):
    segmenter = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb")
    sgd = optimisers.sgd(learning_rate=0.1, head_multiplier=1.0, train_norm_affine=True)
    defaults = {"segmenter": segmenter, "optimiser": sgd, "schedule": Schedule(name="constant"), "mixing": plain()}
    return Dacs(num_classes=3, **defaults | fields)


def plain(**fields):
    return Mixing(**{"augmentation": PLAIN, **fields})


@pytest.fixture(scope="module")
def state(batch):
    return initialise(lambda key: make().init(key, batch), jax.random.key(0))


def test_golden_pseudo_labels():
    golden = np.load(GOLDEN / "pseudo_label.npz")
    labels, confidence = pseudo_labels(SEGMENTER, nhwc(golden["teacher_logits"]), tuple(golden["output_size"].tolist()))
    np.testing.assert_array_equal(labels, golden["pseudo_label"])
    np.testing.assert_allclose(confidence, golden["max_prob"], rtol=0, atol=1e-5)
    mixing = Mixing(threshold=float(golden["threshold"]))
    weights = np.asarray(mixing.pixel_weights(golden["mask"].astype(bool), confidence))
    np.testing.assert_allclose(weights, golden["mixed_pixel_weight"], rtol=1e-6)
    # Target pixels all weigh the share of confident ones, which is a whole number of pixels.
    share = weights[~golden["mask"].astype(bool)] * confidence.size
    assert share.size and np.unique(share).size == 1
    assert np.rint(share[0]) == np.rint(golden["confident_fraction"] * confidence.size)
    assert share[0] == pytest.approx(np.rint(share[0]), rel=1e-6)


def test_golden_average():
    golden = np.load(GOLDEN / "ema.npz")
    assert len(golden["iterations"])
    for alpha, name in ((0.99, "99"), (0.999, "999")):
        for k, t in enumerate(golden["iterations"]):
            before, student = golden["teacher_before"][k], golden["student"][k]
            after = exponential_moving_average(before, student, t, alpha)
            np.testing.assert_allclose(after, golden[f"teacher_after_{name}"][k], rtol=0, atol=1e-6)


def test_the_average_starts_as_the_student_and_remembers_more_and_more():
    kept = lambda t, alpha: float(exponential_moving_average(jnp.float32(1), jnp.float32(0), jnp.int32(t), alpha))  # noqa: E731
    assert kept(0, 0.99) == 0.0 and kept(1, 0.99) == 0.5 and kept(9, 0.99) == pytest.approx(0.9)
    for alpha, cap in ((0.99, 99), (0.999, 999)):
        assert kept(cap - 2, alpha) < np.float32(alpha) == kept(cap, alpha) == kept(10 * cap, alpha)


def test_the_teacher_moves_once_per_update():
    """Three batches are averaged into one update, so two steps of three leave it, and t counts updates."""
    section, teacher = MeanTeacher(alpha=0.6), {"params": jnp.float32(1), "model_state": {}}
    # Its shares in the three updates: 0, then 1 - 1 / 2, then 1 - 1 / 3 or alpha at most.
    for step, expected in enumerate([1.0, 1.0, 0.0, 0.0, 0.0, 1.5, 1.5, 1.5, 0.6 * 1.5 + 0.4 * 3.0]):
        student = {"segmenter": jnp.float32(0.0 if step < 3 else 3.0)}
        after = TrainState(jnp.int32(step + 1), student, {}, {}, None, jax.random.key(0), {})
        teacher = section.update(teacher, after, accumulation=3).teacher
        assert float(teacher["params"]) == pytest.approx(expected), step


def test_confidence_at_its_ends():
    mixing = Mixing()
    mask = np.zeros((1, 8, 8), bool)
    for logits, fraction in ((np.zeros((1, 4, 4, 3)), 0.0), (np.tile([1000.0, 0, 0], (1, 4, 4, 1)), 1.0)):
        labels, confidence = pseudo_labels(SEGMENTER, logits, (8, 8))
        assert not labels.any()
        np.testing.assert_array_equal(mixing.pixel_weights(mask, confidence), np.full(mask.shape, fraction))
    # A probability of exactly the threshold is confident.
    exactly = np.full(mask.shape, 0.968, np.float32)
    np.testing.assert_array_equal(mixing.pixel_weights(mask, exactly), np.ones(mask.shape))
    np.testing.assert_array_equal(mixing.pixel_weights(mask, np.nextafter(exactly, 0)), np.zeros(mask.shape))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("threshold_uniform", [1, 0.75, 0.75, 0.75]), ("threshold", [1, 1, 1, 0]), ("none", [1, 1, 1, 1])],
)
def test_weights_by_hand(kind, expected):
    """The share counts all pixels of the target, also those that the source covers."""
    mask, confidence = np.array([[[True, False, False, False]]]), np.array([[[0.99, 0.98, 0.97, 0.9]]], np.float32)
    weights = Mixing(pixel_weight=kind).pixel_weights(mask, confidence)
    np.testing.assert_array_equal(np.asarray(weights)[0, 0], np.float32(expected))


def test_mixed_batch(batch, state):
    """Without augmentation every pixel is bit for bit one of the two, and label and weight come from the same one."""
    mixing = plain(threshold=0.5)
    labels = np.full((2, 32, 64), 2, np.int32)
    confidence = np.zeros((2, 32, 64), np.float32)
    confidence[0] = 0.9
    mixed = jax.device_get(jax.jit(lambda s: mixing.mix(s, batch, labels, confidence))(state))
    source, target = batch["source"], batch["target"]
    for b in range(2):
        pasted = set(np.unique(source["label"][b][mixed.mask[b]]))
        assert len(pasted) == 2 and not pasted & set(np.unique(source["label"][b][~mixed.mask[b]]))
    np.testing.assert_array_equal(mixed.image, np.where(mixed.mask[..., None], source["image"], target["image"]))
    np.testing.assert_array_equal(mixed.label, np.where(mixed.mask, source["label"], 2))
    np.testing.assert_array_equal(mixed.weight, np.where(mixed.mask, 1, np.float32(0.5)))
    again = jax.device_get(jax.jit(lambda s: mixing.mixed_images(s, batch))(state.replace(step=state.step + 1)))
    assert (again[0] != mixed.mask).any()


@pytest.mark.parametrize("masks", ["box", "cow", "none"])
def test_masks_that_do_not_look_at_labels(masks):
    """Half of the area or nothing, whatever the labels; each key has a draw of its own."""
    mixing, shape = plain(masks=masks, cow_sigma=(2.0, 4.0)), (2, 32, 64)
    compiled = jax.jit(mixing.drawn_masks)
    draw = lambda seed, labels: np.asarray(compiled(jax.random.key(seed), labels))  # noqa: E731
    found = draw(0, np.zeros(shape, np.uint8))
    assert found.shape == shape and found.dtype == bool
    shares = found.mean(axis=(1, 2))
    assert (shares == 0).all() if masks == "none" else (abs(shares - 0.5) < 0.25).all()
    np.testing.assert_array_equal(draw(0, np.full(shape, 7, np.uint8)), found)
    assert masks == "none" or (draw(1, np.zeros(shape, np.uint8)) != found).any()


def test_target_images_pasted_onto_each_other(batch, state):
    """Half of the pseudo-labelled classes of each go onto the next one; all of it counts as pseudo-labels do."""
    mixing = plain(threshold=0.5, pixel_weight="threshold")
    images = batch["target"]["image"]
    labels = np.random.default_rng(2).integers(0, 4, (2, 32, 64)).astype(np.int32)
    confidence = np.zeros((2, 32, 64), np.float32)
    confidence[0, :16] = 0.9
    mixed = jax.device_get(jax.jit(lambda s: mixing.mix_targets(s, images, labels, confidence))(state))
    mask, following = mixed.mask, [1, 0]
    for b in range(2):
        pasted = set(np.unique(labels[b][mask[b]]))
        assert len(pasted) == 2 and not pasted & set(np.unique(labels[b][~mask[b]]))
    np.testing.assert_array_equal(mixed.image, np.where(mask[..., None], images, images[following]))
    np.testing.assert_array_equal(mixed.label, np.where(mask, labels, labels[following]))
    np.testing.assert_array_equal(mixed.weight, np.where(mask, confidence, confidence[following]) >= 0.5)
    # One weight for all, what is pasted included: a quarter of the pixels is trusted.
    uniform = dataclasses.replace(mixing, pixel_weight="threshold_uniform")
    with mock.patch.object(Mixing, "mixed_images", return_value=(mask, images)):
        again = uniform.mix_targets(state, images, labels, confidence)
    np.testing.assert_array_equal(again.weight, np.full(mask.shape, np.float32(0.25)))
    with pytest.raises(UserError, match="batch_size: expected at least 2, since target images are pasted onto each"):
        mixing.mix_targets(state, images[:1], labels[:1], confidence[:1])


def test_plain_mixing_reads_no_source_but_for_its_labels_loss(batch, state):
    """There is no share of pixels that come from the source, and pictures are the same whatever the source."""
    method = make(pasted="target")
    _, metrics = jax.eval_shape(method.train_step, state, batch)
    assert "teacher/confident_share" in metrics and "mixing/source_share" not in metrics
    other = batch | {"source": jax.tree.map(lambda x: x[::-1], batch["source"])}
    picture = jax.jit(lambda state, batch: method.illustrate(state, batch)["mixed"])
    ours, theirs = picture(state, batch), picture(state, other)
    assert ours.dtype == np.uint8 and ours.shape == batch["target"]["image"].shape
    np.testing.assert_array_equal(ours, theirs)


def test_the_augmentation_changes_colours_only(batch):
    """Off it is the identity; on it is the jitter and the blur of numbers within the section's bounds."""
    images = batch["target"]["image"]
    apply = jax.jit(StrongAugmentation.apply, static_argnums=0)
    np.testing.assert_array_equal(apply(PLAIN, jax.random.key(0), images), images)
    section = StrongAugmentation(jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.25, blur=0.0)
    turned = np.asarray(apply(section, jax.random.key(0), images))
    # A turn of the hue moves channels, but neither the largest nor the smallest of a pixel.
    assert np.abs(turned - images).max() > 10
    for extreme in (np.min, np.max):
        np.testing.assert_allclose(extreme(turned, axis=-1), extreme(images, axis=-1), atol=1e-2)
    # A Gaussian of one width for all is what is left of the blur.
    section = StrongAugmentation(jitter=0.0, blur=1.0, blur_sigma=(0.6, 0.6))
    expected = jax.jit(lambda x: ops.gaussian_blur(x, jnp.full(2, 0.6), ops.blur_kernel_size((32, 64))))(images)
    np.testing.assert_allclose(apply(section, jax.random.key(0), images), expected, atol=1e-3)


def test_the_switches_are_thrown_for_the_whole_batch():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    section = StrongAugmentation(blur_sigma=(0.5, 1.0))
    apply = jax.jit(jax.vmap(lambda key: section.apply(key, images)))
    changed = np.asarray(apply(jax.random.split(jax.random.key(1), 400)))
    # Neither of the two leaves noise as it is.
    identical = (changed == images).reshape(400, 3, -1).all(axis=2)
    assert (identical.all(axis=1) == identical.any(axis=1)).all()
    assert identical[:, 0].mean() == pytest.approx(0.2 * 0.5, abs=0.05)


def test_the_teacher_is_the_student_at_step_0_and_itself_later(state, same):
    """Weights of files and of earlier stages are put into the student alone."""
    method = make()
    doubled = jax.tree.map(lambda leaf: 2 * leaf + 1, state.params)
    found = jax.jit(method.teacher.current)(state.replace(params=doubled))
    assert same(found["params"], doubled["segmenter"])
    assert same(found["model_state"], state.model_state["segmenter"])
    later = state.replace(params=doubled, step=state.step + 1)
    assert same(jax.jit(method.teacher.current)(later), state.teacher)


def test_predictions_of_either_network(batch, state):
    """The student's unless asked for the teacher's, which has statistics of its own."""
    images = batch["target"]["image"]
    params = jax.tree.map(lambda leaf: 1.1 * leaf, state.params)
    model_state = jax.tree.map(lambda leaf: leaf + 0.5, state.model_state)
    teacher = {"params": params["segmenter"], "model_state": model_state["segmenter"]}

    @jax.jit
    def scores(state):
        predict = lambda which, state: make(predict_with=which).predict(state, images, (16, 48))["scores"]  # noqa: E731
        expected = predict("student", state.replace(params=params, model_state=model_state))
        return predict("student", state), predict("teacher", state), expected

    ours, averaged, expected = scores(state.replace(step=state.step + 1, teacher=teacher))
    np.testing.assert_allclose(averaged, expected, rtol=1e-4, atol=1e-5)
    assert ours.shape == (2, 16, 48, 3) and np.abs(ours - averaged).max() > 1e-2


def test_picture_of_a_step(batch, state):
    method = make(mixing=Mixing(augmentation=StrongAugmentation(jitter=1.0, blur=1.0)))
    pictures, (_, image) = jax.jit(lambda s: (method.illustrate(s, batch), method.mixing.mixed_images(s, batch)))(state)
    assert set(pictures) == {"mixed"} and pictures["mixed"].dtype == np.uint8
    np.testing.assert_allclose(pictures["mixed"], image, atol=0.501)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmenter": {"multi_level": True}}, "method.segmenter.multi_level: expected False: this method trains one"),
        (
            {"mixing": {"augmentation": {"blur_sigma": (1.0, 0.5)}}},
            r"method.mixing.augmentation.blur_sigma: expected \(low, high\), got",
        ),
        ({"mixing": {"cow_sigma": (8.0, 2.0)}}, r"method.mixing.cow_sigma: expected \(low, high\), got \(8.0, 2.0\)"),
        ({"mixing": {"masks": "circles"}}, "method.mixing.masks: expected one of 'classes', 'box', 'cow', 'none'"),
        ({"pasted": "both"}, "method.pasted: expected one of 'source', 'target', got 'both'"),
        (
            {"mixing": {"pixel_weight": "uniform"}},
            "method.mixing.pixel_weight: expected one of 'threshold_uniform', 'threshold', 'none'",
        ),
        ({"teacher": {"alpha": 1.5}}, "method.teacher.alpha: "),
        ({"predict_with": "both"}, "method.predict_with: expected one of 'student', 'teacher', got 'both'"),
    ],
)
def test_mistakes_in_the_section(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        from_mapping(Dacs, fields, "method")
    assert "\n" not in str(caught.value)


def test_frames_of_two_sizes_cannot_be_mixed(batch):
    other = batch | {"target": {"image": np.zeros((2, 32, 48, 3), np.uint8)}}
    with pytest.raises(UserError, match=r"frames of one size, .* got \(32, 64\) and \(32, 48\); give both the same"):
        jax.eval_shape(lambda key: make().init(key, other), jax.random.key(0))
    state = jax.eval_shape(lambda key: make().init(key, batch), jax.random.key(0))
    with pytest.raises(UserError, match="give both the same size or crop"):
        jax.eval_shape(make().train_step, state, other)


def test_every_field_is_described():
    for section in (Dacs, Mixing, MeanTeacher, StrongAugmentation):
        assert all(field.metadata["text"] for field in dataclasses.fields(section))


@pytest.mark.parametrize(("order", "sigma"), [("batch", "image"), ("image", "batch")])
def test_what_is_drawn_for_a_batch_and_what_for_each_image(order, sigma):
    """Brightness before contrast, or after it; a point that is blurred by one Gaussian, or by several."""
    options = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.0, "hue": 0.0, "jitter": 1.0, "blur": 0.0}
    section, key = StrongAugmentation(**options, order=order, sigma=sigma), jax.random.key(0)
    found = np.asarray(jax.jit(section.apply)(key, np.full((16, 2, 2, 3), 127.5, np.float32)))[:, 0, 0, 0] / 255
    spans = {name: options[name] for name in ("brightness", "contrast", "saturation", "hue")}
    brightness, contrast = np.asarray(ops.draw_jitter(jax.random.split(key, 4)[0], 16, **spans)[0])[:, :2].T
    first, second = (0.5 + brightness - 1) * contrast, 0.5 * contrast + brightness - 1
    is_first = np.isclose(found, first, atol=1e-4)
    assert (is_first | np.isclose(found, second, atol=1e-4)).all()
    assert len(set(is_first.tolist())) == (1 if order == "batch" else 2)
    point = np.zeros((4, 30, 30, 3), np.float32)
    point[:, 15, 15] = 255.0
    blurred = jax.jit(dataclasses.replace(section, jitter=0.0, blur=1.0).apply)(key, point)
    assert len(np.unique(np.asarray(blurred)[:, 15, 15, 0])) == (4 if sigma == "image" else 1)
