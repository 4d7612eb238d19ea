"""The names of ResNets: of their encoders of bottlenecks, and of torchvision's two networks of basic blocks."""

from uda_jax.weights.rules import Axis, Form, Group, Rule, batch_norm, conv, dense


def _bottleneck(torch: str, flax: str, into: Axis, planes: Axis, out: Axis) -> list[Rule]:
    rules = []
    for i, (features, channels, size) in enumerate(((planes, into, 1), (planes, planes, 3), (out, planes, 1)), 1):
        rules += conv(f"{torch}.conv{i}", f"{flax}/conv{i}", features, channels, size)
        rules += batch_norm(f"{torch}.bn{i}", f"{flax}/bn{i}", features)
    return rules


def _basic_blocks(torch: str, flax: str, into: Axis, planes: Axis, *, project: bool) -> Group:
    """Returns the rules of a run of basic blocks, of which the first projects its shortcut where channels change."""
    rules = []
    for i, channels in enumerate((f"{into}|{planes}", planes), 1):
        rules += conv(f"{torch}.{{i}}.conv{i}", f"{flax}_{{i}}/conv{i}", planes, channels, 3)
        rules += batch_norm(f"{torch}.{{i}}.bn{i}", f"{flax}_{{i}}/bn{i}", planes)
    if project:
        rules += conv(f"{torch}.0.downsample.0", f"{flax}_0/downsample_0", planes, into, 1)
        rules += batch_norm(f"{torch}.0.downsample.1", f"{flax}_0/downsample_1", planes)
    return Group(rules)


def bottlenecks(torch: str, flax: str, into: Axis, planes: Axis, out: Axis) -> Group:
    """Returns the rules of a run of bottlenecks, of which only the first projects its shortcut."""
    rules = _bottleneck(f"{torch}.{{i}}", f"{flax}_{{i}}", f"{into}|{out}", planes, out)
    rules += conv(f"{torch}.0.downsample.0", f"{flax}_0/downsample_0", out, into, 1)
    rules += batch_norm(f"{torch}.0.downsample.1", f"{flax}_0/downsample_1", out)
    return Group(rules)


def encoder(prefix: str = "", *, deep_stem: bool = False) -> list[Group]:
    """Returns the rules of the encoder without classifier, of any depth; Caffe and torchvision have the same names."""
    stem = (
        _v1c_stem()
        if deep_stem
        else conv(f"{prefix}conv1", "encoder/conv1", "stem", 3, 7) + batch_norm(f"{prefix}bn1", "encoder/bn1", "stem")
    )
    stages = [
        bottlenecks(f"{prefix}layer{s}", f"encoder/layer{s}", into, f"planes{s}", f"stage{s}")
        for s, into in enumerate(("stem", "stage1", "stage2", "stage3"), 1)
    ]
    return [Group(stem), *stages]


def basic() -> Form:
    """Returns the rules of ResNet-18 and -34 in torchvision's layout, with the ImageNet classifier."""
    stem = conv("conv1", "encoder/conv1", "stem", 3, 7) + batch_norm("bn1", "encoder/bn1", "stem")
    stages = [
        _basic_blocks(f"layer{s}", f"encoder/layer{s}", into, planes, project=s > 1)
        for s, into, planes in ((1, "stem", "stem"), (2, "stem", "p2"), (3, "p2", "p3"), (4, "p3", "p4"))
    ]
    return [Group(stem), *stages, Group(dense("fc", "fc", "classes", "p4"), optional=True)]


def _v1c_stem() -> list[Rule]:
    rules = []
    for i, (into, out) in enumerate(((3, "narrow"), ("narrow", "narrow"), ("narrow", "stem"))):
        rules += conv(f"stem.{3 * i}", f"encoder/stem_{3 * i}", out, into, 3)
        rules += batch_norm(f"stem.{3 * i + 1}", f"encoder/stem_{3 * i + 1}", out)
    return rules
