"""The tables of name rules, one per family of published checkpoints. Names and shapes are facts of those files."""

from typing import NamedTuple

from uda_jax.weights import efficientnet, foundation, resnet, vfm_uda
from uda_jax.weights import mix_transformer as mit
from uda_jax.weights.rules import Axis, Form, Group, Rule, batch_norm, conv, dense, transposed_conv


class CheckpointInfo(NamedTuple):
    """What the weights of a dialect need but a state dict does not hold.

    Attributes:
      network: name in `networks.build` of the network that reads them, at its published size.
      aspp_branches: dilated convolutions that a classifier sums, or None where there is no such classifier. All four
        are in every file.
      encoder_style: "caffe" (the stride of a stage is in its first 1x1 convolution, the stem's pool in ceil mode) or
        "torchvision" (in the 3x3 convolution, floor mode) or "v1c" (the same, its stem of three convolutions); None for
        a network without ResNet.
      input_norm: convention of `ops.normalise` for the images, or None for a network that reads other maps.
      files: names of published files, as far as they are known.
      licence: of the weights, where it asks more of who uses them than to be named.
    """

    network: str
    aspp_branches: int | None = None
    encoder_style: str | None = None
    input_norm: str | None = None
    files: tuple[str, ...] = ()
    licence: str | None = None


class Dialect(NamedTuple):
    """A family of checkpoints: its forms (most have one), what its files do not say, and how their tensors are cut."""

    forms: tuple[Form, ...]
    info: CheckpointInfo
    rearrangement: mit.Rearrangement | None = None


def _classifier(
    torch: str, flax: str, into: str, *, out: Axis = "classes", bias: bool = True, optional: bool = False
) -> Group:
    """A DeepLab-v2 classifier of four dilated convolutions; `torch` has the place `{}` for the branch."""
    rules = []
    for i in range(4):
        rules += conv(torch.format(i), f"{flax}/branch_{i}", out, into, 3, bias=bias)
    return Group(rules, optional)


def _conv2d_list(torch: str, flax: str, into: str, **options) -> Group:
    return _classifier(f"{torch}.conv2d_list.{{}}", flax, into, **options)


# `layer5` means two things: the head on stage 3 beside a `layer6`, or the only head, on stage 4. Its input channels
# have to agree, so a file that lost its `layer6` is an error and not a network of one head.
_SINGLE = [*resnet.encoder(), _conv2d_list("layer5", "head", "stage4")]
_TWO_LEVEL = [*resnet.encoder(), _conv2d_list("layer5", "aux_head", "stage3"), _conv2d_list("layer6", "head", "stage4")]
_LAYER6_ALONE = [*resnet.encoder(), _conv2d_list("layer6", "head", "stage4")]


def _plca() -> Form:
    auxiliary = [
        *conv("aux_classifier.0", "aux_classifier/conv1", "auxiliary", "stage3", 3),
        *batch_norm("aux_classifier.1", "aux_classifier/bn1", "auxiliary"),
        *conv("aux_classifier.4", "aux_classifier/conv2", "classes", "auxiliary", 1, bias=True),
    ]
    return [
        *resnet.encoder("backbone."),
        _classifier("classifier.0.convs.{}.0", "head", "stage4", bias=False),
        # No network here reads it; it is kept so that the way back is exact.
        Group(auxiliary, optional=True),
    ]


def _dada() -> Form:
    branch = [
        *conv("enc4_1", "depth_branch/enc4_1", "depth1", "stage4", 1, bias=True),
        *conv("enc4_2", "depth_branch/enc4_2", "depth2", "depth1", 3, bias=True),
        *conv("enc4_3", "depth_branch/enc4_3", "depth3", "depth2", 1, bias=True),
        *conv("dec4", "depth_branch/dec4", "stage4", "depth3", 1, bias=True),
    ]
    return [*_LAYER6_ALONE, Group(branch)]


def _corda(initial_segmentation: Group) -> Form:
    """CorDA's network; its first segmentation is a dilated classifier (GTA) or a 1x1 convolution (SYNTHIA)."""
    initial, distillation = "initial_task_prediction_heads", "multi_modal_distillation.self_attention"
    depths = []
    for task, flax in (("D", "aux_depth_head"), ("D_src", "aux_source_depth_head")):
        depths += conv(f"{initial}.conv_out.{task}", flax, 1, "task", 1, bias=True)
    correlation = []
    # The first letter is the task that is refined, the second the one whose features it takes.
    for pair, flax in (("S.D", "depth_to_segmentation"), ("D.S", "segmentation_to_depth")):
        correlation += conv(f"{distillation}.{pair}.attention.0", f"correlation/{flax}/attention", "task", "task", 3)
        correlation += conv(f"{distillation}.{pair}.conv", f"correlation/{flax}/projection", "task", "task", 3)
    return [
        *resnet.encoder(),
        resnet.bottlenecks(f"{initial}.layers.S", "segmentation_features/block", "stage4", "task_planes", "task"),
        resnet.bottlenecks(f"{initial}.layers.D", "depth_features/block", "stage4", "task_planes", "task"),
        initial_segmentation,
        Group(depths),
        Group(correlation),
        _conv2d_list("heads.S", "head", "task"),
        _conv2d_list("heads.D", "depth_head", "task", out=1),
        _conv2d_list("heads.D_src", "source_depth_head", "task", out=1),
    ]


_CORDA_INITIAL = "initial_task_prediction_heads.conv_out.S"
_CORDA_GTA = _corda(_conv2d_list(_CORDA_INITIAL, "aux_head", "stage4"))
_CORDA_SYNTHIA = _corda(Group(conv(_CORDA_INITIAL, "aux_head", "classes", "task", 1, bias=True)))


def _vgg(last_stage: tuple[int, int, int]) -> list[Rule]:
    """The 13 convolutions of VGG-16; `last_stage` are the numbers of the last three, which move if pool4 is dropped."""
    stages = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), last_stage)
    # Stages 4 and 5 have the same width.
    widths = ("width1", "width2", "width3", "width4", "width4")
    rules = []
    into = 3
    for stage, (numbers, width) in enumerate(zip(stages, widths, strict=True), 1):
        for i, number in enumerate(numbers, 1):
            rules += conv(f"features.{number}", f"encoder/conv{stage}_{i}", width, into, 3, bias=True)
            into = width
    return rules


def _deeplab_vgg() -> Form:
    rules = _vgg((23, 25, 27))
    rules += conv("features.29", "encoder/fc6", "fc", "width4", 3, bias=True)
    rules += conv("features.31", "encoder/fc7", "fc", "fc", 3, bias=True)
    return [Group(rules), _conv2d_list("classifier", "head", "fc")]


def _torchvision_resnet(**options) -> Form:
    # The ImageNet classifier, which no network here reads; kept so that the way back is exact.
    return [*resnet.encoder(**options), Group(dense("fc", "fc", "classes", "stage4"), optional=True)]


def _caffe_resnet() -> Form:
    # PLCA's code reads its file by what fits. If a classifier of another training is left in it, nothing says how many
    # of its branches were summed, and no network here reads it.
    return [*_torchvision_resnet(), _conv2d_list("layer5", "layer5", "layer5_input", out="layer5", optional=True)]


def _torchvision_vgg() -> Form:
    # The classifier as in `_torchvision_resnet`. Its first layer follows a flatten in the order channels, height,
    # width; since nothing here reads it, a plain transpose does and is undone exactly.
    rules = dense("classifier.0", "classifier_0", "fc", "input")
    rules += dense("classifier.3", "classifier_3", "fc", "fc") + dense("classifier.6", "classifier_6", "classes", "fc")
    return [Group(_vgg((24, 26, 28))), Group(rules, optional=True)]


def _discriminator(names: tuple[str, ...]) -> Form:
    """Five 4x4 convolutions under their PyTorch names: the pixel discriminator, and the patch discriminator."""
    rules = []
    widths = ("input", "width1", "width2", "width3", "width4", 1)
    targets = ("conv1", "conv2", "conv3", "conv4", "classifier")
    for torch, flax, into, out in zip(names, targets, widths[:-1], widths[1:], strict=True):
        rules += conv(torch, flax, out, into, 4, bias=True)
    return [Group(rules)]


def _semantic_discriminator() -> Form:
    layers = dense("fc1", "fc1", "hidden1", "input") + dense("fc2", "fc2", "hidden2", "hidden1")
    return [Group(layers + dense("fc3", "fc3", "outputs", "hidden2"))]


def _generator() -> Form:
    """CycleGAN's residual generator: numbers of a sequence, so those after the blocks depend on how many there are."""
    head = conv("model.1", "conv1", "width1", "input", 7, bias=True)
    head += conv("model.4", "down_1", "width2", "width1", 3, bias=True)
    head += conv("model.7", "down_2", "width3", "width2", 3, bias=True)
    block = conv("model.{i+10}.conv_block.1", "block_{i}/conv1", "width3", "width3", 3, bias=True)
    block += conv("model.{i+10}.conv_block.5", "block_{i}/conv2", "width3", "width3", 3, bias=True)
    tail = transposed_conv("model.{n+10}", "up_1", "width3", "width2", 3)
    tail += transposed_conv("model.{n+13}", "up_2", "width2", "width1", 3)
    tail += conv("model.{n+17}", "output", "image", "width1", 7, bias=True)
    return [Group(head), Group(block), Group(tail)]


def _deeplab_info(branches: int | None, *files: str, network: str = "deeplab_v2_resnet101") -> CheckpointInfo:
    return CheckpointInfo(network, branches, None if "vgg" in network else "caffe", "caffe_bgr", files)


def _imagenet_info(network: str, *files: str) -> CheckpointInfo:
    return CheckpointInfo(network, None, None if "vgg" in network else "torchvision", "imagenet_rgb", files)


def _foundation_info(network: str, *files: str) -> CheckpointInfo:
    licence = "DINOv3 License" if "dinov3" in network else None
    return CheckpointInfo(network, input_norm="imagenet_rgb", files=files, licence=licence)


def _mit_info(network: str, *files: str) -> CheckpointInfo:
    return CheckpointInfo(network, input_norm="imagenet_rgb", files=files)


# A checkpoint does not tell how many branches its classifiers sum: 2 with AdaptSegNet's, 4 with ADVENT's weights. So
# the two families are two dialects although they share their names.
DIALECTS = {
    "adaptsegnet": Dialect(
        (_TWO_LEVEL, _SINGLE),
        _deeplab_info(2, "GTA2Cityscapes_multi-ed35151c.pth", "cityscapes_oracle-b7b9934.pth"),
    ),
    "adaptsegnet_discriminator": Dialect(
        (_discriminator(("conv1", "conv2", "conv3", "conv4", "classifier")),), CheckpointInfo("pixel_discriminator")
    ),
    "advent": Dialect(
        (_TWO_LEVEL, _LAYER6_ALONE),
        _deeplab_info(4, "gta2cityscapes_advent.pth", "gta2cityscapes_minent_ER.pth"),
    ),
    "advent_discriminator": Dialect(
        (_discriminator(("0", "2", "4", "6", "8")),), CheckpointInfo("pixel_discriminator")
    ),
    # ImageNet's encoder in the form of the papers, with or without a classifier. It has torchvision's names.
    "caffe_resnet101": Dialect((_caffe_resnet(),), _deeplab_info(None, "resnet101-imagenet.pth")),
    # Likewise ImageNet's VGG-16 as converted from Caffe, from which AdaptSegNet's starts.
    "caffe_vgg16": Dialect((_torchvision_vgg(),), _deeplab_info(None, network="deeplab_v2_vgg16")),
    "corda": Dialect((_CORDA_GTA, _CORDA_SYNTHIA), _deeplab_info(2, network="corda_resnet101")),
    "cyclegan_discriminator": Dialect(
        (_discriminator(("model.0", "model.2", "model.5", "model.8", "model.11")),),
        CheckpointInfo("patch_discriminator", input_norm="tanh"),
    ),
    "cyclegan_generator": Dialect((_generator(),), CheckpointInfo("translator", input_norm="tanh")),
    # The init files of the whole family (without their prefix `Scale.`) have the same names, with a head of other
    # classes, which has to start afresh.
    "dacs": Dialect(
        (_SINGLE,),
        _deeplab_info(
            2,
            "resnet101COCO-41f33a49.pth",
            "DeepLab_resnet_pretrained_init-f81d91e8.pth",
            "DeepLab_resnet_pretrained_imagenet.pth",
        ),
    ),
    "dada": Dialect((_dada(),), _deeplab_info(4, network="dada_resnet101")),
    "dinov2": Dialect(
        foundation.dinov2(),
        _foundation_info(
            "linear_dinov2_vitb14",
            *(f"dinov2_vit{size}14{kind}_pretrain.pth" for size in "sblg" for kind in ("", "_reg4")),
        ),
        foundation.DINOV2,
    ),
    "dinov2_timm": Dialect(foundation.dinov2(), _foundation_info("linear_dinov2_vitb14"), foundation.DINOV2_TIMM),
    "dinov2_transformers": Dialect(
        foundation.dinov2(), _foundation_info("linear_dinov2_vitb14"), foundation.DINOV2_TRANSFORMERS
    ),
    "dinov3": Dialect(
        foundation.dinov3(),
        _foundation_info(
            "linear_dinov3_vitb16",
            "dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
            "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth",
            "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth",
            "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth",
            "dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth",
        ),
        foundation.DINOV3,
    ),
    "dinov3_transformers": Dialect(
        foundation.dinov3(), _foundation_info("linear_dinov3_vitb16"), foundation.DINOV3_TRANSFORMERS
    ),
    "efficientnet_lite0": Dialect(
        (efficientnet.LITE0,),
        CheckpointInfo("pyramid_efficientnet_lite0", input_norm="lite_rgb", files=("efficientnet-lite0-57934424.pth",)),
    ),
    "daformer": Dialect((mit.DAFORMER,), _mit_info("daformer_mit_b5")),
    "hrda": Dialect((mit.HRDA,), _mit_info("hrda_mit_b5")),
    # ImageNet's encoder under the names of its authors, of mmsegmentation and of the hub (transformers).
    "mit": Dialect((mit.ORIGINAL,), _mit_info("daformer_mit_b5", *(f"mit_b{size}.pth" for size in range(6)))),
    "mit_hub": Dialect((mit.HUB,), _mit_info("daformer_mit_b5"), mit.HUB_MATRICES),
    "mit_mmseg": Dialect((mit.MMSEG,), _mit_info("daformer_mit_b5"), mit.MMSEG_MATRICES),
    "plca": Dialect((_plca(),), _deeplab_info(4)),
    "semantic_discriminator": Dialect((_semantic_discriminator(),), CheckpointInfo("semantic_discriminator")),
    "torchvision_resnet18": Dialect(
        (resnet.basic(),),
        _imagenet_info("pyramid_resnet18", "resnet18-f37072fd.pth", "resnet18-5c106cde.pth"),
    ),
    "torchvision_resnet34": Dialect(
        (resnet.basic(),),
        _imagenet_info("pyramid_resnet34", "resnet34-b627a593.pth", "resnet34-333f7ec4.pth"),
    ),
    "torchvision_resnet101": Dialect(
        (_torchvision_resnet(),),
        _imagenet_info("deeplab_v2_resnet101", "resnet101-63fe2227.pth", "resnet101-5d3b4d8f.pth"),
    ),
    "torchvision_resnet50": Dialect(
        (_torchvision_resnet(),),
        _imagenet_info("deeplab_v2_resnet50", "resnet50-0676ba61.pth", "resnet50-19c8e357.pth"),
    ),
    "torchvision_vgg16": Dialect((_torchvision_vgg(),), _imagenet_info("deeplab_v2_vgg16", "vgg16-397923af.pth")),
    "vfm_uda": Dialect((vfm_uda.light(),), _foundation_info("light_dinov2_vitb14"), vfm_uda.ONE_MASK_TOKEN),
    "vfm_uda_plusplus": Dialect((vfm_uda.pyramid(),), _foundation_info("pyramid_dinov2_vitb14")),
    # ImageNet's encoder of mmsegmentation, torchvision's with a stem of three convolutions.
    "v1c_resnet101": Dialect(
        (_torchvision_resnet(deep_stem=True),),
        CheckpointInfo("deeplab_v2_resnet101", None, "v1c", "imagenet_rgb", ("resnet101_v1c.pth",)),
    ),
    "vgg16": Dialect(
        (_deeplab_vgg(),), _deeplab_info(2, "GTA2Cityscapes_vgg-ac4ac9f6.pth", network="deeplab_v2_vgg16")
    ),
}
