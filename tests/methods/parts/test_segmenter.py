"""The segmenter's section: its own network's fields, in Python, in configs and from the command line."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import config, networks, ops
from uda_jax.errors import UserError
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.networks.vgg import VGG16Options
from uda_jax.runs import stages
from uda_jax.schema import config_field, from_mapping, to_dict

SMALL = Segmenter(name="deeplab_v2_resnet14", width=4, multi_level=True, input_norm="tanh")


def fields(section):
    return {field.name for field in dataclasses.fields(section)}


def method_of(reference, *words):
    experiment = config.experiment(config.load(reference, words))
    return stages.recipe(experiment, num_classes=3)[-1].method


def test_fields_are_the_networks_own():
    shared = {"name", "input_norm", "align_corners", "freeze", "freeze_statistics"}
    heads = {"aspp_branches", "aspp_bias", "head_init"}
    assert fields(Segmenter(name="lenet")) == shared | {"grey"}
    assert fields(Segmenter(name="deeplab_v2_vgg16")) == shared | heads | {"encoder_init", "remat", "width"}
    resnet = {"encoder_init", "encoder_style", "bn_mode", "width", "output_stride", "remat"}
    assert fields(SMALL) == shared | heads | resnet | {"multi_level"}
    assert fields(Segmenter(name="corda_resnet50")) == shared | heads | resnet | {"initial_head", "structure"}


def test_defaults_are_those_of_the_network():
    assert (Segmenter(name="deeplab_v2_resnet14").width, Segmenter().width) == (16, 64)
    assert (Segmenter(name="deeplab_v2_resnet14").encoder_init, Segmenter().encoder_init) == ("he", "normal")
    assert (Segmenter(name="corda_resnet14").aspp_branches, SMALL.aspp_branches) == (2, 4)
    assert Segmenter(name="deeplab_v2_resnet14", width=None).width == 16
    assert dataclasses.replace(SMALL, multi_level=None).multi_level is False
    assert Segmenter(name="deeplab_v2_vgg16").multi_level is False


def test_a_section_is_a_value():
    assert SMALL == dataclasses.replace(SMALL, align_corners=True) == copy.deepcopy(SMALL)
    assert hash(SMALL) == hash(copy.deepcopy(SMALL))
    assert SMALL != dataclasses.replace(SMALL, width=5) and SMALL != Segmenter(name="dada_resnet14", width=4)
    assert isinstance(SMALL, Segmenter) and repr(SMALL).startswith("Segmenter(name='deeplab_v2_resnet14', input_norm=")
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.width = 3


def test_another_name_keeps_what_differs_from_the_old_defaults():
    vgg = dataclasses.replace(SMALL, name="deeplab_v2_vgg16")
    assert vgg == Segmenter(name="deeplab_v2_vgg16", width=4, input_norm="tanh")
    # The old network's defaults, 'he' and 16, are not carried over.
    large = dataclasses.replace(Segmenter(name="deeplab_v2_resnet14", bn_mode="frozen"), name="dada_resnet101")
    assert large == Segmenter(name="dada_resnet101", bn_mode="frozen")
    corda = dataclasses.replace(SMALL, name="corda_resnet14", initial_head="linear")
    assert (corda.initial_head, corda.width) == ("linear", 4)
    with pytest.raises(UserError, match="Segmenter.widht: unknown field of 'dada_resnet14'; did you mean 'width'"):
        dataclasses.replace(SMALL, name="dada_resnet14", widht=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "deeplab_v2_resnet11"}, "m.name: unknown name 'deeplab_v2_resnet11'; did you mean 'deeplab_v2_"),
        ({"name": 3}, "m.name: unknown name 3; known: corda_efficientnet_lite0"),
        (
            {"name": "dada_resnet14", "multi_levl": True},
            "m.multi_levl: unknown field of 'dada_resnet14'; known: align_corners",
        ),
        ({"name": "deeplab_v2_resnet14", "multilevel": True}, "m.multilevel: unknown field of 'deeplab_v2_resnet14'; "),
        (
            {"name": "lenet", "width": 4},
            "m.width: unknown field of 'lenet'; known: align_corners, freeze, freeze_statistics, grey, input_norm",
        ),
        ({"name": "deeplab_v2_resnet14", "width": 0}, "m.width: expected an integer >= 1, got 0"),
        ({"width": "4"}, "m.width: expected an integer, got '4'"),
        ({"dtype": "bfloat16"}, "m.dtype: unknown field of 'deeplab_v2_resnet101'"),
        ({"depth_head": True}, "m.depth_head: unknown field of 'deeplab_v2_resnet101'"),
        ({"align_corners": 1}, "m.align_corners: expected True or False, got 1"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(UserError) as caught:
        from_mapping(Segmenter, values, "m")
    assert str(caught.value).startswith(message)


def test_mistakes_in_python():
    with pytest.raises(UserError, match="Segmenter.multi_level: unknown field of 'deeplab_v2_vgg16'; known: align"):
        Segmenter(name="deeplab_v2_vgg16", multi_level=True)
    with pytest.raises(UserError, match="Segmenter.name: unknown name 'deeplab'"):
        Segmenter(name="deeplab")


@dataclasses.dataclass(frozen=True)
class Outer:
    segmenter: Segmenter = config_field(Segmenter(name="lenet", align_corners=False), "A section.")


def test_fields_left_out_take_the_outer_fields_default():
    assert from_mapping(Outer, {"segmenter": {"input_norm": "tanh"}}).segmenter == Segmenter(
        name="lenet", align_corners=False, input_norm="tanh"
    )
    assert from_mapping(Outer, {"segmenter": {"name": "lenet", "align_corners": None}}).segmenter == Segmenter(
        name="lenet"
    )
    assert from_mapping(Outer, {"segmenter": {"name": "dtn"}}).segmenter == Segmenter(name="dtn")
    # A run of before the fields were the network's own: those of other networks are there and say nothing.
    assert from_mapping(Outer, {"segmenter": {"name": "lenet", "initial_head": None}}) == Outer()


def test_mapping_round_trip():
    assert to_dict(SMALL)["width"] == 4 and from_mapping(Segmenter, to_dict(SMALL)) == SMALL
    flat = config.as_config(SMALL)
    assert set(flat.keys()) == fields(SMALL) and (flat.width, flat.multi_level, flat.remat) == (4, True, ())
    assert from_mapping(Segmenter, json.loads(json.dumps(flat.to_dict()))) == SMALL


def test_words_of_the_command_line():
    words = ("width=6", "align_corners=False", "multi_level=True")
    section = method_of("advent:smoke", *(f"--config.method.segmenter.{word}" for word in words)).segmenter
    assert (section.width, section.align_corners, section.multi_level) == (6, False, True)
    # The name acts first, wherever it stands; multi_level is dropped, since the new network has none.
    words = ("--config.method.segmenter.width=6", "--config.method.segmenter.name=deeplab_v2_vgg16")
    loaded = config.load("adaptsegnet:folder", words)
    assert "multi_level" not in loaded.method.segmenter and loaded.is_locked and loaded.method.segmenter.is_locked
    assert method_of("adaptsegnet:folder", *words).segmenter == Segmenter(
        name="deeplab_v2_vgg16", input_norm="imagenet_rgb", encoder_init="he", width=6
    )
    experiment = config.experiment(loaded)
    assert config.to_plain(config.experiment(config.to_plain(experiment))) == config.to_plain(experiment)


def test_a_stages_network_may_have_another_name():
    word = "--config.stages.inter.method.segmenter.name=deeplab_v2_vgg16"
    experiment = config.experiment(config.load("intrada:smoke", (word,)))
    assert experiment.stages["inter"].method["segmenter"]["name"] == "deeplab_v2_vgg16"
    assert "output_stride" not in experiment.stages["inter"].method["segmenter"]
    assert experiment.method["segmenter"]["name"] == "deeplab_v2_resnet14"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=deeplab_v2_vgg17"], "config.method.segmenter.name: unknown name 'deeplab_v2_vgg17'; did you mean"),
        (["name=deeplab_v2_vgg16", "bn_mode=frozen"], "config.method.segmenter.bn_mode: unknown field; known: align_c"),
        (["width=x", "name=dada_resnet14"], "--config.method.segmenter.width: expected an integer, got 'x'"),
        (["initial_head=aspp"], "config.method.segmenter.initial_head: unknown field; known: align_corners, aspp_bias"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    with pytest.raises(UserError) as caught:
        config.load("advent:smoke", [f"--config.method.segmenter.{word}" for word in words])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_upsample_interpolates_as_the_section_says():
    maps = jax.random.normal(jax.random.key(0), (1, 3, 4, 2))
    for section in (SMALL, dataclasses.replace(SMALL, align_corners=False)):
        expected = ops.resize_bilinear(maps, (5, 7), align_corners=section.align_corners)
        np.testing.assert_array_equal(section.upsample(maps, (5, 7)), expected)


def test_build_and_what_is_asked_of_the_network():
    vgg = Segmenter(name="deeplab_v2_vgg16", width=2, aspp_branches=2)
    network = vgg.build(5, "bf16", depth_head=True)
    assert network.num_classes == 5 and network.options == VGG16Options(
        dtype=jnp.dtype(jnp.bfloat16), width=2, aspp_branches=2, depth_head=True
    )
    assert vgg.options == VGG16Options(width=2, aspp_branches=2)
    assert (vgg.frozen, SMALL.frozen, Segmenter(name="lenet").frozen) == ((r"head/branch_[23]/",), (), ())
    assert [vgg.layer_depth(f"segmenter/{path}") for path in ("encoder/conv1_2/kernel", "head/branch_0/bias")] == [0, 7]


def test_no_network_has_an_option_of_the_name_of_a_property():
    """It would take the place of what methods ask of every network."""
    own = {name for name, member in vars(Segmenter).items() if isinstance(member, property) or callable(member)}
    for name in networks.names():
        options = {field.name for field in dataclasses.fields(networks.find(name).options)}
        assert not options & own, name
