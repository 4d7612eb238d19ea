"""The registry of networks: names, mistakes, and the discriminator's size."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

from uda_jax import networks
from uda_jax.errors import UserError
from uda_jax.networks import lenet


@pytest.mark.parametrize("name", ["deeplab_v2_resnet50", "deeplab_v2_resnet14"])
def test_segmenters(name):
    network = networks.build(name, 7)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 96, 192, 3)))
    outputs = jax.eval_shape(network.apply, shapes, jnp.zeros((2, 96, 192, 3)))
    assert outputs["logits"].shape == (2, 13, 25, 7)
    assert hash(network) == hash(networks.build(name, 7))  # a static argument of jit


@pytest.mark.parametrize(("classes", "count"), [(19, 2_781_121), (16, 2_778_049)])
def test_discriminator(classes, count):
    network = networks.build("pixel_discriminator", classes)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, classes)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    for size, expected in [((512, 1024), (16, 32)), ((720, 1280), (22, 40)), ((760, 1280), (23, 40))]:
        assert jax.eval_shape(network.apply, shapes, jnp.zeros((1, *size, classes))).shape == (1, *expected, 1)


def test_discriminator_width():
    network = networks.build("pixel_discriminator", 5, width=8, dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.ones((1, 32, 64, 5)))
    assert variables["params"]["conv4"]["kernel"].shape == (4, 4, 32, 64)
    assert logits.dtype == variables["params"]["conv1"]["bias"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplab_v2_resnet11", {}, "network 'deeplab_v2_resnet11' is unknown; did you mean 'deeplab_v2_resnet101'"),
        ("deeplab_v2_resnet14", {"multilevel": True}, r"multilevel: unknown field; did you mean 'multi_level'"),
        ("deeplab_v2_resnet14", {"aspp_branches": 3}, "aspp_branches: expected one of 2, 4, got 3"),
        ("deeplab_v2_resnet14", {"bn_mode": "eval"}, "bn_mode: expected one of 'batch', 'frozen', got 'eval'"),
        ("deeplab_v2_resnet14", {"dtype": "float16"}, "dtype: expected one of"),
        ("deeplab_v2_resnet14", {"width": 0}, "width: expected an integer >= 1, got 0"),
        ("pixel_discriminator", {"multi_level": True}, "multi_level: unknown field; known: dtype, width"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(UserError, match=message):
        networks.build(name, 19, **options)


def test_number_of_classes():
    with pytest.raises(UserError, match="expected num_classes as an integer >= 1, got 0"):
        networks.build("deeplab_v2_resnet14", 0)


def test_every_file_of_networks_is_found():
    """No table names the networks of other files: each file's own are those that there are."""
    files = [importlib.import_module(f"uda_jax.networks.{m.name}") for m in pkgutil.iter_modules(networks.__path__)]
    offered = [name for file in files for name in getattr(file, "NETWORKS", ())]
    assert sorted(offered) == networks.names() and {"translator", "refiner", "dtn", "dada_resnet50"} < set(offered)
    assert sorted(name for file in files for name in getattr(file, "ENCODERS", ())) == networks.encoder_names()
    for name in networks.names():
        assert isinstance(networks.resolve(name), networks.Options)


def test_a_name_is_offered_once(monkeypatch):
    monkeypatch.setattr(lenet, "NETWORKS", {"translator": lenet.NETWORKS["lenet"]})
    with pytest.raises(ValueError, match=r"networks/translators.py: another file offers \['translator'\], too"):
        networks._offered("NETWORKS")
