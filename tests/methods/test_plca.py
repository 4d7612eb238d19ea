"""PLCA: the released objective and its gradients, the order of the forwards, both ways of predicting."""

import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc, relative_error

from uda_jax import config, losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts.association import Association
from uda_jax.methods.plca import ILLUSTRATED_PIXELS, PLCA
from uda_jax.runs import stages
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

GOLDEN = vectors.FOLDER
PLCA_FILES = GOLDEN / "plca"
stand_in_state_dict = vectors.stand_in_state_dict
RATE = 0.1


def make(**fields):
    segmenter = base.Segmenter(
        name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", aspp_bias=False, align_corners=False
    )
    sgd = optimisers.sgd(
        learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True
    )
    defaults = {"num_classes": 3, "segmenter": segmenter, "optimiser": sgd, "schedule": Schedule(name="constant")}
    return PLCA(**defaults | fields)


@pytest.fixture(scope="module")
def run(batch):
    """A method, its first state, a batch with labels of the target (which it shall not read), its compiled step."""
    method = make()
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    batch = batch | {"target": batch["target"] | {"label": np.zeros((2, 32, 64), np.uint8)}}
    return method, state, batch, jax.jit(method.train_step)


@pytest.mark.parametrize("file", sorted(PLCA_FILES.glob("step_total*.npz")), ids=lambda file: file.stem)
def test_objective_is_the_released_one(file):
    golden = np.load(file)
    association = Association()
    if "scale_factor" in golden:
        association = Association(reduction="bilinear", scale=float(golden["scale_factor"]))
    method = PLCA(
        num_classes=golden["logits_source"].shape[1],
        lovasz_weight=float(golden["lovasz_coefficient"]),
        association=association,
    )
    maps = {
        domain: {"features": nhwc(golden[f"feat_{domain}"]), "logits": nhwc(golden[f"logits_{domain}"])}
        for domain in ("source", "target")
    }

    def total(maps):
        terms = method.objective(maps["source"], maps["target"], jnp.array(golden["label_source"]), jax.random.key(0))
        return sum(terms.values()), terms

    (value, terms), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(maps)
    terms = {name: float(term) for name, term in terms.items()}
    assert float(value) == pytest.approx(float(golden["loss_total"]), rel=1e-5)
    for ours, theirs, weight in (
        ("association_features", "loss_assoc_feat", 0.1),
        ("association_predictions", "loss_assoc_cls", 0.1),
        ("smoothing_source", "loss_lsr_source", 0.01),
        ("smoothing_target", "loss_lsr_target", 0.01),
    ):
        assert terms.pop(ours) == pytest.approx(weight * float(golden[theirs]), rel=1e-5)
    assert terms.keys() == {"segmentation", "lovasz"}
    assert sum(terms.values()) == pytest.approx(float(golden["loss_ce_plus_lovasz"]), rel=1e-5)
    for domain in ("source", "target"):
        for ours, theirs in (("features", "feat"), ("logits", "logits")):
            expected = golden[f"grad_{theirs}_{domain}"].transpose(0, 2, 3, 1)
            assert relative_error(gradients[domain][ours], expected) <= 2e-4


@pytest.mark.parametrize("file", sorted(PLCA_FILES.glob("inference_aggregated*.npz")), ids=lambda file: file.stem)
def test_aggregated_prediction_is_the_released_one(file):
    golden = np.load(file)
    state_dict = stand_in_state_dict(json.loads((PLCA_FILES / f"{file.stem}_manifest.json").read_text()))
    kernels = [state_dict[f"classifier.0.convs.{i}.0.weight"].transpose(2, 3, 1, 0) for i in range(4)]
    variables = {"params": {"head": {f"branch_{i}": {"kernel": kernel} for i, kernel in enumerate(kernels)}}}
    method = PLCA(num_classes=len(kernels[0][0][0][0]), segmenter=base.Segmenter(aspp_bias=False, align_corners=False))
    size = tuple(golden["image_size"].tolist())
    with jax.default_matmul_precision("highest"):
        scores = jax.jit(method.aggregated_scores, static_argnums=2)(variables, nhwc(golden["feat"]), size)
    clear = golden["prediction_margin"] > 1e-4
    np.testing.assert_array_equal(np.argmax(scores, axis=-1)[clear], golden["prediction"][clear])
    expected = ops.resize_bilinear(nhwc(golden["probs_after"]), size, align_corners=False)
    np.testing.assert_allclose(jax.nn.softmax(scores), expected, rtol=0, atol=1e-5)


def test_a_step_descends_on_the_objective_after_forwarding_the_target_first(run):
    method, state, batch, step = run
    labels = jnp.asarray(batch["source"]["label"], jnp.int32)

    def objective(params):
        stats, outputs = state.model_state["segmenter"], {}
        for domain in ("target", "source"):
            images = ops.normalise(batch[domain]["image"], "imagenet_rgb")
            variables = {"params": params, **stats}
            outputs[domain], stats = method.network.apply(variables, images, train=True, mutable=["batch_stats"])
        source, target = outputs["source"], outputs["target"]
        scores = ops.resize_bilinear(source["logits"], (32, 64), align_corners=False)
        small = ops.resize_nearest_legacy(labels, (5, 9))
        predictions = [jax.nn.softmax(z["logits"]) for z in (source, target)]
        total = losses.cross_entropy(scores, labels) + 3.0 * losses.lovasz_softmax(jax.nn.softmax(scores), labels)
        total += 0.1 * losses.cycle_association(source["features"], target["features"], small, similarity="cosine")
        total += 0.1 * losses.cycle_association(*predictions, small, similarity="kl")
        total += 0.01 * sum(losses.adaptive_label_smoothing(z["logits"]) for z in (source, target))
        return total, stats

    (value, stats), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params["segmenter"])
    after, metrics = step(state, batch)
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    expected = jax.tree.map(lambda p, g: p - RATE * g, *jax.device_get((state.params["segmenter"], gradient)))
    ours = jax.device_get((after.params["segmenter"], after.model_state["segmenter"]))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves((expected, stats)), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)
    assert set(state.params) == set(state.opt_state) == {"segmenter"} and int(after.step) == 1


def test_labels_of_the_target_are_not_read(run, same):
    method, state, batch, step = run
    garbage = np.random.default_rng(1).integers(0, 256, (2, 32, 64), dtype=np.uint8)
    other = batch | {"target": batch["target"] | {"label": garbage}}
    expected, metrics = step(state, batch)
    after, found = step(state, other)
    data = lambda s: s.replace(key=jax.random.key_data(s.key))  # noqa: E731
    assert same((data(after), found), (data(expected), metrics))


def test_without_labels_only_smoothing_is_left(run):
    method, state, batch, step = run
    ignored = batch | {"source": batch["source"] | {"label": np.full((2, 32, 64), 255, np.uint8)}}
    _, metrics = step(state, ignored)
    for name in ("segmentation", "lovasz", "association_features", "association_predictions"):
        assert metrics[f"loss/{name}"] == 0
    both = metrics["loss/smoothing_source"] + metrics["loss/smoothing_target"]
    assert both != 0 and float(metrics["loss/total"]) == pytest.approx(float(both), rel=1e-6)
    without = dataclasses.replace(method, smoothing_weight=0.0)
    generator = np.random.default_rng(0)
    maps = {"features": (1, 3, 4, 5), "logits": (1, 3, 4, 3)}
    maps = [{name: jnp.array(generator.random(shape), jnp.float32) for name, shape in maps.items()} for _ in "st"]
    labels = jnp.full((1, 24, 32), 255)
    gradients = jax.jit(jax.grad(lambda m: sum(without.objective(*m, labels, jax.random.key(0)).values())))(maps)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_groups_of_pairs_average_over_their_own_cycles():
    """Two groups of two pairs, one of which has few labels: the mean of the groups, not that of all cycles."""
    generator = np.random.default_rng(2)
    domains = [
        {
            name: jnp.array(generator.random((4, 4, 5, size)), jnp.float32)
            for name, size in (("features", 6), ("logits", 3))
        }
        for _ in "st"
    ]
    labels = generator.integers(0, 3, (4, 32, 40))
    labels[:2, 8:] = 255
    section = Association(prediction_weight=0.0)
    half = lambda part: [{name: x[part] for name, x in maps.items()} for maps in domains]  # noqa: E731
    halves = [section.losses(*half(part), labels[part], jax.random.key(0)) for part in (slice(0, 2), slice(2, 4))]
    grouped = dataclasses.replace(section, reduction_group=2).losses(*domains, labels, jax.random.key(0))
    whole = dataclasses.replace(section, reduction_group=4).losses(*domains, labels, jax.random.key(0))
    assert whole == section.losses(*domains, labels, jax.random.key(0)) and len(grouped) == 1
    for name, value in grouped.items():
        assert float(value) == pytest.approx(float(halves[0][name] + halves[1][name]) / 2, rel=1e-5)
        assert float(value) != pytest.approx(float(whole[name]), rel=1e-3)
    with pytest.raises(UserError, match="reduction_group: expected a divisor of the 4 image pairs of a batch, got 3;"):
        dataclasses.replace(section, reduction_group=3).losses(*domains, labels, jax.random.key(0))


def test_groups_average_over_their_own_labels_and_classes():
    """As two devices of two images do: the mean of the means of cross entropy, and Lovasz-Softmax by groups."""
    generator = np.random.default_rng(5)
    scores = jnp.asarray(generator.normal(size=(4, 8, 10, 3)), jnp.float32)
    labels = generator.integers(0, 3, (4, 8, 10))
    labels[:2, 2:] = 255
    labels[:2][labels[:2] == 2] = 1
    # The first two images are predicted better, so that it matters which of the means they are in.
    scores = scores.at[:2].add(2.0 * jax.nn.one_hot(labels[:2], 3))
    found = make(supervised_group=2).supervised(scores, labels)
    assert found.keys() == {"segmentation", "lovasz"}
    halves = [losses.cross_entropy(scores[part], labels[part]) for part in (slice(0, 2), slice(2, 4))]
    assert float(found["segmentation"]) == pytest.approx(float(halves[0] + halves[1]) / 2, rel=1e-5)
    lovasz = losses.grouped_lovasz_softmax(jax.nn.softmax(scores), labels, 2)
    assert float(found["lovasz"]) == pytest.approx(3.0 * float(lovasz), rel=1e-5)
    # Without groups, and with one for all, pixels and classes of the whole batch count alike.
    whole, all_of_them = make().supervised(scores, labels), make(supervised_group=4).supervised(scores, labels)
    assert whole == all_of_them and all(abs(float(whole[name] - found[name])) > 1e-3 for name in whole)
    with pytest.raises(UserError, match="supervised_group: expected a divisor of the 4 source images of a batch, got"):
        make(supervised_group=3).supervised(scores, labels)


def test_source_only_forwards_no_target(batch):
    """Nothing of a target is read, be it there or not: no loss, no running statistics."""
    method = make(association=Association(feature_weight=0.0, prediction_weight=0.0), smoothing_weight=0.0)
    assert method.needed_domains == ("source",) and make().needed_domains == ("source", "target")
    alone = {"source": batch["source"]}
    state = jax.eval_shape(lambda key: method.init(key, alone), jax.random.key(0))
    after, metrics = jax.eval_shape(method.train_step, state, alone)
    assert after == state
    terms = {name for name in metrics if name.startswith("loss/")}
    assert terms == {"loss/segmentation", "loss/lovasz", "loss/total"}
    with mock.patch.object(PLCA, "forward", autospec=True, side_effect=PLCA.forward) as forward:
        jax.eval_shape(lambda state: method.objective(*_source(method, state, batch)), state)
    assert forward.call_count == 1 and method.illustrate(state, batch) == {}


def _source(method, state, batch):
    outputs, _ = method._forward(state.params["segmenter"], state, batch)
    return outputs["source"], outputs.get("target"), batch["source"]["label"], state.key


def test_one_trace_and_donation(check_one_trace, batch):
    check_one_trace(make(association=Association(reduction="random", scale=0.5)), batch)


def test_random_rows_and_columns_are_the_same_in_all_maps_of_an_image():
    rows, columns = np.mgrid[:6, :9]
    coded = np.broadcast_to(np.stack([rows, columns], axis=-1), (2, 6, 9, 2)).astype(np.float32)
    labels = np.broadcast_to((10 * rows + columns).repeat(8, axis=0).repeat(8, axis=1), (2, 48, 72))
    section = Association(reduction="random", scale=0.7)
    found = jax.device_get(
        jax.jit(section.reduced)({"features": coded, "logits": 2 * coded}, jax.random.key(3), labels)
    )
    assert found["features"].shape == (2, 4, 6, 2)
    np.testing.assert_array_equal(found["logits"], 2 * found["features"])
    np.testing.assert_array_equal(found["labels"], found["features"] @ [10, 1])
    for image in found["features"].astype(int):
        assert np.all(image[..., 0] == image[:, :1, 0]) and np.all(image[..., 1] == image[:1, :, 1])
        assert len(set(image[:, 0, 0])) == 4 and len(set(image[0, :, 1])) == 6
    assert not np.array_equal(found["features"][0], found["features"][1])


def test_predictions_are_interpolated_by_pixel_centres_with_and_without_aggregation(run):
    method, state, batch, _ = run
    images, size = batch["target"]["image"], (48, 80)

    @jax.jit
    def both(state):
        methods = (method, dataclasses.replace(method, test_aggregation=True))
        return [some.predict(state, images, size)["scores"] for some in methods]

    @jax.jit
    def written_out(state):
        variables = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
        outputs = method.network.apply(variables, ops.normalise(images, "imagenet_rgb"))
        mixed = losses.aggregate(outputs["features"], similarity="cosine", alpha=0.5)
        probabilities = jax.nn.softmax(method.network.apply(variables, mixed, method="classify"))
        probabilities = losses.aggregate(probabilities, similarity="kl", alpha=0.5)
        return [ops.resize_bilinear(maps, size, align_corners=False) for maps in (outputs["logits"], probabilities)]

    (plain, aggregated), (logits, probabilities) = both(state), written_out(state)
    np.testing.assert_allclose(plain, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(aggregated), probabilities, rtol=1e-3, atol=1e-5)
    assert np.abs(jax.nn.softmax(plain) - probabilities).max() > 1e-3


def test_pictures_join_the_centres_of_associated_cells(run):
    method, state, batch, _ = run

    @jax.jit
    def both(labels):
        own = batch | {"source": batch["source"] | {"label": labels}}
        outputs, _ = method._forward(state.params["segmenter"], state, own)
        source, target = outputs["source"], outputs["target"]
        small = ops.resize_nearest_legacy(labels.astype(jnp.int32), (5, 9))
        maps = (source["features"], target["features"], small)
        found = losses.association_diagnostics(*maps, similarity="cosine")
        return method.illustrate(state, own)["association"], found, small

    pairs, found, small = jax.device_get(both(batch["source"]["label"]))
    assert pairs.points.shape == (2, ILLUSTRATED_PIXELS, 4) and pairs.classes.shape == (2, ILLUSTRATED_PIXELS)
    assert pairs.points.dtype == np.int32 and pairs.left.dtype == np.uint8
    np.testing.assert_array_equal(pairs.right, batch["target"]["image"])
    flattened = (found["selected_mask"], found["target_index"], small)
    selected, ends, labels = (np.asarray(x).reshape(2, 45) for x in flattened)
    # Cells of the grid are 6.4 x 7.1 pixels.
    rows, columns = [3, 9, 16, 22, 28], [3, 10, 17, 24, 32, 39, 46, 53, 60]
    for image in range(2):
        shown = pairs.points[image][pairs.points[image, :, 0] >= 0].tolist()
        cells = [9 * rows.index(row) + columns.index(column) for row, column, _, _ in shown]
        assert len(set(cells)) == len(cells) == min(ILLUSTRATED_PIXELS, selected[image].sum()) > 0
        assert np.all(selected[image, cells])
        assert [9 * rows.index(row) + columns.index(column) for _, _, row, column in shown] == ends[
            image, cells
        ].tolist()
        np.testing.assert_array_equal(pairs.classes[image, : len(cells)], labels[image, cells])
        assert np.all(pairs.points[image, len(cells) :] == -1)
    assert np.all(both(np.full((2, 32, 64), 255, np.uint8))[0].points == -1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"association": {"aggregation": 1.0}}, "association.aggregation: expected a number in [0, 1), got 1.0"),
        ({"association": {"scale": 0.5}}, "association.scale: expected 1 with reduction 'none', got 0.5; choose"),
        ({"association": {"reduction": "random"}}, "association.scale: expected a number in (0, 1) with reduction"),
        ({"association": {"reduction": "crop"}}, "association.reduction: expected one of 'none', 'random', 'bilinear'"),
        ({"association": {"feature_weight": -0.1}}, "association.feature_weight: expected a number >= 0.0, got -0.1"),
        (
            {"association": {"aggregation": 0.0}, "test_aggregation": True},
            "test_aggregation: expected False with association.aggregation 0, got True",
        ),
        ({"segmenter": {"multi_level": True}}, "segmenter.multi_level: expected False, since one head is trained"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError) as caught:
        from_mapping(PLCA, fields, "config.method")
    assert str(caught.value).startswith(f"config.method.{message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "steps", "horizon"),
    [("gta5_cityscapes", 28 * 744, 30 * 744), ("synthia_cityscapes", 8 * 744, 10 * 744)],
)
def test_published_settings_are_the_specification(setting, steps, horizon):
    experiment = config.experiment(config.load(f"plca:{setting}"))
    (stage,) = stages.recipe(experiment, num_classes=19)
    method, train = stage.method, experiment.train
    assert (train.steps, train.batch_size, train.accumulation, method.schedule.horizon) == (steps, 4, 2, horizon)
    assert method.association.reduction_group == method.supervised_group == 2
    assert (method.optimiser.learning_rate, method.optimiser.momentum, method.optimiser.weight_decay) == (
        2.5e-4,
        0.9,
        5e-4,
    )
    for domain in experiment.data.values():
        view = (domain.size, domain.short_side, domain.crop, domain.flip, domain.image_resampling)
        assert view == (None, (760, 988), (730, 730), True, "bilinear")
    final = experiment.evaluation.final
    assert (final.size, final.image_resampling, final.resize_label) == ((730, 1460), "bilinear", False)
    association = method.association
    assert (association.feature_weight, association.prediction_weight, association.aggregation) == (0.1, 0.1, 0.5)
    assert (method.lovasz_weight, method.smoothing_weight, method.smoothing_strength) == (3.0, 0.01, 10.0)
    assert method.test_aggregation and experiment.init_from["segmenter"].path == "weights/resnet101-imagenet.pth"
    options = method.segmenter.options
    assert (options.aspp_branches, options.aspp_bias, options.head_init) == (4, False, "uniform")
    # Scale and shift train and decay like everything else, and head and encoder learn at one rate.
    params = {"segmenter": {"encoder": {"bn1": {"scale": 0, "bias": 0}}, "head": {"branch_0": {"kernel": 0}}}}
    groups = optimisers.assign_groups(params, method.optimiser.rules())["segmenter"]
    assert groups == {
        "encoder": {"bn1": {"scale": "backbone", "bias": "backbone"}},
        "head": {"branch_0": {"kernel": "head"}},
    }
    assert {rule.rate_multiple for rule in method.optimiser.rules()} == {1.0}


def test_the_published_source_only_setting_reads_no_target():
    whole, alone = (config.experiment(config.load(f"plca:gta5_cityscapes{name}")) for name in ("", ",source_only"))
    assert alone.data == {"source": whole.data["source"]} and alone.train == whole.train
    (stage,) = stages.recipe(alone, num_classes=19)
    method = stage.method
    assert (method.lovasz_weight, method.supervised_group, method.test_aggregation) == (3.0, 2, False)
    assert method.optimiser.learning_rate == 2.5e-4 and method.needed_domains == ("source",)


@pytest.mark.parametrize(
    ("variant", "association", "fields"),
    [
        ("no_aggregation", {"aggregation": 0.0}, {}),
        ("no_prediction_level", {"prediction_weight": 0.0}, {}),
        ("no_smoothing", {}, {"smoothing_weight": 0.0}),
        ("no_lovasz", {}, {"lovasz_weight": 0.0}),
        ("no_contrast", {"contrast": False}, {}),
        (
            "source_only",
            {"feature_weight": 0.0, "prediction_weight": 0.0, "aggregation": 0.0},
            {"smoothing_weight": 0.0},
        ),
    ],
)
def test_variants_take_one_part_away(variant, association, fields):
    whole, part = (config.load(f"plca:streets{name}").method.to_dict() for name in ("", f",{variant}"))
    assert part == {**whole, **fields, "association": whole["association"] | association} != whole


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"association": Association(feature_weight=0.0)}, {"association_features"}),
        ({"association": Association(prediction_weight=0.0)}, {"association_predictions"}),
        ({"smoothing_weight": 0.0}, {"smoothing_source", "smoothing_target"}),
        ({"lovasz_weight": 0.0}, {"lovasz"}),
    ],
)
def test_a_term_of_weight_0_is_not_computed(fields, absent):
    names = {"segmentation", "lovasz", "association_features", "association_predictions"}
    names |= {"smoothing_source", "smoothing_target"}
    maps = {"features": jnp.ones((1, 2, 2, 4)), "logits": jnp.ones((1, 2, 2, 3))}
    terms = jax.eval_shape(make(**fields).objective, maps, maps, jnp.zeros((1, 16, 16), jnp.int32), jax.random.key(0))
    assert terms.keys() == names - absent


def test_each_level_has_its_own_weight_and_each_domain_its_own_rows():
    """Unequal weights, and the random reduction that losses draw for source and for target."""
    generator = np.random.default_rng(4)
    maps = lambda: {"features": generator.random((1, 6, 8, 5)), "logits": generator.random((1, 6, 8, 3))}  # noqa: E731
    source, target = (jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), maps()) for _ in "st")
    labels, key = jnp.zeros((1, 6, 8), jnp.int32), jax.random.key(0)
    one = Association(feature_weight=1.0, prediction_weight=1.0).losses(source, target, labels, key)
    unequal = Association(feature_weight=0.2, prediction_weight=0.05).losses(source, target, labels, key)
    np.testing.assert_allclose(unequal["association_features"], 0.2 * one["association_features"], rtol=1e-6)
    np.testing.assert_allclose(unequal["association_predictions"], 0.05 * one["association_predictions"], rtol=1e-6)
    section = Association(feature_weight=1.0, prediction_weight=0.0, reduction="random", scale=0.5)
    drawn = []
    with mock.patch.object(losses, "cycle_association", lambda s, t, *_, **__: drawn.append((s, t)) or jnp.zeros(())):
        # The same maps for both domains: with the same rows and columns they would be equal again.
        for seed in range(4):
            section.losses(source, source, labels, jax.random.key(seed))
    assert all(s.shape == t.shape == (1, 3, 4, 5) for s, t in drawn)
    assert any((np.asarray(s) != np.asarray(t)).any() for s, t in drawn)
