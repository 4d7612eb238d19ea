"""The names of EfficientNet-Lite0, as its PyTorch port has them."""

from uda_jax.weights.rules import Form, Group, batch_norm, conv, dense

# Blocks of EfficientNet-Lite0 by stage, and the size of their depthwise kernels.
_STAGES = ((1, 3), (2, 3), (2, 5), (3, 3), (3, 5), (4, 5), (1, 3))


def _lite0() -> Form:
    """EfficientNet-Lite0 with its ImageNet classifier, which no network here reads."""
    rules = conv("_conv_stem", "encoder/conv_stem", "stem", 3, 3) + batch_norm("_bn0", "encoder/bn0", "stem")
    block, into = 0, "stem"
    for stage, (count, size) in enumerate(_STAGES, 1):
        for _ in range(count):
            torch, flax, wide = f"_blocks.{block}", f"encoder/blocks_{block}", f"wide{block}" if block else into
            if block:
                rules += conv(f"{torch}._expand_conv", f"{flax}/expand_conv", wide, into, 1)
                rules += batch_norm(f"{torch}._bn0", f"{flax}/bn0", wide)
            rules += conv(f"{torch}._depthwise_conv", f"{flax}/depthwise_conv", wide, 1, size)
            rules += batch_norm(f"{torch}._bn1", f"{flax}/bn1", wide)
            out = f"stage{stage}"
            rules += conv(f"{torch}._project_conv", f"{flax}/project_conv", out, wide, 1)
            rules += batch_norm(f"{torch}._bn2", f"{flax}/bn2", out)
            block, into = block + 1, out
    head = conv("_conv_head", "imagenet_head/conv", "head", into, 1) + batch_norm("_bn1", "imagenet_head/bn", "head")
    return [Group(rules), Group(head + dense("_fc", "imagenet_head/fc", "classes", "head"), optional=True)]


LITE0 = _lite0()
