"""Depth conversions: metres from stereo disparity, and the regression targets of DADA and CorDA.

Data sets deliver `depth` in metres and `disparity` as relative inverse depth, both with 0 where there is no value.
The depth heads of DADA and CorDA regress inverse depth instead: at least 1, larger = nearer, and exactly 1 where there
is nothing to learn, be it missing or too far away to tell. Convert first and resize afterwards, as they do.

The conversions are NumPy and work on maps of any shape.
"""

from typing import Any

import numpy as np

from uda_jax.data.images import read_depth

NO_SUPERVISION = 1.0
# The largest depth that 16 bits of centimetres can hold. One centimetre more is the numerator of the inverse depth,
# which so is exactly 1 there.
FARTHEST = 655.35


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


def inverse_depth_target(depth: np.ndarray, *, nearest: float = 0.1) -> np.ndarray:
    """Turns metric depth into the inverse depth that DADA and CorDA regress: 655.36 / (metres + 0.01).

    In centimetres v, as DADA writes it, this is 65536 / (v + 1). 1 m gives 648.9, 10 m gives 65.5, and 655.35 m, which
    is what SYNTHIA stores for the sky, exactly 1.

    Args:
      depth: `[H, W]`, metres, 0 = invalid. Beyond 655.35 m it counts as 655.35 m.
      nearest: metres; anything nearer is taken for invalid. 0.1 is CorDA's rule for the completed stereo depth of
        Cityscapes. 0 is the rule of both for SYNTHIA, where a depth of 0 then gives 65536.

    Returns:
      float32 `[H, W]`, 1 .. 65536, 1 = nothing to learn.

    Source: DADA's dataset/depth.py; CorDA's cityscapes_loader.py and synthia_dataset.py.
    """
    depth = np.asarray(depth, np.float64)
    # Written so that NaN, too, is invalid.
    usable = (depth >= nearest) & (depth <= FARTHEST)
    metres = np.where(usable, depth, FARTHEST)
    return ((FARTHEST + 0.01) / (metres + 0.01)).astype(np.float32)


def disparity_target(disparity: np.ndarray) -> np.ndarray:
    """Turns the disparity of a monocular network into the target that CorDA regresses: disparity + 1.

    Args:
      disparity: float32 `[H, W]`, the stored 16 bits divided by 256, as the readers of CorDA's `disparity` folders
        deliver it; 0 = invalid.

    Returns:
      float32 `[H, W]`, 1 .. 256.996, 1 = nothing to learn. Its scale is relative, and chosen to resemble that of
      `inverse_depth_target`.

    Source: CorDA's gta5_dataset.py and cityscapes_loader.py.
    """
    return (np.asarray(disparity) + NO_SUPERVISION).astype(np.float32)


def read_relative_disparity(source: Any) -> np.ndarray:
    """Reads the output of CorDA's monocular networks, a 16-bit PNG of normalised disparity.

    Returns:
      float32 `[H, W]`, stored counts / 256, larger = nearer, 0 = invalid.
    """
    return read_depth(source, 1 / 256, bits=(16,))
