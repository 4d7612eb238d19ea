"""AdaptSegNet: both players' objectives written out, who learns from which loss, frozen branches, published values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uda_jax import config, losses, ops
from uda_jax.methods import base
from uda_jax.methods.adaptsegnet import AdaptSegNet
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.runs import stages
from uda_jax.training import optimisers
from uda_jax.training.initialisation import initialise
from uda_jax.training.schedules import Schedule

RATE, JUDGE_RATE, DECAY = 0.1, 0.01, 0.02
JUDGE_OF = {"logits": "discriminator", "aux_logits": "discriminator_aux"}
WEIGHTS = {"logits": 0.5, "aux_logits": 0.25}


def make(kind="bce", **fields):
    """AdaptSegNet on two heads that sum two of their four branches, with plain SGD and weight decay."""
    segmenter = base.Segmenter(
        name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb", multi_level=True, aspp_branches=2
    )
    sgd = optimisers.sgd(
        learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=DECAY, train_norm_affine=True
    )
    return AdaptSegNet(
        num_classes=3,
        segmenter=segmenter,
        optimiser=sgd,
        schedule=Schedule(name="constant"),
        discriminator=Discriminator(width=4, kind=kind, optimiser=optimisers.adam(learning_rate=JUDGE_RATE)),
        **{"target_weight": 0.5, "target_aux_weight": 0.25} | fields,
    )


@pytest.fixture(scope="module")
def played(batch):
    """The method, its jitted step, the first state, and what one step makes of it."""
    method = make()
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    step = jax.jit(method.train_step)
    return method, step, state, step(state, batch)


def logits(method, params, state, batch):
    """Each domain's logits of both heads at the image's size; source first, each with its own statistics."""
    stats, found = state.model_state["segmenter"], {}
    for domain in ("source", "target"):
        images = ops.normalise(batch[domain]["image"], "imagenet_rgb")
        outputs, stats = method.network.apply({"params": params, **stats}, images, train=True, mutable=["batch_stats"])
        up = lambda head, z=outputs: ops.resize_bilinear(z[head], (32, 64), align_corners=True)  # noqa: E731
        found[domain] = {head: up(head) for head in JUDGE_OF if head in outputs}
    return found


def distance(z, domain, kind):
    """Sigmoid cross entropy, or the squared distance of LS-GAN, to source = 0 or target = 1."""
    return jnp.mean(jax.nn.softplus(z) - domain * z) if kind == "bce" else jnp.mean((z - domain) ** 2)


def judge(method, params, z):
    return method.discriminator.of_outputs("fp32").module.apply({"params": params}, jax.nn.softmax(z))


def test_the_objectives_of_both_sides_written_out(played, batch, flat):
    method, _, state, (after, metrics) = played
    labels = batch["source"]["label"].astype(np.int32)

    def segmenter_objective(params):
        found = logits(method, params, state, batch)
        total = losses.cross_entropy(found["source"]["logits"], labels)
        total += 0.1 * losses.cross_entropy(found["source"]["aux_logits"], labels)
        for head, name in JUDGE_OF.items():
            total += WEIGHTS[head] * distance(judge(method, state.params[name], found["target"][head]), 0, "bce")
        return total, jax.lax.stop_gradient(found)

    def judge_objective(judges, found):
        terms = {}
        for head, name in JUDGE_OF.items():
            z = {domain: judge(method, judges[name], found[domain][head]) for domain in found}
            terms[name] = 0.5 * (distance(z["source"], 0, "bce") + distance(z["target"], 1, "bce"))
        return sum(terms.values()), terms

    @jax.jit
    def written_out(params, judges):
        (value, found), gradient = jax.value_and_grad(segmenter_objective, has_aux=True)(params)
        # On the maps before the segmenter's update.
        (_, terms), slopes = jax.value_and_grad(judge_objective, has_aux=True)(judges, found)
        return value, gradient, terms, slopes, optax.tree.norm(gradient), optax.tree.norm(slopes)

    judges = {name: state.params[name] for name in JUDGE_OF.values()}
    value, gradient, terms, slopes, norm, judges_norm = jax.device_get(written_out(state.params["segmenter"], judges))
    assert metrics["loss/total"] == pytest.approx(value, rel=1e-5)
    assert metrics["norm/segmenter"] == pytest.approx(norm, rel=1e-4)
    assert metrics["norm/discriminator"] == pytest.approx(judges_norm, rel=1e-4)
    now, gradient = flat(after.params["segmenter"]), flat(gradient)
    for path, before in flat(state.params["segmenter"]).items():
        unused = "head/branch_2" in path or "head/branch_3" in path
        expected = before if unused else before - RATE * (gradient[path] + DECAY * before)
        np.testing.assert_allclose(now[path], expected, rtol=2e-3, atol=2e-5, err_msg=path)
    for name, expected in terms.items():
        assert metrics[f"loss/{name}"] == pytest.approx(expected, rel=1e-5)
        before, now = flat(state.params[name]), flat(after.params[name])
        for path, slope in flat(slopes[name]).items():
            # Adam's first update has the size of its rate and the sign of the gradient.
            clear = np.abs(slope) > 1e-5
            np.testing.assert_allclose(
                (now[path] - before[path])[clear], -JUDGE_RATE * np.sign(slope)[clear], rtol=2e-2
            )


def test_least_squares_on_a_single_level(batch):
    """One head, one discriminator, and the squared distance in both players' losses."""
    method = make("least_squares")
    method = dataclasses.replace(method, segmenter=dataclasses.replace(method.segmenter, multi_level=False))
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    assert set(state.params) == {"segmenter", "discriminator"} and "aux_head" not in state.params["segmenter"]

    @jax.jit
    def written_out(state):
        found = logits(method, state.params["segmenter"], state, batch)
        z = {domain: judge(method, state.params["discriminator"], found[domain]["logits"]) for domain in found}
        return {
            "loss/segmentation": losses.cross_entropy(found["source"]["logits"], batch["source"]["label"].astype(int)),
            "loss/adversarial": 0.5 * distance(z["target"], 0, "least_squares"),
            "loss/discriminator": 0.5
            * (distance(z["source"], 0, "least_squares") + distance(z["target"], 1, "least_squares")),
        }

    expected = jax.tree.map(float, written_out(state))
    metrics = jax.tree.map(float, jax.jit(method.train_step)(state, batch)[1])
    found = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    total = expected["loss/segmentation"] + expected["loss/adversarial"]
    assert found == pytest.approx(expected | {"loss/total": total}, rel=1e-4)


def test_neither_side_learns_from_the_others_loss(played, batch, flat, same):
    """Without the adversarial weights the discriminators learn the same, and the segmenter nothing of them."""
    _, _, state, (after, _) = played
    method = make(target_weight=0.0, target_aux_weight=0.0)
    step = jax.jit(method.train_step)
    alone, _ = step(state, batch)
    for name in JUDGE_OF.values():
        expected = flat(after.params[name])
        for path, leaf in flat(alone.params[name]).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-6, err_msg=path)
    assert not same(alone.params["segmenter"], after.params["segmenter"])
    judges = jax.device_get({name: state.params[name] for name in JUDGE_OF.values()})
    other = jax.tree.map(lambda leaf: 2 * leaf + 0.1, judges)
    judged_otherwise, _ = step(state.replace(params=state.params | other), batch)
    assert same(judged_otherwise.params["segmenter"], alone.params["segmenter"])


def test_unused_branches_stay_bit_for_bit(played, batch, flat):
    """Their gradient is zero, but weight decay would shrink them; and they hold no optimiser state."""
    _, step, state, (after, _) = played
    for _ in range(2):
        after, _ = step(after, batch)
    before, now = flat(state.params["segmenter"]), flat(after.params["segmenter"])
    still = {path for path in before if np.array_equal(before[path], now[path])}
    leaves = [f"branch_{k}/{leaf}" for k in (2, 3) for leaf in ("kernel", "bias")]
    branches = {f"{head}/{leaf}" for head in ("head", "aux_head") for leaf in leaves}
    assert branches <= before.keys() and still == branches
    held = [path for path in flat(after.opt_state["segmenter"]) if "branch" in path]
    assert held and not [path for path in held if "branch_2" in path or "branch_3" in path]


@pytest.mark.parametrize(
    ("variant", "kind", "levels", "weights"),
    [
        ("", "bce", 2, (0.1, 0.0002, 0.001)),
        (",single_level", "bce", 1, (0.1, 0.0, 0.001)),
        (",least_squares", "least_squares", 1, (0.1, 0.0, 0.01)),
        (",small_weights", "bce", 2, (0.1, 0.00005, 0.0005)),
    ],
)
@pytest.mark.parametrize("benchmark", ["gta5_cityscapes", "synscapes_cityscapes"])
def test_published_settings(benchmark, variant, kind, levels, weights):
    """The released code's table of weights and schedules; lambda_seg has no effect on a single level."""
    experiment = config.experiment(config.load(f"adaptsegnet:{benchmark}{variant}"))
    (stage,) = stages.recipe(experiment, num_classes=19)
    method = stage.method
    assert (method.aux_weight, method.target_aux_weight, method.target_weight) == weights
    assert method.discriminator == Discriminator(
        width=64,
        kind=kind,
        optimiser=optimisers.adam(learning_rate=1e-4, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0),
    )
    assert method.optimiser == optimisers.sgd(
        learning_rate=2.5e-4,
        head_multiplier=10.0,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=False,
        update_multiplicity="reference",
        repeated_decay="accumulating",
        train_norm_affine=False,
    )
    assert method.schedule == Schedule(name="poly", horizon=250_000, power=0.9, warmup=0)
    assert (stage.train.steps, stage.train.batch_size, stage.train.accumulation) == (150_000, 1, 1)
    segmenter = method.segmenter
    assert (segmenter.name, segmenter.input_norm) == ("deeplab_v2_resnet101", "caffe_bgr")
    assert (segmenter.multi_level, segmenter.aspp_branches, method.segmenter.options.bn_mode) == (
        levels == 2,
        2,
        "batch",
    )
    for domain in experiment.data.values():
        assert not (domain.flip or domain.scale or domain.crop)
    assert experiment.init_from["segmenter"].path.endswith("DeepLab_resnet_pretrained_init-f81d91e8.pth")
