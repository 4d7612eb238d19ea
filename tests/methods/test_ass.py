"""ASS: the objective written out by loops, who learns from which loss, its options, batch statistics, subsets."""

import contextlib
import dataclasses
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uda_jax import config, losses, ops
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.adaptsegnet import AdaptSegNet
from uda_jax.methods.ass import ASS, SemanticLevel
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.training.initialisation import initialise
from uda_jax.training.optimisers import adam, sgd
from uda_jax.training.schedules import Schedule

RATE = 0.1
SHARED = {
    "num_classes": 3,
    "segmenter": base.Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb"),
    "optimiser": sgd(learning_rate=RATE, head_multiplier=1.0, momentum=0.0, weight_decay=0.0, train_norm_affine=True),
    "schedule": Schedule(name="constant"),
    "discriminator": Discriminator(width=4, optimiser=adam(learning_rate=0.01)),
    "target_weight": 0.5,
}


def make(**semantic):
    fields = {"weight": 0.7, "hidden": 8, "optimiser": adam(learning_rate=0.01)} | semantic
    return ASS(labelled_weight=0.6, semantic=SemanticLevel(**fields), **SHARED)


@pytest.fixture(scope="module")
def batch():
    """Class 2 is in one source and no labelled image; some pixels are ignored."""
    generator = np.random.default_rng(0)
    image = lambda low, high: generator.integers(low, high, (2, 32, 64, 3), dtype=np.uint8)  # noqa: E731
    source, labelled = generator.integers(0, 3, (2, 32, 64)), generator.integers(0, 2, (2, 32, 64))
    source[1, source[1] == 2] = 0
    labelled[0, :, :32], labelled[1] = 255, 1
    labels = {"source": source.astype(np.uint8), "labelled_target": labelled.astype(np.uint8)}
    return {
        "source": {"image": image(0, 120), "label": labels["source"]},
        "labelled_target": {"image": image(60, 180), "label": labels["labelled_target"]},
        "target": {"image": image(100, 256)},
    }


@pytest.fixture(scope="module")
def played(batch):
    """The method, the first state, and what one step makes of it."""
    method = make()
    state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    return method, state, jax.jit(method.train_step)(state, batch)


def outputs(method, params, state, batch):
    """Each domain's outputs at the network's stride: source, labelled target, target."""
    stats, found = state.model_state["segmenter"], {}
    for domain in ("source", "labelled_target", "target"):
        images = ops.normalise(batch[domain]["image"], "imagenet_rgb")
        found[domain], stats = method.network.apply(
            {"params": params, **stats}, images, train=True, mutable=["batch_stats"]
        )
    return found


@pytest.fixture(scope="module")
def shown(played, batch):
    """What the first state's segmenter makes of each domain."""
    method, state, _ = played
    return jax.jit(lambda state: outputs(method, state.params["segmenter"], state, batch))(state)


def up(z):
    return ops.resize_bilinear(z, (32, 64), align_corners=True)


def down(label, size):
    """PyTorch's nearest rule, by index."""
    rows, columns = (np.arange(n) * full // n for n, full in zip(size, label.shape[1:], strict=True))
    return label[:, rows][:, :, columns]


def decisions(method, params, vectors, label, domain):
    """Mean over classes of images of logsumexp(o) - o_k, o_(K+k) for the target; o = S(mean of the class)."""
    small, terms = down(label, vectors.shape[1:3]), []
    for b, k in itertools.product(range(len(small)), range(3)):
        if (small[b] == k).any():
            o = method.semantic_network.apply({"params": params}, jnp.mean(vectors[b][small[b] == k], axis=0))
            terms.append(jax.nn.logsumexp(o) - o[k + 3 * domain])
    return sum(terms) / len(terms), len(terms)


def test_the_objectives_of_the_three_players_written_out(played, batch, flat):
    method, state, (after, metrics) = played
    labels = {name: batch[name]["label"].astype(np.int32) for name in ("source", "labelled_target")}
    judges = {name: tree for name, tree in state.params.items() if name != "segmenter"}
    module = method.discriminator.of_outputs("fp32").module
    judge = lambda params, z: module.apply({"params": params}, jax.nn.softmax(up(z)))  # noqa: E731

    def segmenter_objective(params):
        found = outputs(method, params, state, batch)
        total = losses.cross_entropy(up(found["source"]["logits"]), labels["source"])
        total += 0.6 * losses.cross_entropy(up(found["labelled_target"]["logits"]), labels["labelled_target"])
        total += 0.5 * jnp.mean(jax.nn.softplus(judge(judges["discriminator"], found["target"]["logits"])))
        # The labelled target's means shall be taken for the source's; the source's means do not enter.
        features = found["labelled_target"]["features"]
        fooling, pairs = decisions(method, judges["semantic_discriminator"], features, labels["labelled_target"], 0)
        assert pairs == 3
        return total + 0.7 * fooling, jax.lax.stop_gradient(found)

    def judge_objective(judges, found):
        z = {name: judge(judges["discriminator"], found[name]["logits"]) for name in ("source", "target")}
        # D sees no labelled target.
        terms = {
            "discriminator": 0.5 * jnp.mean(jax.nn.softplus(z["source"]))
            + 0.5 * jnp.mean(jax.nn.softplus(-z["target"]))
        }
        halves = [
            decisions(method, judges["semantic_discriminator"], found[name]["features"], labels[name], domain)
            for domain, name in enumerate(("source", "labelled_target"))
        ]
        assert [pairs for _, pairs in halves] == [5, 3]
        terms["semantic_discriminator"] = 0.5 * (halves[0][0] + halves[1][0])
        return sum(terms.values()), terms

    @jax.jit
    def written_out(params, judges):
        (value, found), gradient = jax.value_and_grad(segmenter_objective, has_aux=True)(params)
        (_, terms), slopes = jax.value_and_grad(judge_objective, has_aux=True)(judges, found)
        return value, gradient, terms, slopes, {name: optax.tree.norm(slopes[name]) for name in slopes}

    written = written_out(state.params["segmenter"], judges)
    value, gradient, terms, slopes, norms = jax.device_get(written)
    assert metrics["loss/total"] == pytest.approx(value, rel=1e-5)
    before, now, gradient = flat(state.params["segmenter"]), flat(after.params["segmenter"]), flat(gradient)
    for path, slope in gradient.items():
        np.testing.assert_allclose(now[path], before[path] - RATE * slope, rtol=2e-3, atol=2e-5, err_msg=path)
    for name, term in terms.items():
        assert metrics[f"loss/{name}"] == pytest.approx(term, rel=1e-5)
        assert metrics[f"norm/{name}"] == pytest.approx(norms[name], rel=1e-4)
        before, now = flat(state.params[name]), flat(after.params[name])
        for path, slope in flat(slopes[name]).items():
            # Adam's first update has the size of its rate and the sign of the gradient.
            clear = np.abs(slope) > 1e-5
            np.testing.assert_allclose((now[path] - before[path])[clear], -0.01 * np.sign(slope)[clear], rtol=2e-2)


@pytest.mark.parametrize("running", ["all", "target"])
def test_statistics_come_from_source_labelled_and_target_in_this_order(played, batch, flat, running):
    """Each forward that enters keeps 0.9 of the running statistics and adds 0.1 of its own; no loss depends on them."""
    method, state, (after, metrics) = played
    domains = ("source", "labelled_target", "target")
    if running == "target":
        domains, of_all = domains[1:], metrics
        after, metrics = jax.jit(dataclasses.replace(method, running_statistics=running).train_step)(state, batch)
        assert metrics["loss/segmentation"] == pytest.approx(float(of_all["loss/segmentation"]), rel=1e-5)

    @jax.jit
    def alone(images):
        variables = {"params": state.params["segmenter"], **state.model_state["segmenter"]}
        return method.network.apply(variables, ops.normalise(images, "imagenet_rgb"), train=True, mutable=True)[1]

    first = flat(state.model_state["segmenter"]["batch_stats"])
    expected = {path: 0.9 ** len(domains) * leaf for path, leaf in first.items()}
    for later, domain in enumerate(reversed(domains)):
        for path, leaf in flat(alone(batch[domain]["image"])["batch_stats"]).items():
            expected[path] += 0.9**later * (leaf - 0.9 * first[path])
    for path, leaf in flat(after.model_state["segmenter"]["batch_stats"]).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_neither_semantic_player_learns_from_the_others_loss(played, batch, flat, same):
    """Without its weight S learns the same, and the segmenter nothing of S."""
    _, state, (after, _) = played
    step = jax.jit(make(weight=0.0).train_step)
    alone, metrics = step(state, batch)
    assert metrics["loss/semantic"] == 0
    expected = flat(after.params["semantic_discriminator"])
    for path, leaf in flat(alone.params["semantic_discriminator"]).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-6, err_msg=path)
    assert not same(alone.params["segmenter"], after.params["segmenter"])
    other = jax.tree.map(lambda leaf: 2 * leaf + 0.1, jax.device_get(state.params["semantic_discriminator"]))
    judged_otherwise, _ = step(state.replace(params=state.params | {"semantic_discriminator": other}), batch)
    assert same(judged_otherwise.params["segmenter"], alone.params["segmenter"])
    # Not from a lack of effect: S itself went elsewhere.
    assert not same(judged_otherwise.params["semantic_discriminator"], alone.params["semantic_discriminator"])


def test_without_labels_it_is_adaptsegnet_bit_for_bit(batch, same):
    unlabelled = {name: maps for name, maps in batch.items() if name != "labelled_target"}
    ends = []
    for method in (make(weight=0.0), AdaptSegNet(**SHARED)):
        state = initialise(lambda key, method=method: method.init(key, unlabelled), jax.random.key(3))
        semantic, step = state.params.get("semantic_discriminator"), jax.jit(method.train_step)
        for _ in range(2):
            state, metrics = step(state, unlabelled)
        if semantic is not None:
            assert same(state.params["semantic_discriminator"], semantic)
        ends.append((state, {name: float(metrics[name]) for name in ("loss/total", "loss/discriminator")}))
    (ours, our_losses), (theirs, their_losses) = ends
    assert our_losses == their_losses
    for player in ("segmenter", "discriminator"):
        assert same(ours.params[player], theirs.params[player])
        assert same(ours.opt_state[player], theirs.opt_state[player])
    assert same(ours.model_state["segmenter"], theirs.model_state["segmenter"])


@pytest.mark.parametrize("options", [{"source": "probabilities", "head": "binary"}, {"form": "pixel"}], ids=str)
def test_options_change_what_the_semantic_level_sees_and_asks(played, shown, batch, options):
    method = make(**options)
    state = played[1]
    if "source" in options:
        # S has other inputs, but the segmenter's weights are the same.
        state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
    wanted = ("loss/semantic", "loss/semantic_discriminator")
    metrics = jax.jit(lambda state: [method.train_step(state, batch)[1][name] for name in wanted])(state)
    seen = {}
    for name in ("source", "labelled_target"):
        vectors = shown[name]["features"]
        if options.get("source") == "probabilities":
            vectors = jax.nn.softmax(shown[name]["logits"])
        known = down(batch[name]["label"], vectors.shape[1:3]).astype(np.int32)
        if "form" not in options:
            vectors, counts = ops.class_means(vectors, known, 3)
            known = counts > 0
        seen[name] = method.semantic_network.apply({"params": state.params["semantic_discriminator"]}, vectors), known
    loss = losses.semantic_adversarial_map if "form" in options else losses.semantic_adversarial
    asked = lambda name, domain: float(loss(*seen[name], domain, kind=method.semantic.head))  # noqa: E731
    assert metrics[0] == pytest.approx(0.7 * asked("labelled_target", 0), rel=1e-4)
    assert metrics[1] == pytest.approx(0.5 * (asked("source", 0) + asked("labelled_target", 1)), rel=1e-4)
    assert abs(metrics[0] - played[2][1]["loss/semantic"]) > 1e-4


def names(reference, *words):
    """The labelled frames of a config."""
    domain = config.experiment(config.load(reference, words)).data["labelled_target"]
    dataset = streams.open_domain(domain)
    return [dataset.name(k) for k in range(len(dataset))]


def test_labelled_subsets_are_nested_and_reproducible(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    fifty, ten = names("ass:streets"), names("ass:streets,10")
    assert len(set(fifty)) == 50 and len(set(ten)) == 10 and set(ten) < set(fifty)
    assert names("ass:streets,10") == ten
    assert names("ass:streets,10", "--config.data.labelled_target.count_seed=1") != ten


def test_labels_of_other_frames_are_never_read(tiny_folder, tmp_path):
    """Three of eight frames are labelled; the label files of the others cannot be read."""
    target = shutil.copytree(tiny_folder, tmp_path / "target")
    words = [f"--config.data.{name}.root={target}" for name in ("labelled_target", "target")]
    words += [f"--config.data.source.root={tiny_folder}", "--config.data.labelled_target.count=3"]
    chosen = names("ass:folder", *words)
    assert len(chosen) == 3
    for file in (target / "train" / "labels").iterdir():
        if file.stem not in chosen:
            file.write_bytes(b"not to be read")
    experiment = config.experiment(config.load("ass:folder", words))

    def indices(data):
        with contextlib.closing(streams.train_stream(data, global_batch=4, seed=0)) as stream:
            taken = [next(stream) for _ in range(4)]
        assert all("label" not in maps["target"] for maps in taken)
        return {name: {int(k) for maps in taken for k in maps[name]["index"]} for name in data}

    # Three frames over and over, and all eight images.
    assert {name: len(found) for name, found in indices(experiment.data).items()} == {
        "source": 8,
        "labelled_target": 3,
        "target": 8,
    }
    all_of_them = dataclasses.replace(experiment.data["labelled_target"], count=None)
    with pytest.raises(UserError, match="labels/00"):
        indices(experiment.data | {"labelled_target": all_of_them})
