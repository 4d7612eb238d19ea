"""ImageNet's real VGG-16 goes through the library's own reader, and its features tell real classes apart."""

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import config, networks, ops
from uda_jax.runs import initial_weights, stages

FRAMES = ("0001TP_006990", "0001TP_007590")
STRIDE = 8
CLASSES = 11  # of CamVid; what lies above is void
MISSING = ("fc6", "fc7")


@pytest.fixture(scope="module")
def file(shared):
    return shared / "data" / "weights" / "vgg16_imagenet_caffe_bgr.safetensors"


def frames(shared):
    """Returns images [2, 180, 240, 3] and labels [2, 180, 240]."""
    folder = shared / "data" / "camvid" / "train"
    images = [Image.open(folder / "images" / f"{name}.jpg").convert("RGB") for name in FRAMES]
    labels = [Image.open(next((folder / "labels").glob(f"{name}*"))) for name in FRAMES]
    return tuple(np.stack([np.array(picture) for picture in pictures]) for pictures in (images, labels))


def separation(features, labels):
    """Returns how often two patches of one class are more alike (cosine) than two of different classes: 0.5 = chance.

    Args:
      features: of one frame, [h, w, D].
      labels: of the same, [H, W]. Patches that show several classes, or none, do not count.
    """
    h, w, _ = features.shape
    blocks = labels[: h * STRIDE, : w * STRIDE].reshape(h, STRIDE, w, STRIDE).swapaxes(1, 2).reshape(h * w, -1)
    chosen = (blocks == blocks[:, :1]).all(axis=1) & (blocks[:, 0] < CLASSES)
    vectors, classes = features.reshape(h * w, -1)[chosen], blocks[chosen, 0]
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    pairs = np.triu_indices(len(classes), 1)
    alike, same = (vectors @ vectors.T)[pairs], (classes[:, None] == classes)[pairs]
    ranks = np.argsort(np.argsort(alike))
    return (ranks[same].mean() - (same.sum() - 1) / 2) / (~same).sum()


def started(reference, file):
    """Returns the segmenter's parameters that a setting starts with from the file; of what it lacks, the shapes."""
    words = [f"--config.init_from.segmenter.path={file}"]
    (stage,) = stages.recipe(config.experiment(config.load(reference, words)), num_classes=19)
    state = initial_weights.start(jax.eval_shape(stage.initialise, jax.random.key(0)), stage)
    return state.params["segmenter"]


def he(layer, generator):
    """Returns a convolution of the same shape with He's random kernel."""
    shape = layer["kernel"].shape
    kernel = generator.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape).astype(np.float32)
    return {"kernel": kernel, "bias": np.zeros_like(layer["bias"])}


def test_features_of_a_class_are_alike(file, shared):
    images, labels = frames(shared)
    inputs = ops.normalise(images, "caffe_bgr")
    encoder = started("adaptsegnet:gta5_cityscapes,vgg16", file)["encoder"]
    generator = np.random.default_rng(0)
    real = {layer: tree for layer, tree in encoder.items() if layer.startswith("conv")}
    random = {layer: he(tree, generator) for layer, tree in real.items()}
    assert len(real) == 13
    # What the file lacks comes after the maps that are looked at.
    rest = {layer: jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), encoder[layer]) for layer in MISSING}
    network = networks.build_encoder("vgg16")
    encode = jax.jit(lambda params: network.apply({"params": rest | params}, inputs, collect=("stage5",))["stage5"])
    scores = {}
    for kind, params in (("real", real), ("random", random)):
        maps = np.asarray(encode(params))
        scores[kind] = np.array([separation(*frame) for frame in zip(maps, labels, strict=True)])
    assert scores["real"].min() > 0.8, scores
    assert (scores["real"] - scores["random"]).min() > 0.1, scores


def test_it_converts(file, tmp_path):
    fresh = ("encoder/fc6", "encoder/fc7", "head")
    report = initial_weights.convert(file, tmp_path / "vgg16", dialect="caffe_vgg16", fresh=fresh)
    assert len(report.loaded) == 26 and not report.unused
    assert initial_weights.read(tmp_path / "vgg16").facts == {"input_norm": "caffe_bgr"}
