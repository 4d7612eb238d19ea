"""A procedural street in two looks, with labels and exact depth; pure NumPy and Pillow."""

from uda_jax.data.rendering.frames import RENDERER_VERSION, Frame, intrinsics, render, render_drive, render_stereo
from uda_jax.data.rendering.looks import LOOKS, WEATHERS

__all__ = ["LOOKS", "WEATHERS", "RENDERER_VERSION", "Frame", "intrinsics", "render", "render_drive", "render_stereo"]
