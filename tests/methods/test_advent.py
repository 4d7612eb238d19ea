"""MinEnt and AdvEnt: the objective written out, who learns from which loss, batch statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses, ops
from uda_jax.methods import base
from uda_jax.methods.advent import Advent
from uda_jax.methods.adversarial import Discriminator
from uda_jax.training.optimizers import Adam, Sgd
from uda_jax.training.schedules import Schedule

RATE = 0.1


def make(objective, **fields):
    segmenter = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", multi_level=True)
    sgd = Sgd(learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True)
    return Advent(
        objective=objective,
        num_classes=3,
        segmenter=segmenter,
        optimizer=sgd,
        schedule=Schedule(name="constant"),
        discriminator=Discriminator(width=4, optimizer=Adam(learning_rate=0.01)),
        **{"target_weight": 0.5, "target_aux_weight": 0.25} | fields,
    )


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    image = lambda low, high: generator.integers(low, high, (2, 32, 64, 3), dtype=np.uint8)  # noqa: E731
    label = generator.integers(0, 3, (2, 32, 64), dtype=np.uint8)
    return {"source": {"image": image(0, 120), "label": label}, "target": {"image": image(100, 256)}}


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
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)


def test_minent_is_gradient_descent_on_its_objective(batch):
    method = make("entropy")
    state = method.init(jax.random.key(0), batch)
    labels = batch["source"]["label"].astype(np.int32)

    def objective(params):
        outputs, stats = maps(method, params, state, batch)
        total = losses.cross_entropy(outputs["source"]["logits"], labels)
        total += 0.1 * losses.cross_entropy(outputs["source"]["aux_logits"], labels)
        total += 0.5 * losses.entropy(jax.nn.softmax(outputs["target"]["logits"]))
        total += 0.25 * losses.entropy(jax.nn.softmax(outputs["target"]["aux_logits"]))
        return total, stats

    (value, stats), gradient = jax.value_and_grad(objective, has_aux=True)(state.params["segmenter"])
    after, metrics = jax.jit(method.train_step)(state, batch)
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    assert_close(
        after.params["segmenter"], jax.tree.map(lambda p, g: p - RATE * g, state.params["segmenter"], gradient)
    )
    assert_close(after.model_state["segmenter"], stats)
    assert set(state.params) == set(state.opt_state) == {"segmenter"}


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_advent_plays_both_sides_from_the_same_forwards(batch, kind):
    method = make("adversarial")
    method = dataclasses.replace(method, discriminator=dataclasses.replace(method.discriminator, kind=kind))
    state = method.init(jax.random.key(0), batch)
    labels = batch["source"]["label"].astype(np.int32)
    judge_of = {"logits": "discriminator", "aux_logits": "discriminator_aux"}
    judge = lambda params, p: method.judge.apply({"params": params}, losses.self_information(jax.nn.softmax(p)))  # noqa: E731

    def segmenter_objective(params):
        outputs, _ = maps(method, params, state, batch)
        total = losses.cross_entropy(outputs["source"]["logits"], labels)
        total += 0.1 * losses.cross_entropy(outputs["source"]["aux_logits"], labels)
        for head, weight in (("logits", 0.5), ("aux_logits", 0.25)):
            logits = judge(state.params[judge_of[head]], outputs["target"][head])
            total += weight * losses.adversarial(logits, 0, kind=kind)
        return total

    outputs, _ = maps(method, state.params["segmenter"], state, batch)

    def judge_objective(params, head):
        source, target = (judge(params, outputs[domain][head]) for domain in ("source", "target"))
        return 0.5 * losses.adversarial(source, 0, kind=kind) + 0.5 * losses.adversarial(target, 1, kind=kind)

    after, metrics = jax.jit(method.train_step)(state, batch)
    value, gradient = jax.value_and_grad(segmenter_objective)(state.params["segmenter"])
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    assert_close(
        after.params["segmenter"], jax.tree.map(lambda p, g: p - RATE * g, state.params["segmenter"], gradient)
    )
    for head, name in judge_of.items():
        value, gradient = jax.value_and_grad(judge_objective)(state.params[name], head)
        assert metrics[f"loss/{name}"] == pytest.approx(float(value), rel=1e-5)
        # Adam's first update has the size of its rate and the sign of the gradient.
        for before, now, g in zip(
            *map(jax.tree.leaves, (state.params[name], after.params[name], gradient)), strict=True
        ):
            clear = np.abs(g) > 1e-5
            np.testing.assert_allclose((now - before)[clear], -0.01 * np.sign(g)[clear], rtol=2e-2)


def test_the_target_weight_is_the_only_route_from_the_discriminators(batch):
    """Without it AdvEnt's segmenter learns what source-only training with target statistics learns."""
    ends = []
    for objective in ("adversarial", "entropy"):
        method = make(objective, target_weight=0.0, target_aux_weight=0.0)
        state = method.init(jax.random.key(0), batch)
        ends.append(jax.jit(method.train_step)(state, batch)[0].params["segmenter"])
    assert_close(ends[0], ends[1])


def test_accuracy_is_one_half_for_a_blind_discriminator_and_one_for_a_perfect_one():
    from uda_jax.methods.adversarial import accuracy

    logits = jnp.array([[-1.0, -2.0], [-3.0, -0.5]])
    assert accuracy(logits, -logits, threshold=0.0) == 1.0
    assert accuracy(logits, logits, threshold=0.0) == 0.5
    assert accuracy(-logits, logits, threshold=0.0) == 0.0


def test_a_single_head_needs_a_single_discriminator(batch):
    method = make("adversarial")
    method = dataclasses.replace(method, segmenter=dataclasses.replace(method.segmenter, multi_level=None))
    state = method.init(jax.random.key(0), batch)
    assert set(state.params) == {"segmenter", "discriminator"}
    _, metrics = jax.jit(method.train_step)(state, batch)
    assert "loss/adversarial_aux" not in metrics and 0 <= metrics["discriminator/accuracy"] <= 1


def test_one_trace_and_donation(batch):
    method = make("adversarial")
    state = jax.jit(lambda key: method.init(key, batch))(jax.random.key(0))
    step = jax.jit(method.train_step, donate_argnums=0)
    with jax.transfer_guard("disallow"):
        arrays = jax.device_put(batch)
        for _ in range(3):
            old, (state, _) = state, step(state, arrays)
            assert jax.tree.leaves(old.params)[0].is_deleted()
    assert step._cache_size() == 1
