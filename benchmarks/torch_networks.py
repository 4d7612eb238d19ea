"""PyTorch modules of the same shape as the library's networks, to time them against.

Written for `benchmarks.networks` and `benchmarks.torch_steps`. Their state dicts carry the names of the published
checkpoints, so that both sides run on the same weights and their outputs can be compared before anything is timed. The
digit networks have no published weights and names of their own.

Maps are `[B, C, H, W]`, PyTorch's default layout. Outputs are named as those of `uda_jax.networks`.
"""

from collections import OrderedDict
from typing import Any

from torch import nn
from torch.nn import functional

BLOCKS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet14": (1, 1, 1, 1)}
DILATIONS = (6, 12, 18, 24)
# Convolutions, dilation and whether a pool follows, by stage of VGG-16.
VGG_STAGES = ((2, 1, True), (2, 1, True), (3, 1, True), (3, 1, False), (3, 2, False))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm around a shortcut; the stride is in the first."""

    def __init__(self, channels: int, planes: int, stride: int = 1, dilation: int = 1, project: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        if project:
            shortcut = nn.Conv2d(channels, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * planes))
        else:
            self.downsample = nn.Identity()

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def stage(channels: int, planes: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    """Returns `blocks` bottlenecks of which the first projects its shortcut."""
    first = Bottleneck(channels, planes, stride, dilation, project=True)
    return nn.Sequential(first, *(Bottleneck(4 * planes, planes, 1, dilation) for _ in range(blocks - 1)))


class Classifier(nn.Module):
    """The sum of dilated 3x3 convolutions; all four have weights, the first `branches` are used."""

    def __init__(self, channels: int, classes: int, branches: int, bias: bool = True):
        super().__init__()
        self.branches = branches
        convs = (nn.Conv2d(channels, classes, 3, padding=d, dilation=d, bias=bias) for d in DILATIONS)
        self.conv2d_list = nn.ModuleList(convs)

    def forward(self, x):
        return sum(conv(x) for conv in self.conv2d_list[: self.branches])


class ResNet(nn.Module):
    """The Caffe-style encoder: stage 2 strided, stages 3 and 4 dilated; the base of the networks on it."""

    def __init__(self, blocks: tuple[int, ...], width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, blocks[0], 1, 1)
        self.layer2 = stage(4 * width, 2 * width, blocks[1], 2, 1)
        self.layer3 = stage(8 * width, 4 * width, blocks[2], 1, 2)
        self.layer4 = stage(16 * width, 8 * width, blocks[3], 1, 4)

    def encode(self, images):
        """Returns the maps of stages 3 and 4."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        earlier = self.layer3(self.layer2(self.layer1(x)))
        return earlier, self.layer4(earlier)


class DeepLab(ResNet):
    """DeepLab-v2 with one head or two."""

    def __init__(self, classes, blocks, *, width=64, aspp_branches=4, aspp_bias=True, multi_level=False):
        super().__init__(blocks, width)
        self.layer5 = Classifier((16 if multi_level else 32) * width, classes, aspp_branches, aspp_bias)
        if multi_level:
            self.layer6 = Classifier(32 * width, classes, aspp_branches, aspp_bias)
        self.multi_level = multi_level

    def forward(self, images):
        earlier, last = self.encode(images)
        if self.multi_level:
            return {"logits": self.layer6(last), "features": last, "aux_logits": self.layer5(earlier)}
        return {"logits": self.layer5(last), "features": last}


class DADA(ResNet):
    """DeepLab-v2 whose features are gated by a depth branch."""

    def __init__(self, classes, blocks, *, width=64, aspp_branches=4):
        super().__init__(blocks, width)
        self.enc4_1 = nn.Conv2d(32 * width, 8 * width, 1)
        self.enc4_2 = nn.Conv2d(8 * width, 8 * width, 3, padding=1)
        self.enc4_3 = nn.Conv2d(8 * width, 2 * width, 1)
        self.dec4 = nn.Conv2d(2 * width, 32 * width, 1)
        self.layer6 = Classifier(32 * width, classes, aspp_branches)

    def forward(self, images):
        _, x = self.encode(images)
        encoding = functional.relu(self.enc4_1(x), inplace=True)
        encoding = self.enc4_3(functional.relu(self.enc4_2(encoding), inplace=True))
        gated = x * functional.relu(self.dec4(encoding), inplace=True)
        return {"logits": self.layer6(gated), "features": gated, "depth": encoding.mean(1, keepdim=True)}


class SpatialAttention(nn.Module):
    """A 3x3 convolution times the sigmoid of another one."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.Sigmoid())

    def forward(self, x):
        return self.conv(x) * self.attention(x)


class CorDA(ResNet):
    """CorDA's network, its first segmentation a dilated classifier on the encoder."""

    def __init__(self, classes, blocks, *, width=64, aspp_branches=2):
        super().__init__(blocks, width)
        task = 4 * width
        layers = {name: stage(32 * width, width, 2, 1, 1) for name in ("S", "D")}
        initial = {
            "S": Classifier(32 * width, classes, aspp_branches),
            "D": nn.Conv2d(task, 1, 1),
            "D_src": nn.Conv2d(task, 1, 1),
        }
        attention = {"S": {"D": SpatialAttention(task)}, "D": {"S": SpatialAttention(task)}}
        outputs = {"S": classes, "D": 1, "D_src": 1}
        final = {name: Classifier(task, count, aspp_branches) for name, count in outputs.items()}
        self.initial_task_prediction_heads = nn.ModuleDict(
            {"layers": nn.ModuleDict(layers), "conv_out": nn.ModuleDict(initial)}
        )
        pairs = nn.ModuleDict({name: nn.ModuleDict(others) for name, others in attention.items()})
        self.multi_modal_distillation = nn.ModuleDict({"self_attention": pairs})
        self.heads = nn.ModuleDict(final)

    def forward(self, images):
        _, encoded = self.encode(images)
        initial, attention = self.initial_task_prediction_heads, self.multi_modal_distillation["self_attention"]
        segmentation, depth = initial["layers"]["S"](encoded), initial["layers"]["D"](encoded)
        outputs = {
            "aux_logits": initial["conv_out"]["S"](encoded),
            "aux_depth": initial["conv_out"]["D"](depth),
            "aux_source_depth": initial["conv_out"]["D_src"](depth),
        }
        refined = segmentation + attention["S"]["D"](depth)
        depth = depth + attention["D"]["S"](segmentation)
        heads = {"logits": self.heads["S"](refined), "features": refined}
        return outputs | heads | {"depth": self.heads["D"](depth), "source_depth": self.heads["D_src"](depth)}


class DeepLabVGG16(nn.Module):
    """DeepLab on VGG-16 without its last two pools, with a second head for depth in (0, 1) if asked for."""

    def __init__(self, classes, *, width=64, aspp_branches=4, depth_head=False):
        super().__init__()
        layers, channels = [], 3
        for i, (count, dilation, pooled) in enumerate(VGG_STAGES):
            planes = width * min(2**i, 8)
            for _ in range(count):
                layers += [nn.Conv2d(channels, planes, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
                channels = planes
            layers += [nn.MaxPool2d(2, 2)] if pooled else []
        for into in (channels, 16 * width):
            layers += [nn.Conv2d(into, 16 * width, 3, padding=4, dilation=4), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = Classifier(16 * width, classes, aspp_branches)
        self.depth_classifier = Classifier(16 * width, 1, aspp_branches) if depth_head else None

    def forward(self, images):
        features = self.features(images)
        outputs = {"logits": self.classifier(features), "features": features}
        if self.depth_classifier is not None:
            outputs["depth"] = self.depth_classifier(features).sigmoid()
        return outputs


class Layers(nn.Sequential):
    """A sequence of layers whose one map is the output "map"."""

    def forward(self, x):
        return {"map": super().forward(x)}


def pixel_discriminator(channels: int, width: int = 64) -> nn.Module:
    """Returns five 4x4 convolutions of stride 2."""
    widths = (channels, width, 2 * width, 4 * width, 8 * width, 1)
    layers = []
    for into, out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(into, out, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return Layers(*layers[:-1])


def semantic_discriminator(classes: int, channels: int, hidden: int = 1024) -> nn.Module:
    """Returns three dense layers that classify vectors `[..., channels]` by domain and class."""
    first = (nn.Linear(channels, hidden), nn.LeakyReLU(0.2, inplace=True))
    return Layers(*first, nn.Linear(hidden, hidden), nn.LeakyReLU(0.2, inplace=True), nn.Linear(hidden, 2 * classes))


def score_discriminator(channels: int, hidden: int = 500) -> nn.Module:
    """Returns three dense layers that classify class scores `[..., channels]` by domain."""
    first = (nn.Linear(channels, hidden), nn.ReLU(inplace=True))
    return Layers(*first, nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))


def patch_discriminator(channels: int, width: int = 64) -> nn.Module:
    """Returns CycleGAN's discriminator of 70x70 patches."""
    layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for into, out, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
        layers += [nn.Conv2d(into * width, out * width, 4, stride, 1), *_norm_relu(out * width, 0.2)]
    return Layers(OrderedDict(model=nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))))


def _norm_relu(channels: int, slope: float = 0.0) -> tuple[nn.Module, nn.Module]:
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return nn.InstanceNorm2d(channels), activation


class TranslatorBlock(nn.Module):
    """Two 3x3 convolutions on reflected borders beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        first = (nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), *_norm_relu(channels))
        second = (nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels))
        self.conv_block = nn.Sequential(*first, *second)

    def forward(self, x):
        return x + self.conv_block(x)


def translator(channels: int, width: int = 64, blocks: int = 9, drawn: int = 3) -> nn.Module:
    """Returns CycleGAN's residual generator, which draws so many channels."""
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), *_norm_relu(width)]
    for into in (width, 2 * width):
        layers += [nn.Conv2d(into, 2 * into, 3, 2, 1), *_norm_relu(2 * into)]
    layers += [TranslatorBlock(4 * width) for _ in range(blocks)]
    for out in (2 * width, width):
        layers += [nn.ConvTranspose2d(2 * out, out, 3, 2, 1, output_padding=1), *_norm_relu(out)]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, drawn, 7), nn.Tanh()]
    return Layers(OrderedDict(model=nn.Sequential(*layers)))


class Digits(nn.Module):
    """Convolutions, a dense layer to "features" and one to "logits", both maps of one pixel."""

    def __init__(self, convolutions: nn.Sequential, encoder: nn.Sequential, features: int, classes: int):
        super().__init__()
        self.convolutions, self.encoder = convolutions, encoder
        self.dropout, self.classifier = nn.Dropout(0.5), nn.Linear(features, classes)

    def forward(self, images):
        features = self.encoder(self.convolutions(images).flatten(1))
        logits = self.classifier(self.dropout(functional.relu(features)))
        return {"logits": logits[:, :, None, None], "features": features[:, :, None, None]}


def lenet(classes: int, channels: int) -> nn.Module:
    """Returns LeNet for 28x28 images."""
    first = (nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2, 2), nn.ReLU(inplace=True))
    second = (nn.Conv2d(20, 50, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2, 2), nn.ReLU(inplace=True))
    return Digits(nn.Sequential(*first, *second), nn.Sequential(nn.Linear(800, 500)), 500, classes)


def dtn(classes: int, channels: int) -> nn.Module:
    """Returns DTN for 32x32 images."""
    layers = []
    for into, out, rate in ((channels, 64, 0.1), (64, 128, 0.3), (128, 256, 0.5)):
        layers += [nn.Conv2d(into, out, 5, 2, 2), nn.BatchNorm2d(out), nn.Dropout2d(rate), nn.ReLU(inplace=True)]
    encoder = nn.Sequential(nn.Linear(4096, 512), nn.BatchNorm1d(512))
    return Digits(nn.Sequential(*layers), encoder, 512, classes)


def build(name: str, num_classes: int, channels: int, **options: Any) -> nn.Module:
    """Returns the counterpart of `uda_jax.networks.build(name, num_classes, **options)`.

    Args:
      name: of a network that has one here.
      num_classes: as there.
      channels: of the input.
      **options: those that change the shape, as far as the network's function or class here knows them, such as
        `width`, `aspp_branches` and `multi_level`.
    """
    by_channels = {
        "pixel_discriminator": pixel_discriminator,
        "patch_discriminator": patch_discriminator,
        "score_discriminator": score_discriminator,
        "translator": translator,
    }
    if name in by_channels:
        return by_channels[name](channels, **options)
    by_both = {"lenet": lenet, "dtn": dtn, "semantic_discriminator": semantic_discriminator}
    if name in by_both:
        return by_both[name](num_classes, channels, **options)
    if name == "deeplab_v2_vgg16":
        return DeepLabVGG16(num_classes, **options)
    family, encoder = name.rsplit("_", 1)
    network = {"deeplab_v2": DeepLab, "dada": DADA, "corda": CorDA}[family]
    return network(num_classes, BLOCKS[encoder], **options)
