"""The names of VFM-UDA's and VFM-UDA++'s published networks, without the prefix `network.` of their checkpoints."""

from collections.abc import Mapping

import numpy as np

from uda_jax.errors import UserError
from uda_jax.weights.foundation import encoder
from uda_jax.weights.mix_transformer import Rearrangement
from uda_jax.weights.rules import (
    KERNEL,
    TRANSPOSED_KERNEL,
    Axis,
    Form,
    Group,
    Layout,
    Rule,
    batch_norm,
    conv,
    dense,
    layer_norm,
    transposed_conv,
    vector,
)

LEVELS = Layout(("levels", "channels"), (0, 1))


def _up(torch: str, flax: str, into: Axis, out: Axis) -> list[Rule]:
    return [Rule(f"{torch}.weight", f"params/{flax}/kernel", TRANSPOSED_KERNEL, (into, out, 2, 2))]


def light() -> Form:
    """Returns the groups of VFM-UDA's network."""
    head = _up("upscale.0", "head/upscale_0", "width", "half")
    head += layer_norm("upscale.1", "head/upscale_1", "half")
    head += _up("upscale.3", "head/upscale_3", "half", "quarter")
    head += layer_norm("upscale.4", "head/upscale_4", "quarter")
    head += conv("upscale.5", "head/upscale_5", "quarter", "quarter", 3)
    head += layer_norm("upscale.6", "head/upscale_6", "quarter")
    head += conv("out", "head/out", "classes", "quarter", 1)
    return [*encoder(14, "gelu", table=True, prefix="encoder."), Group(head)]


def _attention(torch: str, flax: str, levels: str) -> list[Rule]:
    return [
        *dense(f"{torch}.sampling_offsets", f"{flax}/sampling_offsets", f"offsets{levels}", "width"),
        *dense(f"{torch}.attention_weights", f"{flax}/attention_weights", f"weights{levels}", "width"),
        *dense(f"{torch}.value_proj", f"{flax}/value_proj", "values", "width"),
        *dense(f"{torch}.output_proj", f"{flax}/output_proj", "width", "values"),
    ]


def _norms(torch: str, flax: str) -> list[Rule]:
    norms = layer_norm(f"{torch}.query_norm", f"{flax}/query_norm", "width")
    return norms + layer_norm(f"{torch}.feat_norm", f"{flax}/feat_norm", "width")


def _extractor(torch: str, flax: str) -> list[Rule]:
    rules = _norms(torch, flax) + _attention(f"{torch}.attn", f"{flax}/attn", "1")
    rules += dense(f"{torch}.ffn.fc1", f"{flax}/ffn/fc1", "adapter_hidden", "width")
    depthwise = f"{torch}.ffn.dwconv.dwconv"
    rules += [Rule(f"{depthwise}.weight", f"params/{flax}/ffn/dwconv_kernel", KERNEL, ("adapter_hidden", 1, 3, 3))]
    rules += vector(f"{depthwise}.bias", f"{flax}/ffn/dwconv_bias", "adapter_hidden")
    rules += dense(f"{torch}.ffn.fc2", f"{flax}/ffn/fc2", "width", "adapter_hidden")
    return rules + layer_norm(f"{torch}.ffn_norm", f"{flax}/ffn_norm", "width")


def _spatial_prior() -> list[Rule]:
    rules, into = [], 3
    for name, out in (
        ("stem.0", 64),
        ("stem.3", 64),
        ("stem.6", 64),
        ("conv2.0", 128),
        ("conv3.0", 256),
        ("conv4.0", 256),
    ):
        module, _, number = name.partition(".")
        for kind, n in (("conv", int(number)), ("norm", int(number) + 1)):
            torch, flax = f"encoder.spm.{module}.{n}", f"adapter/spm/{module}_{n}"
            rules += conv(torch, flax, out, into, 3) if kind == "conv" else batch_norm(torch, flax, out)
        into = out
    for i, channels in enumerate((64, 128, 256, 256), 1):
        rules += conv(f"encoder.spm.fc{i}", f"adapter/spm/fc{i}", "width", channels, 1, bias=True)
    return rules


def pyramid() -> Form:
    """Returns the groups of VFM-UDA++'s network."""
    first, *blocks = encoder(14, "gelu", table=True, prefix="encoder.", trained=False)
    levels = [Rule("encoder.level_embed", "params/adapter/level_embed", LEVELS, (3, "width"))]
    torch, flax = "encoder.interactions.{i}", "adapter/interactions_{i}"
    interaction = vector(f"{torch}.injector.gamma", f"{flax}/injector/gamma", "width")
    interaction += _norms(f"{torch}.injector", f"{flax}/injector")
    interaction += _attention(f"{torch}.injector.attn", f"{flax}/injector/attn", "3")
    interaction += _extractor(f"{torch}.extractor", f"{flax}/extractor")
    extra = "encoder.interactions.3.extra_extractors.{i}", "adapter/interactions_3/extra_extractors_{i}"
    last = transposed_conv("encoder.up", "adapter/up", "width", "width", 2)
    for i in range(4):
        last += batch_norm(f"encoder.norm{i + 1}", f"adapter/norms_{i}", "width")
    return [
        first,
        Group(levels),
        *blocks,
        Group(_spatial_prior()),
        Group(interaction),
        Group(_extractor(*extra)),
        Group(last),
        Group(_pyramid_head()),
    ]


def _pyramid_head() -> list[Rule]:
    channels, rules = ("width", "half", "quarter", "eighth"), []
    steps = list(enumerate(zip(channels[:-1], channels[1:], strict=True), 1))
    for i, (into, out) in steps:
        rules += transposed_conv(f"upscale.up_conv{i}", f"head/up_conv{i}", into, out, 2)
    for i, (_, out) in steps:
        rules += conv(f"upscale.reduce_conv{i}", f"head/reduce_conv{i}", out, "width", 1, bias=True)
    for i, (_, out) in [*steps, (4, ("", "eighth"))]:
        rules += conv(f"upscale.smooth_conv{i}", f"head/smooth_conv{i}", out, out, 3, bias=True)
    for i, (_, out) in steps:
        rules += batch_norm(f"upscale.norm{i}", f"head/norm{i}", out)
    return rules + conv("out", "classifier", "classes", "eighth", 1)


_TWICE = "token_masking.mask_token"


def _read(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out the second copy of the mask token, once it is seen to be one."""
    arrays = dict(arrays)
    second, first = arrays.pop(_TWICE, None), arrays.get("encoder.mask_token")
    if second is not None and first is not None and not np.array_equal(second, first):
        raise UserError(f"vfm_uda weights: '{_TWICE}' differs from 'encoder.mask_token', expected the same token")
    return arrays


ONE_MASK_TOKEN = Rearrangement(_read, lambda arrays: {**arrays, _TWICE: arrays["encoder.mask_token"]})
