"""What all methods share: names and modules of others, the domains that they read, players and their figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import methods
from uda_jax.errors import UserError
from uda_jax.methods.adaptsegnet import AdaptSegNet
from uda_jax.methods.ass import ASS
from uda_jax.methods.base import SegmentationMethod, Segmenter
from uda_jax.methods.intrada import IntraDA
from uda_jax.methods.parts.updates import gradients_in_turn, initial_state, single_player_step, update_player
from uda_jax.methods.source_only import SourceOnly
from uda_jax.ops.platform import LOWERING, made_for
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule


def test_a_module_of_somebody_elses_is_a_method(tmp_path, monkeypatch):
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "fda.py").write_text("class Fda: pass\nMETHOD = Fda\n")
    (tmp_path / "their_package" / "empty.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert methods.get("their_package.fda").__name__ == "Fda"
    with pytest.raises(UserError, match="config.method.name: expected the module 'their_package.empty' to define METH"):
        methods.get("their_package.empty")
    with pytest.raises(UserError, match="config.method.name: cannot import the module 'their_package.gone'"):
        methods.get("their_package.gone")
    with pytest.raises(UserError, match="config.method.name: unknown method 'advnt'; did you mean 'advent'"):
        methods.get("advnt")


@pytest.mark.parametrize("name", methods.names())
def test_methods_share_fields_alone(name):
    """One base class with the common fields, or none, and no other floor between a method and `object`."""
    assert methods.get(name).__mro__[1:] in ((SegmentationMethod, object), (object,))


def test_domains_that_no_step_reads_are_refused():
    methods.check_domains(AdaptSegNet(), ["source", "target"], "config.data")
    methods.check_domains(ASS(), ["target", "labelled_target", "source"], "config.data")
    methods.check_domains(IntraDA(), ["source"], "config.data")
    methods.check_domains(SourceOnly(), ["source", "source_b", "labelled_target"], "config.data")
    with pytest.raises(UserError, match="config.data: expected the domains source, target, got no target; add it"):
        methods.check_domains(AdaptSegNet(), ["source"], "config.data")
    with pytest.raises(UserError, match="config.data.target_bdd: expected the domains source, target, which are what"):
        methods.check_domains(AdaptSegNet(), ["source", "target", "target_bdd"], "config.data")
    with pytest.raises(UserError, match="config.data: expected at least one labelled domain"):
        methods.check_domains(SourceOnly(), [], "config.data")
    with pytest.raises(UserError, match="config.data.target: expected domains named source or labelled_target, or"):
        methods.check_domains(SourceOnly(), ["source", "target"], "config.data")
    # A method that does not say what it reads is left alone.
    methods.check_domains(object(), ["anything"], "config.data")


def player(**fields):
    method = SegmentationMethod(segmenter=Segmenter(name="deeplab_v2_resnet14"), **fields)
    return method.player("segmenter", optimiser=sgd(learning_rate=0.5, momentum=0.0, weight_decay=0.0))


def made(params, players):
    variables = {name: {"params": tree, "batch_stats": {"n": jnp.zeros(2)}} for name, tree in params.items()}
    return initial_state(jax.random.key(0), variables, players, frozen={"encoder": {"params": {"w": jnp.ones(3)}}})


def test_one_player_leaves_other_networks_and_frozen_ones_alone():
    """A second network in the state is neither trained nor lost, and a frozen one is in no optimiser."""
    params = {"segmenter": {"head": {"kernel": jnp.array([3.0, 4.0])}}, "other": {"kernel": jnp.ones(2)}}
    one = player(schedule=Schedule(name="constant"))
    state = made(params, {"segmenter": one})
    assert set(state.opt_state) == {"segmenter"} and set(state.params) == {"segmenter", "other"}
    assert state.frozen == {"encoder": {"params": {"w": state.frozen["encoder"]["params"]["w"]}, "model_state": {}}}

    def loss(params):
        kernel = params["segmenter"]["head"]["kernel"]
        return {"half": 0.5 * jnp.sum(kernel**2) * params["other"]["kernel"][0]}, {"segmenter": {"n": jnp.ones(2)}}

    after, metrics = jax.jit(lambda state: single_player_step(state, one, loss))(state)
    # The head's rate is ten times the backbone's 0.5.
    np.testing.assert_allclose(after.params["segmenter"]["head"]["kernel"], np.array([3.0, 4.0]) * (1 - 5.0))
    np.testing.assert_array_equal(after.params["other"]["kernel"], np.ones(2))
    assert set(after.model_state) == {"segmenter", "other"} and int(after.step) == 1
    assert metrics["norm/segmenter"] == 5.0 and metrics["update_norm/segmenter"] == 25.0
    assert metrics["learning_rate/segmenter"] == 0.5 and metrics["loss/total"] == metrics["loss/half"] == 12.5


def test_the_learning_rate_that_is_told_is_the_one_of_the_update():
    """Between the batches of one update it stays, and a player's own count of batches may be given."""
    one = player(schedule=Schedule(name="poly", horizon=8, power=1.0), accumulation=2)
    params = {"segmenter": {"head": {"kernel": jnp.ones(2)}}}
    state = made(params, {"segmenter": one})
    rates = []
    for _ in range(4):
        state, metrics = update_player(state, "segmenter", one, params)
        state = state.replace(step=state.step + 1)
        rates.append(float(metrics["learning_rate/segmenter"]))
    assert rates == [0.5, 0.5, 0.375, 0.375]
    _, metrics = update_player(state, "segmenter", one, params, batches=jnp.int32(0))
    assert metrics["learning_rate/segmenter"] == 0.5


@pytest.mark.parametrize("platform", LOWERING)
def test_parts_in_turn_have_the_gradients_of_their_sum(platform):
    """Also where a part starts from what the one before has found, which is a constant to it."""
    params = {"learns": {"w": jnp.asarray([1.0, -2.0])}, "stays": {"w": jnp.asarray([3.0, 5.0])}}
    x = jnp.asarray([7, 11], jnp.uint8)

    def first(params):
        value = (params["learns"]["w"] * params["stays"]["w"]).sum()
        return {"first": value}, params["learns"]["w"] * 2

    def second(params, before):
        started = before.then(x)
        assert started.dtype == x.dtype
        return {"second": (params["learns"]["w"] ** 2 * started * before.found[1]).sum()}, started

    with made_for(platform):
        run = jax.jit(lambda params: gradients_in_turn((first, second), {"learns": params["learns"]}, params))
        value, found, gradients = run(params)
    # 1 * 3 - 2 * 5, and 1 * 7 * 2 + 4 * 11 * -4; gradients 3 + 2 * 1 * 7 * 2 and 5 + 2 * -2 * 11 * -4.
    np.testing.assert_allclose(value, -7 + (14 - 176))
    np.testing.assert_allclose(gradients["learns"]["w"], [31, 181])
    np.testing.assert_array_equal(found[1][1], x)
