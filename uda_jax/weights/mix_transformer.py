"""The names of Mix Transformers and of the networks on them: the original files', mmsegmentation's and the hub's.

Original files, which DAFormer, HRDA and MIC inherit, have one matrix for queries and one for keys and values;
mmsegmentation has one for all three, the hub (transformers) one for each. These are cut or joined to the original's
before the rules are applied, and back after.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from uda_jax.errors import UserError
from uda_jax.weights.rules import VECTOR, Form, Group, Rule, batch_norm, conv, dense

StateDict = dict[str, np.ndarray]

# Sides of the kernels that reduce keys and values, by stage; the last stage has none.
_REDUCTIONS = (8, 4, 2, 1)


class Rearrangement(NamedTuple):
    """How matrices of a library's state dict become those of the original, and back; other tensors pass.

    Attributes:
      to_original: state dict -> state dict.
      from_original: its inverse.
    """

    to_original: Callable[[Mapping[str, np.ndarray]], StateDict]
    from_original: Callable[[Mapping[str, np.ndarray]], StateDict]


class _Names(NamedTuple):
    """What a library calls the modules of an encoder; `{s}` is a stage, `{i}` a block of it.

    Attributes:
      first: number of the first stage.
      patches, patches_norm, norm: of a stage.
      block: start of the names of a block's modules, which follow.
    """

    first: int
    patches: str
    patches_norm: str
    norm: str
    block: str
    norm1: str
    q: str
    kv: str
    proj: str
    sr: str
    kv_norm: str
    norm2: str
    fc1: str
    dwconv: str
    fc2: str


_ORIGINAL = _Names(
    1,
    "patch_embed{s}.proj",
    "patch_embed{s}.norm",
    "norm{s}",
    "block{s}.{i}",
    *("norm1", "attn.q", "attn.kv", "attn.proj", "attn.sr", "attn.norm"),
    *("norm2", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"),
)
_MMSEG = _Names(
    0,
    "layers.{s}.0.projection",
    "layers.{s}.0.norm",
    "layers.{s}.2",
    "layers.{s}.1.{i}",
    *("norm1", "attn.attn.q", "attn.attn.kv", "attn.attn.out_proj", "attn.sr", "attn.norm"),
    *("norm2", "ffn.layers.0", "ffn.layers.1", "ffn.layers.4"),
)
_SELF = "attention.self"
_HUB = _Names(
    0,
    "segformer.encoder.patch_embeddings.{s}.proj",
    "segformer.encoder.patch_embeddings.{s}.layer_norm",
    "segformer.encoder.layer_norm.{s}",
    "segformer.encoder.block.{s}.{i}",
    *("layer_norm_1", f"{_SELF}.query", f"{_SELF}.kv", "attention.output.dense", f"{_SELF}.sr", f"{_SELF}.layer_norm"),
    *("layer_norm_2", "mlp.dense1", "mlp.dwconv.dwconv", "mlp.dense2"),
)


def _norm(torch: str, flax: str, channels: str) -> list[Rule]:
    return [
        Rule(f"{torch}.weight", f"params/{flax}/scale", VECTOR, (channels,)),
        Rule(f"{torch}.bias", f"params/{flax}/bias", VECTOR, (channels,)),
    ]


def _block(names: _Names, torch: str, flax: str, stage: int) -> list[Rule]:
    """The rules of a stage's blocks; `torch` and `flax` have the place `{i}`."""
    channels, hidden, reduction = f"stage{stage}", f"hidden{stage}", _REDUCTIONS[stage - 1]
    rules = _norm(f"{torch}.{names.norm1}", f"{flax}/norm1", channels)
    rules += dense(f"{torch}.{names.q}", f"{flax}/attn/q", channels, channels)
    rules += dense(f"{torch}.{names.kv}", f"{flax}/attn/kv", f"keys_values{stage}", channels)
    rules += dense(f"{torch}.{names.proj}", f"{flax}/attn/proj", channels, channels)
    if reduction > 1:
        rules += conv(f"{torch}.{names.sr}", f"{flax}/attn/sr", channels, channels, reduction, bias=True)
        rules += _norm(f"{torch}.{names.kv_norm}", f"{flax}/attn/norm", channels)
    rules += _norm(f"{torch}.{names.norm2}", f"{flax}/norm2", channels)
    rules += dense(f"{torch}.{names.fc1}", f"{flax}/mlp/fc1", hidden, channels)
    rules += conv(f"{torch}.{names.dwconv}", f"{flax}/mlp/dwconv", hidden, 1, 3, bias=True)
    return rules + dense(f"{torch}.{names.fc2}", f"{flax}/mlp/fc2", channels, hidden)


def _encoder(names: _Names, prefix: str = "") -> list[Group]:
    """The groups of a Mix Transformer of any size, whose names start with `prefix`."""
    patches, groups = [], []
    for stage in range(1, 5):
        into, channels = 3 if stage == 1 else f"stage{stage - 1}", f"stage{stage}"
        own = _Names(names.first, *(name.replace("{s}", str(stage - 1 + names.first)) for name in names[1:]))
        flax = f"encoder/patch_embed{stage}"
        patches += conv(f"{prefix}{own.patches}", f"{flax}/proj", channels, into, 7 if stage == 1 else 3, bias=True)
        patches += _norm(f"{prefix}{own.patches_norm}", f"{flax}/norm", channels)
        groups.append(Group(_block(own, f"{prefix}{own.block}", f"encoder/block{stage}_{{i}}", stage)))
        groups.append(Group(_norm(f"{prefix}{own.norm}", f"encoder/norm{stage}", channels)))
    return [Group(patches), *groups]


def _conv_norm(torch: str, flax: str, out: str, into: str | int, size: int) -> list[Rule]:
    return conv(f"{torch}.conv", f"{flax}/conv", out, into, size) + batch_norm(f"{torch}.bn", f"{flax}/bn", out)


def _head(torch: str, flax: str, *, context: bool = True) -> Group:
    """DAFormer's head, whose fusion has context or is a 1x1 convolution."""
    # The stack has as many channels as the stages have together.
    width, stack = f"{flax}_width", f"{flax}_stack"
    rules = conv(f"{torch}.conv_seg", f"{flax}/conv_seg", "classes", width, 1, bias=True)
    for i in range(4):
        rules += dense(f"{torch}.embed_layers.{i}.proj", f"{flax}/embed_layers_{i}/proj", width, f"stage{i + 1}")
    fuse, path = f"{torch}.fuse_layer", f"{flax}/fuse_layer"
    if not context:
        return Group(rules + _conv_norm(fuse, path, width, stack, 1))
    rules += _conv_norm(f"{fuse}.aspp_modules.0", f"{path}/aspp_modules_0", width, stack, 1)
    for i in range(1, 4):
        view, to = f"{fuse}.aspp_modules.{i}", f"{path}/aspp_modules_{i}"
        rules += _conv_norm(f"{view}.depthwise_conv", f"{to}/depthwise_conv", stack, 1, 3)
        rules += _conv_norm(f"{view}.pointwise_conv", f"{to}/pointwise_conv", width, stack, 1)
    return Group(rules + _conv_norm(f"{fuse}.bottleneck", f"{path}/bottleneck", width, stack, 3))


def _imagenet(names: _Names, head: str) -> Form:
    # The ImageNet classifier, which no network here reads; kept so that the way back is exact.
    classifier = dense(head, "imagenet_head", "imagenet_classes", "stage4")
    return [*_encoder(names), Group(classifier, optional=True)]


ORIGINAL, MMSEG, HUB = _imagenet(_ORIGINAL, "head"), _encoder(_MMSEG), _imagenet(_HUB, "classifier")
DAFORMER: Form = [*_encoder(_ORIGINAL, "backbone."), _head("decode_head", "head")]
HRDA: Form = [
    *_encoder(_ORIGINAL, "backbone."),
    _head("decode_head.head", "head"),
    _head("decode_head.scale_attention", "scale_attention", context=False),
]


def _mmseg_to_original(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    found: StateDict = {}
    for name, array in state_dict.items():
        if joined := re.fullmatch(r"(.*\.attn\.attn)\.in_proj_(weight|bias)", name):
            channels = array.shape[0] // 3 if array.ndim else 0
            found[f"{joined[1]}.q.{joined[2]}"] = array[:channels]
            found[f"{joined[1]}.kv.{joined[2]}"] = array[channels:]
        elif re.search(r"\.ffn\.layers\.[04]\.weight$", name) and array.shape[2:] == (1, 1):
            found[name] = array[:, :, 0, 0]
        else:
            found[name] = array
    return found


def _mmseg_from_original(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    found: StateDict = {}
    for name, array in state_dict.items():
        if part := re.fullmatch(r"(.*\.attn\.attn)\.(q|kv)\.(weight|bias)", name):
            whole = f"{part[1]}.in_proj_{part[3]}"
            found[whole] = np.concatenate([found[whole], array]) if whole in found else array
        elif re.search(r"\.ffn\.layers\.[04]\.weight$", name):
            found[name] = array[:, :, None, None]
        else:
            found[name] = array
    return found


def _hub_to_original(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    found: StateDict = {}
    for name, array in state_dict.items():
        part = re.fullmatch(rf"(.*\.{re.escape(_SELF)})\.(key|value)\.(weight|bias)", name)
        if not part:
            found[name] = array
            continue
        keys, values = (f"{part[1]}.{kind}.{part[3]}" for kind in ("key", "value"))
        if keys not in state_dict or values not in state_dict:
            missing = values if keys in state_dict else keys
            raise UserError(f"mit_hub weights: '{missing}' is missing; check that the file is whole")
        if part[2] == "key":
            found[f"{part[1]}.kv.{part[3]}"] = np.concatenate([array, state_dict[values]])
    return found


def _hub_from_original(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    found: StateDict = {}
    for name, array in state_dict.items():
        if part := re.fullmatch(rf"(.*\.{re.escape(_SELF)})\.kv\.(weight|bias)", name):
            keys, values = np.split(array, 2)
            found |= {f"{part[1]}.key.{part[2]}": keys, f"{part[1]}.value.{part[2]}": values}
        else:
            found[name] = array
    return found


MMSEG_MATRICES = Rearrangement(_mmseg_to_original, _mmseg_from_original)
HUB_MATRICES = Rearrangement(_hub_to_original, _hub_from_original)
