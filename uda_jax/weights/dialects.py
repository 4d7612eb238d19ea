"""The tables of name rules, one per family of published checkpoints. Names and shapes are facts of those files."""

from uda_jax.weights.rules import Group, batch_norm, conv


def _caffe_resnet() -> list[Group]:
    """The ResNet encoder without classifier, of any depth; torchvision's has the same names."""
    groups = [Group([*conv("conv1", "encoder/conv1"), *batch_norm("bn1", "encoder/bn1")])]
    for stage in range(1, 5):
        torch, flax = f"layer{stage}.{{i}}", f"encoder/layer{stage}_{{i}}"
        rules = []
        for i in (1, 2, 3):
            rules += conv(f"{torch}.conv{i}", f"{flax}/conv{i}") + batch_norm(f"{torch}.bn{i}", f"{flax}/bn{i}")
        # Only the first block of a stage projects its shortcut.
        torch, flax = f"layer{stage}.0.downsample", f"encoder/layer{stage}_0/downsample"
        rules += conv(f"{torch}.0", f"{flax}_0") + batch_norm(f"{torch}.1", f"{flax}_1")
        groups.append(Group(rules))
    return groups


def _classifier(torch: str, flax: str, *, optional: bool = False) -> Group:
    """A DeepLab-v2 classifier of four dilated convolutions."""
    rules = []
    for i in range(4):
        rules += conv(f"{torch}.conv2d_list.{i}", f"{flax}/branch_{i}", bias=True)
    return Group(rules, optional)


def _discriminator(names: tuple[str, ...]) -> list[Group]:
    """The five convolutions of the pixel discriminator under their PyTorch names."""
    rules = []
    for torch, flax in zip(names, ("conv1", "conv2", "conv3", "conv4", "classifier"), strict=True):
        rules += conv(torch, flax, bias=True)
    return [Group(rules)]


# A checkpoint does not tell how many branches its classifiers sum: 2 with AdaptSegNet's, 4 with ADVENT's weights. So
# the two families are two dialects although they share their names.
_TWO_LEVEL = [
    *_caffe_resnet(),
    _classifier("layer5", "aux_head", optional=True),
    _classifier("layer6", "head"),
]

DIALECTS = {
    "adaptsegnet": _TWO_LEVEL,
    "adaptsegnet_discriminator": _discriminator(("conv1", "conv2", "conv3", "conv4", "classifier")),
    "advent": _TWO_LEVEL,
    "advent_discriminator": _discriminator(("0", "2", "4", "6", "8")),
}
