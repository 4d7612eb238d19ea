"""MinEnt and AdvEnt: the objective written out, who learns from which loss, batch statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.advent import Advent
from uda_jax.methods.parts.alignment import Discriminator, accuracy, domain_loss
from uda_jax.methods.parts.masking import Masking
from uda_jax.schema import from_mapping
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

RATE = 0.1


def make(objective, **fields):
    segmenter = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", multi_level=True)
    sgd = optimisers.sgd(
        learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True
    )
    return Advent(
        objective=objective,
        num_classes=3,
        segmenter=segmenter,
        optimiser=sgd,
        schedule=Schedule(name="constant"),
        discriminator=Discriminator(width=4, optimiser=optimisers.adam(learning_rate=0.01)),
        **{"target_weight": 0.5, "target_aux_weight": 0.25} | fields,
    )


def maps(method, params, state, batch):
    """Source and target outputs at image size, in the paper's order, and the statistics after both."""
    stats, outputs = state.model_state["segmenter"], {}
    for domain in ("source", "target"):
        images = ops.normalise(batch[domain]["image"], "imagenet_rgb")
        found, stats = method.network.apply({"params": params, **stats}, images, train=True, mutable=["batch_stats"])
        outputs[domain] = {
            head: ops.resize_bilinear(found[head], (32, 64), align_corners=True) for head in ("logits", "aux_logits")
        }
    return outputs, stats


def assert_close(ours, theirs):
    ours, theirs = jax.device_get((ours, theirs))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)


def test_minent_is_gradient_descent_on_its_objective(batch):
    method = make("entropy")
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    labels = batch["source"]["label"].astype(np.int32)

    def objective(params):
        outputs, stats = maps(method, params, state, batch)
        total = losses.cross_entropy(outputs["source"]["logits"], labels)
        total += 0.1 * losses.cross_entropy(outputs["source"]["aux_logits"], labels)
        total += 0.5 * losses.entropy(jax.nn.softmax(outputs["target"]["logits"]))
        total += 0.25 * losses.entropy(jax.nn.softmax(outputs["target"]["aux_logits"]))
        return total, stats

    (value, stats), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params["segmenter"])
    after, metrics = jax.jit(method.train_step)(state, batch)
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    assert_close(
        after.params["segmenter"],
        jax.tree.map(lambda p, g: p - RATE * g, *jax.device_get((state.params["segmenter"], gradient))),
    )
    assert_close(after.model_state["segmenter"], stats)
    assert set(state.params) == set(state.opt_state) == {"segmenter"}


def test_advent_plays_both_sides_from_the_same_forwards(batch):
    method = make("adversarial")
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    labels = batch["source"]["label"].astype(np.int32)
    judge_of = {"logits": "discriminator", "aux_logits": "discriminator_aux"}
    module = method.discriminator.of_outputs("fp32").module
    judge = lambda params, p: module.apply({"params": params}, losses.self_information(jax.nn.softmax(p)))  # noqa: E731

    def segmenter_objective(params):
        outputs, _ = maps(method, params, state, batch)
        total = losses.cross_entropy(outputs["source"]["logits"], labels)
        total += 0.1 * losses.cross_entropy(outputs["source"]["aux_logits"], labels)
        for head, weight in (("logits", 0.5), ("aux_logits", 0.25)):
            logits = judge(state.params[judge_of[head]], outputs["target"][head])
            total += weight * losses.adversarial(logits, 0)
        return total

    outputs, _ = jax.jit(lambda params: maps(method, params, state, batch))(state.params["segmenter"])

    def judge_objective(params, head):
        source, target = (judge(params, outputs[domain][head]) for domain in ("source", "target"))
        return 0.5 * losses.adversarial(source, 0) + 0.5 * losses.adversarial(target, 1)

    after, metrics = jax.jit(method.train_step)(state, batch)
    value, gradient = jax.jit(jax.value_and_grad(segmenter_objective))(state.params["segmenter"])
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    assert_close(
        after.params["segmenter"],
        jax.tree.map(lambda p, g: p - RATE * g, *jax.device_get((state.params["segmenter"], gradient))),
    )
    for head, name in judge_of.items():
        value, gradient = jax.jit(jax.value_and_grad(judge_objective), static_argnums=1)(state.params[name], head)
        assert metrics[f"loss/{name}"] == pytest.approx(float(value), rel=1e-5)
        # Adam's first update has the size of its rate and the sign of the gradient.
        for before, now, g in zip(
            *map(jax.tree.leaves, jax.device_get((state.params[name], after.params[name], gradient))), strict=True
        ):
            clear = np.abs(g) > 1e-5
            np.testing.assert_allclose((now - before)[clear], -0.01 * np.sign(g)[clear], rtol=2e-2)


def test_the_target_weight_is_the_only_route_from_the_discriminators(batch):
    """Without it AdvEnt's segmenter learns what source-only training with target statistics learns."""
    ends = []
    for objective in ("adversarial", "entropy"):
        method = make(objective, target_weight=0.0, target_aux_weight=0.0)
        state = initialise(lambda key, method=method: method.init(key, batch), jax.random.key(0))
        ends.append(jax.jit(method.train_step)(state, batch)[0].params["segmenter"])
    assert_close(ends[0], ends[1])


def test_accuracy_is_one_half_for_a_blind_discriminator_and_one_for_a_perfect_one():
    logits = jnp.array([[-1.0, -2.0], [-3.0, -0.5]])
    assert accuracy(logits, -logits, threshold=0.0) == 1.0
    assert accuracy(logits, logits, threshold=0.0) == 0.5
    assert accuracy(-logits, logits, threshold=0.0) == 0.0


def test_accuracy_of_least_squares_by_hand():
    """Its decisions lie about 0 and 1: what is below one half is taken for the source."""
    source, target = jnp.array([[0.2, 0.4], [0.6, -1.0]]), jnp.array([[0.3, 0.7], [0.9, 0.55]])
    loss, share = domain_loss(source, target, kind="least_squares")
    assert share == 0.5 * (3 / 4 + 3 / 4)
    expected = np.mean(np.square(source)) + np.mean(np.square(target - 1))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_a_single_head_needs_a_single_discriminator(batch):
    method = make("adversarial")
    method = dataclasses.replace(method, segmenter=dataclasses.replace(method.segmenter, multi_level=None))
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    assert set(state.params) == {"segmenter", "discriminator"}
    _, metrics = jax.jit(method.train_step)(state, batch)
    assert "loss/adversarial_aux" not in metrics and 0 <= metrics["discriminator/accuracy"] <= 1


def test_one_trace_and_donation(check_one_trace, batch):
    check_one_trace(make("adversarial"), batch)


def test_the_prior_is_the_share_of_the_labels_so_far_and_hard_pixels_are_those_of_the_loss(batch):
    """Two batches of other class shares; the second sees the mean of both, whatever their numbers of labels."""
    method = make("entropy", prior_weight=0.7, prior_relaxation=0.9, hard_fraction=0.3)
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    step = jax.jit(method.train_step)
    first, second = np.full((2, 32, 64), 255, np.uint8), np.full((2, 32, 64), 1, np.uint8)
    first[0, :4], first[1, 0, :32] = 2, 0
    second[:, :8] = 0
    # 256 and 32 labelled pixels, then 3072 and 1024.
    shares = np.array([[32 / 288, 0, 256 / 288], [1 / 4, 3 / 4, 0]])
    for count, label in enumerate((first, second), start=1):
        outputs, _ = jax.jit(lambda state: maps(method, state.params["segmenter"], state, batch))(state)
        p = {head: jax.nn.softmax(z) for head, z in outputs["target"].items()}
        state, metrics = step(state, batch | {"source": batch["source"] | {"label": label}})
        prior = losses.class_ratio_prior(p["logits"], jnp.array(shares[:count].mean(axis=0)), relaxation=0.9)
        assert prior > 0
        assert metrics["loss/class_prior"] == pytest.approx(0.7 * float(prior), rel=1e-4)
        for name, head, weight in (("entropy", "logits", 0.5), ("entropy_aux", "aux_logits", 0.25)):
            expected = weight * float(losses.hard_entropy(p[head], fraction=0.3))
            assert metrics[f"loss/{name}"] == pytest.approx(expected, rel=1e-4)
            assert metrics[f"loss/{name}"] > weight * float(losses.entropy(p[head]))
    terms = [value for name, value in metrics.items() if name.startswith("loss/") and name != "loss/total"]
    assert len(terms) == 5 and metrics["loss/total"] == pytest.approx(float(sum(terms)), rel=1e-5)


def test_without_a_prior_the_state_holds_nothing_of_it(batch):
    for objective in ("entropy", "adversarial"):
        method = make(objective)
        state = jax.eval_shape(lambda key, method=method: method.init(key, batch), jax.random.key(0))
        state, metrics = jax.eval_shape(method.train_step, state, batch)
        assert state.extra == {} and "loss/class_prior" not in metrics


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"objective": "entropy", "hard_fraction": 0.0},
            r"method.hard_fraction: expected a number in \(0, 1\], got 0.0",
        ),
        ({"hard_fraction": 0.3}, "method.hard_fraction: expected 1 with objective 'adversarial', got 0.3"),
        ({"objective": "entropy", "hard_fraction": 1.5}, "method.hard_fraction: "),
        ({"prior_relaxation": 1.5}, "method.prior_relaxation: "),
    ],
)
def test_fields_that_contradict_each_other(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        from_mapping(Advent, fields, "method")
    assert "\n" not in str(caught.value)


def test_masked_images_are_one_more_loss(batch):
    """By one field (MIC): the segmenter's average labels the target; without a weight there is neither."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    found = {}
    for weight in (0.0, 1.0):
        method = make("adversarial", masking=Masking(weight=weight, block=8))
        state = jax.eval_shape(method.init, jax.random.key(0), shapes)
        after, metrics = jax.eval_shape(method.train_step, state, shapes)
        assert after == state and (state.teacher is None) == (weight == 0.0)
        found[weight] = set(metrics)
    assert found[1.0] == found[0.0] | {"loss/masked"}
