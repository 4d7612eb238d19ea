"""CyCADA's pixel stage: every loss written out, who learns from which, the semantic losses' gate, the pools."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import ops
from uda_jax.methods import base, cycada
from uda_jax.methods.cycada import Cycada
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.parts.translation import Translator
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise

SIDE = 24
WEIGHTS = {"image_weight": 0.9, "back_weight": 0.7, "cycle_weight": 0.6, "semantic_weight": 0.3}
# Which networks each loss teaches.
LEARNERS = {
    "adversarial_image": {"translator"},
    "adversarial_back": {"back_translator"},
    "cycle": {"translator", "back_translator"},
    "semantic": {"translator"},
    "semantic_back": {"back_translator"},
    "segmentation": {"segmenter"},
}


def make(**fields):
    adam = optimisers.adam(learning_rate=0.01)
    sections = {
        "segmenter": base.Segmenter(name="lenet", input_norm="tanh"),
        "translator": Translator(name="refiner", width=4, blocks=1, optimiser=adam),
        "image_discriminator": Discriminator(width=4, kind="least_squares", optimiser=adam),
    }
    return Cycada(num_classes=3, **{**WEIGHTS, **sections, "semantic_below": 100.0, "image_pool": 3, **fields})


def images(seed):
    generator = np.random.default_rng(seed)
    return generator.integers(60 * seed, 60 * seed + 120, (2, SIDE, SIDE, 3), dtype=np.uint8)


BATCH = {
    "source": {"image": images(0), "label": np.array([2, 1], np.uint8).reshape(2, 1, 1)},
    "target": {"image": images(1)},
}
SOURCE, TARGET = (ops.normalise(BATCH[name]["image"], "tanh") for name in ("source", "target"))


def parts(method, state):
    """The two losses of an iteration, in place of running it."""
    with mock.patch.object(cycada, "two_player_step", lambda state, _, __, *losses: losses):
        return method.train_step(state, BATCH)


@pytest.fixture(scope="module")
def state():
    return initialise(lambda key: make().init(key, BATCH), jax.random.key(0))


@pytest.fixture(scope="module")
def drawn(state):
    """What the translators draw of each domain and of each other's results, by way of the modules alone."""
    module = make().translator.build("fp32")

    @jax.jit
    def run(params):
        draw = lambda name, x: module.apply({"params": params[name]}, x)  # noqa: E731
        there, back = draw("translator", SOURCE), draw("back_translator", TARGET)
        return there, back, draw("back_translator", there), draw("translator", back)

    return run(state.params)


@pytest.fixture(scope="module")
def opened(state):
    """Losses, what the discriminators see, and the norm of each loss's gradient by network."""

    @jax.jit
    def run(state):
        generator_loss, discriminator_loss = parts(make(), state)
        names = ("segmenter", "translator", "back_translator")

        def terms(params):
            found = generator_loss({**state.params, **params})
            return found.losses, found.discriminator_inputs

        losses, pullback, shown = jax.vjp(terms, {name: state.params[name] for name in names}, has_aux=True)
        norms = {}
        for loss in losses:
            (gradient,) = pullback({name: jnp.float32(name == loss) for name in losses})
            norms[loss] = {name: sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradient[name])) for name in names}
        return losses, shown, norms, discriminator_loss(state.params, shown)

    return jax.device_get(run(state))


def judge(state, name, x):
    module = make().image_discriminator.of_images("fp32")
    return np.asarray(jax.jit(module.apply)({"params": state.params[name]}, x), np.float64)


def classify(state, pixels):
    inputs = ops.normalise(pixels, "tanh")
    outputs = jax.jit(make().network.apply)({"params": state.params["segmenter"]}, inputs)
    return np.asarray(jax.nn.log_softmax(outputs["logits"][:, 0, 0]), np.float64)


def test_the_translators_losses_by_hand(state, drawn, opened):
    there, back, cycle_s, cycle_t = (np.asarray(x, np.float64) for x in drawn)
    losses = opened[0]
    # The label of real images is 1.
    expected = {
        "adversarial_image": 0.9 * np.square(judge(state, "image_discriminator", there) - 1).mean(),
        "adversarial_back": 0.7 * np.square(judge(state, "back_discriminator", back) - 1).mean(),
        "cycle": 0.6 * (np.abs(cycle_s - SOURCE).mean() + np.abs(cycle_t - TARGET).mean()),
    }
    on_source, on_target = (classify(state, ops.from_tanh(x)) for x in (there, back))
    seen = classify(state, BATCH["target"]["image"]).argmax(-1)
    expected["semantic"] = -0.3 * np.mean([on_source[0, 2], on_source[1, 1]])
    expected["semantic_back"] = -0.3 * np.mean([on_target[0, seen[0]], on_target[1, seen[1]]])
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-4), name
    assert set(losses) == {*expected, "segmentation"}


def test_who_learns_from_which_loss(opened):
    norms = opened[2]
    assert {loss: {name for name, norm in found.items() if norm > 0} for loss, found in norms.items()} == LEARNERS


def test_the_discriminators_losses_by_hand(state, drawn, opened):
    _, shown, _, found = opened
    # While the pools fill up, the new images are what is shown.
    for images_shown, expected in zip(shown, drawn[:2], strict=True):
        np.testing.assert_allclose(images_shown, expected, atol=1e-6)
    for name, fake, real in (("image_discriminator", drawn[0], TARGET), ("back_discriminator", drawn[1], SOURCE)):
        expected = 0.5 * (np.square(judge(state, name, fake)).mean() + np.square(judge(state, name, real) - 1).mean())
        assert found.losses[name] == pytest.approx(expected, rel=1e-4)
        assert 0 <= found.metrics[f"{name}/accuracy"] <= 1


def test_an_unsure_classifier_teaches_the_translators_nothing(state, opened):
    loss = float(opened[0]["segmentation"])
    for limit, active in ((0.99 * loss, False), (1.01 * loss, True)):
        method = make(semantic_below=limit)
        losses = jax.jit(lambda state, method=method: parts(method, state)[0](state.params).losses)(state)
        assert [losses[name] > 0 for name in ("semantic", "semantic_back")] == [active, active]


def test_pools_show_older_images_and_fill_up(state):
    @jax.jit
    def run(state):
        found = parts(make(image_pool=1), state)[0](state.params)
        return found.discriminator_inputs, found.extra

    full = {
        name: {"pool": jnp.full((1, SIDE, SIDE, 3), 7.0), "pooled": jnp.int32(1)} for name in ("translated", "back")
    }
    older = set()
    for step in range(6):
        shown, extra = run(state.replace(step=jnp.int32(step), extra=full))
        older |= {name for name, x in shown._asdict().items() if (np.asarray(x) == 7).all((1, 2, 3)).any()}
        assert {name: int(entry["pooled"]) for name, entry in extra.items()} == {"translated": 1, "back": 1}
    assert older == {"translated", "back"}
    _, extra = run(state.replace(extra=jax.tree.map(jnp.zeros_like, full)))
    assert all(int(entry["pooled"]) == 1 for entry in extra.values())


def test_a_step_moves_every_network_and_the_rates_of_the_images_alone_decay():
    schedule = dataclasses.replace(Cycada().schedule, horizon=4)
    method = make(schedule=schedule, image_pool=0, segmenter=base.Segmenter(name="dtn", input_norm="tanh"))
    state = initialise(lambda key: method.init(key, BATCH), jax.random.key(1))
    assert state.extra == {}
    late = state.replace(step=jnp.int32(3))
    after, metrics = jax.jit(method.train_step)(late, BATCH)
    for name in state.params:
        assert not jax.tree.all(jax.tree.map(np.array_equal, after.params[name], state.params[name])), name
    statistics = after.model_state["segmenter"], state.model_state["segmenter"]
    assert not jax.tree.all(jax.tree.map(np.array_equal, *statistics))
    assert metrics["learning_rate/translator"] == metrics["learning_rate/image_discriminator"] == np.float32(0.005)
    assert metrics["learning_rate/segmenter"] == np.float32(1e-3)


def test_translated_images_are_pixels_and_shown_beside_their_own(state, drawn):
    shown = jax.jit(make().illustrate)(state, BATCH)
    assert set(shown) == {"source", "target", "translated", "back"}
    for name, expected in (("translated", drawn[0]), ("back", drawn[1])):
        assert shown[name].dtype == jnp.uint8
        np.testing.assert_allclose(shown[name], ops.from_tanh(expected), atol=0.51)
    np.testing.assert_array_equal(shown["source"], BATCH["source"]["image"])


def test_one_trace_and_donation(check_one_trace):
    check_one_trace(make(), BATCH)
