"""Encoders' maps by name, alone and inside whole networks, and their order of depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.errors import UserError

IMAGES = jax.random.normal(jax.random.key(0), (2, 33, 49, 3))
RESNET_MAPS = ("unpooled", "stem", "layer1", "layer2", "layer3", "layer4")
VGG_MAPS = ("stage1", "stage2", "stage3", "stage4", "stage5", "fc6", "fc7")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet14", {}, {"stem": (9, 13, 4), "layer1": (9, 13, 16), "layer2": (5, 7, 32), "layer4": (5, 7, 128)}),
        ("resnet50", {"output_stride": 4}, {"layer3": (9, 13, 64)}),
        ("resnet101", {"encoder_style": "torchvision"}, {"layer2": (5, 7, 32)}),
        ("resnet18", {}, {"stem": (9, 13, 4), "layer1": (9, 13, 4), "layer2": (5, 7, 8), "layer4": (5, 7, 32)}),
        ("resnet34", {"output_stride": 32}, {"layer2": (5, 7, 8), "layer3": (3, 4, 16), "layer4": (2, 2, 32)}),
        ("resnet50", {"output_stride": 16}, {"layer3": (3, 4, 64), "layer4": (3, 4, 128)}),
        ("resnet101", {"encoder_style": "v1c"}, {"stem": (9, 13, 4), "layer4": (5, 7, 128)}),
        ("vgg16", {}, {"stage1": (33, 49, 4), "stage3": (8, 12, 16), "stage5": (4, 6, 32), "fc7": (4, 6, 64)}),
    ],
)
def test_shapes(name, options, expected):
    network = networks.build_encoder(name, width=4, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    maps = jax.eval_shape(lambda v, x: network.apply(v, x, train=False, collect=tuple(expected)), shapes, IMAGES)
    assert {name: map.shape for name, map in maps.items()} == {name: (2, *shape) for name, shape in expected.items()}
    every = jax.eval_shape(network.apply, shapes, IMAGES)
    assert set(every) == set(VGG_MAPS if name == "vgg16" else RESNET_MAPS)


def test_maps_are_those_of_the_whole_network(filled):
    """The same parameters in the whole network and in its encoder alone: its outputs follow from the maps."""
    for name, last, options in [("resnet14", "layer4", {"multi_level": True}), ("vgg16", "fc7", {})]:
        whole = networks.build(f"deeplab_v2_{name}", 5, width=4, **options)
        encoder = networks.build_encoder(name, width=4)
        variables = filled(whole, IMAGES)
        alone = {collection: tree["encoder"] for collection, tree in variables.items()}
        outputs = jax.jit(whole.apply)(variables, IMAGES)
        maps = jax.jit(encoder.apply)(alone, IMAGES)
        np.testing.assert_array_equal(maps[last], outputs["features"])
        inside = jax.jit(lambda v, x, whole=whole: whole.apply(v, x, method="encode"))(variables, IMAGES)
        jax.tree.map(np.testing.assert_array_equal, inside, maps)
        if "aux_logits" in outputs:
            np.testing.assert_allclose(
                whole.apply(variables, maps["layer3"], method=lambda module, x: module.aux_head(x)),
                outputs["aux_logits"],
                rtol=1e-5,
                atol=1e-6,
            )


@pytest.mark.parametrize("name", ["deeplab_v2_resnet14", "dada_resnet14", "corda_resnet14", "deeplab_v2_vgg16"])
def test_every_segmenter_encodes_with_its_own_parameters(name, filled):
    network = networks.build(name, 3, width=2)
    variables = filled(network, IMAGES)
    encoder = networks.build_encoder(name.rpartition("_")[2], width=2)
    assert jax.tree.structure(variables["params"]["encoder"]) == jax.tree.structure(
        jax.eval_shape(encoder.init, jax.random.key(0), IMAGES)["params"]
    )
    wanted = ("stage3", "fc7") if "vgg16" in name else ("layer2", "layer4")
    maps, updated = network.apply(
        variables, IMAGES, train=True, collect=wanted, method="encode", mutable=["batch_stats"]
    )
    alone = {collection: tree["encoder"] for collection, tree in variables.items() if "encoder" in tree}
    expected, statistics = encoder.apply(alone, IMAGES, train=True, mutable=["batch_stats"])
    assert tuple(maps) == wanted
    for key in wanted:
        np.testing.assert_allclose(maps[key], expected[key], rtol=1e-5, atol=1e-5)
    # In training the encoder's statistics follow, and nothing else does.
    changed = updated.get("batch_stats", {}).get("encoder", {})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), changed, statistics.get("batch_stats", {}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet152", {}, "encoder 'resnet152' is unknown; did you mean 'resnet"),
        ("deeplab_v2_vgg16", {}, "encoder 'deeplab_v2_vgg16' is unknown; known: .*resnet101, "),
        (
            "vgg16",
            {"bn_mode": "frozen"},
            "encoder.vgg16.bn_mode: unknown field; known: dtype, encoder_init, remat, width",
        ),
        ("resnet14", {"aspp_branches": 4}, "encoder.resnet14.aspp_branches: unknown field"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(UserError, match=message):
        networks.build_encoder(name, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet14", "resnet: unknown map 'layer5'; known: unpooled, stem, layer1, layer2, layer3, layer4"),
        ("vgg16", "vgg16: unknown map 'layer5'; known: stage1, stage2, stage3, stage4, stage5, fc6, fc7"),
    ],
)
def test_an_unknown_map(name, message):
    network = networks.build_encoder(name, width=2)
    with pytest.raises(UserError) as caught:
        jax.eval_shape(lambda x: network.init(jax.random.key(0), x, collect=("layer5",)), IMAGES)
    assert str(caught.value.args[0]) == message


def depths(name, **options):
    build = networks.build_encoder if name in networks.encoder_names() else lambda n, **o: networks.build(n, 3, **o)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(build(name, **options).init, jax.random.key(0), images)["params"]
    depth = networks.layer_depth(name)
    found = {}
    for path, _ in jax.tree.leaves_with_path({"any": params}):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        found.setdefault(depth(path), set()).add(path.split("/")[2 if "/encoder/" in path else 1])
    return found


def test_depth_from_stem_to_heads():
    stages = [{"conv1", "bn1"}, {"layer1_0"}, {"layer2_0"}, {"layer3_0"}, {"layer4_0"}]
    assert depths("resnet14", width=2) == dict(enumerate(stages))
    found = depths("dada_resnet14", width=2)
    assert found == dict(enumerate([*stages, {"depth_branch", "head"}]))
    assert depths("deeplab_v2_resnet50", width=2)[3] == {f"layer3_{i}" for i in range(6)}
    found = depths("deeplab_v2_vgg16", width=2)
    assert found[0] == {"conv1_1", "conv1_2"} and [found[i] for i in (5, 6, 7)] == [{"fc6"}, {"fc7"}, {"head"}]
    assert depths("dtn") == dict(
        enumerate([{"conv1", "bn1"}, {"conv2", "bn2"}, {"conv3", "bn3"}, {"fc1", "bn4"}, {"fc2"}])
    )
    assert [networks.layer_depth("lenet")(f"{layer}/kernel") for layer in ("conv1", "conv2", "fc1", "fc2")] == [
        0,
        1,
        2,
        3,
    ]


def test_a_network_without_stages_has_one_depth():
    assert networks.layer_depth("translator")("translator/conv1/kernel") == 0
    with pytest.raises(UserError, match="network 'resnet1' is unknown"):
        networks.layer_depth("resnet1")
