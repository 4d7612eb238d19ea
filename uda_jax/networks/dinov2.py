"""DINOv2's encoders (Oquab et al., arXiv 2304.07193), with registers if wanted (Darcet et al., arXiv 2309.16588).

Patches of 14 pixels and a table of positions that was trained on 37 x 37 of them.
"""

import dataclasses
from typing import Any

from uda_jax.networks import vit
from uda_jax.networks.base import Entry
from uda_jax.networks.vit import VisionTransformer, ViTOptions
from uda_jax.schema import config_field

PATCH = 14
# Width, depth, heads and MLP by the size's letter.
SIZES = {
    "s": (384, 12, 6, "gelu"),
    "b": (768, 12, 12, "gelu"),
    "l": (1024, 24, 16, "gelu"),
    "g": (1536, 40, 24, "swiglu"),
}


@dataclasses.dataclass(frozen=True)
class DINOv2Options(ViTOptions):
    """Options of DINOv2's encoders."""

    registers: int = config_field(
        0,
        "Register tokens: 0, or 4 for the weights that have them, whose positions are resized otherwise.",
        choices=(0, 4),
    )
    table: int = config_field(37, "Rows and columns of the table of positions.", low=1)


def build(options: DINOv2Options, **decided: Any) -> VisionTransformer:
    """Returns an encoder, named by the attribute that it is assigned to.

    Args:
      options: its own.
      **decided: attributes of `VisionTransformer` that a segmenter decides, `maskable` and `adapters`.
    """
    o = options
    return VisionTransformer(
        "dinov2",
        PATCH,
        o.width,
        o.depth,
        o.heads,
        o.mlp,
        ratio=4,
        epsilon=1e-6,
        scale=1.0,
        registers=o.registers,
        table=o.table,
        remat=o.remat,
        dtype=o.dtype,
        **decided,
    )


def defaults(size: str) -> dict[str, Any]:
    """Returns the options of one of `SIZES`."""
    return dict(zip(("width", "depth", "heads", "mlp"), SIZES[size], strict=True))


ENCODERS = {f"dinov2_vit{size}14": Entry(build, DINOv2Options, defaults(size), vit.layers()) for size in SIZES}
