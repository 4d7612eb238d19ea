"""Frozen encoders with adapters: what is in the state, once, and the networks that they are equal to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.frozen_features import FrozenEncoder, FrozenFeatures
from uda_jax.methods.parts.state import TrainState
from uda_jax.methods.parts.teacher import MeanTeacher, without_teacher
from uda_jax.methods.parts.updates import initial_state
from uda_jax.methods.vfm_uda import VfmUda
from uda_jax.networks.encoder_adapters import Adapters, Tokens, product, smallest_singular
from uda_jax.networks.foundation import build_encoder
from uda_jax.training import optimisers
from uda_jax.training.optimisers import adamw

SOMA, REIN = Adapters("soma", rank=2), Adapters("rein", tokens=5, rank=2)
BATCH = {domain: {"image": np.zeros((1, 28, 42, 3), np.uint8)} for domain in ("source", "target")}


def method_with(adapters, name="light_dinov2_vits14", **options):
    fields = {"input_norm": "imagenet_rgb", "align_corners": False, "width": 16, "depth": 3, "heads": 2, **options}
    return VfmUda(num_classes=3, segmenter=Segmenter(name, adapters=adapters, **fields))


def state_of(method):
    variables = {"segmenter": method.initial_segmenter(jax.random.key(0), BATCH)}
    return method.teacher.init(initial_state(jax.random.key(0), variables, {"segmenter": method.student(variables)}))


def drawn(shapes, seed, scale):
    """Arrays of these shapes; biases of trained networks are not 0."""
    generator = np.random.default_rng(seed)
    some = lambda x: jnp.asarray(scale * generator.normal(size=x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(lambda x: some(x) if x.dtype == jnp.float32 else jnp.zeros(x.shape, x.dtype), shapes)


@pytest.fixture(scope="module")
def plain():
    """The whole network's method, images, and what it makes of them with weights that a file might hold."""
    method = method_with(Adapters(), table=4)
    variables = drawn(jax.eval_shape(lambda: method.initial_segmenter(jax.random.key(0), BATCH)), 1, 0.2)
    images = np.random.default_rng(3).integers(0, 256, (1, 28, 42, 3), np.uint8)
    return method, variables, images, scores(method, variables["params"], {}, images)


def scores(method, params, model_state, images):
    state = TrainState(jnp.int32(1), {"segmenter": params}, {"segmenter": model_state}, {}, None, jax.random.key(0), {})
    return jax.jit(method.predict, static_argnums=2)(state, images, images.shape[1:3])["scores"]


@pytest.fixture(scope="module")
def soma(plain):
    """The same weights with SoMA: method, state and what is loaded."""
    _, variables, _, _ = plain
    method = method_with(SOMA, table=4)
    shapes = jax.eval_shape(lambda: state_of(method)).replace(opt_state={}, key=None)
    state = drawn(shapes, 2, 0.2)
    fresh = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
    assert jax.tree.structure(adapted.loadable(fresh)) == jax.tree.structure(variables)
    found = adapted.loaded(fresh, variables)
    state = state.replace(params={"segmenter": found.pop("params")}, model_state={"segmenter": found})
    return method, adapted.decomposed(method, state)


def test_the_smallest_singular_values_are_what_learns():
    # A diagonal matrix is its own decomposition.
    rest, into, out = smallest_singular(jnp.diag(jnp.asarray([4.0, 0.25, 9.0])), 1, 1)
    np.testing.assert_allclose(rest, np.diag([4.0, 0.0, 9.0]), atol=1e-6)
    np.testing.assert_allclose(np.abs(into[0, :, 0]), [0.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.abs(out[0, 0]), [0.0, 0.5, 0.0], atol=1e-6)
    # Queries, keys and values are matrices of their own: against NumPy's decomposition of each.
    kernel = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    rest, into, out = smallest_singular(jnp.asarray(kernel), 2, 3)
    np.testing.assert_allclose(rest + product(into, out), kernel, atol=1e-5)
    for i, part in enumerate(np.split(kernel, 3, axis=1)):
        values = np.linalg.svd(into[i] @ out[i])[1]
        np.testing.assert_allclose(values[:2], np.linalg.svd(part)[1][-2:], rtol=1e-3)


def test_first_forward_is_the_loaded_network_s(plain, soma):
    _, _, images, expected = plain
    method, state = soma
    found = scores(method, state.params["segmenter"], state.model_state["segmenter"], images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_merged_is_what_was_learnt(plain, soma):
    """Student and teacher, once they have learnt something."""
    _, variables, images, _ = plain
    method, state = soma
    moved = lambda tree, seed: jax.tree.map(jnp.add, tree, drawn(tree, seed, 0.1))  # noqa: E731
    state = state.replace(params=moved(state.params, 4), step=jnp.int32(1))
    state = state.replace(teacher={"params": moved(state.params["segmenter"], 5), "model_state": {}})
    for network in ("student", "teacher"):
        chosen = dataclasses.replace(method, predict_with=network)
        alone, whole = adapted.merged(*without_teacher(chosen, state))
        assert alone.segmenter.adapters == Adapters()
        assert jax.tree.structure(whole.params["segmenter"]) == jax.tree.structure(variables["params"])
        params = state.params["segmenter"] if network == "student" else state.teacher["params"]
        found = scores(method, params, state.model_state["segmenter"], images)
        expected = scores(alone, whole.params["segmenter"], whole.model_state["segmenter"], images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("adapters", [SOMA, REIN], ids=["soma", "rein"])
@pytest.mark.parametrize("network", ["light_dinov2_vits14", "dpt_dinov3_vits16", "pyramid_dinov2_vits14"])
def test_what_learns(adapters, network):
    """What is frozen is in the state once, and all else in one group of the optimiser."""
    method = method_with(adapters, network, depth=4)
    state = jax.eval_shape(lambda: state_of(method))
    learnt, frozen = state.params["segmenter"], state.model_state["segmenter"]["frozen"]
    inside = {path for path in flatten_dict(learnt, sep="/") if path.startswith("encoder/")}
    if adapters.name == "rein":
        assert {path.split("/")[1] for path in inside} == {"adapters"}
    else:
        kinds = ["low_rank_in", "low_rank_out", "bias"]
        layers = ["attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"]
        names = {f"encoder/blocks_{i}/{layer}/{kind}" for i in (1, 2, 3) for layer in layers for kind in kinds}
        assert inside == names
    assert all(path.startswith("encoder/") for path in flatten_dict(frozen, sep="/"))
    assert "frozen" not in state.teacher["model_state"]
    assert jax.tree.structure(state.teacher["params"]) == jax.tree.structure(learnt)
    used = {path: leaf for path, leaf in flatten_dict(learnt, sep="/").items() if "refinenet4/resConfUnit1" not in path}
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.shape]
    # The number by which Rein multiplies has no shape, as optimisers' counts have none.
    assert sorted(moments) == sorted(2 * [leaf.shape for leaf in used.values() if leaf.shape])
    groups = optimisers.assign_groups({"segmenter": learnt}, adamw(head_multiplier=10.0).rules())
    by_path = flatten_dict(groups["segmenter"], sep="/")
    assert {by_path[path] for path in inside} == {"backbone"}
    assert {group for path, group in by_path.items() if path not in inside} == {"head"}


def test_teacher_reads_the_student_s_frozen_parameters(soma):
    method, state = soma
    state, teacher = state.replace(step=jnp.int32(1)), MeanTeacher(alpha=0.5, first_update=1)
    current = teacher.current(state)
    assert current["model_state"]["frozen"] is state.model_state["segmenter"]["frozen"]
    after = teacher.update(current, state, 1)
    assert "frozen" not in after.teacher["model_state"]
    expected = jax.tree.map(lambda t, s: 0.5 * (t + s), state.teacher["params"], state.params["segmenter"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.teacher["params"], expected)


def test_rein_by_hand():
    """Two tokens, of which the second alone is added, on one patch of two channels."""
    module = Tokens(depth=1, tokens=2, rank=1, dtype=jnp.float32)
    x = jnp.asarray([[[2.0, 0.0]]])
    one = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    params = {
        "tokens_in": jnp.asarray([[[0.0], [1.0]]]),
        "tokens_out": jnp.asarray([[[0.0, 3.0]]]),
        "scale": jnp.asarray(0.5),
        "token_mlp": one,
        "feature_mlp": one,
    }
    # Neither token is like the patch, so each takes half: 0.5 (0, 3) + (2, 0), half of which is added.
    found = module.apply({"params": params}, x, 0)
    np.testing.assert_allclose(found, [[[3.0, 0.75]]], rtol=1e-6)


def test_blocks_that_are_not_there_are_refused():
    for adapters, text in (
        (Adapters("soma", first_block=3), "first_block: expected a block below depth = 3, got 3"),
        (Adapters("soma", rank=17), "rank: expected at most width = 16, got 17"),
    ):
        with pytest.raises(UserError, match=f"network.adapters.{text}"):
            method_with(adapters).initial_segmenter(jax.random.key(0), BATCH)


@pytest.mark.parametrize("adapters", [SOMA, REIN], ids=["soma", "rein"])
def test_the_student_s_own_encoder_stays_what_it_was(plain, adapters):
    """As target of the feature distance it is the loaded encoder, whatever has been learnt since."""
    _, variables, images, _ = plain
    distance = FrozenFeatures(weight=0.1, size=(28, 42), encoder=FrozenEncoder("student"))
    method = dataclasses.replace(method_with(adapters, table=4), distance=distance)
    method.check("m")
    shapes = jax.eval_shape(lambda: state_of(method)).replace(opt_state={}, key=None)
    fresh = drawn(shapes, 2, 0.2)
    found = adapted.loaded({"params": fresh.params["segmenter"], **fresh.model_state["segmenter"]}, variables)
    state = fresh.replace(params={"segmenter": found.pop("params")}, model_state={"segmenter": found})
    state = distance.with_start(adapted.decomposed(method, state.replace(step=jnp.int32(0))))
    moved = jax.tree.map(lambda x: x + 1.0, state.params)
    state = distance.with_start(state.replace(params=moved, step=jnp.int32(1)))
    encoder = build_encoder(method_with(Adapters(), table=4).network.options)
    inputs = ops.normalise(images, "imagenet_rgb")
    expected = jax.jit(lambda x: encoder.apply({"params": variables["params"]["encoder"]}, x)["features"])(inputs)
    reference = jax.jit(lambda state, images: distance.reference(method, state, images))(state, images)
    np.testing.assert_allclose(reference, expected, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="m.distance.encoder.name: expected another encoder than the student's"):
        dataclasses.replace(method_with(Adapters(), table=4), distance=distance).check("m")


def test_a_checkpoint_has_frozen_parameters_apart(soma):
    _, state = soma
    stored = adapted.apart(state)
    assert "frozen" not in stored.model_state["segmenter"]
    assert stored.frozen["segmenter"]["params"] is state.model_state["segmenter"]["frozen"]
    again = adapted.together(stored)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    without = state.replace(model_state={"segmenter": {}})
    assert adapted.apart(without) == without
