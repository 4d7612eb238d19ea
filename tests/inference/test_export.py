"""Exported folders of every segmenter of the library, beside the networks themselves; tiny and with random weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.export import folder, forms, onnx, opening, parity, stablehlo, tensors, writing
from uda_jax.inference.export.forms import Form
from uda_jax.inference.options import Inference
from uda_jax.methods.base import SegmentationMethod, Segmenter, TrainState
from uda_jax.methods.dacs import Dacs
from uda_jax.methods.plca import PLCA

SPACE = LabelSpace(("ground", "wall", "thing"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
FRAMES = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
SMALL = ("deeplab_v2_resnet14", {"width": 2})
SEGMENTERS = [
    ("deeplab_v2_resnet14", {"width": 2, "multi_level": True}),
    ("deeplab_v2_resnet14", {"width": 2, "encoder_style": "torchvision", "aspp_branches": 2, "aspp_bias": False}),
    ("deeplab_v2_vgg16", {"width": 2}),
    ("dada_resnet14", {"width": 2}),
    ("corda_resnet14", {"width": 2, "initial_head": "aspp"}),
    ("corda_resnet14", {"width": 2, "initial_head": "linear"}),
    ("lenet", {}),
    ("dtn", {}),
]


def source(name, options, section=None, domain=None, **fields):
    """Returns a network with random weights, and how it is used."""
    segmenter = Segmenter(name=name, input_norm="imagenet_rgb", **options)
    method = SegmentationMethod(num_classes=3, segmenter=segmenter, **fields)
    variables = dict(jax.jit(method.initial_segmenter)(jax.random.key(1), {"target": {"image": FRAMES[0][None]}}))
    params = variables.pop("params")
    state = TrainState(0, {"segmenter": params}, {"segmenter": variables}, {}, None, jax.random.key(0), {})
    return forms.Source(method, state, section or Inference(), domain or Domain())


@pytest.fixture(scope="module")
def small():
    return source(*SMALL)


def write(tmp_path, source, form, kind="stablehlo", frames=FRAMES):
    slip = writing.write(tmp_path / "exported", kind, source, form, SPACE, frames, {"label": "tiny"})
    assert slip["equal_pixels"] >= parity.GOAL and slip["frames"] == len(frames)
    assert slip["milliseconds"].keys() == {"run", "exported"}
    return slip, json.loads((tmp_path / "exported" / "model.json").read_text())


@pytest.mark.parametrize(("name", "options"), SEGMENTERS)
def test_stablehlo_is_the_network(tmp_path, name, options):
    slip, facts = write(tmp_path, source(name, options), Form(outputs="scores", size=(32, 32)))
    assert slip["largest_difference"] < 1e-4
    assert facts["platforms"] == ["cpu", "cuda", "tpu"] and facts["shape"] == ["b", "32", "32", "3"]


@pytest.mark.parametrize(("name", "options"), SEGMENTERS)
def test_onnx_is_the_network(tmp_path, name, options):
    pytest.importorskip("jax2onnx", reason=f"a separate tool: {onnx.INSTALL}")
    form = Form(outputs="scores", size=(32, 32), batch=2)
    slip, facts = write(tmp_path, source(name, options), form, "onnx")
    assert slip["largest_difference"] < 1e-4
    assert facts["shape"] == ["2", "32", "32", "3"] and facts["opset"] >= 18


@pytest.mark.parametrize("name", ["deeplab_v2_resnet14", "lenet"])
def test_safetensors_are_the_network(tmp_path, name):
    options = dict(SEGMENTERS)[name]
    slip, facts = write(tmp_path, source(name, options), Form(outputs="scores"), "safetensors")
    assert slip["largest_difference"] == 0
    assert facts["network"]["segmenter"]["name"] == name and facts["inside"] == ["network"]


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_safetensors_are_the_network_that_predicts(tmp_path, network):
    found = source(*SMALL)
    fields = {field.name: getattr(found.method, field.name) for field in dataclasses.fields(found.method)}
    method = Dacs(**fields, predict_with=network)
    params = found.state.params["segmenter"]
    teacher = {"params": jax.tree.map(lambda x: 2 * x, params), "model_state": found.state.model_state["segmenter"]}
    state = found.state.replace(step=np.int32(1), teacher=teacher)
    slip, _ = write(tmp_path, dataclasses.replace(found, method=method, state=state), Form(), "safetensors")
    assert slip["largest_difference"] == 0
    arrays = safetensors.numpy.load_file(tmp_path / "exported" / "model.safetensors")
    expected = (params if network == "student" else teacher["params"])["encoder"]["conv1"]["kernel"]
    np.testing.assert_array_equal(arrays["params/encoder/conv1/kernel"], expected)


def test_aggregated_predictions_are_no_arrays(small):
    method = PLCA(segmenter=small.method.segmenter, num_classes=3, test_aggregation=True)
    with pytest.raises(UserError, match="--to safetensors: .* config.method.test_aggregation .*; take --to stablehlo"):
        tensors.write(method, small.state)


@pytest.mark.parametrize(("name", "options", "multiple"), [(*SMALL, 1), ("deeplab_v2_vgg16", {"width": 2}, 8)])
def test_one_program_for_any_size(tmp_path, name, options, multiple):
    generator = np.random.default_rng(1)
    frames = [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((37, 50), (16, 24))]
    slip, facts = write(tmp_path, source(name, options), Form(outputs="scores"), frames=frames)
    assert slip["largest_difference"] < 1e-4
    assert facts["shape"] == (["b", "h", "w", "3"] if multiple == 1 else ["b", "8*h", "8*w", "3"])
    model = opening.opened(tmp_path / "exported")
    if multiple == 8:
        with pytest.raises(UserError, match="image: expected sides that are multiples of 8, got 37x50; resize or pad"):
            model(frames[0])


def test_normalisation_outside_and_probabilities(tmp_path, small):
    form = Form(outputs="probabilities", input="normalised", size=(32, 32))
    slip, facts = write(tmp_path, small, form)
    assert slip["largest_difference"] < 1e-5
    assert facts["inside"] == ["network", "interpolate", "softmax"] and facts["normalisation"] == "imagenet_rgb"


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_resizing_inside_is_that_of_the_run(tmp_path, fit):
    resizing = source(*SMALL, domain=Domain(size=(24, 40), fit=fit))
    slip, facts = write(tmp_path, resizing, Form(outputs="scores", size=(40, 48)))
    assert slip["largest_difference"] < 1e-4
    assert facts["inside"][0] == "resize" and facts["resize"] == {
        "size": [24, 40],
        "fit": fit,
        "image_resampling": "bicubic",
    }


def test_windows_and_mirror_images_are_inside(tmp_path):
    scored = source(*SMALL, section=Inference(window=(24, 24), stride=(8, 8), flip=True, average="probabilities"))
    slip, _ = write(tmp_path, scored, Form(outputs="scores", size=(32, 32), batch=1, platforms=("cpu",)))
    assert slip["largest_difference"] < 1e-3
    with pytest.raises(UserError, match="--size any: the network, or how it is scored, asks for images of a size"):
        stablehlo.write(forms.program(scored, Form()), Form())


def test_labels_alone_and_a_fixed_number_of_images(tmp_path, small):
    slip, facts = write(tmp_path, small, Form(size=(32, 32), batch=2))
    assert slip["largest_difference"] is None and facts["inside"][-1] == "argmax"
    model = opening.opened(tmp_path / "exported")
    result = model(np.stack(FRAMES))
    assert result.labels.shape == (3, 32, 32) and result.colours.shape == (3, 32, 32, 3)
    assert model.classes == SPACE.names and model.palette.tolist() == [list(colour) for colour in SPACE.colours]
    for name in ("scores", "confidence"):
        with pytest.raises(UserError, match=f"{name}: the exported model gives labels alone; export it again with"):
            getattr(result, name)
    with pytest.raises(UserError, match="image: the exported model takes 32x32 alone, got 16x32; resize it before"):
        model(FRAMES[0][:16])


def damaged_model(path):
    file = path / "model.stablehlo"
    file.write_bytes(file.read_bytes()[:-1])
    return "model.stablehlo: is cut or changed, its sha256 is not that of model.json"


def missing_model(path):
    (path / "model.stablehlo").unlink()
    return "model.stablehlo: no such file or folder"


def another_program(path):
    (path / "model.stablehlo").write_bytes(b"no program")
    change(path, sha256=folder.sha256(b"no program"))
    return "model.stablehlo: holds no program that JAX .* reads; export it again"


def cut_description(path):
    file = path / "model.json"
    file.write_text(file.read_text()[:-20])
    return r"model.json: cannot be read as JSON \(.*\), it may be cut; copy the folder again"


def deep_description(path):
    (path / "model.json").write_text("[" * 100_000)
    return "model.json: cannot be read as JSON"


def other_description(path):
    (path / "model.json").write_text("[]")
    return "model.json: expected what 'uda export' writes, of version 1, found version None"


def change(path, **entries):
    facts = json.loads((path / "model.json").read_text()) | entries
    (path / "model.json").write_text(json.dumps(facts))


CHANGES = [
    ({"description": 2}, "of version 1, found version 2"),
    ({"format": "../../etc/passwd"}, "format one of stablehlo, onnx, safetensors, found ../../etc/passwd"),
    ({"shape": "b"}, "shape a list, found another thing"),
    ({"shape": ["b"]}, "shape of four lengths"),
    ({"shape": ["1", "9" * 5000, "32", "3"]}, "shape of four lengths"),
    ({"multiple_of": 0}, "shape of four lengths"),
    ({"resize": {"size": None}}, "resize of size, fit, image_resampling"),
    ({"resize": {"size": [0, 1], "fit": "pad", "image_resampling": "bicubic"}}, "resize.size"),
    ({"inference": {"flips": True}}, "inference"),
    ({"classes": [{"id": 0, "name": "a", "colour": [0, 0, 256]}]}, "expected classes with id, name and colour"),
    ({"classes": [{"id": 1, "name": "a", "colour": [0, 0, 0]}]}, "expected classes with id, name and colour"),
    ({"classes": []}, "expected classes with id, name and colour"),
    ({"input": "normalised", "normalisation": "\x1b[2J"}, "unknown normalisation, .x1b"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("written") / "exported"
    writing.write(path, "stablehlo", small, Form(size=(32, 32), platforms=("cpu",)), SPACE, FRAMES[:1], {})
    return path


@pytest.fixture
def copied(written, tmp_path):
    path = tmp_path / "copy"
    path.mkdir()
    for file in written.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.mark.parametrize(
    "damage", [damaged_model, missing_model, another_program, cut_description, deep_description, other_description]
)
def test_a_damaged_folder_is_refused(copied, damage):
    with pytest.raises(UserError, match=damage(copied)):
        opening.opened(copied)


@pytest.mark.parametrize(("entries", "words"), CHANGES)
def test_a_description_of_other_things_is_refused(copied, entries, words):
    change(copied, **entries)
    with pytest.raises(UserError, match=words):
        opening.opened(copied)


def test_a_program_for_other_devices_is_refused(tmp_path, small):
    content, _ = stablehlo.write(forms.program(small, Form()), Form(size=(32, 32), platforms=("tpu",)))
    with pytest.raises(UserError, match="here: is for tpu, this machine computes on cpu; export it for that"):
        stablehlo.read(content, "here")


def test_what_cannot_be_is_refused(tmp_path, small):
    resizing = source(*SMALL, domain=Domain(size=(24, 40)))
    with pytest.raises(UserError, match="--size any: the run is scored at 24x40, and resizing inside needs the size"):
        forms.check(Form(), resizing)
    with pytest.raises(UserError, match="--input normalised: frames of 32x32 are resized to 24x40 before"):
        forms.check(Form(input="normalised", size=(32, 32)), resizing)
    forms.check(Form(resize="none"), resizing)
    for form, name in ((Form(batch=1), "--size"), (Form(size=(32, 32)), "--batch")):
        with pytest.raises(UserError, match=f"{name} any: jax2onnx converts programs of one size; give a number"):
            onnx.write(forms.program(small, form), form)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="--output .*there: exists already; name a new folder"):
        writing.write(tmp_path / "there", "stablehlo", small, Form(), SPACE, FRAMES, {})


def test_nothing_is_left_of_an_export_that_failed(tmp_path, small):
    with pytest.raises(UserError, match="--frames: expected frames of at least 8x8"):
        vgg = source("deeplab_v2_vgg16", {"width": 2})
        writing.write(tmp_path / "exported", "stablehlo", vgg, Form(), SPACE, [FRAMES[0][:7]], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["flatbuffers", "jax2onnx", "onnxruntime"])
def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    if missing == "flatbuffers":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match="'flatbuffers', which is not installed; run pip install"):
            stablehlo.require()
    else:
        with pytest.raises(UserError, match=f"onnx: needs the package '{missing}' .*; run pip install onnx"):
            onnx.require(missing)
