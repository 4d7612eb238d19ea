"""Which network reads some weights: read off their arrays, as far as the dialect leaves it open."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import weights
from uda_jax.errors import UserError
from uda_jax.networks import mit

# By the width of a foundation encoder and whether its MLP is SwiGLU.
_DINOV2 = {(384, False): "s14", (768, False): "b14", (1024, False): "l14", (1536, True): "g14"}
_DINOV3 = {
    (384, False): "s16",
    (384, True): "s16plus",
    (768, False): "b16",
    (1024, False): "l16",
    (1280, True): "h16plus",
}
_RESNETS = {23: "resnet101", 6: "resnet50", 1: "resnet14"}
_BASIC_RESNETS = {6: "resnet34", 2: "resnet18"}


def describe(dialect: str, facts: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"name", "num_classes", "options"} for `networks.build`.

    Args:
      dialect: the family of the weights.
      facts: what they need beside, see `weights.facts`.
      params: their arrays.

    Raises:
      UserError: a ResNet of unknown depth, or a foundation encoder of unknown size.
    """
    name, options, classes = weights.checkpoint_info(dialect).network, {}, 1
    encoder = params.get("encoder", {})
    if "layer3_0" in encoder:
        blocks = sum(part.startswith("layer3_") for part in encoder)
        known = _RESNETS if "conv3" in encoder["layer3_0"] else _BASIC_RESNETS
        if blocks not in known:
            *counts, last = known
            raise UserError(
                f"{dialect} weights: layer3 has {blocks} blocks; known networks have {', '.join(map(str, counts))} or "
                f"{last}"
            )
        name = f"{name.rpartition('_')[0]}_{known[blocks]}"
        stem = encoder["stem_6" if "stem_6" in encoder else "conv1"]
        options |= {"width": _outputs(stem), "encoder_style": facts["encoder_style"]}
        if name.startswith("deeplab"):
            options["multi_level"] = "aux_head" in params
        if name.startswith("corda"):
            options["initial_head"] = "linear" if "kernel" in params["aux_head"] else "aspp"
    elif "conv_stem" in encoder:
        options["width"] = _outputs(encoder["conv_stem"])
    elif "cls_token" in encoder:
        name, options = _foundation(name, encoder)
        last = params.get("classifier") or params.get("head", {}).get("out") or params.get("head", {})
        classes = _outputs(last) if "kernel" in last else 1
    elif "patch_embed1" in encoder:
        name, own = _mix_transformer(dialect, name, encoder)
        options |= own
    elif "conv1_1" in encoder:
        options["width"] = _outputs(encoder["conv1_1"])
    elif "fc3" in params:
        classes, options = _outputs(params["fc3"]) // 2, {"hidden": _outputs(params["fc1"])}
    else:
        options["width"] = _outputs(params["conv1"])
        if name == "translator":
            options["blocks"] = sum(part.startswith("block_") for part in params)
    if "conv_seg" in params.get("head", {}):
        classes = _outputs(params["head"]["conv_seg"])
        options["head_width"] = _outputs(params["head"]["embed_layers_0"]["proj"])
    elif "branch_0" in params.get("head", {}):
        branch = params["head"]["branch_0"]
        classes = _outputs(branch)
        options |= {"aspp_branches": facts.get("aspp_branches"), "aspp_bias": "bias" in branch}
    return {"name": name, "num_classes": classes, "options": options}


def _foundation(name: str, encoder: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name of the network and its options for the arrays of a DINOv2 or DINOv3."""
    width, gated = encoder["cls_token"].shape[-1], "w3" in encoder["blocks_0"]["mlp"]
    family, known = ("dinov2", _DINOV2) if "pos_embed" in encoder else ("dinov3", _DINOV3)
    if (width, gated) not in known:
        raise UserError(f"{family} weights: {width} channels; known networks have {sorted({w for w, _ in known})}")
    options = {"depth": sum(part.startswith("blocks_") for part in encoder)}
    if family == "dinov2":
        options["table"] = round((encoder["pos_embed"].shape[1] - 1) ** 0.5)
        options["registers"] = encoder["register_tokens"].shape[1] if "register_tokens" in encoder else 0
    return f"{name.partition('_')[0]}_{family}_vit{known[width, gated]}", options


def _mix_transformer(dialect: str, name: str, encoder: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name of a network on the Mix Transformer of this size, and the options of the size.

    Raises:
      UserError: an encoder of no known size.
    """
    blocks = tuple(sum(part.startswith(f"block{stage}_") for part in encoder) for stage in range(1, 5))
    width = _outputs(encoder["patch_embed1"]["proj"])
    size = next((size for size, known in mit.SIZES.items() if known == (width, blocks)), None)
    if size is None:
        raise UserError(
            f"{dialect} weights: {width} channels and {blocks} blocks per stage; known encoders: {', '.join(mit.SIZES)}"
        )
    return f"{name.partition('_')[0]}_{size}", {"width": width, "blocks": blocks}


def example(network: Mapping[str, Any], params: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Returns the shape of an input that a network takes: images, or class means.

    Args:
      network: from `describe`.
      params: the arrays that it was read off.
    """
    if "encoder" in params:
        shape = (1, 64, 64, 3)
    elif "fc1" in params:
        shape = (1, network["num_classes"], params["fc1"]["kernel"].shape[0])
    else:
        shape = (1, 64, 64, params["conv1"]["kernel"].shape[-2])
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _outputs(module: Mapping[str, Any]) -> int:
    return module["kernel"].shape[-1]
