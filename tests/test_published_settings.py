"""Every setting that follows a paper starts: it takes the files that it names; a first step of each network is traced.

The files are stand-ins with the names of the real ones. Their networks have one bottleneck per stage and two channels;
everything else is the setting's own, the sizes of images included, of which only the shapes are known.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest

from tests.runs.test_initial_weights import random_variables
from uda_jax import config, weights
from uda_jax.config import settings
from uda_jax.methods.parts import adapted
from uda_jax.runs import initial_weights, stages
from uda_jax.weights import files

# By file: its names' dialect and the prefix before them. A new one has to be described here.
DEEPLAB = ("deeplab_v2_resnet14", "dacs", "Scale.")
FILES = {
    "DeepLab_resnet_pretrained_imagenet.pth": DEEPLAB,
    "DeepLab_resnet_pretrained_init-f81d91e8.pth": DEEPLAB,
    "resnet101COCO-41f33a49.pth": ("deeplab_v2_resnet14", "dacs", ""),
    "resnet101-imagenet.pth": ("deeplab_v2_resnet14", "caffe_resnet101", ""),
    "resnet101-63fe2227.pth": ("deeplab_v2_resnet14", "torchvision_resnet101", ""),
    "resnet18-f37072fd.pth": ("deeplab_v2_resnet18", "torchvision_resnet18", ""),
    "vgg16-caffe.pth": ("deeplab_v2_vgg16", "caffe_vgg16", ""),
    "mit_b5.pth": ("daformer_mit_b5", "mit", ""),
    "resnet101_v1c.pth": ("deeplab_v2_resnet14", "v1c_resnet101", ""),
}
# Options of the networks that a file is made of, beside their width.
OPTIONS = {"mit": {"blocks": (1, 1, 1, 1), "head_width": 2}, "v1c_resnet101": {"encoder_style": "v1c"}}
NARROW = 2
# Of a foundation encoder, whose heads take whole channels.
VIT = {"width": 16, "depth": 4, "heads": 2, "table": 4}
for size in "bl":
    FILES[f"dinov2_vit{size}14_pretrain.pth"] = (f"linear_dinov2_vit{size}14", "dinov2", "")
FILES["dinov2_vitl14_reg4_pretrain.pth"] = ("linear_dinov2_vitl14", "dinov2", "")

# By what decides them: first states, and which steps have been traced.
STATES, TRACED = {}, set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with stand-ins of all files in weights/: an encoder, and where there is one, a head of 21 classes."""
    made = tmp_path_factory.mktemp("published")
    for name, (network, dialect, prefix) in FILES.items():
        options = {"width": NARROW, **OPTIONS.get(dialect, {})}
        if dialect == "dinov2":
            options = {**VIT, "registers": 4 if "reg4" in name else 0}
        variables = random_variables(network, 21, **options)
        if dialect == "dinov2":
            variables = {"params": {"encoder": variables["params"]["encoder"]}}
        elif dialect != "dacs":
            del variables["params"]["head"]
            variables.get("batch_stats", {}).pop("head", None)
        for part in ("fc6", "fc7"):
            variables["params"]["encoder"].pop(part, None)
        state_dict = {f"{prefix}{key}": array for key, array in weights.to_torch(variables, dialect).items()}
        files.write_safetensors(made / "weights" / name, state_dict, {})
    return made


def small(method):
    """Returns a method whose networks have fewer blocks and channels under the same names."""
    if not hasattr(method, "segmenter"):
        disparity = dataclasses.replace(
            method.disparity, name="disparity_resnet14", width=NARROW, decoder_width=1, encoder_init="normal"
        )
        motion = dataclasses.replace(method.motion, width=NARROW, motion_width=2)
        return dataclasses.replace(method, disparity=disparity, motion=motion)
    if "dinov2" in method.segmenter.name:
        fields = {"segmenter": dataclasses.replace(method.segmenter, **VIT)}
        if hasattr(method, "distance") and method.distance.weight:
            encoder = dataclasses.replace(method.distance.encoder, **VIT)
            fields["distance"] = dataclasses.replace(method.distance, encoder=encoder)
        return dataclasses.replace(method, **fields)
    name = method.segmenter.name.replace("resnet101", "resnet14")
    fields = {} if name in ("lenet", "dtn") else {"width": NARROW}
    fields |= OPTIONS["mit"] if "mit_b5" in name else {}
    return dataclasses.replace(method, segmenter=dataclasses.replace(method.segmenter, name=name, **fields))


def kind(segmenter):
    """Returns a network's name, of a foundation encoder without its size, which is the same once it is small."""
    return re.sub(r"_vit\w+$", "", segmenter.name)


def abstract_batch(stage):
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), stage.example())


def first_state(stage):
    """Returns the shapes of a stage's first state, which its networks and its domains decide."""
    method = stage.method
    if not hasattr(method, "segmenter"):
        return jax.eval_shape(method.init, jax.random.key(0), abstract_batch(stage))
    key = (type(method), method.segmenter, getattr(method, "depth_head", None), tuple(stage.domains))
    if key not in STATES:
        STATES[key] = jax.eval_shape(method.init, jax.random.key(0), abstract_batch(stage))
    return STATES[key]


def check_step(stage):
    """Traces a first step: it returns a state like the one it gets, and scalars.

    Of each kind of network the first that comes: small forms of what methods and their variants do with it are traced
    with `:smoke`, see tests/test_smoke.py.
    """
    if not hasattr(stage.method, "segmenter"):
        return  # Its steps are traced with `:smoke`, at any size alike.
    segmenter = stage.method.segmenter
    key = (kind(segmenter), segmenter.align_corners, segmenter.multi_level, getattr(stage.method, "depth_head", None))
    if key not in TRACED:
        TRACED.add(key)
        state = first_state(stage)
        after, metrics = jax.eval_shape(stage.method.train_step, state, abstract_batch(stage))
        assert after == state and all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize("reference", settings.published())
def test_it_starts(reference, folder, monkeypatch):
    monkeypatch.chdir(folder)
    experiment = config.experiment(config.load(reference))
    for stage in stages.recipe(experiment, num_classes=19):
        if not stage.kind.TRAINS:
            continue
        stage = dataclasses.replace(stage, method=small(stage.method))
        state = initial_weights.start(first_state(stage), stage)
        for network in state.params.keys() & stage.init_from.keys() - stage.start_from.keys():
            if stage.init_from[network].path:
                variables = {"params": state.params[network], **state.model_state.get(network, {})}
                encoder = adapted.joined(variables)["params"]["encoder"]
                assert any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(encoder))
        check_step(stage)


def test_a_classifier_left_in_plcas_file_is_named(tmp_path):
    """Its authors' code takes what fits, so that nobody would notice one."""
    variables = random_variables("deeplab_v2_resnet14", 21, width=NARROW)
    state_dict = weights.to_torch(variables, "dacs")
    state_dict |= {"fc.weight": np.ones((1000, 32 * NARROW), np.float32), "fc.bias": np.ones(1000, np.float32)}
    files.write_safetensors(tmp_path / "x", state_dict, {})
    words = [f"--config.init_from.segmenter.path={tmp_path / 'x'}"]
    (stage,) = stages.recipe(config.experiment(config.load("plca:gta5_cityscapes", words)), 19)
    stage, log = dataclasses.replace(stage, method=small(stage.method)), []
    state = initial_weights.start(first_state(stage), stage, log.append)
    np.testing.assert_array_equal(
        state.params["segmenter"]["encoder"]["conv1"]["kernel"], variables["params"]["encoder"]["conv1"]["kernel"]
    )
    assert "unused: 10 arrays (fc 2, layer5 8)" in log[0]
