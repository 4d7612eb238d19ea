"""The heads on foundation encoders as segmenters: sizes, mistakes, the methods that run on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import methods, networks
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.networks.dpt_head import levels_of
from uda_jax.training.initialisation import initialise

TINY = {"width": 16, "depth": 4, "heads": 2}
OWN = {"dpt": {"channels": (4, 4, 8, 8), "fused": 4}}


def shapes(name, size, **options):
    network = networks.build(name, 5, **TINY, **options)
    images = jnp.zeros((2, *size, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    return network, variables, jax.eval_shape(network.apply, variables, images)


@pytest.mark.parametrize(
    ("name", "size", "logits", "features"),
    [
        ("linear_dinov2_vits14", (60, 100), (4, 7, 5), (4, 7, 16)),
        ("light_dinov2_vits14", (128, 256), (40, 80, 5), (10, 20, 16)),
        ("light_dinov2_vits14", (1024, 1024), (320, 320, 5), (80, 80, 16)),
        ("dpt_dinov2_vits14", (70, 98), (40, 56, 5), (40, 56, 4)),
        ("dpt_dinov3_vits16", (64, 32), (32, 16, 5), (32, 16, 4)),
        ("pyramid_dinov2_vits14", (256, 470), (56, 112, 5), (56, 112, 2)),
        ("pyramid_dinov3_vits16", (64, 64), (16, 16, 5), (16, 16, 2)),
    ],
)
def test_sizes(name, size, logits, features):
    kind = name.partition("_")[0]
    _, _, outputs = shapes(name, size, **OWN.get(kind, {}))
    assert outputs["logits"].shape == (2, *logits) and outputs["features"].shape == (2, *features)
    assert outputs["logits"].dtype == outputs["features"].dtype == jnp.float32


def test_published_sizes():
    heads = {"dpt_dinov2_vitb14": 19, "pyramid_dinov2_vitb14": 19}
    for name, classes in heads.items():
        network = networks.build(name, classes)
        init = lambda network=network: network.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))  # noqa: E731
        params = jax.eval_shape(init)["params"]
        count = sum(leaf.size for part, tree in params.items() if part != "encoder" for leaf in jax.tree.leaves(tree))
        if name.startswith("dpt"):
            assert 10.8e6 < count < 11.0e6
        else:
            # The adapter reads between the blocks: neither the final norm nor a mask token is there.
            assert set(params) == {"encoder", "adapter", "head", "classifier"}
            assert not {"norm", "mask_token"} & set(params["encoder"])


def test_levels_of_the_dpt_head():
    for name, expected in {
        "dpt_dinov2_vits14": (2, 5, 8, 11),
        "dpt_dinov2_vitl14": (4, 11, 17, 23),
        "dpt_dinov2_vitg14": (9, 19, 29, 39),
        "dpt_dinov3_vith16plus": (7, 15, 23, 31),
    }.items():
        assert levels_of(networks.resolve(name)) == expected
    with pytest.raises(UserError, match=r"network.dpt.levels: expected blocks below depth = 12, got 12"):
        levels_of(networks.resolve("dpt_dinov2_vits14", levels=(1, 2, 3, 12)))


def test_groups_of_blocks_are_equal():
    network = networks.build("pyramid_dinov2_vits14", 3, **{**TINY, "depth": 3})
    with pytest.raises(UserError, match="network.pyramid.depth: expected a multiple of 4 blocks, got 3"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("source_only", "linear"),
        ("adaptsegnet", "dpt"),
        ("advent", "light"),
        ("dacs", "pyramid"),
        ("plca", "dpt"),
        ("ass", "linear"),
    ],
)
def test_methods_run_on_them(name, head):
    """A step of each method can be traced: it returns a state like the one it gets, and scalars."""
    kind = methods.get(name)
    own = {"source_only": {}, "ass": {}}.get(name, {})
    fields = {field.name for field in dataclasses.fields(kind)}
    segmenter = Segmenter(f"{head}_dinov2_vits14", input_norm="imagenet_rgb", **TINY, **OWN.get(head, {}))
    method = kind(num_classes=5, segmenter=segmenter, **{k: v for k, v in own.items() if k in fields})
    frame = {
        "image": jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2, 64, 64), jnp.int32),
    }
    domains = (*method.DOMAINS, *method.OPTIONAL_DOMAINS)
    batch = {domain: frame for domain in domains}
    state = jax.eval_shape(method.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(method.train_step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(metric.shape == () for metric in metrics.values())


def test_classify_is_the_end_of_the_network():
    images = jax.random.normal(jax.random.key(0), (1, 56, 56, 3))
    for head in ("light", "dpt"):
        network = networks.build(f"{head}_dinov2_vits14", 3, **{**TINY, "depth": 1}, **OWN.get(head, {}))
        variables = initialise(lambda key, network=network: network.init(key, images), jax.random.key(1))
        outputs = jax.jit(network.apply)(variables, images)
        again = network.apply(variables, outputs["features"], method="classify")
        np.testing.assert_allclose(again, outputs["logits"], rtol=1e-4, atol=1e-5)
