"""The PyTorch steps of the benchmarks do the library's work: same losses, same updates, from the same weights."""

import importlib
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import losses, ops, weights

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed, which benchmarks alone need: pip install 'uda_jax[bench]'"
)

ROOT = Path(__file__).resolve().parents[2]
SIZE = (2, 64, 96)
ITERATIONS = 3


class Case(NamedTuple):
    """A method: its setting, its small segmenter, the dialect of that one's weights, and its domains."""

    reference: str
    network: str
    dialect: str
    domains: tuple[str, ...] = ("source", "target")
    words: tuple[str, ...] = ()


SMALL_DISCRIMINATOR = ("discriminator.width=8",)
SMALL_TRANSLATION = ("translator.width=4", "translator.blocks=1", "image_discriminator.width=8")
NO_AUGMENTATION = ("mixing.augmentation.jitter=0.0", "mixing.augmentation.blur=0.0")
WHOLE_BATCH = ("supervised_group=0", "association.reduction_group=0")
ALL = ("source", "labelled_target", "target")
TWO, ONE = ("deeplab_v2_resnet14", "advent"), ("deeplab_v2_resnet14", "dacs")
CASES = {
    "source_only": Case("source_only:gta5_cityscapes", *TWO, ("source",)),
    "minent": Case("advent:gta5_cityscapes,minent", *TWO),
    "advent": Case("advent:gta5_cityscapes", *TWO, words=SMALL_DISCRIMINATOR),
    "adaptsegnet": Case("adaptsegnet:gta5_cityscapes", *TWO, words=SMALL_DISCRIMINATOR),
    "intrada": Case("intrada:gta5_cityscapes", *TWO, words=SMALL_DISCRIMINATOR),
    "ass": Case("ass:gta5_cityscapes", *ONE, ALL, SMALL_DISCRIMINATOR),
    "dada": Case("dada:synthia_cityscapes", "dada_resnet14", "dada", words=SMALL_DISCRIMINATOR),
    "gio_ada": Case(
        "gio_ada:synthia_cityscapes", "deeplab_v2_vgg16", "vgg16", words=SMALL_DISCRIMINATOR + SMALL_TRANSLATION
    ),
    "dacs": Case("dacs:gta5_cityscapes", *ONE, words=NO_AUGMENTATION),
    "corda": Case("corda:gta5_cityscapes", "corda_resnet14", "corda", words=NO_AUGMENTATION),
    "plca": Case("plca:gta5_cityscapes", "deeplab_v2_resnet14", "plca", words=WHOLE_BATCH),
}
DIALECTS = {
    "discriminator": "advent_discriminator",
    "discriminator_aux": "advent_discriminator",
    "translator": "cyclegan_generator",
    "image_discriminator": "cyclegan_discriminator",
}
OPTIONS = {"pixel_discriminator.width": 8, "patch_discriminator.width": 8}
OPTIONS |= {"translator.width": 4, "translator.blocks": 1}


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the benchmarks by name."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("jax_steps", "torch_steps", "torch_mixing", "torch_losses")
        return {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    finally:
        sys.path.remove(str(ROOT))


def jax_step(benchmarks, name):
    """A small step of the library, before its first iteration."""
    case = CASES[name]
    words = (f"segmenter.name={case.network}", "segmenter.width=4", "segmenter.encoder_init=he", *case.words)
    words = ["--config.train.accumulation=1", *(f"--config.method.{word}" for word in words)]
    step = benchmarks["jax_steps"].JaxStep(case.reference, words, dict.fromkeys(case.domains, SIZE))
    step.initialise()
    return step


def variables(state, network):
    return jax.tree.map(np.asarray, {"params": dict(state.params[network]), **state.model_state[network]})


def state_dicts(name, state):
    """Every learning network's weights under the names of the PyTorch modules."""
    found = {"segmenter": segmenter_state_dict(CASES[name].dialect, variables(state, "segmenter"))}
    for network in state.params.keys() - {"segmenter"}:
        if network != "semantic_discriminator":
            found[network] = weights.to_torch(variables(state, network), DIALECTS[network])
            continue
        dense = variables(state, network)["params"]
        kernels = {f"{2 * i}.weight": dense[f"fc{i + 1}"]["kernel"].T for i in range(3)}
        found["semantic"] = kernels | {f"{2 * i}.bias": dense[f"fc{i + 1}"]["bias"] for i in range(3)}
    return found


def segmenter_state_dict(dialect, found):
    depth_head = found["params"].pop("depth_head", {}) if dialect == "vgg16" else {}
    state_dict = weights.to_torch(found, dialect)
    if dialect == "plca":
        renamed = {key.removeprefix("backbone."): array for key, array in state_dict.items()}
        head = [(f"classifier.0.convs.{i}.0.weight", f"layer5.conv2d_list.{i}.weight") for i in range(4)]
        state_dict = renamed | {new: renamed.pop(old) for old, new in head}
        state_dict = {key: array for key, array in state_dict.items() if not key.startswith("classifier")}
    for branch, leaves in depth_head.items():
        name = f"depth_classifier.conv2d_list.{branch.removeprefix('branch_')}"
        state_dict |= {f"{name}.weight": leaves["kernel"].transpose(3, 2, 0, 1), f"{name}.bias": leaves["bias"]}
    return state_dict


def load(module, state_dict):
    module.load_state_dict({key: torch.tensor(array) for key, array in state_dict.items()})


def assert_moved_alike(module, before, after, tolerance=0.01):
    """Each tensor has moved from `before` as it has to get to `after`, but for rounding."""
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        expected = after[key] - before[key]
        error = np.linalg.norm(value.numpy() - before[key] - expected)
        assert error <= tolerance * np.linalg.norm(expected) + 3e-7 * np.linalg.norm(before[key]), key


@pytest.mark.parametrize("name", CASES)
def test_losses_and_updates_are_those_of_the_library(benchmarks, name, monkeypatch):
    ours = jax_step(benchmarks, name)
    if name in ("dacs", "corda"):
        masks = [drawn_mask(ours, iteration) for iteration in range(ITERATIONS)]
        monkeypatch.setattr(benchmarks["torch_mixing"], "class_mask", lambda _: torch.tensor(masks.pop(0)))
        monkeypatch.setattr(benchmarks["torch_mixing"], "augment", lambda images, _: images)
    options = {"name": CASES[name].network, "width": 4, **OPTIONS}
    theirs = benchmarks["torch_steps"].TorchStep(name, ours.batch, ours.method.num_classes, network_options=options)
    before = state_dicts(name, ours._state)
    assert theirs.networks.keys() == before.keys()
    assert theirs.parameters == sum(leaf.size for leaf in jax.tree.leaves(ours._state.params))
    for network, module in theirs.networks.items():
        load(module, before[network])
    for _ in range(ITERATIONS):
        metrics, found = ours(), theirs()
        expected = {f"loss/{loss}": pytest.approx(float(value), rel=1e-4) for loss, value in found.items()}
        assert {key: metrics[key] for key in metrics if key.startswith("loss/") and key != "loss/total"} == expected
    after = state_dicts(name, ours._state)
    for network, module in theirs.networks.items():
        # Adam makes gradients large that are little but rounding. Before an instance norm, those of biases are nothing
        # else.
        if network not in ("translator", "image_discriminator"):
            tolerance = 0.01 if network == "segmenter" else 0.03
            assert_moved_alike(module, before[network], after[network], tolerance)
    if theirs.teacher is not None:
        teacher = jax.tree.map(np.asarray, ours._state.teacher)
        found = segmenter_state_dict(CASES[name].dialect, {"params": teacher["params"], **teacher["model_state"]})
        assert_moved_alike(theirs.teacher, before["segmenter"], found)


def drawn_mask(step, iteration):
    key, _ = jax.random.split(jax.random.fold_in(step._state.key, iteration))
    return np.asarray(step.method.mixing.drawn_masks(key, jnp.asarray(step.batch["source"]["label"])))


@pytest.mark.parametrize("name", ["adda", "cycada"])
def test_methods_with_dropout_learn(benchmarks, name):
    generator = np.random.default_rng(0)
    batch = {
        domain: {
            "image": generator.integers(0, 256, (8, 28, 28, 3), np.uint8),
            "label": generator.integers(0, 10, (8, 1, 1)),
        }
        for domain in ("source", "target")
    }
    # Whatever the accuracy of the discriminator is, so that ADDA's second player moves too.
    step = benchmarks["torch_steps"].TorchStep(name, batch, 10)
    step.method.update_above = -1.0
    before = {
        network: [parameter.detach().clone() for parameter in module.parameters()]
        for network, module in step.networks.items()
    }
    for _ in range(2):
        assert all(torch.isfinite(value) for value in step().values())
    for network, module in step.networks.items():
        moved = [not torch.equal(*pair) for pair in zip(module.parameters(), before[network], strict=True)]
        assert all(moved), network
    assert step.peak_bytes() is None


def test_pixels_of_half_of_the_values_are_masked(benchmarks):
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 1, 2], [3, 255, 0]], [[7, 7, 7], [7, 7, 7]]])
    masks = torch.stack([benchmarks["torch_mixing"].class_mask(labels) for _ in range(20)])
    for mask in masks:
        assert len(labels[0][mask[0]].unique()) == 3 and len(labels[0][~mask[0]].unique()) == 2
        assert mask[1].all()
    assert len(masks[:, 0].unique(dim=0)) > 1


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_colour_jitter_is_that_of_the_library(benchmarks, order):
    generator = np.random.default_rng(0)
    images = generator.random((2, 5, 7, 3), np.float32)
    images[0, 0] = images[0, 0, :, :1]  # grey
    changes = generator.uniform(-0.25, 0.25, (2, 4)).astype(np.float32)
    expected = ops.colour_jitter(images, jnp.array([1, 1, 1, 0]) + changes, jnp.array(order))
    found = benchmarks["torch_mixing"].colour_jitter(torch.tensor(images).permute(0, 3, 1, 2), changes.tolist(), order)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_blur_is_that_of_the_library(benchmarks):
    images, sigmas = np.random.default_rng(0).random((2, 31, 52, 3), np.float32), [0.4, 1.1]
    expected = ops.gaussian_blur(images, jnp.array(sigmas), ops.blur_kernel_size((31, 52)))
    found = benchmarks["torch_mixing"].gaussian_blur(torch.tensor(images).permute(0, 3, 1, 2), sigmas)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_lovasz_is_that_of_the_library_with_ignored_pixels(benchmarks):
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((2, 6, 8, 5), np.float32)
    labels = np.where(generator.random((2, 6, 8)) < 0.3, 255, generator.integers(0, 4, (2, 6, 8)))
    expected = losses.lovasz_softmax(jax.nn.softmax(scores), labels)
    probabilities = torch.tensor(scores).permute(0, 3, 1, 2).softmax(1)
    assert float(benchmarks["torch_losses"].lovasz_softmax(probabilities, torch.tensor(labels))) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("arguments", [{"method": "adapt"}, {"precision": "fp16"}])
def test_unknown_words_are_refused_with_the_known_ones(benchmarks, arguments):
    ((field, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{field}: expected one of .*(advent|fp32).*, got '{value}'"):
        benchmarks["torch_steps"].TorchStep(**{"method": "advent", "batch": {}, "classes": 19, **arguments})
