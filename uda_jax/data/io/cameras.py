"""What a camera's pictures say about space: its intrinsics as shares of the image, from calibrations of several forms.

(fx / W, fy / H, u0 / W, v0 / H), for an image W pixels wide and H high, are the same for every size of it. The
principal point (u0, v0) is counted from the outer corner of the first pixel, so that one in the middle of the image is
(1/2, 1/2). Calibrations mostly count from the centre of that pixel, as OpenCV's do, and theirs is half a pixel less.
"""

import numpy as np


def normalised(focal: tuple[float, float], centre: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Returns the map `intrinsics`, float32 `[4]`, of a calibration that counts from the centre of the first pixel.

    Args:
      focal: fx and fy in pixels.
      centre: cx and cy, the principal point, in pixels.
      size: height and width of the image in pixels.
    """
    height, width = size
    (fx, fy), (cx, cy) = focal, centre
    return np.array([fx / width, fy / height, (cx + 0.5) / width, (cy + 0.5) / height], np.float32)


def of_matrix(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the same of a camera matrix `[3, 3]`, which must be without skew."""
    return normalised((matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), size)
