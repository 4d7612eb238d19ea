"""Every dialect: the published names and shapes go to the paths and layouts of its network and back, bit for bit."""

import re
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vectors import manifest

from uda_jax import networks, weights
from uda_jax.errors import UserError
from uda_jax.weights.matching import flatten

PLCA = manifest("plca/network_manifest.json")


def batch_norm(name, channels):
    vectors = {f"{name}.{leaf}": [channels] for leaf in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.num_batches_tracked": []}


def torchvision_resnet(layer3_blocks):
    """The Caffe-style names with torchvision's classifier instead of DeepLab's."""

    def kept(name):
        block = re.match(r"layer3\.(\d+)", name)
        return not name.startswith("layer5.") and (not block or int(block[1]) < layer3_blocks)

    encoder = {name: shape for name, shape in manifest("dacs-corda/network_dacs_manifest.json").items() if kept(name)}
    return encoder | {"fc.weight": [1000, 2048], "fc.bias": [1000]}


def basic_resnet(blocks):
    """ResNet-18 or -34 as torchvision writes them, in the order of its state dict."""
    shapes = {"conv1.weight": [64, 3, 7, 7], **batch_norm("bn1", 64)}
    into = 64
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": [width, into, 3, 3], **batch_norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": [width, width, 3, 3], **batch_norm(f"{name}.bn2", width)}
            if into != width:
                shapes |= {f"{name}.downsample.0.weight": [width, into, 1, 1]}
                shapes |= batch_norm(f"{name}.downsample.1", width)
            into = width
    return shapes | {"fc.weight": [1000, 512], "fc.bias": [1000]}


def efficientnet_lite0():
    shapes = {"_conv_stem.weight": [32, 3, 3, 3], **batch_norm("_bn0", 32)}
    widths = [16] + [24] * 2 + [40] * 2 + [80] * 3 + [112] * 3 + [192] * 4 + [320]
    sizes = [3] * 3 + [5] * 2 + [3] * 3 + [5] * 7 + [3]
    into = 32
    for block, (out, size) in enumerate(zip(widths, sizes, strict=True)):
        name, wide = f"_blocks.{block}", 6 * into if block else into
        if block:
            shapes |= {f"{name}._expand_conv.weight": [wide, into, 1, 1], **batch_norm(f"{name}._bn0", wide)}
        shapes |= {f"{name}._depthwise_conv.weight": [wide, 1, size, size], **batch_norm(f"{name}._bn1", wide)}
        shapes |= {f"{name}._project_conv.weight": [out, wide, 1, 1], **batch_norm(f"{name}._bn2", out)}
        into = out
    shapes |= {"_conv_head.weight": [1280, 320, 1, 1], **batch_norm("_bn1", 1280)}
    return shapes | {"_fc.weight": [1000, 1280], "_fc.bias": [1000]}


def torchvision_vgg16():
    moved = {23: 24, 25: 26, 27: 28}
    shapes = {}
    for name, shape in manifest("gio-ada/deeplab_vgg16.manifest.json").items():
        number = int(name.split(".")[1]) if name.startswith("features.") else 99
        if number < 29:
            shapes[name.replace(str(number), str(moved.get(number, number)))] = shape
    # Narrower than the published 4096, which would take 400 MB.
    for number, out, into in ((0, 64, 512 * 7 * 7), (3, 64, 64), (6, 1000, 64)):
        shapes |= {f"classifier.{number}.weight": [out, into], f"classifier.{number}.bias": [out]}
    return shapes


def plca_with_auxiliary():
    return {
        **PLCA,
        "aux_classifier.0.weight": [256, 1024, 3, 3],
        **batch_norm("aux_classifier.1", 256),
        "aux_classifier.4.weight": [PLCA["classifier.0.convs.0.0.weight"][0], 256, 1, 1],
        "aux_classifier.4.bias": [PLCA["classifier.0.convs.0.0.weight"][0]],
    }


def dinov2(kind):
    return manifest(f"vfm-uda/dinov2_vit{kind}.manifest.json")


def dinov3(kind):
    """The manifests leave out what follows from the structure."""
    shapes = {}
    for name, shape in manifest(f"vfm-uda/dinov3_vit{kind}.manifest.json").items():
        shapes[name] = shape
        if name == "patch_embed.proj.bias":
            shapes["rope_embed.periods"] = [16]
        if name.endswith("attn.qkv.bias"):
            shapes[f"{name}_mask"] = shape
    return shapes


def layer(name, out, into):
    return {f"{name}.weight": [out, into], f"{name}.bias": [out]}


def norm(name):
    return {f"{name}.weight": [32], f"{name}.bias": [32]}


def dinov2_transformers(gated):
    shapes = {"embeddings.cls_token": [1, 1, 32], "embeddings.position_embeddings": [1, 17, 32]}
    shapes |= {"embeddings.register_tokens": [1, 4, 32], "embeddings.mask_token": [1, 32]}
    projection = "embeddings.patch_embeddings.projection"
    shapes |= {f"{projection}.weight": [32, 3, 14, 14], f"{projection}.bias": [32]}
    for i in range(4):
        block = f"encoder.layer.{i}"
        shapes |= norm(f"{block}.norm1")
        for part in ("query", "key", "value"):
            shapes[f"{block}.attention.attention.{part}.weight"] = [32, 32]
        for part in ("query", "key", "value"):
            shapes[f"{block}.attention.attention.{part}.bias"] = [32]
        shapes |= layer(f"{block}.attention.output.dense", 32, 32) | {f"{block}.layer_scale1.lambda1": [32]}
        shapes |= norm(f"{block}.norm2")
        if gated:
            shapes |= layer(f"{block}.mlp.weights_in", 176, 32) | layer(f"{block}.mlp.weights_out", 32, 88)
        else:
            shapes |= layer(f"{block}.mlp.fc1", 128, 32) | layer(f"{block}.mlp.fc2", 32, 128)
        shapes[f"{block}.layer_scale2.lambda1"] = [32]
    return shapes | norm("layernorm")


def dinov3_transformers(gated):
    shapes = {"embeddings.cls_token": [1, 1, 32], "embeddings.register_tokens": [1, 4, 32]}
    shapes |= {"embeddings.mask_token": [1, 1, 32]}
    shapes |= {"embeddings.patch_embeddings.weight": [32, 3, 16, 16], "embeddings.patch_embeddings.bias": [32]}
    for i in range(2):
        block = f"layer.{i}"
        shapes |= norm(f"{block}.norm1")
        shapes |= {f"{block}.attention.{part}_proj.weight": [32, 32] for part in "qkv"}
        shapes |= {f"{block}.attention.{part}_proj.bias": [32] for part in "qv"}
        shapes |= layer(f"{block}.attention.o_proj", 32, 32) | {f"{block}.layer_scale1.lambda1": [32]}
        shapes |= norm(f"{block}.norm2")
        if gated:
            shapes |= layer(f"{block}.mlp.gate_proj", 128, 32)
        shapes |= layer(f"{block}.mlp.up_proj", 128, 32) | layer(f"{block}.mlp.down_proj", 32, 128)
        shapes[f"{block}.layer_scale2.lambda1"] = [32]
    return shapes | norm("norm")


def dinov2_timm():
    shapes = {"cls_token": [1, 1, 32], "pos_embed": [1, 16, 32], "reg_token": [1, 4, 32]}
    kept = {
        name: shape for name, shape in dinov2("_registers").items() if name.split(".")[0] in ("patch_embed", "blocks")
    }
    return shapes | kept | norm("norm")


def vfm_uda():
    return manifest("vfm-uda/vfm_uda_network.manifest.json") | {"token_masking.mask_token": [1, 32]}


def vfm_uda_plusplus():
    encoder = manifest("vfm-uda/vit_adapter.manifest.json")
    return {f"encoder.{name}": shape for name, shape in encoder.items()} | manifest(
        "vfm-uda/pyramid_head.manifest.json"
    )


def linear(dialect, shapes, count, network, *fresh, **options):
    """A case of an encoder's file, which a linear head is put on."""
    options = {"width": 32, "heads": 2, "depth": 4, **options}
    return Case(dialect, shapes, count, f"linear_{network}", 19, options, fresh=("head", "head_norm", *fresh))


def empty(shapes):
    """Zeros that take no memory, whatever the network: all strides are zero."""
    return {
        name: np.broadcast_to(np.zeros((), np.int64 if name.endswith("num_batches_tracked") else np.float32), shape)
        for name, shape in shapes.items()
    }


class Case(NamedTuple):
    """A file's dialect, its names and shapes, how many it has as published, and the network that reads it."""

    dialect: str
    shapes: dict
    count: int
    network: str
    classes: int
    options: dict = {}
    channels: int = 3
    fresh: tuple = ()


def segmenter(dialect, shapes, count, network, classifier, **options):
    """A case whose classes are the outputs of the layer of that name."""
    return Case(dialect, shapes, count, network, shapes[classifier][0], options)


def pixel_discriminator(dialect, path, first):
    shapes = manifest(path)
    channels = shapes[first][1]
    return Case(dialect, shapes, 10, "pixel_discriminator", channels, channels=channels)


def generator(path, blocks):
    shapes = manifest(path)
    width, channels, _, _ = shapes["model.1.weight"]
    options = {"width": width, "blocks": blocks}
    return Case("cyclegan_generator", shapes, 12 + 4 * blocks, "translator", 3, options, channels=channels)


def patch_discriminator():
    shapes = manifest("gio-ada/patch_discriminator.manifest.json")
    width, channels, _, _ = shapes["model.0.weight"]
    return Case("cyclegan_discriminator", shapes, 10, "patch_discriminator", 3, {"width": width}, channels=channels)


def semantic_discriminator():
    shapes = manifest("adaptsegnet-ass/semantic_discriminator_manifest.json")
    (hidden, channels), (outputs, _) = shapes["fc1.weight"], shapes["fc3.weight"]
    options = {"hidden": hidden}
    return Case("semantic_discriminator", shapes, 6, "semantic_discriminator", outputs // 2, options, channels=channels)


def v1c_resnet101():
    stem = {"stem.0.weight": [32, 3, 3, 3], **batch_norm("stem.1", 32)}
    stem |= {"stem.3.weight": [32, 32, 3, 3], **batch_norm("stem.4", 32)}
    stem |= {"stem.6.weight": [64, 32, 3, 3], **batch_norm("stem.7", 64)}
    rest = {name: shape for name, shape in torchvision_resnet(23).items() if not name.startswith(("conv1.", "bn1."))}
    return stem | rest


def mit(prefix="", head="head"):
    """MiT-B1, which is MiT-B5 with two blocks per stage."""
    manifest_b5 = manifest("daformer/mit_b5.manifest.json")
    names = [name for name in manifest_b5 if not (block := re.match(r"block\d\.(\d+)", name)) or int(block[1]) < 2]
    classifier = {f"{head}.weight": [1000, 512], f"{head}.bias": [1000]} if head else {}
    return {f"{prefix}{name}": manifest_b5[name] for name in names} | classifier


def with_decode_head(file):
    """A whole network on it; HRDA's heads are recorded on an encoder of other channels."""
    shapes = mit("backbone.", "")
    for name, shape in manifest(f"daformer/{file}").items():
        level = re.search(r"embed_layers\.(\d)\.proj\.weight", name)
        shapes[f"decode_head.{name}"] = [256, (64, 128, 320, 512)[int(level[1])]] if level else shape
    return shapes


# Module of the original -> module of the hub, whose stages count from 0.
HUB = {
    r"patch_embed(\d)\.proj": "patch_embeddings.{}.proj",
    r"patch_embed(\d)\.norm": "patch_embeddings.{}.layer_norm",
    r"block(\d)\.(\d+)\.norm1": "block.{}.{}.layer_norm_1",
    r"block(\d)\.(\d+)\.norm2": "block.{}.{}.layer_norm_2",
    r"block(\d)\.(\d+)\.attn\.q": "block.{}.{}.attention.self.query",
    r"block(\d)\.(\d+)\.attn\.proj": "block.{}.{}.attention.output.dense",
    r"block(\d)\.(\d+)\.attn\.sr": "block.{}.{}.attention.self.sr",
    r"block(\d)\.(\d+)\.attn\.norm": "block.{}.{}.attention.self.layer_norm",
    r"block(\d)\.(\d+)\.mlp\.fc1": "block.{}.{}.mlp.dense1",
    r"block(\d)\.(\d+)\.mlp\.fc2": "block.{}.{}.mlp.dense2",
    r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv": "block.{}.{}.mlp.dwconv.dwconv",
    r"norm(\d)": "layer_norm.{}",
}
MMSEG = {
    r"patch_embed(\d)\.proj": "layers.{}.0.projection",
    r"patch_embed(\d)\.norm": "layers.{}.0.norm",
    r"block(\d)\.(\d+)\.norm1": "layers.{}.1.{}.norm1",
    r"block(\d)\.(\d+)\.norm2": "layers.{}.1.{}.norm2",
    r"block(\d)\.(\d+)\.attn\.proj": "layers.{}.1.{}.attn.attn.out_proj",
    r"block(\d)\.(\d+)\.attn\.sr": "layers.{}.1.{}.attn.sr",
    r"block(\d)\.(\d+)\.attn\.norm": "layers.{}.1.{}.attn.norm",
    r"block(\d)\.(\d+)\.mlp\.fc1": "layers.{}.1.{}.ffn.layers.0",
    r"block(\d)\.(\d+)\.mlp\.fc2": "layers.{}.1.{}.ffn.layers.4",
    r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv": "layers.{}.1.{}.ffn.layers.1",
    r"norm(\d)": "layers.{}.2",
}


def renamed(table, name):
    module, _, leaf = name.rpartition(".")
    for pattern, template in table.items():
        if found := re.fullmatch(pattern, module):
            stage, *block = map(int, found.groups())
            return f"{template.format(stage - 1, *block)}.{leaf}"
    raise AssertionError(name)


def hub(state_dict):
    """Arrays under the original's names, head left out -> under the hub's, keys and values apart."""
    found = {}
    for name, array in state_dict.items():
        if kv := re.fullmatch(r"block(\d)\.(\d+)\.attn\.kv\.(\w+)", name):
            start = f"segformer.encoder.block.{int(kv[1]) - 1}.{kv[2]}.attention.self"
            half = len(array) // 2
            found |= {f"{start}.key.{kv[3]}": array[:half], f"{start}.value.{kv[3]}": array[half:]}
        else:
            found[f"segformer.encoder.{renamed(HUB, name)}"] = array
    return found


def mmseg(state_dict):
    """The same under mmsegmentation's names, queries, keys and values in one."""
    found = {}
    for name, array in state_dict.items():
        if part := re.fullmatch(r"block(\d)\.(\d+)\.attn\.(q|kv)\.(\w+)", name):
            whole = f"layers.{int(part[1]) - 1}.1.{part[2]}.attn.attn.in_proj_{part[4]}"
            found[whole] = np.concatenate([found[whole], array]) if whole in found else array
        else:
            linear = re.search(r"fc[12]\.weight", name)
            found[renamed(MMSEG, name)] = array[:, :, None, None] if linear else array
    return found


def shapes_of(state_dict):
    return {name: list(array.shape) for name, array in state_dict.items()}


ADAPTSEGNET = manifest("adaptsegnet-ass/deeplab_multi_manifest.json")
ADVENT = manifest("advent-intrada/deeplab_v2_multi_manifest.json")
SINGLE = manifest("dacs-corda/network_dacs_manifest.json")
CORDA = {form: manifest(f"dacs-corda/network_{form}_manifest.json") for form in ("gta", "synthia")}
DADA, VGG = manifest("gio-ada/dada_network.manifest.json"), manifest("gio-ada/deeplab_vgg16.manifest.json")
RESNET101, RESNET50, VGG16 = "deeplab_v2_resnet101", "deeplab_v2_resnet50", "deeplab_v2_vgg16"
TWO_LEVELS, TWO_BRANCHES = {"multi_level": True}, {"aspp_branches": 2}
FINAL, LAST, CORDA_FINAL = (f"{module}.conv2d_list.0.bias" for module in ("layer6", "layer5", "heads.S"))
PLCA_FINAL, NO_BIAS = "classifier.0.convs.0.0.weight", {"aspp_bias": False}
VGG_FRESH = ("encoder/fc6", "encoder/fc7", "head")
MIT, DETAIL = mit(), {"detail_size": (32, 32), "detail_stride": 16}
MIT_B1 = {"network": "daformer_mit_b1", "classes": 19, "fresh": ("head",)}
CASES = {
    "adaptsegnet": segmenter("adaptsegnet", ADAPTSEGNET, 640, RESNET101, FINAL, **TWO_LEVELS, **TWO_BRANCHES),
    "adaptsegnet_oracle": segmenter("adaptsegnet", SINGLE, 632, RESNET101, LAST, **TWO_BRANCHES),
    "adaptsegnet_discriminator": pixel_discriminator(
        "adaptsegnet_discriminator", "adaptsegnet-ass/fc_discriminator_manifest.json", "conv1.weight"
    ),
    "dinov2": linear("dinov2", dinov2(""), 63, "dinov2_vits14", table=4),
    "dinov2_registers": linear("dinov2", dinov2("_registers"), 64, "dinov2_vits14", table=4, registers=4),
    "dinov2_swiglu": linear("dinov2", dinov2("_swiglu"), 63, "dinov2_vitg14", table=4),
    "dinov2_timm": linear(
        "dinov2_timm", dinov2_timm(), 63, "dinov2_vits14", "encoder/mask_token", table=4, registers=4
    ),
    "dinov2_transformers": linear(
        "dinov2_transformers", dinov2_transformers(False), 80, "dinov2_vits14", table=4, registers=4
    ),
    "dinov2_transformers_swiglu": linear(
        "dinov2_transformers", dinov2_transformers(True), 80, "dinov2_vitg14", table=4, registers=4
    ),
    "dinov3": linear("dinov3", dinov3(""), 68, "dinov3_vits16"),
    "dinov3_swiglu": linear("dinov3", dinov3("_swiglu"), 76, "dinov3_vits16plus"),
    "dinov3_transformers": linear("dinov3_transformers", dinov3_transformers(False), 41, "dinov3_vits16", depth=2),
    "dinov3_transformers_swiglu": linear(
        "dinov3_transformers", dinov3_transformers(True), 45, "dinov3_vits16plus", depth=2
    ),
    "output_discriminator": pixel_discriminator(
        "adaptsegnet_discriminator", "gio-ada/output_discriminator.manifest.json", "conv1.weight"
    ),
    "advent": segmenter("advent", ADVENT, 640, RESNET101, FINAL, **TWO_LEVELS),
    "advent_discriminator": pixel_discriminator(
        "advent_discriminator", "advent-intrada/discriminator_manifest.json", "0.weight"
    ),
    "dada_discriminator": pixel_discriminator(
        "advent_discriminator", "gio-ada/dada_discriminator.manifest.json", "0.weight"
    ),
    "corda_gta": segmenter("corda", CORDA["gta"], 748, "corda_resnet101", CORDA_FINAL, initial_head="aspp"),
    "corda_synthia": segmenter("corda", CORDA["synthia"], 742, "corda_resnet101", CORDA_FINAL, initial_head="linear"),
    "cyclegan_discriminator": patch_discriminator(),
    "cyclegan_generator": generator("gio-ada/resnet_generator.manifest.json", 3),
    "cyclegan_generator_9_blocks": generator("gio-ada/resnet_generator_9b.manifest.json", 9),
    "dacs": segmenter("dacs", SINGLE, 632, RESNET101, LAST, **TWO_BRANCHES),
    "daformer": segmenter(
        "daformer",
        with_decode_head("daformer_head.manifest.json"),
        234,
        "daformer_mit_b1",
        "decode_head.conv_seg.bias",
    ),
    "dada": segmenter("dada", DADA, 640, "dada_resnet101", FINAL),
    "efficientnet_lite0": Case(
        "efficientnet_lite0", efficientnet_lite0(), 296, "pyramid_efficientnet_lite0", 19, fresh=("neck", "head")
    ),
    "torchvision_resnet18": Case(
        "torchvision_resnet18", basic_resnet((2, 2, 2, 2)), 122, "pyramid_resnet18", 19, fresh=("neck", "head")
    ),
    "torchvision_resnet34": Case(
        "torchvision_resnet34", basic_resnet((3, 4, 6, 3)), 218, "pyramid_resnet34", 19, fresh=("neck", "head")
    ),
    "hrda": segmenter(
        "hrda",
        with_decode_head("hrda_head.manifest.json"),
        250,
        "hrda_mit_b1",
        "decode_head.head.conv_seg.bias",
        **DETAIL,
    ),
    "mit": Case("mit", MIT, 178, **MIT_B1),
    "mit_hub": Case("mit_hub", shapes_of(hub(empty(mit(head="")))), 192, **MIT_B1),
    "mit_mmseg": Case("mit_mmseg", shapes_of(mmseg(empty(mit(head="")))), 160, **MIT_B1),
    "plca": segmenter("plca", PLCA, 628, RESNET101, PLCA_FINAL, **NO_BIAS),
    "plca_auxiliary": segmenter("plca", plca_with_auxiliary(), 636, RESNET101, PLCA_FINAL, **NO_BIAS),
    "semantic_discriminator": semantic_discriminator(),
    "torchvision_resnet101": Case("torchvision_resnet101", torchvision_resnet(23), 626, RESNET101, 19, fresh=("head",)),
    "caffe_resnet101": Case(
        "caffe_resnet101",
        {name: shape for name, shape in torchvision_resnet(23).items() if not name.startswith("fc.")},
        624,
        RESNET101,
        19,
        fresh=("head",),
    ),
    "torchvision_resnet50": Case("torchvision_resnet50", torchvision_resnet(6), 320, RESNET50, 19, fresh=("head",)),
    "caffe_vgg16": Case("caffe_vgg16", torchvision_vgg16(), 32, VGG16, 19, fresh=VGG_FRESH),
    "torchvision_vgg16": Case("torchvision_vgg16", torchvision_vgg16(), 32, VGG16, 19, fresh=VGG_FRESH),
    "v1c_resnet101": Case(
        "v1c_resnet101", v1c_resnet101(), 638, RESNET101, 19, {"encoder_style": "v1c"}, fresh=("head",)
    ),
    "vfm_uda": Case(
        "vfm_uda", vfm_uda(), 74, "light_dinov2_vits14", 19, {"width": 32, "heads": 2, "depth": 4, "table": 4}
    ),
    "vfm_uda_plusplus": Case(
        "vfm_uda_plusplus",
        vfm_uda_plusplus(),
        335,
        "pyramid_dinov2_vits14",
        19,
        {"width": 64, "heads": 1, "depth": 4, "table": 4},
    ),
    "vgg16": segmenter("vgg16", VGG, 38, VGG16, "classifier.conv2d_list.0.bias", **TWO_BRANCHES),
}


def arrays(shapes):
    """Different numbers for every tensor, quickly, but for those that follow from the structure."""

    def array(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.zeros((), np.int64)
        if name == "rope_embed.periods":
            return (100 ** (np.arange(16) / 16)).astype(np.float32)
        if name.endswith("bias_mask"):
            return np.repeat(np.array([1, 0, 1], np.float32), shape[0] // 3)
        # One token is there twice.
        name = name.replace("token_masking.", "encoder.")
        return np.random.default_rng(zlib.crc32(name.encode())).random(shape, np.float32)

    return {name: array(name, shape) for name, shape in shapes.items()}


# Dialects with other matrices than the network's.
CUT_OR_JOINED = ("mit_hub", "mit_mmseg")


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def state_dict(case):
    assert len(case.shapes) == case.count
    return arrays(case.shapes)


def test_every_dialect_has_a_case():
    assert weights.dialects() == sorted({case.dialect for case in CASES.values()})


def test_round_trip(case, state_dict):
    back = weights.to_torch(weights.from_torch(state_dict, case.dialect), case.dialect)
    assert list(back) == list(state_dict)
    for name, array in state_dict.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_dialect_is_detected(case):
    if case.dialect == "caffe_resnet101":
        with pytest.raises(UserError, match="name the dialect"):  # torchvision's encoder has the same names.
            weights.detect(case.shapes)
        return
    if case.dialect == "caffe_vgg16":
        assert weights.detect(case.shapes) == "torchvision_vgg16"  # Likewise, and far more often meant.
        return
    # AdaptSegNet's two levels and ADVENT's have the same names: the branches tell them apart.
    two_level = "layer6.conv2d_list.0.weight" in case.shapes and case.dialect != "dada"
    branches = weights.checkpoint_info(case.dialect).aspp_branches if two_level else None
    found = weights.detect(case.shapes, branches)
    assert found == ("dacs" if case.shapes is SINGLE else case.dialect)


def test_variables_fit_the_network(case, state_dict):
    network = networks.build(case.network, case.classes, **case.options)
    # The semantic discriminator reads class means, the others maps.
    shape = (case.classes,) if case.network == "semantic_discriminator" else (64, 64)
    expected = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape, case.channels)))
    converted = weights.from_torch(state_dict, case.dialect)
    variables, report = weights.fit(converted, expected, fresh=case.fresh, where="file")
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, expected)
    assert {path.split("/")[1] for path in report.missing} == {part.split("/")[0] for part in case.fresh}
    if weights.DIALECTS[case.dialect].rearrangement:
        return  # One tensor may be several arrays, or none.
    leftovers = {"fc", "imagenet_head", "classifier_0", "classifier_3", "classifier_6", "aux_classifier"}
    assert {path.split("/")[1] for path in report.unused} <= leftovers
    counters = sum(name.endswith("num_batches_tracked") for name in state_dict)
    assert len(report.loaded) + len(report.unused) + counters == len(state_dict)


def test_kernels_are_views(case, state_dict):
    if case.dialect in CUT_OR_JOINED or case.dialect.endswith("_transformers"):
        pytest.skip("queries, keys and values are cut or joined")
    leaves = flatten(weights.from_torch(state_dict, case.dialect)["params"])
    kernels = [leaf for path, leaf in leaves if path.endswith("kernel")]
    originals = [array for name, array in state_dict.items() if array.ndim > 1 and name.endswith("weight")]
    assert len(kernels) >= len(originals)
    for kernel in kernels:
        assert any(np.may_share_memory(kernel, original) for original in originals)


@pytest.mark.parametrize(
    ("case", "torch", "flax"),
    [
        ("adaptsegnet", "layer3.22.conv2.weight", "params/encoder/layer3_22/conv2/kernel"),
        ("adaptsegnet", "layer2.0.downsample.0.weight", "params/encoder/layer2_0/downsample_0/kernel"),
        ("adaptsegnet", "layer2.0.downsample.1.running_var", "batch_stats/encoder/layer2_0/downsample_1/var"),
        ("adaptsegnet", "layer5.conv2d_list.3.weight", "params/aux_head/branch_3/kernel"),
        ("adaptsegnet", "layer6.conv2d_list.3.weight", "params/head/branch_3/kernel"),
        ("adaptsegnet_oracle", "layer5.conv2d_list.1.weight", "params/head/branch_1/kernel"),
        ("dacs", "layer5.conv2d_list.1.bias", "params/head/branch_1/bias"),
        ("plca", "backbone.layer4.2.bn3.weight", "params/encoder/layer4_2/bn3/scale"),
        ("plca", "classifier.0.convs.2.0.weight", "params/head/branch_2/kernel"),
        ("plca_auxiliary", "aux_classifier.1.running_mean", "batch_stats/aux_classifier/bn1/mean"),
        ("dada", "enc4_3.weight", "params/depth_branch/enc4_3/kernel"),
        ("vgg16", "features.23.weight", "params/encoder/conv5_1/kernel"),
        ("vgg16", "features.31.bias", "params/encoder/fc7/bias"),
        ("torchvision_vgg16", "features.24.weight", "params/encoder/conv5_1/kernel"),
        ("torchvision_vgg16", "classifier.0.weight", "params/classifier_0/kernel"),
        ("torchvision_resnet50", "fc.weight", "params/fc/kernel"),
        ("advent_discriminator", "6.weight", "params/conv4/kernel"),
        ("cyclegan_discriminator", "model.11.weight", "params/classifier/kernel"),
        ("cyclegan_generator", "model.12.conv_block.5.bias", "params/block_2/conv2/bias"),
        ("cyclegan_generator", "model.13.weight", "params/up_1/kernel"),
        ("cyclegan_generator", "model.16.bias", "params/up_2/bias"),
        ("cyclegan_generator_9_blocks", "model.13.conv_block.1.bias", "params/block_3/conv1/bias"),
        ("cyclegan_generator_9_blocks", "model.22.weight", "params/up_2/kernel"),
        ("cyclegan_generator_9_blocks", "model.26.weight", "params/output/kernel"),
        ("semantic_discriminator", "fc1.weight", "params/fc1/kernel"),
        ("corda_gta", "initial_task_prediction_heads.conv_out.S.conv2d_list.1.bias", "params/aux_head/branch_1/bias"),
        ("corda_synthia", "initial_task_prediction_heads.conv_out.S.bias", "params/aux_head/bias"),
        ("corda_gta", "initial_task_prediction_heads.conv_out.D_src.weight", "params/aux_source_depth_head/kernel"),
        (
            "corda_gta",
            "initial_task_prediction_heads.layers.D.0.downsample.0.weight",
            "params/depth_features/block_0/downsample_0/kernel",
        ),
        (
            "corda_gta",
            "multi_modal_distillation.self_attention.S.D.attention.0.weight",
            "params/correlation/depth_to_segmentation/attention/kernel",
        ),
        (
            "corda_gta",
            "multi_modal_distillation.self_attention.D.S.conv.weight",
            "params/correlation/segmentation_to_depth/projection/kernel",
        ),
        ("corda_gta", "heads.D.conv2d_list.0.bias", "params/depth_head/branch_0/bias"),
        ("corda_gta", "heads.D_src.conv2d_list.0.bias", "params/source_depth_head/branch_0/bias"),
    ],
)
def test_name_goes_to_path(case, torch, flax):
    dialect, shapes = CASES[case].dialect, CASES[case].shapes
    wanted = np.arange(np.prod(shapes[torch]), dtype=np.float32).reshape(shapes[torch])
    leaf = weights.from_torch({**empty(shapes), torch: wanted}, dialect)
    for part in flax.split("/"):
        leaf = leaf[part]
    assert np.shares_memory(leaf, wanted)


@pytest.mark.parametrize(("dialect", "rename"), [("mit_hub", hub), ("mit_mmseg", mmseg)])
def test_libraries_have_the_same_mix_transformer(dialect, rename):
    """Keys and values differ, so that none is taken for the other."""
    original = arrays(mit(head=""))
    other = weights.from_torch(rename(original), dialect)
    jax.tree.map(np.testing.assert_array_equal, other, weights.from_torch(original, "mit"))


def test_a_lost_half_of_keys_and_values_is_told():
    shapes = CASES["mit_hub"].shapes
    lost = "segformer.encoder.block.1.0.attention.self.value.bias"
    with pytest.raises(UserError, match=re.escape(f"mit_hub weights: '{lost}' is missing")):
        weights.from_torch(empty({name: shape for name, shape in shapes.items() if name != lost}), "mit_hub")


def test_layouts():
    shapes = CASES["cyclegan_generator"].shapes
    generator = weights.from_torch(arrays(shapes), "cyclegan_generator")["params"]
    state_dict = weights.to_torch({"params": generator}, "cyclegan_generator")
    # A convolution is stored (out, in, height, width), a transposed one (in, out, height, width).
    down, up = state_dict["model.4.weight"], state_dict["model.13.weight"]
    assert list(down.shape) == shapes["model.4.weight"] and list(up.shape) == shapes["model.13.weight"]
    assert down[9, 6, 0, 2] == generator["down_1"]["kernel"][0, 2, 6, 9]
    assert up[9, 6, 0, 2] == generator["up_1"]["kernel"][0, 2, 9, 6]
    shapes = CASES["semantic_discriminator"].shapes
    discriminator = weights.from_torch(arrays(shapes), "semantic_discriminator")["params"]
    state_dict = weights.to_torch({"params": discriminator}, "semantic_discriminator")
    assert list(state_dict["fc1.weight"].shape) == shapes["fc1.weight"]
    assert state_dict["fc1.weight"][2, 3] == discriminator["fc1"]["kernel"][3, 2]


@pytest.mark.parametrize("case", ["semantic_discriminator", "cyclegan_generator", "vgg16", "torchvision_resnet50"])
def test_every_transposed_kernel_is_the_one_that_is_blamed(case):
    """A single wrong tensor is told with the shape that it should have, however few others share its channels."""
    dialect, shapes = CASES[case].dialect, CASES[case].shapes
    whole = empty(shapes)
    kernels = [name for name, shape in shapes.items() if len(shape) > 1 and shape[0] != shape[1]]
    for name in kernels[::-3]:
        right, wrong = whole[name].shape, whole[name].swapaxes(0, 1)
        with pytest.raises(UserError) as caught:
            weights.from_torch({**whole, name: wrong}, dialect)
        assert str(caught.value).startswith(f"{dialect} weights: '{name}' has shape {wrong.shape}, expected {right} (")


def test_a_size_that_nothing_tells_stays_a_name():
    shapes = empty(CASES["cyclegan_generator"].shapes)
    shapes["model.1.weight"] = shapes["model.1.weight"].swapaxes(0, 1)
    width, channels, _, _ = CASES["cyclegan_generator"].shapes["model.1.weight"]
    told = re.escape(
        f"'model.1.weight' has shape ({channels}, {width}, 7, 7), expected ({width}, input, 7, 7) (out in height width)"
    )
    with pytest.raises(UserError, match=told):
        weights.from_torch(shapes, "cyclegan_generator")


def test_facts():
    branches = {name: weights.checkpoint_info(name).aspp_branches for name in weights.dialects()}
    assert {name for name, count in branches.items() if count == 2} == {"adaptsegnet", "corda", "dacs", "vgg16"}
    assert {name for name, count in branches.items() if count == 4} == {"advent", "dada", "plca"}
    for name in weights.dialects():
        info = weights.checkpoint_info(name)
        assert info.network in networks.names()
        style = next((style for style in ("torchvision", "v1c") if name.startswith(style)), "caffe")
        assert info.encoder_style == (style if "resnet" in info.network else None)
        if name == "efficientnet_lite0":
            assert info.input_norm == "lite_rgb"
        elif info.network not in ("translator", "patch_discriminator"):
            segments = any(word in info.network for word in ("resnet", "vgg", "mit", "dinov"))
            imagenet = name.startswith(("torchvision", "v1c")) or any(x in info.network for x in ("mit", "dinov"))
            norm = "imagenet_rgb" if imagenet else "caffe_bgr"
            assert info.input_norm == (norm if segments else None)
