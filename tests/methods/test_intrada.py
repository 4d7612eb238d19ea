"""IntraDA's last stage: AdvEnt from easy to hard, AdaptSegNet where its discriminators see probabilities."""

import jax
import numpy as np

from uda_jax.methods import base
from uda_jax.methods.adaptsegnet import AdaptSegNet
from uda_jax.methods.intrada import IntraDA
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.source_only import SourceOnly
from uda_jax.training.initialisation import initialise
from uda_jax.training.optimisers import sgd

SHARED = {
    "num_classes": 3,
    "segmenter": base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb"),
    "optimiser": sgd(learning_rate=0.1, head_multiplier=1.0, train_norm_affine=True),
}
JUDGED = {"discriminator": Discriminator(width=4), "target_weight": 0.5}


def after_a_step(method, batch):
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    return jax.device_get(jax.jit(method.train_step)(state, batch)[0].replace(key=None))


def test_with_probabilities_both_players_lose_what_adaptsegnets_lose(batch):
    """Easy frames take the place of the source, hard ones that of the target; nothing else differs."""
    methods = [IntraDA(**fields, **SHARED, **JUDGED) for fields in ({}, {"discriminator_input": "probabilities"})]
    methods.append(AdaptSegNet(**SHARED, **JUDGED))
    state = initialise(lambda key: methods[0].init(key, batch), jax.random.key(0))
    wanted = ("loss/segmentation", "loss/adversarial", "loss/discriminator", "loss/total")

    @jax.jit
    def losses(state):
        steps = [method.train_step(state, batch)[1] for method in methods]
        return [[metrics[name] for name in wanted] for metrics in steps]

    information, probabilities, theirs = np.array(losses(state))
    np.testing.assert_allclose(probabilities, theirs, rtol=1e-6)
    assert information[0] == theirs[0] and (np.abs(information - theirs)[1:] > 1e-5).all()


def test_the_weight_of_the_pseudo_labels_is_that_of_their_cross_entropy(batch):
    """What the discriminator teaches stays; with a weight of 0 it alone does."""
    methods = [IntraDA(**SHARED, **JUDGED, easy_weight=weight) for weight in (1.0, 0.25)]
    state = initialise(lambda key: methods[0].init(key, batch), jax.random.key(0))
    wanted = ("loss/segmentation", "loss/adversarial")
    steps = jax.jit(lambda state: [[m.train_step(state, batch)[1][name] for name in wanted] for m in methods])
    whole, quarter = np.array(steps(state))
    assert (whole > 0).all()
    np.testing.assert_allclose(quarter, whole * [0.25, 1], rtol=1e-6)


def test_without_hard_frames_it_is_supervised_by_the_pseudo_labels(batch, same):
    """And the discriminator, which a longer recipe would need, stays as it is."""
    easy = {"source": batch["source"]}
    method = IntraDA(**SHARED, **JUDGED)
    ours, theirs = after_a_step(method, easy), after_a_step(SourceOnly(**SHARED), easy)
    assert same(ours.params["segmenter"], theirs.params["segmenter"])
    assert same(ours.model_state["segmenter"], theirs.model_state["segmenter"])
    fresh = initialise(lambda key: method.init(key, easy), jax.random.key(0))
    assert same(ours.params["discriminator"], fresh.params["discriminator"])
    assert same(ours.opt_state["discriminator"], fresh.opt_state["discriminator"])
