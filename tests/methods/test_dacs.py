"""DACS: the golden iteration, steps written out, what the teacher and the weights decide, published values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import config, losses, ops
from uda_jax.methods import base
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.parts.forward import segmentation_losses
from uda_jax.methods.parts.mixing import Mixed, Mixing, StrongAugmentation, mixed_loss, pseudo_labels
from uda_jax.runs import stages
from uda_jax.training import schedules
from uda_jax.training.initialisation import initialise
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER / "dacs-corda"
RATE = 0.1
SEGMENTER = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb")
SGD = sgd(learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True)
# None of the first step's pixels passes this threshold, and some of the second's do.
METHOD = Dacs(
    num_classes=3,
    segmenter=SEGMENTER,
    optimiser=SGD,
    schedule=Schedule(name="constant"),
    mixing=Mixing(threshold=0.8),
)


@pytest.fixture(scope="module")
def stepped(batch):
    """The method, its compiled step, the first state, and the two that follow with their metrics."""
    method = METHOD
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    step = jax.jit(method.train_step)
    first = step(state, batch)
    return method, step, state, first, step(first[0], batch)


def forward(method, params, stats, images):
    """The logits at the images' size, and the statistics after them."""
    variables, inputs = {"params": params, **stats}, ops.normalise(images, "imagenet_rgb")
    found, stats = method.network.apply(variables, inputs, train=True, mutable=["batch_stats"])
    return ops.resize_bilinear(found["logits"], images.shape[1:3], align_corners=True), stats


def assert_close(ours, theirs):
    ours, theirs = jax.device_get((ours, theirs))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)


def test_golden_iteration():
    """The released code's losses and gradients for given outputs of the networks."""
    given, golden = (np.load(GOLDEN / f"step_{name}.npz") for name in ("synthia", "dacs"))
    segmenter, mask = base.Segmenter(), given["mask"].astype(bool)
    labels, confidence = pseudo_labels(segmenter, nhwc(given["teacher_out_s"]), mask.shape[1:])
    mixed = Mixed(mask, None, ops.mix(mask, given["labels"], labels), Mixing().pixel_weights(mask, confidence))
    np.testing.assert_array_equal(mixed.label, golden["mixed_label"])
    np.testing.assert_allclose(mixed.weight, golden["pixel_weight"], rtol=1e-6)
    assert float(jnp.min(mixed.weight)) == pytest.approx(float(golden["unlabeled_weight"]))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def iteration(outputs):
        terms = segmentation_losses(segmenter, outputs["source"], given["labels"])
        terms["mixed"] = mixed_loss(segmenter, outputs["mixed"]["logits"], mixed)
        return sum(terms.values()), terms

    outputs = {name: {"logits": nhwc(given[f"{name}_out_s"])} for name in ("source", "mixed")}
    (value, terms), gradient = iteration(outputs)
    assert float(value) == pytest.approx(float(golden["loss_total"]), rel=1e-5)
    assert float(terms["segmentation"]) == pytest.approx(float(golden["loss_labeled"]), rel=1e-5)
    assert float(terms["mixed"]) == pytest.approx(float(golden["loss_mixed"]), rel=1e-5)
    for name in outputs:
        expected = nhwc(golden[f"{name}_grad_s"])
        np.testing.assert_allclose(gradient[name]["logits"], expected, rtol=0, atol=1e-7)


def test_two_steps_written_out(stepped, batch):
    """The teacher labels in training mode; the student learns from source and mixed images, and is averaged."""
    method, step, state, *afters = stepped
    labels_s = batch["source"]["label"].astype(np.int32)

    @jax.jit
    def expected(state, teacher):
        logits, teacher_stats = forward(method, *teacher, batch["target"]["image"])
        p = jax.nn.softmax(logits)
        share = jnp.mean(jnp.max(p, axis=-1) >= 0.8)
        mask, image = method.mixing.mixed_images(state, batch)
        labels = jnp.where(mask, labels_s, jnp.argmax(p, axis=-1))

        def objective(params):
            logits_s, stats = forward(method, params, state.model_state["segmenter"], batch["source"]["image"])
            logits_m, stats = forward(method, params, stats, image)
            unsummed = -jnp.take_along_axis(jax.nn.log_softmax(logits_m), labels[..., None], axis=-1)[..., 0]
            mixed = jnp.mean(unsummed * jnp.where(mask, 1.0, share))
            return losses.cross_entropy(logits_s, labels_s) + mixed, (mixed, stats)

        (total, (mixed, stats)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params["segmenter"])
        params = jax.tree.map(lambda p, g: p - RATE * g, state.params["segmenter"], gradient)
        metrics = {"loss/total": total, "loss/mixed": mixed, "teacher/confident_share": share}
        return metrics | {"mixing/source_share": jnp.mean(mask)}, params, stats, teacher_stats

    teacher = (state.params["segmenter"], state.model_state["segmenter"])
    for kept, (after, metrics) in zip((0.0, 0.5), afters, strict=True):
        figures, params, stats, teacher_stats = expected(state, teacher)
        for name, figure in figures.items():
            assert metrics[name] == pytest.approx(float(figure), rel=1e-4), name
        assert_close(after.params["segmenter"], params)
        assert_close(after.model_state["segmenter"], stats)
        averaged = jax.tree.map(lambda g, f, a=kept: a * g + (1 - a) * f, teacher[0], after.params["segmenter"])
        assert_close(after.teacher, {"params": averaged, "model_state": teacher_stats})
        state, teacher = after, (after.teacher["params"], after.teacher["model_state"])
    assert 0 < figures["teacher/confident_share"] < 1 and 0.3 < figures["mixing/source_share"] < 0.9
    assert step._cache_size() == 1


def test_the_teacher_counts_through_its_labels_alone(stepped, batch, same):
    """A teacher half as sure of the same labels changes nothing where none of them passes the threshold."""
    _, step, state, _, _ = stepped
    state = state.replace(step=state.step + 1)
    head = jax.tree.map(lambda leaf: leaf / 2, state.teacher["params"]["head"])
    unsure = state.teacher | {"params": state.teacher["params"] | {"head": head}}
    (ours, metrics), (theirs, _) = step(state, batch), step(state.replace(teacher=unsure), batch)
    assert metrics["teacher/confident_share"] == 0
    assert same(ours.params, theirs.params) and same(ours.model_state, theirs.model_state)
    assert not same(ours.teacher["params"], theirs.teacher["params"])


def test_nothing_labelled_in_the_source(stepped, batch):
    """Ignored pixels are the one class of each image then: pasted everywhere, they teach nothing."""
    method, step, state, *_ = stepped
    nothing = batch | {"source": batch["source"] | {"label": np.full((2, 32, 64), 255, np.uint8)}}
    after, metrics = step(state, nothing)
    assert metrics["loss/total"] == metrics["norm/segmenter"] == 0 and metrics["mixing/source_share"] == 1
    assert_close(after.params, state.params)


def stage(reference):
    experiment = config.experiment(config.load(reference))
    (found,) = stages.recipe(experiment, num_classes=19)
    return experiment, found


@pytest.mark.parametrize("benchmark", ["gta5_cityscapes", "synthia_cityscapes"])
def test_published_settings(benchmark):
    experiment, found = stage(f"dacs:{benchmark}")
    method = found.method
    assert method.optimiser == sgd(
        learning_rate=2.5e-4,
        head_multiplier=10.0,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=False,
        update_multiplicity="reference",
        repeated_decay="fixed",
        train_norm_affine=False,
    )
    rate = schedules.make(method.schedule, method.optimiser.learning_rate)
    for t, expected in ((0, 2.5e-4), (125_000, 1.339717e-4), (249_999, 3.4657e-9)):
        assert float(rate(t)) == pytest.approx(expected, rel=1e-4)
    assert (found.train.steps, found.train.batch_size, found.train.accumulation) == (250_000, 2, 1)
    assert (method.teacher.alpha, method.mixing.threshold) == (0.99, 0.968)
    assert (method.mixing.pixel_weight, method.mixing.mix_ignored) == ("threshold_uniform", True)
    assert (method.pasted, method.mixing.masks, method.mixing.cow_sigma) == ("source", "classes", (8.0, 32.0))
    assert method.mixing.augmentation == StrongAugmentation(0.8, 0.25, 0.25, 0.25, 0.25, 0.5, (0.15, 1.15))
    assert (method.mixed_weight, method.predict_with) == (1.0, "student")
    segmenter = method.segmenter
    assert (segmenter.name, segmenter.input_norm, segmenter.aspp_branches) == ("deeplab_v2_resnet101", "caffe_bgr", 2)
    assert not segmenter.multi_level and segmenter.options.bn_mode == "batch"
    source, target, final = experiment.data["source"], experiment.data["target"], experiment.evaluation.final
    assert (source.size, source.image_resampling, source.crop) == ((720, 1280), "bicubic", (512, 512))
    assert (target.size, target.image_resampling, target.crop) == ((512, 1024), "bilinear", (512, 512))
    assert (final.size, final.image_resampling, final.resize_label) == ((512, 1024), "bilinear", True)
    assert not any(domain.flip or domain.scale for domain in (source, target))
    assert {source.label_space, target.label_space, final.label_space} == {"19"}
    assert experiment.evaluation.protocol == {"gta5_cityscapes": "19", "synthia_cityscapes": "16"}[benchmark]
    init = experiment.init_from["segmenter"]
    assert (init.path, init.fresh) == ("weights/resnet101COCO-41f33a49.pth", ("head",))


@pytest.mark.parametrize(
    ("variant", "pasted", "masks"),
    [
        ("cutmix", "source", "box"),
        ("cowmix", "source", "cow"),
        ("plain", "target", "classes"),
        ("no_mixing", "source", "none"),
    ],
)
def test_variants_differ_in_what_is_mixed(variant, pasted, masks):
    """Everything else is DACS's."""
    (whole, plain), (other, found) = stage("dacs:gta5_cityscapes"), stage(f"dacs:gta5_cityscapes,{variant}")
    mixing = dataclasses.replace(plain.method.mixing, masks=masks)
    assert found.method == dataclasses.replace(plain.method, pasted=pasted, mixing=mixing) != plain.method
    assert (other.data, other.train, other.init_from) == (whole.data, whole.train, whole.init_from)
    assert other.label == f"dacs/{variant}"


def test_labels_of_the_target_are_hidden():
    for benchmark in ("streets", "camvid_day2dusk", "folder", "gta5_cityscapes"):
        assert stage(f"dacs:{benchmark}")[0].data["target"].fields == ("image",)
