"""DINOv3's encoders (Simeoni et al., arXiv 2508.10104): patches of 16 pixels, rotary positions, four storage tokens.

Keys have no bias. The weights are under the DINOv3 License, which is no open-source licence.
"""

import dataclasses
from typing import Any

from uda_jax.networks import vit
from uda_jax.networks.base import Entry
from uda_jax.networks.vit import VisionTransformer, ViTOptions

PATCH = 16
REGISTERS = 4
# Width, depth, heads and MLP by the size's letter.
SIZES = {
    "s16": (384, 12, 6, "gelu"),
    "s16plus": (384, 12, 6, "swiglu"),
    "b16": (768, 12, 12, "gelu"),
    "l16": (1024, 24, 16, "gelu"),
    "h16plus": (1280, 32, 20, "swiglu"),
}
# Of the MLP's hidden channels to the width.
RATIOS = {"gelu": 4, "swiglu": 6}


@dataclasses.dataclass(frozen=True)
class DINOv3Options(ViTOptions):
    """Options of DINOv3's encoders."""


def build(options: DINOv3Options, **decided: Any) -> VisionTransformer:
    """Returns an encoder, named by the attribute that it is assigned to.

    Args:
      options: its own.
      **decided: attributes of `VisionTransformer` that a segmenter decides, `maskable` and `adapters`.
    """
    o = options
    return VisionTransformer(
        "dinov3",
        PATCH,
        o.width,
        o.depth,
        o.heads,
        o.mlp,
        ratio=RATIOS[o.mlp],
        epsilon=1e-5,
        scale=1e-5,
        keyless=True,
        registers=REGISTERS,
        remat=o.remat,
        dtype=o.dtype,
        **decided,
    )


def defaults(size: str) -> dict[str, Any]:
    """Returns the options of one of `SIZES`."""
    return dict(zip(("width", "depth", "heads", "mlp"), SIZES[size], strict=True))


ENCODERS = {f"dinov3_vit{size}": Entry(build, DINOv3Options, defaults(size), vit.layers()) for size in SIZES}
