"""Containers, prefixes, types and domains of published files; the dialect from the names alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import weights
from uda_jax.errors import UserError

STUDENT = {"conv1.weight": np.full((2, 3), 1.0, np.float32), "bn1.num_batches_tracked": np.zeros((), np.int64)}
TEACHER = {name: array + 1 for name, array in STUDENT.items()}
IMAGENET = {name: array + 2 for name, array in STUDENT.items()}


def prefixed(prefix, state_dict=STUDENT):
    return {prefix + name: array for name, array in state_dict.items()}


def error(function, *args, **options):
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(state_dict, expected):
    assert list(state_dict) == list(expected)
    assert all(state_dict[name] is expected[name] for name in expected)


CONTAINERS = {
    "bare": STUDENT,
    "dacs": {"iteration": 3, "optimiser": {"state": {}}, "config": {"model": "DeepLab"}, "model": STUDENT},
    "plca": {"weights": STUDENT, "weights_D": TEACHER},
    "plca_resume": {
        "epochs": 1,
        "iters": 2,
        "model_state_dict": STUDENT,
        "optimizer_state_dict": {"state": {}},
        "model_state_dict_D": TEACHER,
    },
    "mmcv": {"meta": {"epoch": 1}, "state_dict": STUDENT, "optimiser": {"state": {}}},
    "nested": {"model": {"state_dict": STUDENT}},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container):
    assert_same(weights.unwrap(CONTAINERS[container]), STUDENT)


@pytest.mark.parametrize(
    "prefix", ["module.", "module.module.", "Scale.", "model.", "module.model.", "model.module.", "module.Scale."]
)
@pytest.mark.parametrize("wrapper", [None, "model", "weights", "model_state_dict", "state_dict"])
def test_prefixes(prefix, wrapper):
    state_dict = prefixed(prefix)
    assert_same(weights.unwrap({wrapper: state_dict, "iteration": 1} if wrapper else state_dict), STUDENT)


def test_names_that_look_like_prefixes_stay():
    for names in (
        ["backbone.conv1.weight", "backbone.bn1.weight"],
        ["model.1.weight", "model.10.conv_block.1.weight"],
        ["conv1.weight", "module.bn1.weight"],
        ["conv1.module.weight"],
        ["modules.conv1.weight"],
        ["layer1.Scale.model.weight"],
    ):
        assert list(weights.unwrap(dict.fromkeys(names, np.zeros(1)))) == names
    assert list(weights.unwrap({"module.model.1.weight": np.zeros(1)})) == ["model.1.weight"]


def test_student_and_teacher_of_a_container():
    both = {"iteration": 3, "model": prefixed("module."), "ema_model": prefixed("module.", TEACHER)}
    assert_same(weights.unwrap(both), STUDENT)
    assert_same(weights.unwrap(both, which="teacher"), TEACHER)


@pytest.mark.parametrize("outer", ["", "module."])
def test_student_and_teacher_by_prefix(outer):
    names = [
        *prefixed(f"{outer}imnet_model.module.", IMAGENET).items(),
        *prefixed(f"{outer}model.", STUDENT).items(),
        *prefixed(f"{outer}ema_model.", TEACHER).items(),
    ]
    for ordered in (names, names[::-1]):
        state_dict = {"state_dict": dict(ordered)}
        for which, expected in (("student", STUDENT), ("teacher", TEACHER)):
            found = weights.unwrap(state_dict, which=which)
            assert found.keys() == expected.keys()
            assert all(found[name] is expected[name] for name in expected)


def test_frozen_copy_is_dropped():
    state_dict = {**prefixed("model."), **prefixed("imnet_model.", IMAGENET)}
    assert_same(weights.unwrap(state_dict), STUDENT)


def test_no_teacher():
    told = "w.pth: holds no averaged teacher ('ema_model'); take the student"
    for container in (STUDENT, {"model": STUDENT, "ema_model": None}, prefixed("model.")):
        assert error(weights.unwrap, container, which="teacher", where="w.pth") == told
    assert error(weights.unwrap, {"ema_model": TEACHER}, where="w.pth") == (
        "w.pth: holds an averaged teacher ('ema_model') only; ask for the teacher"
    )
    assert error(weights.unwrap, prefixed("ema_model."), where="w.pth") == (
        "w.pth: names start with 'ema_model.' or 'imnet_model.', so that 'model.', 'ema_model.' and 'imnet_model.' are "
        "expected, got no 'model.'"
    )
    assert error(weights.unwrap, {**prefixed("ema_model."), "head.bias": np.zeros(1)}, where="w.pth").endswith(
        "got 'head.'"
    )
    assert error(weights.unwrap, STUDENT, which="ema", where="w.pth") == (
        "w.pth: expected which as 'student' or 'teacher', got 'ema'"
    )


def test_no_state_dict():
    expected = "expected tensors by name, or a dict with one of the keys model, weights, model_state_dict, state_dict"
    got = "ema_model, got int under 'epoch'"
    assert error(weights.unwrap, {"epoch": 3}, where="w.pth") == f"w.pth: {expected}, {got}"
    assert (
        error(weights.unwrap, {0: np.zeros(1)}, where="w.pth") == f"w.pth: {expected}, ema_model, got ndarray under '0'"
    )
    assert error(weights.unwrap, {}, where="w.pth") == f"w.pth: {expected}, ema_model, got nothing"
    assert error(weights.unwrap, [1], where="w.pth") == "w.pth: expected a state dict, got list"
    assert error(weights.unwrap, {"model": STUDENT, "state_dict": STUDENT}, where="w.pth") == (
        "w.pth: holds state dicts under 'model' and 'state_dict'; keep one of them"
    )
    endless = {}
    endless["model"] = endless
    assert error(weights.unwrap, endless, where="w.pth").startswith("w.pth: state dicts are nested too deep")


def test_cast():
    state_dict = {
        "half": np.array([0.1], np.float16),
        "brain": np.array([0.1], jnp.bfloat16),
        "double": np.array([0.1], np.float64),
        "single": np.array([0.1], np.float32),
        "flags": np.array([True]),
        "bn1.num_batches_tracked": np.array(7, np.float16),
    }
    cast = weights.cast(state_dict)
    types = ["float32"] * 4 + ["bool", "int64"]
    assert [array.dtype.name for array in cast.values()] == types
    # 0.1 in each of the narrow types.
    assert cast["half"][0] == np.float32(0.0999755859375)
    assert cast["brain"][0] == np.float32(0.10009765625)
    assert cast["double"][0] == np.float32(0.1)
    assert cast["bn1.num_batches_tracked"] == 7
    assert cast["single"] is state_dict["single"]


def test_select_domain():
    state_dict = {
        "backbone.conv1.weight": np.zeros(1),
        "backbone.bn1.norm_layers.0.weight": np.array([0]),
        "backbone.bn1.norm_layers.1.weight": np.array([1]),
    }
    for number, domain in enumerate(("source", "target")):
        selected = weights.select_domain(state_dict, domain)
        assert list(selected) == ["backbone.conv1.weight", "backbone.bn1.weight"]
        assert selected["backbone.bn1.weight"].tolist() == [number]
    assert error(weights.select_domain, state_dict, "test", "w.weights") == (
        "w.weights: expected domain as 'source' or 'target', got 'test'"
    )
    assert error(weights.select_domain, STUDENT, "source", "w.weights") == (
        "w.weights: no batch norm is specific to a domain; leave the domain out"
    )


def names(*more, blocks=23):
    """Enough names of a ResNet to tell its family."""
    encoder = ["conv1.weight", "bn1.weight", "layer1.0.conv3.weight"]
    encoder += [f"layer3.{i}.conv3.weight" for i in range(blocks)]
    return dict.fromkeys([*encoder, *more], np.zeros(1, np.float32))


def basic_names(*more, blocks=2):
    """Likewise of one with basic blocks."""
    encoder = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"]
    encoder += [f"layer3.{i}.conv2.weight" for i in range(blocks)]
    return dict.fromkeys([*encoder, *more], np.zeros(1, np.float32))


HEAD5, HEAD6 = (f"layer{stage}.conv2d_list.0.weight" for stage in (5, 6))


@pytest.mark.parametrize(
    ("state_dict", "dialect"),
    [
        (names(HEAD5), "dacs"),
        (names(HEAD6, "enc4_1.weight"), "dada"),
        (names("fc.weight", "fc.bias"), "torchvision_resnet101"),
        (names("fc.weight", "fc.bias", blocks=6), "torchvision_resnet50"),
        (basic_names("fc.weight"), "torchvision_resnet18"),
        (basic_names(), "torchvision_resnet18"),
        (basic_names("fc.weight", blocks=6), "torchvision_resnet34"),
        (names("classifier.0.convs.0.0.weight"), "plca"),
        (names("classifier.0.convs.0.0.weight", "backbone.bn1.norm_layers.0.weight"), "plca"),
        (names("multi_modal_distillation.self_attention.S.D.conv.weight"), "corda"),
    ],
)
def test_dialect_of_a_resnet(state_dict, dialect):
    assert weights.detect(state_dict) == dialect


def test_branches_decide_where_names_cannot():
    state_dict = names(HEAD5, HEAD6)
    assert weights.detect(state_dict, 2) == "adaptsegnet"
    assert weights.detect(state_dict, branches=4) == "advent"
    assert error(weights.detect, state_dict, where="w.pth") == (
        "w.pth: keys fit AdaptSegNet (2 branches) and ADVENT, IntraDA (4); say which with --branches 2 or --branches 4"
    )
    assert error(weights.detect, state_dict, 3, "w.pth") == "w.pth: expected 2 or 4 branches, got 3"
    assert weights.detect(names(HEAD5), branches=2) == "dacs"
    assert error(weights.detect, names(HEAD5), 4, "w.pth") == (
        "w.pth: keys fit 'dacs', whose classifiers sum 2 branches, got --branches 4; write --branches 2, or let "
        "the head start afresh"
    )


def test_init_files_are_told_apart():
    """Caffe's encoder comes with a head of 21 classes, torchvision's with `fc`; they need other images."""
    caffe = weights.detect(weights.unwrap(prefixed("Scale.", names(HEAD5))))
    torchvision = weights.detect(names("fc.weight"))
    assert weights.checkpoint_info(caffe)[2:4] == ("caffe", "caffe_bgr")
    assert weights.checkpoint_info(torchvision)[2:4] == ("torchvision", "imagenet_rgb")


def test_unknown_family():
    assert error(weights.detect, names(), where="w.pth") == (
        "w.pth: a ResNet without head may be caffe_resnet101 or torchvision's; name the dialect"
    )
    assert error(weights.detect, names("fc.weight", blocks=36), where="w.pth") == (
        "w.pth: a torchvision ResNet with 36 bottlenecks in layer3; expected 6 (ResNet-50) or 23 (ResNet-101)"
    )
    assert error(weights.detect, basic_names("fc.weight", blocks=3), where="w.pth") == (
        "w.pth: a torchvision ResNet with 3 basic blocks in layer3; expected 2 (ResNet-18) or 6 (ResNet-34)"
    )
    assert error(weights.detect, STUDENT, where="w.pth").startswith(
        "w.pth: keys fit no known family (first: 'conv1.weight', 'bn1.num_batches_tracked'); known: adaptsegnet, "
    )


def test_a_checkpoint_of_lightning():
    """VFM-UDA's: student and teacher beside what only training and scoring read."""
    networks = {**prefixed("network."), **prefixed("network_ema.", TEACHER)}
    others = {"network_feature_extractor.norm.bias": np.zeros(1), "metrics.0.confmat": np.zeros(1)}
    container = {"epoch": 3, "pytorch-lightning_version": "2", "state_dict": {**networks, **others}}
    assert_same(weights.unwrap(container), STUDENT)
    assert_same(weights.unwrap(container, which="teacher"), TEACHER)
    assert "holds no averaged teacher ('network_ema.')" in error(
        weights.unwrap, {"state_dict": prefixed("network.")}, which="teacher", where="a"
    )
