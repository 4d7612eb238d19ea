"""A procedural street in two looks, with labels and exact depth; pure NumPy and Pillow."""

from uda_jax.data.rendering.frames import (
    DRIVE_VERSION,
    RENDERER_VERSION,
    Frame,
    intrinsics,
    motion,
    render,
    render_drive,
    render_neighbours,
    render_stereo,
)
from uda_jax.data.rendering.looks import LOOKS, WEATHERS

__all__ = [
    "DRIVE_VERSION",
    "LOOKS",
    "RENDERER_VERSION",
    "WEATHERS",
    "Frame",
    "intrinsics",
    "motion",
    "render",
    "render_drive",
    "render_neighbours",
    "render_stereo",
]
