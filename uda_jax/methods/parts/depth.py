"""Depth as a second task: what a network predicts of it, and what the source knows."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from uda_jax.errors import UserError
from uda_jax.methods.parts.segmenter import Segmenter


def depth_map(segmenter: Segmenter, outputs: Mapping[str, jax.Array], size: tuple[int, int]) -> jax.Array:
    """Depth [B, *size, 1] of the network's depth head, interpolated as its other maps are."""
    return segmenter.upsample(outputs["depth"].astype(jnp.float32), size)


def source_depth(source: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the source's depth [B, H, W, 1] in metres, 0 = invalid; raises a UserError if it has none."""
    if "depth" not in source:
        raise UserError(
            f"config.data.source.fields: expected 'depth', in metres, among them, got {sorted(source)}; add it"
        )
    return source["depth"][..., None]
