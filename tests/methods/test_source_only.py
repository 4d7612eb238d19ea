"""Plain supervised training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses, ops
from uda_jax.methods import base
from uda_jax.methods.source_only import SourceOnly
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule


@pytest.fixture(scope="module")
def method():
    segmenter = base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", multi_level=True)
    sgd = optimisers.sgd(learning_rate=0.1, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True)
    return SourceOnly(num_classes=3, segmenter=segmenter, optimiser=sgd, schedule=Schedule(name="constant"))


def frames(seed):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8),
        "label": generator.integers(0, 3, (2, 32, 64), dtype=np.uint8),
    }


@pytest.fixture(scope="module")
def state(method):
    return initialise(lambda key: method.init(key, {"source": frames(0)}), jax.random.key(0))


@pytest.fixture(scope="module")
def step(method):
    return jax.jit(method.train_step)


def test_one_step_is_gradient_descent_on_the_cross_entropy(method, state, step):
    """Against the objective written out: main head + 0.1 earlier head, plain SGD."""
    batch = {"source": frames(0)}
    images = ops.normalise(batch["source"]["image"], "imagenet_rgb")
    labels = batch["source"]["label"].astype(np.int32)

    def objective(params):
        variables = {"params": params, **state.model_state["segmenter"]}
        outputs, _ = method.network.apply(variables, images, train=True, mutable=["batch_stats"])
        up = lambda z: ops.resize_bilinear(z, (32, 64), align_corners=True)  # noqa: E731
        main = losses.cross_entropy(up(outputs["logits"]), labels)
        return main + 0.1 * losses.cross_entropy(up(outputs["aux_logits"]), labels)

    value, gradient = jax.jit(jax.value_and_grad(objective))(state.params["segmenter"])
    after, metrics = step(state, batch)
    assert metrics["loss/total"] == pytest.approx(float(value), rel=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["segmenter"], gradient)
    for ours, theirs in zip(jax.tree.leaves(after.params["segmenter"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert int(after.step) == 1


def test_each_labelled_domain_has_its_own_terms_and_statistics(state, step):
    batch = {"source": frames(0), "labelled_target": frames(1), "target": frames(2)}
    after, metrics = step(state, batch)
    terms = {name for name in metrics if name.startswith("loss/")} - {"loss/total"}
    assert terms == {
        "loss/segmentation",
        "loss/segmentation_aux",
        "loss/labelled_target_segmentation",
        "loss/labelled_target_segmentation_aux",
    }
    only_source, _ = step(state, {"source": batch["source"]})
    mean = lambda s: s.model_state["segmenter"]["batch_stats"]["encoder"]["bn1"]["mean"]  # noqa: E731
    assert not np.allclose(mean(after), mean(only_source))


def test_ignored_frames_teach_nothing(state, step):
    batch = {"source": frames(0) | {"label": np.full((2, 32, 64), 255, np.uint8)}}
    after, metrics = step(state, batch)
    assert metrics["loss/total"] == 0 and metrics["norm/segmenter"] == 0
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_frozen_parts_stay():
    """The references' setting: batch norm's scale and shift, and the branches a two-branch head leaves unused."""
    segmenter = base.Segmenter(name="deeplab_v2_resnet14", width=4, aspp_branches=2)
    reference = SourceOnly(num_classes=3, segmenter=segmenter, optimiser=optimisers.sgd(learning_rate=0.1))
    batch = {"source": frames(0)}
    state = initialise(lambda key: reference.init(key, batch), jax.random.key(0))
    after, _ = jax.jit(reference.train_step)(state, batch)
    before, after = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(s.params)
        }
        for s in (state, after)
    )
    still = {path for path in before if np.array_equal(before[path], after[path])}
    expected = {p for p in before if p.endswith("/scale") or "branch_2" in p or "branch_3" in p}
    expected |= {p for p in before if p.endswith("/bias") and "head/" not in p}
    assert still == expected


def test_predict_interpolates_the_logits_once(method, state):
    batch = {"source": frames(0)}
    scores = jax.jit(method.predict, static_argnums=2)(state, batch["source"]["image"], (48, 80))["scores"]
    images = ops.normalise(batch["source"]["image"], "imagenet_rgb")
    variables = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
    logits = jax.jit(lambda images: method.network.apply(variables, images, train=False)["logits"])(images)
    np.testing.assert_allclose(scores, ops.resize_bilinear(logits, (48, 80), align_corners=True), rtol=1e-4, atol=1e-5)


def test_bf16_keeps_float32_masters(method, state, step):
    low = dataclasses.replace(method, precision="bf16")
    batch = {"source": frames(0)}
    fresh = jax.eval_shape(lambda key: low.init(key, batch), jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.dtype, fresh) == jax.tree.map(lambda leaf: leaf.dtype, state)
    after, metrics = jax.jit(low.train_step)(state, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.model_state))} == {jnp.dtype("float32")}
    _, full = step(state, batch)
    assert metrics["loss/total"] == pytest.approx(float(full["loss/total"]), rel=0.05)
    assert metrics["loss/total"] != full["loss/total"]
