"""Rules of the foundation encoders' files: DINOv2's, DINOv3's, those of transformers and of timm.

Where one tensor of a file is several of the network's, or the other way round, they are cut or joined to the rules'
before these are applied, and back after. The rules' own names are those of the official files, but for SwiGLU, whose
two maps are one tensor in DINOv2's and two in DINOv3's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from uda_jax.errors import UserError
from uda_jax.weights.mix_transformer import Rearrangement
from uda_jax.weights.rules import Axis, Form, Group, Layout, Rule, conv, dense, layer_norm, vector

Arrays = Mapping[str, np.ndarray]

TOKENS = Layout(("batch", "tokens", "channels"), (0, 1, 2))
TOKEN = Layout(("tokens", "channels"), (0, 1))

# Channels of an attention head in every published network, which the rotary periods of DINOv3's files depend on.
HEAD_SIZE = 64


def encoder(
    patch: int, mlp: str, *, registers: str | None = None, table: bool = False, prefix: str = "", trained: bool = True
) -> Form:
    """Returns the groups of an encoder.

    Args:
      patch: sides of a patch in pixels.
      mlp: "gelu" or "swiglu".
      registers: name of the register tokens, which may be absent; None = there are none.
      table: whether there is a table of positions.
      prefix: before every name.
      trained: whether the final norm and the mask token are there, as in the official files.
    """

    def token(name: str, flax: str, count: Axis) -> list[Rule]:
        return [Rule(f"{prefix}{name}", f"params/encoder/{flax}", TOKENS, (1, count, "width"))]

    first = token("cls_token", "cls_token", 1) + (token("pos_embed", "pos_embed", "places") if table else [])
    mask = [Rule(f"{prefix}mask_token", "params/encoder/mask_token", TOKEN, (1, "width"))]
    stem = conv(f"{prefix}patch_embed.proj", "encoder/patch_embed/proj", "width", 3, patch, bias=True)
    torch, flax = f"{prefix}blocks.{{i}}", "encoder/blocks_{i}"
    block = layer_norm(f"{torch}.norm1", f"{flax}/norm1", "width")
    block += dense(f"{torch}.attn.qkv", f"{flax}/attn/qkv", "qkv", "width")
    block += dense(f"{torch}.attn.proj", f"{flax}/attn/proj", "width", "width")
    block += vector(f"{torch}.ls1.gamma", f"{flax}/ls1/gamma", "width")
    block += layer_norm(f"{torch}.norm2", f"{flax}/norm2", "width")
    layers = {"gelu": ("fc1", "fc2"), "swiglu": ("w1", "w2", "w3")}[mlp]
    for layer in layers[:-1]:
        block += dense(f"{torch}.mlp.{layer}", f"{flax}/mlp/{layer}", "hidden", "width")
    block += dense(f"{torch}.mlp.{layers[-1]}", f"{flax}/mlp/{layers[-1]}", "width", "hidden")
    block += vector(f"{torch}.ls2.gamma", f"{flax}/ls2/gamma", "width")
    extra = [Group(token(registers, "register_tokens", "registers"), optional=True)] if registers else []
    norm = Group(layer_norm(f"{prefix}norm", "encoder/norm", "width"))
    if not trained:
        return [Group(first), *extra, Group(block), Group(stem)]
    return [Group(first), *extra, Group(mask, optional=table), Group(stem), Group(block), norm]


def dinov2() -> tuple[Form, ...]:
    """Returns the forms of DINOv2's files, which have one kind of MLP or the other."""
    return tuple(encoder(14, mlp, registers="register_tokens", table=True) for mlp in ("gelu", "swiglu"))


def dinov3() -> tuple[Form, ...]:
    """Returns the forms of DINOv3's files; some have a norm of local crops, which nothing reads."""
    local = Group(layer_norm("local_cls_norm", "local_cls_norm", "width"), optional=True)
    return tuple([*encoder(16, mlp, registers="storage_tokens"), local] for mlp in ("gelu", "swiglu"))


_QKV, _W12 = ("attn.q", "attn.k", "attn.v"), ("mlp.w1", "mlp.w2")


def _joined(arrays: Arrays, parts: Sequence[str], whole: str) -> dict[str, np.ndarray]:
    """Returns the tensors with each block's layers `parts` stacked as one layer `whole`, where all of them fit."""
    joined = {}
    for name, array in arrays.items():
        found = re.fullmatch(rf"(.*\.){re.escape(parts[0])}\.(weight|bias)", name)
        names = [f"{found[1]}{part}.{found[2]}" for part in parts] if found else []
        if names and all(other in arrays and arrays[other].shape[1:] == array.shape[1:] for other in names):
            joined[f"{found[1]}{whole}.{found[2]}"] = np.concatenate([arrays[other] for other in names])
        elif not _part_of(name, arrays, parts):
            joined[name] = array
    return joined


def _part_of(name: str, arrays: Arrays, parts: Sequence[str]) -> bool:
    """Whether a tensor is a later one of `parts` that has been stacked onto its first."""
    for part in parts[1:]:
        found = re.fullmatch(rf"(.*\.){re.escape(part)}\.(weight|bias)", name)
        if found:
            names = [f"{found[1]}{other}.{found[2]}" for other in parts]
            return all(other in arrays and arrays[other].shape[1:] == arrays[name].shape[1:] for other in names)
    return False


def _split(arrays: Arrays, whole: str, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the tensors with each block's layer `whole` as equal layers `parts`: the inverse of `_joined`."""
    split = {}
    for name, array in arrays.items():
        found = re.fullmatch(rf"(.*\.){re.escape(whole)}\.(weight|bias)", name)
        if found and array.ndim and len(array) % len(parts) == 0:
            for part, piece in zip(parts, np.split(array, len(parts)), strict=True):
                split[f"{found[1]}{part}.{found[2]}"] = piece
        else:
            split[name] = array
    return split


def _renamed(arrays: Arrays, pairs: Iterable[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Returns the tensors under other names.

    Args:
      arrays: by name.
      pairs: a fragment and what takes its place: within a name if it starts with a dot, otherwise at its start.
    """
    renamed = {}
    for name, array in arrays.items():
        for old, new in pairs:
            if old.startswith("."):
                name = name.replace(old, new)
            elif name.startswith(old):
                name = new + name[len(old) :]
        renamed[name] = array
    return renamed


def _reversed(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(new, old) for old, new in pairs]


def _read_dinov2(arrays: Arrays) -> dict[str, np.ndarray]:
    # Training in chunks numbers them before the blocks, whose own numbers run on.
    unchunked = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name): array for name, array in arrays.items()}
    return _split(unchunked if len(unchunked) == len(arrays) else arrays, "mlp.w12", _W12)


DINOV2 = Rearrangement(_read_dinov2, lambda arrays: _joined(arrays, _W12, "mlp.w12"))

_BLOCK_NAMES = (
    (".attention.attention.query.", ".attn.q."),
    (".attention.attention.key.", ".attn.k."),
    (".attention.attention.value.", ".attn.v."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
)
_DINOV2_NAMES = (
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("layernorm.", "norm."),
    *_BLOCK_NAMES,
    (".mlp.weights_in.", ".mlp.w12."),
    (".mlp.weights_out.", ".mlp.w3."),
)


def _write_dinov2_names(arrays: Arrays) -> dict[str, np.ndarray]:
    arrays = _split(_joined(arrays, _W12, "mlp.w12"), "attn.qkv", _QKV)
    return _renamed(arrays, [pair for pair in _reversed(_DINOV2_NAMES) if pair[0]] + _EMBEDDINGS)


# Tokens, whose names are the rules' own behind "embeddings.".
_EMBEDDINGS = [(name, f"embeddings.{name}") for name in ("cls_token", "mask_token", "register_tokens")]

DINOV2_TRANSFORMERS = Rearrangement(
    lambda arrays: _split(_joined(_renamed(arrays, _DINOV2_NAMES), _QKV, "attn.qkv"), "mlp.w12", _W12),
    _write_dinov2_names,
)


def _read_timm(arrays: Arrays) -> dict[str, np.ndarray]:
    """Where the table has no place for the class token, that place is added to the token already: it becomes 0."""
    arrays = _renamed(arrays, [("reg_token", "register_tokens")])
    if "register_tokens" in arrays and arrays.get("pos_embed", np.zeros(0)).ndim == 3:
        table = arrays["pos_embed"]
        arrays["pos_embed"] = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    return arrays


def _write_timm(arrays: Arrays) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    if "register_tokens" in arrays:
        table = arrays["pos_embed"]
        arrays |= {"cls_token": arrays["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}
    return _renamed(arrays, [("register_tokens", "reg_token")])


DINOV2_TIMM = Rearrangement(_read_timm, _write_timm)


def rotary_periods(count: int) -> np.ndarray:
    """Returns the rotary periods of DINOv3's files, which follow from their number."""
    return (100.0 ** (np.arange(count) / count)).astype(np.float32)


def bias_mask(size: int) -> np.ndarray:
    """Returns what DINOv3's files multiply the attention's bias by: 0 for the keys, the middle third."""
    return (np.arange(size) // (size // 3) != 1).astype(np.float32)


def _read_dinov3(arrays: Arrays) -> dict[str, np.ndarray]:
    """Leaves out what follows from the structure, once it is seen to."""
    read = {}
    for name, array in arrays.items():
        if name == "rope_embed.periods":
            expected = rotary_periods(len(array) if array.ndim == 1 else 0)
        elif name.endswith(".attn.qkv.bias_mask"):
            expected = bias_mask(array.size)
        else:
            read[name] = array
            continue
        # Files of other types round the periods.
        if array.shape != expected.shape or not np.allclose(array, expected, rtol=1e-2, atol=0):
            raise UserError(f"dinov3 weights: '{name}' differs from that of DINOv3; another structure is not read")
    return read


def _write_dinov3(arrays: Arrays) -> dict[str, np.ndarray]:
    written = {}
    for name, array in arrays.items():
        written[name] = array
        if name == "patch_embed.proj.bias":
            written["rope_embed.periods"] = rotary_periods(HEAD_SIZE // 4)
        if name.endswith(".attn.qkv.bias"):
            written[f"{name}_mask"] = bias_mask(array.size)
    return written


DINOV3 = Rearrangement(_read_dinov3, _write_dinov3)

_DINOV3_NAMES = (
    ("embeddings.register_tokens", "storage_tokens"),
    ("embeddings.patch_embeddings.", "patch_embed.proj."),
    ("embeddings.", ""),
    ("model.layer.", "layer."),
    ("layer.", "blocks."),
    (".attention.q_proj.", ".attn.q."),
    (".attention.k_proj.", ".attn.k."),
    (".attention.v_proj.", ".attn.v."),
    (".attention.o_proj.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
)
_GELU_NAMES = ((".mlp.up_proj.", ".mlp.fc1."), (".mlp.down_proj.", ".mlp.fc2."))
_SWIGLU_NAMES = ((".mlp.gate_proj.", ".mlp.w1."), (".mlp.up_proj.", ".mlp.w2."), (".mlp.down_proj.", ".mlp.w3."))


def _read_dinov3_names(arrays: Arrays) -> dict[str, np.ndarray]:
    gated = any(".mlp.gate_proj." in name for name in arrays)
    arrays = _renamed(arrays, [*_DINOV3_NAMES, *(_SWIGLU_NAMES if gated else _GELU_NAMES)])
    if (token := arrays.get("mask_token")) is not None and token.ndim == 3:
        arrays["mask_token"] = token[0]
    # Keys have no bias here, and one that counts as 0 in the rules.
    for name, bias in list(arrays.items()):
        if name.endswith(".attn.q.bias"):
            arrays[name.replace(".q.", ".k.")] = np.zeros_like(bias)
    return _joined(arrays, _QKV, "attn.qkv")


def _write_dinov3_names(arrays: Arrays) -> dict[str, np.ndarray]:
    arrays = {name: array for name, array in _split(arrays, "attn.qkv", _QKV).items() if ".attn.k.bias" not in name}
    arrays["mask_token"] = arrays["mask_token"][None]
    # "model.layer." is a name in memory alone.
    pairs = [*_DINOV3_NAMES[:2], *_DINOV3_NAMES[4:], *_GELU_NAMES, *_SWIGLU_NAMES]
    return _renamed(arrays, _reversed(pairs) + _EMBEDDINGS[:2])


DINOV3_TRANSFORMERS = Rearrangement(_read_dinov3_names, _write_dinov3_names)
