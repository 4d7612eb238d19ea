"""GIO-Ada: who learns from which loss, one step of all players written out, switches, stages, the image pool."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import config, losses, networks, ops
from uda_jax.errors import UserError
from uda_jax.methods import base, gio_ada
from uda_jax.methods.adaptsegnet import AdaptSegNet
from uda_jax.methods.gio_ada import GIOAda
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.parts.translation import Translator, exchange
from uda_jax.networks import refiner, translators
from uda_jax.runs import stages
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

RATE, IMAGE_RATE, JUDGE_RATE = 0.1, 0.02, 0.01
COMMON = {
    "num_classes": 3,
    "segmenter": base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb"),
    "optimiser": optimisers.sgd(
        learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True
    ),
    "schedule": Schedule(name="constant"),
}
ADVERSARIAL = {
    "discriminator": Discriminator(width=4, optimiser=optimisers.adam(learning_rate=JUDGE_RATE)),
    "target_weight": 0.5,
}
EVERYTHING = {
    "train_on_untranslated": True,
    "image_pool": 3,
    "segmentation_weight": 0.9,
    "depth_weight": 0.7,
    "image_weight": 0.6,
    "self_weight": 0.3,
}
# Losses whose gradients go the same ways.
ROUTES = {
    "segmentation": ("segmentation",),
    "depth": ("depth",),
    "untranslated": ("untranslated_segmentation", "untranslated_depth"),
    "image": ("adversarial_image",),
    "output": ("adversarial",),
    "self": ("self",),
}
LOSSES = {name for names in ROUTES.values() for name in names}


def make(cls=GIOAda, **fields):
    image_adam = optimisers.adam(learning_rate=IMAGE_RATE, beta1=0.5, beta2=0.999)
    return cls(
        **COMMON,
        **ADVERSARIAL,
        translator=Translator(width=4, blocks=1, optimiser=image_adam),
        image_discriminator=Discriminator(width=4, kind="least_squares", optimiser=image_adam),
        image_decay="constant",
        **fields,
    )


def parts(method, state, batch):
    """The two losses of an iteration, in place of running it."""
    with mock.patch.object(gio_ada, "two_player_step", lambda state, _, __, *losses: losses):
        return method.train_step(state, batch)


def initial(method, batch):
    return initialise(lambda key: method.init(key, batch), jax.random.key(0))


@pytest.fixture(scope="module")
def with_depth(batch):
    """The batch with depth on the source: 1 to 120 m and a strip without any; some labels are ignored."""
    depth = np.random.default_rng(1).uniform(1, 120, (2, 32, 64)).astype(np.float32)
    depth[:, :4] = 0
    label = batch["source"]["label"].copy()
    label[:, :, :5] = 255
    return {**batch, "source": batch["source"] | {"depth": depth, "label": label}}


@pytest.fixture(scope="module")
def played(with_depth):
    """With every loss on: the method, its jitted step, the first state, and what one step makes of it."""
    method = make(**EVERYTHING)
    state, step = initial(method, with_depth), jax.jit(method.train_step)
    return method, step, state, step(state, with_depth)


@pytest.fixture(scope="module")
def opened(with_depth, played):
    """Losses, what the discriminators see, statistics and, for each loss alone, the gradient of every generator."""
    state = played[2]

    @jax.jit
    def run(state, batch):
        generator_loss, discriminator_loss = parts(make(**EVERYTHING), state, batch)
        generators = {name: state.params[name] for name in ("segmenter", "translator")}
        others = {name: tree for name, tree in state.params.items() if name not in generators}

        def terms(params):
            found = generator_loss({**state.params, **params})
            return found.losses, (found.discriminator_inputs, found.model_state["segmenter"])

        def total(params):
            return sum(discriminator_loss({**state.params, **params}, inputs).losses.values())

        found, pullback, (inputs, stats) = jax.vjp(terms, generators, has_aux=True)
        only = lambda *chosen: {name: jnp.float32(name in chosen) for name in found}  # noqa: E731
        gradients = {route: pullback(only(*names))[0] for route, names in ROUTES.items()}
        return found, inputs, stats, gradients, jax.grad(total)(others)

    return jax.device_get(run(state, with_depth))


def reached(gradient, flat):
    """The parts of the networks that a gradient is not exactly zero on: translator, encoder, head, depth_head."""
    found = set()
    for path, leaf in flat(gradient).items():
        network, part = path.split("/")[:2]
        if np.any(leaf):
            found.add(network if network == "translator" else part)
    return found


def test_who_learns_from_which_loss(opened, flat):
    _, _, _, gradients, judging = opened
    routes = {name: reached(gradient, flat) for name, gradient in gradients.items()}
    assert routes == {
        "segmentation": {"translator", "encoder", "head"},
        "depth": {"translator", "encoder", "depth_head"},
        "untranslated": {"encoder", "head", "depth_head"},
        "image": {"translator"},
        "output": {"encoder", "head", "depth_head"},
        "self": {"translator"},
    }
    assert set(judging) == {"discriminator", "image_discriminator"}


def test_every_player_follows_its_own_losses_alone(played, opened, flat):
    """The sum of the adapted side's losses and nothing of the judges'; Adam's first step has its rate's size."""
    _, _, state, (after, metrics) = played
    found, _, stats, gradients, judging = opened
    for name in LOSSES:
        assert metrics[f"loss/{name}"] == pytest.approx(found[name], rel=1e-4) and found[name] > 0
    assert set(found) == LOSSES
    total = jax.tree.map(lambda *leaves: sum(leaves), *gradients.values())
    before, now, slopes = flat(state.params), flat(after.params), flat(total | judging)
    for path, leaf in slopes.items():
        if path.startswith("segmenter"):
            np.testing.assert_allclose(now[path], before[path] - RATE * leaf, rtol=2e-3, atol=3e-5, err_msg=path)
            continue
        rate = JUDGE_RATE if path.startswith("discriminator") else IMAGE_RATE
        clear = np.abs(leaf) > 1e-4
        moved = (now[path] - before[path])[clear]
        np.testing.assert_allclose(moved, -rate * np.sign(leaf[clear]), rtol=2e-2, err_msg=path)
    for ours, theirs in zip(jax.tree.leaves(after.model_state["segmenter"]), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_losses_written_out(played, opened, with_depth):
    """Redrawn source, source, target: in this order through the task network, its statistics threaded."""
    method, _, state, (after, metrics) = played
    source, target = with_depth["source"], with_depth["target"]
    metres, mask = source["depth"][..., None], source["depth"][..., None] > 0
    discriminator = method.discriminator.of_outputs("fp32").module

    @jax.jit
    def written_out(params):
        seen = [source["image"] / 127.5 - 1, np.where(mask, 2 * np.minimum(metres / 80, 1) - 1, 0)]
        seen += [source["label"][..., None] == np.arange(3)]
        redrawn = method.translator.build("fp32").apply({"params": params["translator"]}, jnp.concatenate(seen, -1))
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        stats, outputs = state.model_state["segmenter"], []
        for images in ((redrawn + 1) / 2, source["image"] / 255, target["image"] / 255):
            variables = {"params": params["segmenter"], **stats}
            maps, stats = method.network.apply(
                variables, (images - mean) / deviation, train=True, mutable=["batch_stats"]
            )
            up = lambda z: ops.resize_bilinear(z, (32, 64), align_corners=True)  # noqa: E731
            outputs.append((up(maps["logits"]), up(maps["depth"])))
        terms = {}
        for name, (logits, depth) in zip(("", "untranslated_"), outputs, strict=False):
            terms[f"{name}segmentation"] = 0.9 * losses.cross_entropy(logits, source["label"].astype(np.int32))
            error = jnp.abs(depth - np.minimum(metres / 80, 1)) * mask
            terms[f"{name}depth"] = 0.7 * jnp.sum(error) / mask.sum()
        maps = [jnp.concatenate([jax.nn.softmax(logits), depth], -1) for logits, depth in (outputs[0], outputs[2])]
        z_s, z_t = (discriminator.apply({"params": params["discriminator"]}, o) for o in maps)
        terms["adversarial"] = 0.5 * jnp.mean(jax.nn.softplus(z_t))
        terms["discriminator"] = 0.5 * jnp.mean(jax.nn.softplus(z_s)) + 0.5 * jnp.mean(jax.nn.softplus(-z_t))
        module = method.image_discriminator.of_images("fp32")
        judge = lambda x: module.apply({"params": params["image_discriminator"]}, x)  # noqa: E731
        real = judge(target["image"] / 127.5 - 1)
        terms["adversarial_image"] = 0.6 * jnp.mean((judge(redrawn) - 1) ** 2)
        # The pool is not full yet, and shows what it stores.
        terms["image_discriminator"] = 0.5 * jnp.mean(judge(redrawn) ** 2) + 0.5 * jnp.mean((real - 1) ** 2)
        terms["self"] = 0.3 * jnp.mean(jnp.abs(redrawn - (source["image"] / 127.5 - 1)))
        return terms, redrawn

    terms, redrawn = jax.device_get(written_out(state.params))
    assert set(terms) == LOSSES | {"discriminator", "image_discriminator"}
    for name, value in terms.items():
        assert metrics[f"loss/{name}"] == pytest.approx(value, rel=2e-4), name
    np.testing.assert_allclose(opened[1].translated, redrawn, atol=1e-4)
    assert int(after.extra["pooled"]) == 2
    np.testing.assert_allclose(after.extra["pool"][:2], redrawn, atol=1e-4)
    np.testing.assert_array_equal(after.extra["pool"][2], 0)


def test_without_valid_pixels_and_with_a_full_pool_the_same_step_goes_on(played, with_depth):
    _, step, _, (after, _) = played
    source = with_depth["source"]
    empty = source | {"label": np.full_like(source["label"], 255), "depth": np.zeros_like(source["depth"])}
    state, metrics = step(after, {**with_depth, "source": empty})
    for name in ("segmentation", "depth", "untranslated_segmentation", "untranslated_depth"):
        assert metrics[f"loss/{name}"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)) and int(state.extra["pooled"]) == 3
    assert step._cache_size() == 1


@pytest.mark.parametrize("may", [True, False])
def test_the_task_reaches_the_translator_only_if_it_may(played, with_depth, may):
    """Colours stand in for what the task network predicts."""

    class Coloured(GIOAda):
        def forward(self, params, model_state, images, *, key=None):
            return {"logits": images, "depth": images[..., :1]}, model_state

    fields = {"output_level": "none", "image_weight": 0.0, "task_grad_to_transform": may}
    method, state = make(Coloured, **fields), played[2]

    @jax.jit
    @jax.grad
    def gradient(translator):
        generator_loss, _ = parts(method, state, with_depth)
        found = generator_loss({"segmenter": {}, "translator": translator}).losses
        assert set(found) == {"segmentation", "depth"}
        return sum(found.values())

    assert method.players({"segmenter", "translator"})[1] == {}
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient(state.params["translator"]))) == may


def test_switched_down_it_is_adaptsegnet(batch, same):
    """Bit for bit: classes alone are judged, and nothing is redrawn."""
    method = make(input_level="none", output_level="seg", depth_head=False)
    other = AdaptSegNet(**COMMON, **ADVERSARIAL)
    state = initial(other, batch)
    shapes = [jax.eval_shape(lambda key, of=of: of.init(key, batch), jax.random.key(0)) for of in (method, other)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    (ours, metrics), (theirs, others) = (jax.jit(of.train_step)(state, batch) for of in (method, other))
    assert same(ours.params, theirs.params) and same(ours.model_state, theirs.model_state)
    assert {name: float(value) for name, value in metrics.items()} == {k: float(v) for k, v in others.items()}


@pytest.mark.parametrize(
    ("fields", "judged", "seen"),
    [
        ({"output_level": "none", "input_level": "image+label"}, None, 6),
        ({"output_input": "product", "input_level": "none"}, 3, None),
        ({"output_level": "seg", "depth_head": False, "input_level": "image+depth"}, 3, 4),
    ],
    ids=str,
)
def test_a_level_that_is_off_has_no_network(with_depth, fields, judged, seen):
    """Channels that D_out and G_img see, None = no such network."""
    method = make(**fields)
    state = jax.eval_shape(lambda key: method.init(key, with_depth), jax.random.key(0))
    names = {"segmenter"} | ({"discriminator"} if judged else set())
    names |= {"translator", "image_discriminator"} if seen else set()
    assert set(state.params) == set(state.opt_state) == names and state.extra == {}
    assert ("depth_head" in state.params["segmenter"]) == method.depth_head
    first = {name: state.params[name]["conv1"]["kernel"].shape[2] for name in names - {"segmenter"}}
    assert (first.get("discriminator"), first.get("translator")) == (judged, seen)


def test_a_weight_of_0_leaves_its_part_out(with_depth):
    """No target is read, nothing judges, no depth is learnt."""
    method = dataclasses.replace(make(depth_weight=0.0, image_weight=0.0, input_level="image"), target_weight=0.0)
    batch = {"source": {name: with_depth["source"][name] for name in ("image", "label")}}
    state = jax.eval_shape(lambda key: method.init(key, batch), jax.random.key(0))
    _, metrics = jax.eval_shape(method.train_step, state, batch)
    figures = {f"{kind}/{name}" for kind in ("norm", "update_norm", "learning_rate") for name in state.params}
    assert set(metrics) == {"loss/segmentation", "loss/total"} | figures
    assert set(state.params) == {"segmenter", "translator"}


def test_what_the_translator_sees(with_depth):
    source = jax.tree.map(lambda leaf: leaf[:1, :2, :2], with_depth["source"])
    source["depth"] = np.array([[[0, 20], [80, 655.35]]], np.float32)
    source["label"] = np.array([[[2, 255], [0, 1]]], np.uint8)
    see = lambda level, source=source: np.asarray(make(input_level=level).condition(source))[0]  # noqa: E731
    whole = see("image+label+depth")
    np.testing.assert_allclose(whole[..., :3], source["image"][0] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(whole[..., 3], [[0, -0.5], [1, 1]])
    np.testing.assert_array_equal(whole[..., 4:], [[[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]])
    np.testing.assert_array_equal(see("image+label"), whole[..., [0, 1, 2, 4, 5, 6]])
    np.testing.assert_array_equal(see("image+depth"), whole[..., :4])
    np.testing.assert_array_equal(see("image"), whole[..., :3])
    mirrored = see("image+label+depth", {name: leaf[:, :, ::-1] for name, leaf in source.items()})
    np.testing.assert_array_equal(mirrored, whole[:, ::-1])


def test_depth_targets():
    depth = jnp.array([0.0, 20.0, 80.0, 655.35]).reshape(1, 2, 2, 1)
    target, mask = make().depth_supervision(depth)
    np.testing.assert_allclose(target.ravel(), [0, 0.25, 1, 1])
    np.testing.assert_array_equal(mask.ravel(), [False, True, True, True])
    target, mask = make(depth_target="inverse", nearest_depth=0.0, depth_unit=2.0).depth_supervision(depth)
    np.testing.assert_allclose(target.ravel(), [32768, 655.36 / 20.01 / 2, 655.36 / 80.01 / 2, 0.5], rtol=1e-6)
    assert mask.all()
    assert make(depth_target="inverse", nearest_depth=0.1).depth_supervision(depth)[0].min() == 1.0
    assert make(farthest_depth=40.0).depth_supervision(depth)[0][0, 0, 1, 0] == 0.5


def test_depth_ends_as_its_target_needs_and_is_judged_as_asked():
    """Inverse depth has no bounds; DADA's product multiplies every class's self-information."""
    method = make(input_level="none", depth_target="inverse", output_input="product", depth_loss="berhu")
    assert method.network.options.depth_activation == "linear" and make().network.options.depth_activation == "sigmoid"
    outputs = {"depth": jnp.full((1, 2, 3, 1), -3.0)}
    outputs["logits"], p = jnp.zeros((1, 2, 3, 3)), jnp.full((1, 4, 8, 3), 1 / 3)
    np.testing.assert_allclose(method.output_maps(outputs, (4, 8))["logits"], -1.0, rtol=1e-5)
    both = make().output_maps(outputs, (4, 8))["logits"]
    np.testing.assert_allclose(both, jnp.concatenate([p, jnp.full((1, 4, 8, 1), -3.0)], -1), rtol=1e-6)
    # An error of 10.5 everywhere lies beyond a fifth of itself.
    source = {"depth": jnp.full((1, 4, 8), 65.526)}
    loss = dataclasses.replace(method, nearest_depth=0.0, segmentation_weight=0.0)._task_losses
    outputs = {"depth": jnp.full((1, 2, 3, 1), -0.5)}
    assert loss(outputs, source)["depth"] == pytest.approx(0.1 * 2.6 * 10.5, rel=1e-4)


@pytest.mark.parametrize(("name", "width"), [("deeplab_v2_resnet14", 4), ("deeplab_v2_vgg16", 2)])
def test_a_linear_depth_head_is_the_other_without_its_sigmoid(name, width):
    bounded, linear = (
        networks.build(name, 3, width=width, depth_head=True, depth_activation=end) for end in ("sigmoid", "linear")
    )
    images = jax.random.normal(jax.random.key(0), (1, 16, 24, 3))

    @jax.jit
    def run(key):
        variables = bounded.init(key, images)
        return bounded.apply(variables, images)["depth"], linear.apply(variables, images)["depth"]

    inside, free = run(jax.random.key(1))
    np.testing.assert_allclose(inside, jax.nn.sigmoid(free), rtol=1e-5)
    assert free.min() < 0 or free.max() > 1


@pytest.mark.parametrize("name", ["translator", "refiner"])
def test_the_images_approach_the_target_while_the_task_network_is_frozen(with_depth, same, name):
    """The second stage: not a bit of the task network changes, and the translator goes down its own slope.

    Against the discriminator of the step's start, the translated images' loss falls along the translator's update.
    """
    method = make(output_level="none", freeze_task=True, segmentation_weight=0.1)
    method = dataclasses.replace(method, translator=dataclasses.replace(method.translator, name=name))
    module = method.translator.build("fp32")
    assert isinstance(module, {"translator": translators.Translator, "refiner": refiner.Refiner}[name])
    state, step = initial(method, with_depth), jax.jit(method.train_step, donate_argnums=0)
    before = jax.tree.map(jnp.copy, state.params)
    first = state.params["translator"]["output"]["kernel"]
    task = jax.device_get((state.params["segmenter"], state.model_state))
    assert set(state.opt_state) == {"translator", "image_discriminator"}
    generator_loss, _ = parts(method, jax.tree.map(jnp.copy, state), with_depth)
    total = jax.jit(jax.grad(lambda t: sum(generator_loss({**before, "translator": t}).losses.values())))
    slope = total(before["translator"])
    state, metrics = step(state, with_depth)
    assert first.is_deleted()
    moved = jax.tree.map(jnp.subtract, state.params["translator"], before["translator"])
    assert sum(jnp.vdot(g, m) for g, m in zip(*map(jax.tree.leaves, (slope, moved)), strict=True)) < 0
    assert same(task, (state.params["segmenter"], state.model_state))
    assert "norm/segmenter" not in metrics and metrics["loss/segmentation"] > 0
    shown = jax.jit(method.illustrate)(state, with_depth)
    assert shown["translated"].dtype == jnp.uint8 and shown["translated"].shape == (2, 32, 64, 3)
    translated = jax.jit(lambda state: method.translate(state.params, with_depth["source"]))(state)
    np.testing.assert_allclose(shown["translated"] / 127.5 - 1, np.clip(translated, -1, 1), atol=0.5 / 127.5 + 1e-4)
    assert make(input_level="none").illustrate(state, with_depth) == {}


def test_prediction_needs_the_task_network_less_its_depth_head(played, with_depth):
    method, _, state, _ = played
    segmenter = {name: tree for name, tree in state.params["segmenter"].items() if name != "depth_head"}
    stripped = state.replace(params={"segmenter": segmenter}, opt_state={}, extra={})
    predict = jax.jit(lambda state: method.predict(state, with_depth["target"]["image"], (30, 50)))
    whole, found = predict(state), predict(stripped)
    assert set(found) == {"scores"} and found["scores"].shape == (2, 30, 50, 3)
    np.testing.assert_array_equal(whole["scores"], found["scores"])


def test_a_pool_shows_old_images():
    """Numbers for images: stored until it is full, then either new ones or old ones that new ones replace."""
    exchange = jax.jit(ops.exchange_with_pool)
    pool, key = ops.empty_pool(4, (1, 1)), jax.random.key(0)
    swapped, shown_later = 0, []
    for step in range(40):
        images = jnp.full((3, 1, 1, 3), 3.0 * step) + jnp.arange(1.0, 4.0).reshape(3, 1, 1, 1)
        shown, after = exchange(pool, images, jax.random.fold_in(key, step))
        new, old = images[:, 0, 0, 0].tolist(), shown[:, 0, 0, 0].tolist()
        if step == 0:
            assert old == new and int(after["pooled"]) == 3
        else:
            assert int(after["pooled"]) == 4
            kept = set(after["pool"][:, 0, 0, 0].tolist())
            # Nothing is lost or made up: what went in is shown now, or is in the pool.
            assert set(new) | set(pool["pool"][:, 0, 0, 0].tolist()) - {0.0} >= kept | set(old) - set(new)
            assert all(value in old or value in kept for value in new)
            if step > 1:
                swapped += sum(value not in new for value in old)
                shown_later += [value for value in old if value not in new]
        pool = after
    # 38 steps of three coins; a swapped image is shown once, for it leaves the pool.
    assert 35 < swapped < 79 and len(set(shown_later)) == len(shown_later)


def test_the_pool_draws_anew_in_every_step(played):
    """The coins of one step are not those of the next: over some steps some images are exchanged and some are not."""
    state, images = played[2], jnp.zeros((2, 32, 64, 3))
    full = ops.empty_pool(2, (32, 64)) | {"pooled": jnp.int32(2), "pool": jnp.ones((2, 32, 64, 3))}
    state = state.replace(extra=full)
    draw = jax.jit(lambda step: exchange(state.replace(step=step), images)[0].mean((1, 2, 3)))
    drawn = {tuple(np.asarray(draw(jnp.int32(step))).tolist()) for step in range(12)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth_head": False}, "m.depth_head: expected True with output_level 'seg.depth', got False"),
        ({"output_level": "seg", "output_input": "product"}, "m.output_input: expected 'concat' unless"),
        ({"input_level": "none", "image_pool": 50}, "m.image_pool: expected 0 without an image discriminator, got 50"),
        (
            {"input_level": "none", "freeze_task": True},
            "m.freeze_task: expected False without a translator, got",
        ),
        ({"freeze_task": True}, "m.output_level: expected 'none' with a frozen task network, got 'seg.depth'"),
        ({"input_level": "none", "train_on_untranslated": True}, "m.train_on_untranslated: expected False without"),
        (
            {"train_on_untranslated": True, "segmentation_weight": 0.0, "depth_weight": 0.0},
            "m.train_on_untranslated: expected False with no loss of the task, got True",
        ),
        (
            {"task_grad_to_transform": False, "image_weight": 0.0},
            "m.task_grad_to_transform: expected True where no other loss teaches G_img, got False",
        ),
        ({"farthest_depth": 0.0}, "m.farthest_depth: expected metres above 0, got 0.0"),
        (
            {"segmenter": {"name": "deeplab_v2_resnet14", "multi_level": True}},
            "m.segmenter.multi_level: expected False, since",
        ),
        (
            {"input_level": "none", "output_level": "none", "segmentation_weight": 0.0, "depth_weight": 0.0},
            "m.segmentation_weight: expected a number above 0, since no other loss is on, got 0.0",
        ),
        ({"input_level": "images"}, "m.input_level: expected one of 'image.label.depth'"),
    ],
)
def test_fields_that_contradict_each_other(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        from_mapping(GIOAda, fields, "m")
    assert "\n" not in str(caught.value)


def test_frames_that_do_not_fit_are_named(batch, with_depth, played):
    method, state = played[0], played[2]
    with pytest.raises(UserError, match="config.data.source.fields: expected 'depth', in metres, among them, got"):
        jax.eval_shape(method.train_step, state, batch)
    smaller = jax.tree.map(lambda leaf: leaf[:, :, :48], with_depth)
    with pytest.raises(UserError, match=r"config.data.source.size: .* 32x48 \(height x width\).* got 32x64; set it"):
        jax.eval_shape(method.train_step, state, smaller)
    odd = jax.tree.map(lambda leaf: leaf[:, :, :62], with_depth)
    with pytest.raises(UserError, match="multiples of 4, at least 8, got 32x62"):
        jax.eval_shape(lambda key: method.init(key, odd), jax.random.key(0))


@pytest.mark.parametrize("setting", ["synthia_cityscapes", "virtual_kitti_kitti"])
def test_published_settings_are_the_specification(setting):
    experiment = config.experiment(config.load(f"gio_ada:{setting}"))
    synthia = setting == "synthia_cityscapes"
    (stage,) = stages.recipe(experiment, num_classes=16 if synthia else 10)
    method, domains = stage.method, experiment.data
    assert experiment.train.steps == method.schedule.horizon == (90_000 if synthia else 60_000)
    assert (domains["source"].size, domains["target"].size) == (
        ((760, 1280), (512, 1024)) if synthia else ((376, 1240), (376, 1240))
    )
    for domain in domains.values():
        assert domain.crop == ((512, 512) if synthia else (320, 512)) and domain.flip
        assert domain.label_space == ("16" if synthia else "10")
    assert domains["source"].fields == ("image", "label", "depth") and domains["target"].fields == ("image",)
    assert (method.segmenter.name, method.segmenter.input_norm) == ("deeplab_v2_vgg16", "caffe_bgr")
    assert experiment.init_from["segmenter"].dialect == "caffe_vgg16" and method.segmenter.options.aspp_branches == 4
    sgd = method.optimiser
    assert (sgd.learning_rate, sgd.head_multiplier, sgd.momentum, sgd.weight_decay) == (2.5e-4, 1.0, 0.9, 5e-4)
    assert (method.schedule.name, method.schedule.power) == ("poly", 0.9)
    for section in (method.translator, method.image_discriminator):
        adam = section.optimiser
        assert (section.width, adam.learning_rate, adam.beta1, adam.beta2) == (64, 2e-4, 0.5, 0.999)
    assert (method.translator.name, method.translator.blocks) == ("translator", 9)
    assert method.image_discriminator.kind == "least_squares"
    generators, discriminators = method.players({"segmenter", "translator", "discriminator", "image_discriminator"})
    assert generators["translator"].schedule.name == discriminators["image_discriminator"].schedule.name
    assert generators["translator"].schedule.name == "constant_linear"
    assert discriminators["discriminator"].schedule == generators["segmenter"].schedule == method.schedule
    adam = method.discriminator.optimiser
    assert (adam.learning_rate, adam.beta1, adam.beta2, method.discriminator.kind) == (1e-4, 0.9, 0.99, "bce")
    weights = (method.segmentation_weight, method.depth_weight, method.image_weight, method.target_weight)
    assert weights == (1.0, 0.1, 1.0, 0.001) and (method.self_weight, method.image_pool) == (0.0, 0)
    assert (method.input_level, method.output_level) == ("image+label+depth", "seg+depth")
    assert experiment.init_from["segmenter"].fresh == ("encoder/fc6", "encoder/fc7", "head", "depth_head")


def test_staged_rows_hand_on_what_they_learnt():
    experiment = config.experiment(config.load("gio_ada:synthia_cityscapes,staged"))
    task, image, joint = stages.recipe(experiment, num_classes=16)
    assert [stage.train.steps for stage in (task, image, joint)] == [20_000, 10_000, 90_000]
    assert [stage.method.schedule.horizon for stage in (task, image, joint)] == [20_000, 10_000, 90_000]
    assert set(task.domains) == {"source"} and task.method.input_level == task.method.output_level == "none"
    trained = [set(stage.method.players({"segmenter", "translator"})[0]) for stage in (image, joint)]
    assert trained == [{"translator"}, {"segmenter", "translator"}]
    origins = {network: origin.stage.name for network, origin in joint.start_from.items()}
    assert origins == {"segmenter": "task", "translator": "image", "image_discriminator": "image"}
    streets = config.experiment(config.load("gio_ada:streets,staged"))
    assert sum(stage.train.steps for stage in stages.recipe(streets, num_classes=19)) == 1000
