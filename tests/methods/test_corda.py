"""CorDA: golden weights and iterations, who learns from which depth, the warm start, published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import config, losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.corda import CorDA, depth_weight
from uda_jax.methods.parts.mixing import Mixed, Mixing, pseudo_labels
from uda_jax.runs import stages
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER / "dacs-corda"
STEP = np.load(GOLDEN / "step_synthia.npz")
# The released code's outputs and ours.
NAMES = {
    "s": "logits",
    "initial_s": "aux_logits",
    "d": "depth",
    "d_src": "source_depth",
    "initial_d": "aux_depth",
    "initial_d_src": "aux_source_depth",
}
# Its losses of mixed images and ours, with the weight of each.
MIXED_LOSSES = {
    "loss_mixed_seg_final": ("mixed", 1.0),
    "loss_mixed_seg_initial": ("mixed_aux", 1.0),
    "loss_mixed_depth_final": ("mixed_depth", 0.001),
    "loss_mixed_depth_initial": ("mixed_depth_aux", 0.001),
}


# The golden inverse depths are at least 1: one less is a disparity.
BATCH = {
    "source": {"label": STEP["labels"], "disparity": STEP["source_depth"] - 1},
    "target": {"disparity": STEP["target_depth"] - 1},
}
OUTPUTS = {
    which: {ours: nhwc(STEP[f"{which}_out_{name}"]) for name, ours in NAMES.items()} for which in ("source", "mixed")
}


def make(**fields):
    segmenter = base.Segmenter(name="corda_resnet14", width=4, input_norm="imagenet_rgb", initial_head="linear")
    sgd = optimisers.sgd(learning_rate=0.1, head_multiplier=1.0, momentum=0.0, weight_decay=0.0)
    defaults = {"segmenter": segmenter, "optimiser": sgd, "schedule": Schedule(name="constant")}
    return CorDA(num_classes=3, mixing=Mixing(threshold=0.5), **defaults | fields)


def mixed_of(method, teacher_logits, mask):
    """What a mask and a teacher make of the golden labels."""
    labels, confidence = pseudo_labels(method.segmenter, nhwc(teacher_logits), mask.shape[1:])
    return Mixed(mask, None, ops.mix(mask, STEP["labels"], labels), method.mixing.pixel_weights(mask, confidence))


@pytest.fixture(scope="module")
def gradients():
    """A compiled function of method, outputs and mixed batch: gradients of the total, and the losses."""

    def total(outputs, mixed, method):
        terms = method.source_objective(outputs["source"], BATCH) | method.mixed_objective(
            outputs["mixed"], BATCH, mixed
        )
        return sum(terms.values()), terms

    return jax.jit(jax.grad(total, has_aux=True), static_argnames="method")


@pytest.fixture(scope="module")
def deep(batch):
    """The shared batch with depth from 5 to 80 metres, missing in a corner of either domain."""
    depth = np.random.default_rng(1).uniform(5, 80, (2, 2, 32, 64)).astype(np.float32)
    depth[:, :, :8, :16] = 0
    return {name: maps | {"depth": depth[k]} for k, (name, maps) in enumerate(batch.items())}


@pytest.fixture(scope="module")
def stepped(deep):
    """The method, its first state, and what one step makes of it."""
    method = make(depth_unit=64.0)
    state = initialise(lambda key: method.init(key, deep), jax.random.key(0))
    return method, state, jax.jit(method.train_step)(state, deep)


def test_golden_depth_weight():
    golden = np.load(GOLDEN / "depth_weight.npz")
    source, target, depth = (golden[name][:, 0] for name in ("depth_pred_source", "depth_pred_target", "mixed_depth"))
    known = depth != 1
    np.testing.assert_allclose(np.abs(source - target), golden["discrepancy"][:, 0], rtol=0, atol=1e-6)
    weight = np.asarray(depth_weight(source, target, depth, known))
    np.testing.assert_allclose(weight, golden["depth_weight"][:, 0], rtol=0, atol=1e-6)
    assert weight.mean() == pytest.approx(float(golden["depth_weight_mean"]), rel=1e-5)
    logits, labels, plain = nhwc(golden["logits"]), golden["target"], golden["base_pixel_weight"]
    # The official weight of image j's pixels is that of all images i, whose losses are then averaged.
    expected = {"per_image": golden["per_image_weight"], "official": golden["official_weight"].mean(axis=0)}
    for mode, name in (("per_image", "per_image"), ("reference", "official")):
        method = make(depth_weight_mode=mode)
        found = plain * method.difficulty(source[..., None], target[..., None], depth, known)
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=2e-6)

        def loss(logits, found=found):
            return losses.cross_entropy(logits, labels, pixel_weights=found)

        value, gradient = jax.value_and_grad(loss)(logits)
        assert float(value) == pytest.approx(float(golden[f"{name}_loss"]), rel=1e-5)
        np.testing.assert_allclose(gradient, nhwc(golden[f"{name}_grad"]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["reference", "per_image"])
def test_golden_iteration(mode, gradients):
    """The released code's losses of one iteration, and in its own mode their gradients, for given outputs."""
    method = CorDA(depth_weight_mode=mode)
    mixed = mixed_of(method, STEP["teacher_out_s"], STEP["mask"].astype(bool))
    np.testing.assert_array_equal(mixed.label, STEP["mixed_label"])
    assert float(jnp.min(mixed.weight)) == pytest.approx(float(STEP["unlabeled_weight"]))
    source, target = (method.inverse_depth(BATCH, domain) for domain in ("source", "target"))
    np.testing.assert_allclose(ops.mix(mixed.mask, source, target), STEP["mixed_depth"][:, 0], rtol=1e-6)
    found, terms = gradients(OUTPUTS, mixed, method)
    labelled = sum(terms[name] for name in ("segmentation", "segmentation_aux", "depth", "depth_aux"))
    assert float(labelled) == pytest.approx(float(STEP["loss_labeled"]), rel=1e-5)
    prefix = "per_image_" if mode == "per_image" else ""
    for name, (ours, weight) in MIXED_LOSSES.items():
        expected = STEP[f"{prefix}{name}"] if f"{prefix}{name}" in STEP else STEP[name]
        assert float(terms[ours]) == pytest.approx(weight * float(expected), rel=1e-5), name
    assert float(sum(terms.values())) == pytest.approx(float(STEP[f"{prefix}loss_total"]), rel=1e-5)
    if mode == "reference":
        for which in OUTPUTS:
            for name, ours in NAMES.items():
                expected = nhwc(STEP[f"{which}_grad_{name}"])
                np.testing.assert_allclose(found[which][ours], expected, rtol=0, atol=1e-7, err_msg=f"{which} {name}")


@pytest.mark.parametrize("t", [25_000, 25_001])
def test_golden_warm_start(t, gradients):
    """On GTA5 the teacher's first prediction labels up to step 25000, the final one from 25001 on."""
    golden = {name.removeprefix(f"iter{t}_"): value for name, value in np.load(GOLDEN / "step_gta.npz").items()}
    method = CorDA(initial_steps=config.load("corda:gta5_cityscapes").method.initial_steps)
    heads = {"logits": STEP["teacher_out_s"], "aux_logits": STEP["teacher_out_initial_s"]}
    mixed = mixed_of(method, method.pseudo_label_logits(jnp.int32(t), heads), STEP["mask"].astype(bool))
    np.testing.assert_array_equal(mixed.label, golden["mixed_label"])
    assert float(jnp.min(mixed.weight)) == pytest.approx(float(golden["unlabeled_weight"]))
    found, terms = gradients(OUTPUTS, mixed, CorDA(depth_weight_mode="reference"))
    for name, (ours, weight) in MIXED_LOSSES.items():
        assert float(terms[ours]) == pytest.approx(weight * float(golden[name]), rel=1e-5), name
    assert float(sum(terms.values())) == pytest.approx(float(golden["loss_total"]), rel=1e-5)
    for name in ("s", "initial_s"):
        expected = nhwc(golden[f"mixed_grad_{name}"])
        np.testing.assert_allclose(found["mixed"][NAMES[name]], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("pasted", "idle"), [(True, ""), (False, "source_")])
def test_each_depth_head_learns_from_its_own_domain(pasted, idle, gradients):
    """The target's heads never from source images, and on mixed ones each from its own pixels."""
    method = CorDA(depth_weight_mode="reference")
    mixed = mixed_of(method, STEP["teacher_out_s"], np.full(STEP["mask"].shape, pasted))
    found, _ = gradients(OUTPUTS, mixed, method)
    for before in ("", "aux_"):
        assert not np.any(found["source"][f"{before}depth"]) and np.any(found["source"][f"{before}source_depth"])
        for which in ("", "source_"):
            assert np.any(found["mixed"][f"{before}{which}depth"]) == (which != idle), (before, which)


def test_difficulty_by_hand():
    """Agreement, disagreement by a quarter and by more than the depth itself, and a pixel without depth."""
    depth = np.array([[[4.0, 4.0, 4.0, 1.0]]], np.float32)
    source, target = np.array([[[2.0, 5.0, 9.0, 0.0]]]), np.array([[[2.0, 4.0, 4.0, 50.0]]])
    weight = depth_weight(source, target, depth, depth > 1)
    np.testing.assert_allclose(weight, [[[1.0, 0.751, 0.001, 1.0]]], rtol=1e-6)
    method = make()
    scaled = method.difficulty(source[..., None], target[..., None], depth, depth > 1)
    assert float(scaled.mean()) == pytest.approx(1.0) and float(scaled[0, 0, 0]) == pytest.approx(1 / 0.688)
    gradient = jax.grad(lambda d: jnp.sum(method.difficulty(d, target[..., None], depth, depth > 1) ** 2))
    assert not np.any(gradient(source[..., None]))
    # Heads that are equally far apart everywhere leave the loss as it is.
    apart = method.difficulty(depth[..., None] + 1, depth[..., None], np.full_like(depth, 4), depth > 0)
    np.testing.assert_allclose(apart, np.ones_like(depth))
    none = make(depth_weight_mode="none").difficulty(source[..., None], target[..., None], depth, depth > 1)
    np.testing.assert_array_equal(none, np.ones_like(depth))


def test_both_modes_agree_for_one_image_and_for_equal_ones():
    rng = np.random.default_rng(0)
    source, target, depth = rng.uniform(2, 9, (3, 1, 6, 7)).astype(np.float32)
    modes = [make(depth_weight_mode=mode) for mode in ("per_image", "reference")]
    for count in (1, 3):
        arrays = [np.repeat(x, count, axis=0) for x in (source[..., None], target[..., None], depth, depth > 3)]
        ours, theirs = (method.difficulty(*arrays) for method in modes)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    other = np.concatenate([source, target])[..., None], np.concatenate([target, target])[..., None]
    ours, theirs = (method.difficulty(*other, np.tile(depth, (2, 1, 1)), np.full((2, 6, 7), True)) for method in modes)
    assert np.abs(ours - theirs).max() > 0.1


def test_the_unit_of_depth_changes_scales_only(gradients):
    """Outputs in tens of the target's unit: the same weights and classes, a tenth of the depth losses."""
    coarse = CorDA(depth_unit=10.0)
    mixed = mixed_of(coarse, STEP["teacher_out_s"], STEP["mask"].astype(bool))
    _, expected = gradients(OUTPUTS, mixed, CorDA())
    outputs = {
        which: {name: x / 10 if "depth" in name else x for name, x in maps.items()} for which, maps in OUTPUTS.items()
    }
    _, terms = gradients(outputs, mixed, coarse)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value) / (10 if "depth" in name else 1), rel=1e-4), name


def test_without_mixing_and_depth_it_is_supervised_training(gradients):
    method = CorDA(mixed_weight=0.0, source_depth_weight=0.0, mixed_depth_weight=0.0)
    mixed = mixed_of(method, STEP["teacher_out_s"], STEP["mask"].astype(bool))
    up = lambda name: ops.resize_bilinear(OUTPUTS["source"][name], STEP["mask"].shape[1:], align_corners=True)  # noqa: E731
    expected = sum(losses.cross_entropy(up(name), STEP["labels"]) for name in ("logits", "aux_logits"))
    _, terms = gradients(OUTPUTS, mixed, method)
    assert float(sum(terms.values())) == pytest.approx(float(expected), rel=1e-6)


def test_depth_in_metres_and_as_disparity():
    maps = {"depth": np.array([0.0, 0.05, 9.99, 655.35, 900.0], np.float32)}
    batch = {"source": maps, "target": maps}
    np.testing.assert_allclose(make().inverse_depth(batch, "target"), [1, 1, 65.536, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(make().inverse_depth(batch, "source"), [1, 1, 65.536, 1, 1], rtol=1e-6)
    synthia = make(source_nearest=0.0)
    np.testing.assert_allclose(synthia.inverse_depth(batch, "source")[:3], [65536, 655.36 / 0.06, 65.536], rtol=1e-6)
    np.testing.assert_allclose(synthia.inverse_depth(batch, "target")[:3], [1, 1, 65.536], rtol=1e-6)
    relative = {"target": {"disparity": np.array([0.0, 65535 / 256], np.float32)}}
    np.testing.assert_array_equal(make().inverse_depth(relative, "target"), [1, 256.99609375])


def test_one_step(stepped, deep, flat):
    """Losses are those of the objective; only trained parameters move, statistics and teacher as in DACS."""
    method, state, (after, metrics) = stepped
    terms = {name for name in metrics if name.startswith("loss/")} - {"loss/total"}
    kinds = ("segmentation", "depth", "mixed", "mixed_depth")
    assert terms == {f"loss/{name}{suffix}" for name in kinds for suffix in ("", "_aux")}
    assert all(metrics[name] > 0 for name in terms)
    assert metrics["loss/total"] == pytest.approx(float(sum(metrics[name] for name in terms)), rel=1e-5)
    before, now = flat(state.params["segmenter"]), flat(after.params["segmenter"])
    still = {path for path in before if np.array_equal(before[path], now[path])}
    dead = {path for path in before if "branch_2" in path or "branch_3" in path}
    norms = {path for path in before if path.startswith("encoder/") and path.endswith(("scale", "bias"))}
    assert len(dead) == 12 and norms and still == dead | norms
    assert any("depth_features" in path and path.endswith("scale") for path in now.keys() - still)
    before, now = flat(state.model_state), flat(after.model_state)
    assert all((before[path] != now[path]).any() for path in before)
    teacher = flat(after.teacher["params"])
    assert all(np.array_equal(teacher[path], leaf) for path, leaf in flat(after.params["segmenter"]).items())


def test_ablations_predict_once(gradients):
    """Without predictions before the exchange their losses are gone; a single depth head learns both domains alike."""
    outputs = {which: {k: v for k, v in maps.items() if not k.startswith("aux_")} for which, maps in OUTPUTS.items()}
    method = CorDA()
    mixed = mixed_of(method, STEP["teacher_out_s"], STEP["mask"].astype(bool))
    _, whole = gradients(OUTPUTS, mixed, method)
    _, terms = gradients(outputs, mixed, method)
    assert set(terms) == {"segmentation", "depth", "mixed", "mixed_depth"}
    assert all(terms[name] == pytest.approx(float(whole[name]), rel=1e-6) for name in terms)
    single = {which: {k: v for k, v in maps.items() if k != "source_depth"} for which, maps in outputs.items()}
    found, terms = gradients(single, mixed, CorDA(depth_weight_mode="none"))
    assert all(np.any(found[which]["depth"]) for which in single)
    # The weight is that of DACS alone.
    _, plain = gradients(outputs, mixed, CorDA(depth_weight_mode="none"))
    assert float(terms["mixed"]) == pytest.approx(float(plain["mixed"]), rel=1e-6)


def test_ablations_that_contradict_themselves():
    one = {"segmenter": {"name": "corda_resnet14", "structure": "multi_task"}}
    with pytest.raises(UserError, match="^m.depth_weight_mode: expected 'none' with the structure 'multi_task'"):
        from_mapping(CorDA, one, "m")
    other = {"segmenter": {"name": "corda_resnet14", "structure": "uncorrelated"}, "initial_steps": 3}
    with pytest.raises(UserError, match="^m.initial_steps: expected 0 with the structure 'uncorrelated'"):
        from_mapping(CorDA, other, "m")


def test_depth_has_to_be_there(batch):
    with pytest.raises(UserError, match=r"config.data.target.fields: expected 'depth' or 'disparity' among") as caught:
        make().inverse_depth(batch, "target")
    assert "\n" not in str(caught.value)


def test_a_network_without_depth_heads_is_refused():
    with pytest.raises(UserError, match="method.segmenter.name: expected a network with depth heads for each domain"):
        from_mapping(CorDA, {}, "method")


def stage(reference):
    experiment = config.experiment(config.load(reference))
    (found,) = stages.recipe(experiment, num_classes=19)
    return experiment, found


@pytest.mark.parametrize("benchmark", ["gta5_cityscapes", "synthia_cityscapes"])
def test_published_settings(benchmark):
    """What differs from DACS."""
    experiment, found = stage(f"corda:{benchmark}")
    plain, other = stage(f"dacs:{benchmark}")
    method, gta5 = found.method, benchmark == "gta5_cityscapes"
    assert (method.teacher.alpha, method.source_depth_weight, method.mixed_depth_weight) == (0.999, 0.01, 0.001)
    assert (method.depth_weight_mode, method.depth_unit) == ("reference", 1.0)
    assert (method.initial_steps, method.source_nearest) == ((25_001, 0.1) if gta5 else (0, 0.0))
    for field in ("optimiser", "schedule", "mixing", "mixed_weight"):
        assert getattr(method, field) == getattr(other.method, field)
    assert found.train == other.train and method.segmenter.name == "corda_resnet101"
    assert (method.segmenter.initial_head, method.segmenter.options.aspp_branches) == ("aspp" if gta5 else "linear", 2)
    source, target = experiment.data["source"], experiment.data["target"]
    assert source.fields == ("image", "label", "disparity" if gta5 else "depth") and target.fields == ("image", "depth")
    assert target.options == {"depth": "stereo"} and experiment.evaluation.final.resize_label is False
    assert source.disparity_resampling == ("bilinear" if gta5 else "nearest")
    for domain, bare in ((source, plain.data["source"]), (target, plain.data["target"])):
        assert (domain.size, domain.crop, domain.flip, domain.label_space) == (
            bare.size,
            bare.crop,
            bare.flip,
            bare.label_space,
        )
    modes = {"exact_depth": "reference", "reference_weights": "reference", "image_weights": "per_image"}
    for variant, mode in modes.items():
        assert stage(f"corda:{benchmark},{variant}")[1].method.depth_weight_mode == mode
    fresh = set(experiment.init_from["segmenter"].fresh)
    assert experiment.init_from["segmenter"].path == plain.init_from["segmenter"].path
    network = jax.eval_shape(found.initialise, jax.random.key(0)).params["segmenter"]
    assert fresh == network.keys() - {"encoder"}


def test_depth_of_streets():
    """The camera's comes from stereo matching unless the variant asks for the renderer's."""
    for variant, options in (("", {"depth": "stereo"}), (",exact_depth", None)):
        experiment, _ = stage(f"corda:streets{variant}")
        assert experiment.label == f"corda{variant.replace(',', '/')}"
        assert experiment.data["source"].fields == ("image", "label", "depth")
        assert experiment.data["target"].fields == ("image", "depth")
        assert (experiment.data["source"].options, experiment.data["target"].options) == (None, options)


def test_weights_of_difficulty_from_scratch_are_the_papers():
    for variant, mode in (("", "per_image"), (",image_weights", "per_image"), (",reference_weights", "reference")):
        assert stage(f"corda:streets{variant}")[1].method.depth_weight_mode == mode


def test_settings_without_depth_are_refused():
    with pytest.raises(UserError, match="expected a setting with depth, got 'camvid_day2dusk'"):
        config.load("corda:camvid_day2dusk")
