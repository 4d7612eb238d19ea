"""ADDA on class scores: both losses written out, who learns from which, the gate, dropout, maps of any size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.adda import SOURCE, TARGET, Adda, ScoreDiscriminator
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise

RATE, JUDGE_RATE = 0.1, 0.01

# Losses of a discriminator that answers (0, 1) to everything: softplus(-1) on the source, softplus(1) on the target.
ON_SOURCE, ON_TARGET = 0.31326169, 1.31326169


def make(name="lenet", **fields):
    sgd = optimisers.sgd(
        learning_rate=RATE, head_multiplier=1.0, momentum=0.9, weight_decay=0.0, train_norm_affine=True
    )
    return Adda(
        num_classes=3,
        segmenter=base.Segmenter(name=name, input_norm="tanh", **({"width": 4} if "deeplab" in name else {})),
        optimiser=sgd,
        discriminator=ScoreDiscriminator(hidden=8, optimiser=optimisers.adam(learning_rate=JUDGE_RATE)),
        **fields,
    )


def images(seed, size=(16, 16)):
    generator = np.random.default_rng(seed)
    return {"image": generator.integers(60 * seed, 60 * seed + 120, (4, *size, 3), dtype=np.uint8)}


BATCH = {"source": images(0), "target": images(1)}


def stubborn(state, answer=SOURCE):
    """The state with a discriminator that takes every score for the source's, right in half of the cases."""
    judge = dict(state.params["discriminator"])
    judge["fc3"] = {"kernel": jnp.zeros_like(judge["fc3"]["kernel"]), "bias": jnp.zeros(2).at[answer].set(1.0)}
    return state.replace(params={**state.params, "discriminator": judge})


@pytest.fixture(scope="module")
def lenet():
    """A method, its jitted step and a first state whose source network is another than the one that adapts."""
    method = make(update_above=0.0)
    state = initialise(lambda key: method.init(key, BATCH), jax.random.key(0))
    other = jax.tree.map(lambda leaf: leaf + 0.01, state.params["source_segmenter"])
    return method, jax.jit(method.train_step), state.replace(params={**state.params, "source_segmenter": other})


def equal(left, right):
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def judge_by_hand(params, scores):
    x = scores
    for layer in ("fc1", "fc2"):
        x = jnp.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
    return jax.nn.log_softmax(x @ params["fc3"]["kernel"] + params["fc3"]["bias"])


def test_first_the_discriminator_then_the_segmenter_against_the_updated_one(lenet):
    method, step, state = lenet

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def scores(params, domain, number):
        rngs = {"dropout": jax.random.fold_in(jax.random.fold_in(state.key, 0), number)}
        inputs = ops.normalise(BATCH[domain]["image"], "tanh")
        outputs, _ = method.network.apply({"params": params}, inputs, train=True, rngs=rngs, mutable=[])
        return outputs["logits"][:, 0, 0]

    source = scores(state.params["source_segmenter"], "source", 0)
    target = scores(state.params["segmenter"], "target", 1)

    def judge_objective(params):
        # Source 1, target 0, all eight scores weighing the same.
        return -(judge_by_hand(params, source)[:, 1].sum() + judge_by_hand(params, target)[:, 0].sum()) / 8

    after, metrics = step(state, BATCH)
    value, gradient = jax.jit(jax.value_and_grad(judge_objective))(state.params["discriminator"])
    assert metrics["loss/discriminator"] == pytest.approx(float(value), rel=1e-5)
    # Adam's first update has the size of its rate and the sign of the gradient.
    leaves = map(jax.tree.leaves, (state.params["discriminator"], after.params["discriminator"], gradient))
    for before, now, g in zip(*leaves, strict=True):
        clear = np.abs(g) > 1e-4
        np.testing.assert_allclose((now - before)[clear], -JUDGE_RATE * np.sign(g)[clear], rtol=2e-2)

    # Other dropout masks than those of the scores that the discriminator has learnt from.
    def fooling(params, judge):
        return -judge_by_hand(judge, scores(params, "target", 2))[:, 1].mean()

    updated, old = after.params["discriminator"], state.params["discriminator"]
    value, gradient = jax.jit(jax.value_and_grad(fooling))(state.params["segmenter"], updated)
    assert metrics["loss/adversarial"] == metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    assert abs(float(value) - float(fooling(state.params["segmenter"], old))) > 1e-3
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params["segmenter"], gradient)
    for ours, theirs in zip(jax.tree.leaves(after.params["segmenter"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-6)
    assert equal(after.params["source_segmenter"], state.params["source_segmenter"])


def test_loss_and_accuracy_by_hand(lenet):
    _, step, state = lenet
    _, metrics = step(stubborn(state), BATCH)
    assert metrics["loss/discriminator"] == pytest.approx((ON_SOURCE + ON_TARGET) / 2, rel=1e-6)
    assert metrics["discriminator/accuracy"] == 0.5


def test_the_gate_opens_above_its_threshold_only(lenet):
    method, _, state = lenet
    state = stubborn(state)
    shut = jax.jit(dataclasses.replace(method, update_above=0.5).train_step)
    after, metrics = shut(state, BATCH)
    assert equal(after.params["segmenter"], state.params["segmenter"])
    assert equal(after.opt_state["segmenter"], state.opt_state["segmenter"])
    assert not equal(after.params["discriminator"], state.params["discriminator"])
    assert (metrics["segmenter/update_share"], int(after.step)) == (0, 1)
    after, metrics = jax.jit(dataclasses.replace(method, update_above=0.49).train_step)(after, BATCH)
    assert not equal(after.params["segmenter"], state.params["segmenter"])
    assert not equal(after.opt_state["segmenter"], state.opt_state["segmenter"])
    assert (metrics["segmenter/update_share"], int(after.step)) == (0.5, 2)


def test_a_useless_discriminator_teaches_nothing(lenet):
    """Without a kernel in its last layer the scores do not reach its answer, even if the gate is open."""
    _, step, state = lenet
    judge = jax.tree.map(jnp.zeros_like, state.params["discriminator"])
    after, metrics = step(state.replace(params={**state.params, "discriminator": judge}), BATCH)
    assert metrics["loss/discriminator"] == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["norm/segmenter"] == 0 and equal(after.params["segmenter"], state.params["segmenter"])


def test_labels_play_no_part(lenet):
    _, step, state = lenet
    labelled = {name: maps | {"label": np.ones((4, 1, 1), np.uint8)} for name, maps in BATCH.items()}
    assert equal(step(state, BATCH)[0].params, step(state, labelled)[0].params)


def test_dropout_draws_anew_in_every_step_and_the_same_again_in_a_resumed_run(lenet):
    _, step, state = lenet
    later = state.replace(step=state.step + 1)
    losses = [float(step(s, BATCH)[1]["loss/discriminator"]) for s in (state, state, later)]
    assert losses[0] == losses[1] != losses[2]


def test_a_fresh_state_starts_both_networks_alike():
    state = initialise(lambda key: make().init(key, BATCH), jax.random.key(3))
    assert set(state.params) == {"segmenter", "source_segmenter", "discriminator"}
    assert set(state.opt_state) == {"segmenter", "discriminator"}
    assert equal(state.params["segmenter"], state.params["source_segmenter"])


def test_scores_weigh_the_same_and_statistics_follow_every_forward_of_the_target():
    batch = {"source": images(0), "target": jax.tree.map(lambda maps: np.concatenate([maps, 255 - maps]), images(1))}
    method = make("dtn", update_above=0.5)
    state = stubborn(initialise(lambda key: method.init(key, batch), jax.random.key(0)))
    step = jax.jit(method.train_step)
    after, metrics = step(state, batch)
    # Four scores of the source and eight of the target.
    assert metrics["loss/discriminator"] == pytest.approx((ON_SOURCE + 2 * ON_TARGET) / 3, rel=1e-6)
    assert metrics["discriminator/accuracy"] == pytest.approx(1 / 3)
    for name, moves in (("segmenter", True), ("source_segmenter", False)):
        assert equal(after.model_state[name], state.model_state[name]) != moves
        assert equal(after.params[name], state.params[name])
    # One forward behind a shut gate, two behind an open one. The first layer's statistics meet no dropout.
    opened, metrics = step(stubborn(state, answer=TARGET), batch)
    assert metrics["discriminator/accuracy"] == pytest.approx(2 / 3)
    first, once, twice = (s.model_state["segmenter"]["batch_stats"]["bn1"]["mean"] for s in (state, after, opened))
    np.testing.assert_allclose(twice, first + 1.9 * (once - first), rtol=1e-4, atol=1e-6)


def test_maps_of_any_size_are_judged_pixel_by_pixel():
    batch = {"source": images(0, (32, 64)), "target": images(1, (64, 64))}
    method = make("deeplab_v2_resnet14")
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    after, metrics = jax.eval_shape(method.train_step, state, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {leaf.shape for leaf in metrics.values()} == {()}


def test_a_missing_domain_is_a_mistake_of_the_config():
    with pytest.raises(UserError, match="expected the domains source and target for adda, got no target;"):
        make().init(jax.random.key(0), {"source": images(0)})


def test_prediction_is_that_of_the_adapted_network(lenet):
    method, _, state = lenet
    scores = jax.jit(method.predict, static_argnums=2)(state, BATCH["target"]["image"], (1, 1))["scores"]
    inputs = ops.normalise(BATCH["target"]["image"], "tanh")
    expected = jax.jit(method.network.apply)({"params": state.params["segmenter"]}, inputs)["logits"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert scores.shape == (4, 1, 1, 3)


def test_one_trace_and_donation(check_one_trace, lenet):
    check_one_trace(lenet[0], BATCH)
