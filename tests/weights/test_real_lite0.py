"""ImageNet's real EfficientNet-Lite0: it names what real frames show, equals PyTorch, and segmenters start from it."""

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import networks, ops, weights
from uda_jax.runs import initial_weights
from uda_jax.weights import files

# Classes of ImageNet, those that street scenes are made of.
CLASSES = {
    468: "cab",
    475: "car mirror",
    705: "passenger car",
    734: "police van",
    829: "streetcar",
    874: "trolleybus",
    919: "street sign",
    920: "traffic light",
}
EPSILON = 1e-3


@pytest.fixture(scope="module")
def variables(lite0_file):
    return weights.from_torch(files.read(lite0_file), "efficientnet_lite0")


@pytest.fixture(scope="module")
def images(shared):
    """Two frames of CamVid as uint8 [2, 240, 320, 3]."""
    folder = shared / "data" / "real_frames" / "camvid_segnet"
    frames = [folder / "test" / "0001TP_008550.png", folder / "train" / "0001TP_006690.png"]
    return np.stack([np.array(Image.open(frame).convert("RGB").resize((320, 240))) for frame in frames])


@pytest.fixture(scope="module")
def maps(variables, images):
    encoder = networks.build_encoder("efficientnet_lite0")
    encoded = {collection: tree["encoder"] for collection, tree in variables.items()}
    return jax.jit(encoder.apply)(encoded, ops.normalise(images, "lite_rgb"))


def test_the_file_goes_there_and_back(lite0_file, variables):
    state_dict = files.read(lite0_file)
    assert weights.detect(state_dict) == "efficientnet_lite0" and len(state_dict) == 296
    back = weights.to_torch(variables, "efficientnet_lite0")
    assert list(back) == list(state_dict)
    for name in state_dict:
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[name], state_dict[name])


def test_its_classifier_names_what_frames_show(variables, maps):
    head, statistics = variables["params"]["imagenet_head"], variables["batch_stats"]["imagenet_head"]["bn"]
    x = np.asarray(maps["stage7"]) @ head["conv"]["kernel"][0, 0]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + EPSILON) * head["bn"]["scale"] + head["bn"]["bias"]
    scores = np.clip(x, 0, 6).mean((1, 2)) @ head["fc"]["kernel"] + head["fc"]["bias"]
    for frame in scores:
        first, *others = np.argsort(frame)[::-1][:8]
        assert CLASSES[first] == "traffic light" and len(set(others) & CLASSES.keys()) >= 3


def test_features_are_those_of_pytorch(lite0_file, images, maps):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_efficientnet import EfficientNetLite0

    module = EfficientNetLite0().eval()
    module.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in files.read(lite0_file).items()})
    inputs = np.array(ops.normalise(images, "lite_rgb")).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs))
    for name, found in maps.items():
        wanted = expected[name].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_segmenters_start_from_it_strictly(lite0_file, tmp_path):
    fresh = ("neck", "head")
    report = initial_weights.convert(lite0_file, tmp_path / "folder", fresh=fresh)
    assert len(report.loaded) == 240 and {path.split("/")[1] for path in report.unused} == {"imagenet_head"}
    assert {path.split("/")[1] for path in report.missing} == set(fresh)
    found = initial_weights.read(tmp_path / "folder")
    assert found.facts == {"input_norm": "lite_rgb"} and found.network["name"] == "pyramid_efficientnet_lite0"
