"""DAFormer, HRDA and MIC: golden iterations of the released code, a step of all parts, who is at which rate."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import config, losses, networks, ops
from uda_jax.config import machine
from uda_jax.errors import UserError
from uda_jax.inference import scores
from uda_jax.methods import base
from uda_jax.methods.daformer import MIXING, OPTIMISER, TEACHER, DAFormer
from uda_jax.methods.hrda import HRDA
from uda_jax.methods.mic import MIC
from uda_jax.methods.parts.details import Details
from uda_jax.methods.parts.feature_distance import IMAGENET, FeatureDistance
from uda_jax.methods.parts.labelled import Labelled, labelled_target, weighted_cross_entropy
from uda_jax.methods.parts.masking import Masking
from uda_jax.networks import hrda
from uda_jax.runs import stages
from uda_jax.training import optimisers, schedules
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER / "daformer"
SEGMENTER = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", align_corners=False)


@pytest.mark.parametrize("file", ["self_training_step.npz", "self_training_step_valid_mask.npz"])
def test_golden_iteration(file):
    golden = np.load(GOLDEN / file)
    method, size = DAFormer(segmenter=SEGMENTER), golden["pseudo_label"].shape
    valid = golden["valid_mask"][:, 0] if "valid_mask" in golden.files else np.ones(size, np.uint8)
    valid = np.array(np.broadcast_to(valid, size))
    valid[:, : int(golden["ignore_top"])] = 0
    valid[:, size[1] - int(golden["ignore_bottom"]) :] = 0
    distrust = 1.0 - valid.astype(np.float32)
    batch = {"target": {"image": nhwc(golden["target_image"]), "distrust": distrust}}
    target = jax.jit(functools.partial(labelled_target, method, trust=method.mixing))(
        batch, nhwc(golden["teacher_logits"])
    )
    np.testing.assert_array_equal(target.label, golden["pseudo_label"])
    np.testing.assert_allclose(target.weight, golden["pseudo_weight"], rtol=0, atol=1e-6)
    quality = MIXING.target_weights(jnp.max(jax.nn.softmax(nhwc(golden["teacher_logits"])), axis=-1))
    np.testing.assert_allclose(quality, float(golden["quality"]), rtol=0, atol=1e-6)

    labels = golden["label"][:, 0]
    chosen = np.zeros((len(labels), 256), bool)
    np.put_along_axis(chosen, golden["chosen_classes"], True, axis=1)
    mask = ops.classmix_mask(labels, chosen)
    np.testing.assert_array_equal(mask, golden["mix_mask"][:, 0])
    image = ops.mix(mask, nhwc(golden["image"]), nhwc(golden["target_image"]))
    np.testing.assert_array_equal(image, nhwc(golden["mixed_image"]))
    confidence = jnp.max(jax.nn.softmax(nhwc(golden["teacher_logits"])), axis=-1)
    weight = method.mixing.pixel_weights(mask, confidence, distrust)
    np.testing.assert_allclose(weight, golden["mixed_weight"], rtol=0, atol=1e-6)
    mixed = Labelled(image, ops.mix(mask, labels.astype(np.int32), target.label), weight)
    np.testing.assert_array_equal(mixed.label, golden["mixed_label"])
    loss = jax.jit(jax.value_and_grad(lambda logits: weighted_cross_entropy(SEGMENTER, logits, mixed)))
    value, gradient = loss(nhwc(golden["student_logits"]))
    assert float(value) == pytest.approx(float(golden["mixed_loss"]), rel=1e-5)
    np.testing.assert_allclose(gradient, nhwc(golden["grad_student_logits"]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("file", ["feature_distance.npz", "feature_distance_all_classes.npz"])
def test_golden_feature_distance(file):
    golden = np.load(GOLDEN / file)
    labels, classes = golden["label"][:, 0], FeatureDistance().classes if "mask" in golden.files else ()
    section = FeatureDistance(weight=float(golden["lambda_fd"]), classes=classes)
    if classes:
        cells = ops.majority_labels(labels, golden["feat"].shape[2:], 19, least_share=0.75)
        np.testing.assert_array_equal(cells, golden["label_small"][:, 0])
        np.testing.assert_array_equal(np.isin(cells, classes), golden["mask"][:, 0])
    logits = jnp.zeros((*golden["label"].shape[:2], 1, 19))

    @jax.jit
    @jax.value_and_grad
    def loss(features):
        outputs = {"features": features, "logits": logits}
        return section.losses(outputs, nhwc(golden["feat_imnet"]), labels)["feature_distance"]

    value, gradient = loss(nhwc(golden["feat"]))
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-7)
    np.testing.assert_allclose(gradient, nhwc(golden["grad_feat"]), rtol=0, atol=1e-8)


def test_feature_distance_without_a_cell_or_a_difference():
    features = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    for reference, mask in ((features + 1, jnp.zeros((1, 2, 2), bool)), (features, None)):
        value, gradient = jax.value_and_grad(losses.feature_distance)(features, reference, mask)
        assert value == 0 and not np.any(gradient)


def test_cells_of_images_that_they_do_not_divide():
    labels = np.full((1, 5, 8), 3, np.uint8)
    labels[0, 4] = 1
    # Cells of 4x4 pixels: the last row of them has one row of labels and three of nothing.
    np.testing.assert_array_equal(
        ops.majority_labels(labels, (2, 2), 19, least_share=0.25), [[[3, 3], [255, 255]]]
    )  # the border's 12 pixels of 16 are ignored, which is what most of them are


@pytest.mark.parametrize("file", ["mask_image.npz", "mask_image_rounding.npz"])
def test_golden_masks(file):
    golden = np.load(GOLDEN / file)
    size = golden["image"].shape[2:]
    assert ops.block_grid(size, int(golden["block_size"])) == tuple(golden["grid_hw"])
    mask = ops.block_mask(golden["u"][:, 0], size, golden["mask_ratio"])
    np.testing.assert_array_equal(mask, golden["mask"][:, 0])
    masked = jnp.where(mask[..., None], nhwc(golden["image"]), 0.0)
    np.testing.assert_array_equal(masked, nhwc(golden["masked"]))


@pytest.mark.parametrize("norm", ["imagenet_rgb", "caffe_bgr", "tanh"])
def test_hidden_blocks_are_what_networks_see_as_zero(norm):
    section = Masking(block=8, augmentation=dataclasses.replace(Masking().augmentation, jitter=0.0, blur=0.0))
    images = jnp.full((4, 64, 64, 3), 250.0)
    seen = ops.normalise(section.masked(jax.random.key(0), images, norm), norm)
    hidden = np.abs(seen).max(-1) < 1e-5
    assert 0.55 < hidden.mean() < 0.85
    np.testing.assert_allclose(seen[~hidden], ops.normalise(images, norm)[~hidden], rtol=1e-6)
    blocks = hidden.reshape(4, 8, 8, 8, 8)
    np.testing.assert_array_equal(blocks.all((2, 4)), blocks.any((2, 4)))


def test_masks_of_both_domains_take_their_first_images():
    source = Labelled.of(jnp.zeros((2, 4, 4, 3), jnp.uint8), jnp.full((2, 4, 4), 255, jnp.uint8))
    target = Labelled(jnp.ones((2, 4, 4, 3), jnp.uint8), jnp.ones((2, 4, 4), jnp.int32), jnp.full((2, 4, 4), 0.5))
    both = Masking(images="both").selected(source, target)
    assert [int(x[0, 0, 0]) for x in (both.image[..., 0], both.label)] == [0, 255]
    assert [float(x) for x in both.weight[:, 0, 0]] == [1.0, 0.5] and both.label.dtype == jnp.int32
    assert Masking().selected(source, target) is target


METHOD = MIC(
    num_classes=3,
    segmenter=SEGMENTER,
    optimiser=dataclasses.replace(OPTIMISER, learning_rate=1e-3),
    schedule=Schedule(name="constant"),
    mixing=dataclasses.replace(MIXING, threshold=0.4),
    distance=FeatureDistance(classes=(0, 1), least_share=0.1),
    masking=Masking(block=16),
)


@pytest.fixture(scope="module")
def stepped(batch):
    """The first state, and the two that follow with their metrics."""
    distrust = np.zeros((2, 32, 64), np.float32)
    distrust[:, :8] = 1.0
    whole = {**batch, "target": {**batch["target"], "distrust": distrust}}
    state = initialise(lambda key: METHOD.init(key, whole), jax.random.key(0))
    step = jax.jit(METHOD.train_step)
    first = step(state, whole)
    return whole, state, first, step(first[0], whole)


def test_steps(stepped, same):
    batch, state, (first, metrics), (second, later) = stepped
    terms = [metrics[f"loss/{name}"] for name in ("segmentation", "mixed", "masked", "feature_distance")]
    assert float(metrics["loss/total"]) == pytest.approx(float(sum(terms)), rel=1e-5)
    # The student is the frozen encoder in another mode: not the same, for its batch statistics.
    assert float(metrics["loss/feature_distance"]) > 0 and min(map(float, terms)) > 0
    assert same(second.frozen, state.frozen) and set(state.frozen) == {IMAGENET}
    assert set(state.frozen[IMAGENET]["params"]) == {"encoder"} and set(state.opt_state) == {"segmenter"}
    # The teacher of step 1 is half of the student before and after step 0; that of step 2 is a third of the new one.
    mean = lambda a: lambda old, new: a * old + (1 - a) * new  # noqa: E731
    halves = jax.tree.map(mean(1 / 2), state.params["segmenter"], first.params["segmenter"])
    thirds = jax.tree.map(mean(2 / 3), first.teacher["params"], second.params["segmenter"])
    for ours, expected in ((first.teacher["params"], halves), (second.teacher["params"], thirds)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, expected)
    assert later["teacher/confident_share"] > 0


def test_distrusted_labels_have_no_weight(stepped):
    """All others have one, the share of confident ones among all of them."""
    logits = jax.random.normal(jax.random.key(0), (2, 4, 8, 3))
    target = labelled_target(METHOD, stepped[0], logits, METHOD.mixing)
    confident = jax.nn.softmax(METHOD.segmenter.upsample(logits, (32, 64))).max(-1) >= 0.4
    assert not np.any(target.weight[:, :8])
    np.testing.assert_allclose(target.weight[:, 8:], float(confident.mean()), rtol=1e-6)


def test_schedule_and_teacher_of_the_released_code():
    golden = np.load(GOLDEN / "schedules.npz")
    method = config_method("daformer:gta5_cityscapes")
    rate = schedules.make(method.schedule, method.optimiser.learning_rate)
    for t, expected in zip(golden["iteration"], golden["lr_backbone"], strict=True):
        assert float(rate(int(t))) == pytest.approx(float(expected), rel=1e-5)
    kept = {int(t): float(a) for t, a in zip(golden["iteration"], golden["teacher_alpha"], strict=True)}
    for t, a in kept.items():
        # Before iteration t the update after step t - 1 has been made, whose t is one more than its step.
        assert min(1 - 1 / (t - 1 + TEACHER.first_update + 1), TEACHER.alpha) == pytest.approx(a) if t else a == 0


def config_method(reference):
    (found,) = stages.recipe(config.experiment(config.load(reference)), num_classes=19)
    return found.method


def test_rates_and_decay_by_name():
    """Encoder at one rate, all heads at ten times that; norms of the encoder, and nothing else, do not decay."""
    network = networks.build("hrda_mit_b0", 19, detail_size=(32, 32), detail_stride=16)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    rules = {rule.group: rule for rule in OPTIMISER.rules()}
    groups = optimisers.assign_groups({"segmenter": shapes}, tuple(rules.values()))
    found = {}
    for path, group in jax.tree.leaves_with_path(groups):
        name, rule = jax.tree_util.keystr(path, simple=True, separator="/"), rules[group]
        decay = OPTIMISER.weight_decay if rule.weight_decay is None else rule.weight_decay
        found[name.removeprefix("segmenter/")] = (rule.rate_multiple, decay)
    expected = {
        "encoder/patch_embed2/norm/scale": (1.0, 0.0),
        "encoder/block1_0/attn/norm/bias": (1.0, 0.0),
        "encoder/block3_1/norm2/scale": (1.0, 0.0),
        "encoder/norm4/scale": (1.0, 0.0),
        "encoder/block1_0/attn/q/bias": (1.0, 0.01),
        "encoder/block1_0/mlp/dwconv/kernel": (1.0, 0.01),
        "head/fuse_layer/bottleneck/bn/scale": (10.0, 0.01),
        "head/conv_seg/bias": (10.0, 0.01),
        "scale_attention/fuse_layer/bn/bias": (10.0, 0.01),
    }
    assert {name: found[name] for name in expected} == expected
    assert all((decay == 0) == ("norm" in name and name.startswith("encoder")) for name, (_, decay) in found.items())


def test_details_are_learnt_beside_the_fusion(batch, filled_hrda):
    method, variables = filled_hrda
    labelled = Labelled.of(jnp.zeros((1, 64, 64, 3)), jax.random.randint(jax.random.key(0), (1, 64, 64), 0, 3))
    key, params, stats = jax.random.key(1), variables["params"], {"batch_stats": variables["batch_stats"]}
    found, outputs, _ = jax.jit(functools.partial(Details(weight=0.25).learn, method))(params, stats, labelled, key)
    top, left = hrda.draw_box(jax.random.split(key)[0], (64, 64), (32, 32))
    box = Labelled(*(x[:, int(top) : int(top) + 32, int(left) : int(left) + 32] for x in labelled))
    whole = weighted_cross_entropy(method.segmenter, outputs["logits"], labelled)
    inside = weighted_cross_entropy(method.segmenter, outputs["detail_logits"], box)
    assert {name: float(loss) for name, loss in found.items()} == {
        "": pytest.approx(0.75 * float(whole), rel=1e-5), "_detail": pytest.approx(0.25 * float(inside), rel=1e-5)
    }  # fmt: skip


@pytest.fixture(scope="module")
def filled_hrda():
    options = {"width": 4, "detail_size": (32, 32), "detail_stride": 16}
    segmenter = base.Segmenter(name="hrda_resnet14", input_norm="imagenet_rgb", align_corners=False, **options)
    method = HRDA(num_classes=3, segmenter=segmenter)
    return method, initialise(lambda key: method.network.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))


def test_hrda_wants_two_resolutions():
    with pytest.raises(UserError, match="expected a network of two resolutions, such as hrda_mit_b5, got 'deeplab"):
        HRDA(segmenter=SEGMENTER).check("config.method")


@pytest.mark.parametrize(
    ("reference", "size", "crop", "window", "margins", "share", "block"),
    [
        ("daformer:gta5_cityscapes", (720, 1280), 512, (512, 1024), (15, 120, 0, 0), 0.5, None),
        ("daformer:synthia_cityscapes", (760, 1280), 512, (512, 1024), (15, 120, 0, 0), 0.5, None),
        ("hrda:gta5_cityscapes", (1440, 2560), 1024, (1024, 1024), (30, 240, 30, 30), 2.0, None),
        ("mic:synthia_cityscapes", (1520, 2560), 1024, (1024, 1024), (30, 240, 30, 30), 2.0, 64),
        ("mic:gta5_cityscapes,daformer", (720, 1280), 512, (512, 1024), (15, 120, 0, 0), 0.5, 32),
        ("mic:cityscapes_acdc", (1024, 2048), 1024, (1024, 1024), None, 2.0, 64),
    ],
)
def test_published_settings(reference, size, crop, window, margins, share, block):
    experiment, method = config.experiment(config.load(reference)), config_method(reference)
    source, target, final = experiment.data["source"], experiment.data["target"], experiment.evaluation.final
    assert (source.size, source.crop, source.fit, source.flip) == (size, (crop, crop), "inside", True)
    assert (source.crop_max_share, source.rare_classes.crop_share, source.rare_classes.min_pixels) == (
        0.75,
        share,
        3000,
    )
    assert {domain.image_resampling for domain in (source, target, final)} == {"opencv"}
    assert (target.margins, target.fields) == (margins, ("image", "distrust") if margins else ("image",))
    assert (experiment.evaluation.inference.window, final.resize_label) == (window, False)
    assert (experiment.train.steps, experiment.train.batch_size) == (40_000, 2)
    assert method.num_classes == 19 and {source.label_space, final.label_space} == {"19"}
    assert (method.teacher.alpha, method.mixing.threshold, method.mixing.classes_of) == (0.999, 0.968, "batch")
    assert (method.optimiser.learning_rate, method.optimiser.beta2) == (6e-5, 0.999)
    assert (method.schedule.power, method.schedule.warmup, method.schedule.horizon) == (1.0, 1500, 40_000)
    assert (method.distance.weight, method.distance.least_share, len(method.distance.classes)) == (0.005, 0.75, 10)
    if block:
        both = "both" if "acdc" in reference else "target"
        assert (method.masking.block, method.masking.ratio, method.masking.weight) == (block, 0.7, 1.0)
        assert (method.masking.images, method.masking.augmentation.jitter) == (both, 0.0 if both == "both" else 0.8)
    paths = {name: init.path for name, init in experiment.init_from.items()}
    assert paths == {"segmenter": "weights/mit_b5.pth", IMAGENET: "weights/mit_b5.pth"}


def test_scores_go_to_the_images_size_and_then_to_the_labels():
    """One window, the whole image: what the released code does, and not what one interpolation gives."""
    logits = jax.random.normal(jax.random.key(0), (1, 4, 8, 3))
    predict = scores.sliding(lambda images, size: {"scores": SEGMENTER.upsample(logits, size)}, (16, 32), (16, 32))
    found = predict(jnp.zeros((1, 16, 32, 3)), (40, 80))["scores"]
    twice = SEGMENTER.upsample(SEGMENTER.upsample(logits, (16, 32)), (40, 80))
    np.testing.assert_allclose(found, twice, rtol=1e-5, atol=1e-6)
    assert np.abs(found - SEGMENTER.upsample(logits, (40, 80))).max() > 1e-2


@pytest.mark.parametrize("reference", ["dacs:smoke", "corda:smoke"])
def test_masks_of_other_methods(reference):
    """A weight, and nothing else, adds the loss."""

    def losses_of(words):
        (stage,) = stages.recipe(config.experiment(config.load(reference, words)), num_classes=19)
        step = lambda key: stage.method.train_step(stage.initialise(key), stage.example())[1]  # noqa: E731
        return {name for name in jax.eval_shape(step, jax.random.key(0)) if name.startswith("loss/")}

    assert losses_of(["--config.method.masking.weight=1.0"]) == losses_of([]) | {"loss/masked"}


@pytest.mark.parametrize(("name", "network"), [("daformer", "daformer"), ("hrda", "hrda"), ("mic", "daformer")])
def test_images_of_ones_own_start_from_imagenet(name, network):
    """With the papers' optimiser; without the variant from scratch, with that of all methods."""
    reference = f"{name}:folder,mit"
    experiment, method = config.experiment(config.load(reference)), config_method(reference)
    assert method.segmenter.name == f"{network}_mit_b2" and method.optimiser == OPTIMISER
    assert {init.path for init in experiment.init_from.values()} == {"weights/mit_b2.pth"}
    assert (method.distance.weight, method.distance.classes) == (0.005, ())
    with machine.assumed(accelerator=True):
        plain = config_method(f"{name}:folder")
    assert plain.optimiser.name == "sgd" and plain.distance.weight == 0 and "resnet50" in plain.segmenter.name
