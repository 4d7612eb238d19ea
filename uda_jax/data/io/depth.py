"""Depth from disparity: metres from a stereo pair, and the files of monocular networks.

Data sets deliver `depth` in metres and `disparity` as relative inverse depth, both with 0 where there is no value.
"""

from typing import Any

import numpy as np

from uda_jax.data.io.images import read_depth


def metres_from_disparity(disparity: np.ndarray, *, baseline: float, focal_length: float) -> np.ndarray:
    """Turns stereo disparity into depth: baseline * focal length / disparity.

    Args:
      disparity: `[H, W]`, pixels at the width that `focal_length` belongs to; 0, negative or not finite = invalid.
      baseline: distance of the two cameras, metres.
      focal_length: horizontal focal length, pixels.

    Returns:
      float32 `[H, W]`, metres, 0 = invalid. A disparity of 0 is a point without a finite depth, thus invalid too.
    """
    disparity = np.asarray(disparity, np.float64)
    valid = np.isfinite(disparity) & (disparity > 0)
    depth = np.zeros(disparity.shape)
    np.divide(baseline * focal_length, disparity, out=depth, where=valid)
    return depth.astype(np.float32)


def read_relative_disparity(source: Any) -> np.ndarray:
    """Reads the output of CorDA's monocular networks, a 16-bit PNG of normalised disparity.

    Returns:
      float32 `[H, W]`, stored counts / 256, larger = nearer, 0 = invalid.
    """
    return read_depth(source, 1 / 256, bits=(16,))
