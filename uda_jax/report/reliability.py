"""The reliability diagram: how often predictions of a confidence are right."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_SIDE, _MARGIN = 480, 56
_INK, _GRID = (40, 40, 40), (215, 215, 215)
_BAR, _GAP = (70, 120, 190), (235, 140, 110)


def diagram(calibration: Mapping[str, Any], title: str) -> np.ndarray:
    """Draws the accuracy of each bin of confidence, and in another colour how far it is from the mean confidence.

    Args:
      calibration: {"ece": fraction or None, "bins": [{"share", "accuracy", "confidence"}]}, bins of equal width from 0
        to 1.
      title: above it.

    Returns:
      uint8 RGB `[H, W, 3]`.
    """
    picture = Image.new("RGB", (_SIDE + 2 * _MARGIN, _SIDE + 2 * _MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    at = lambda x, y: (_MARGIN + round(_SIDE * x), _MARGIN + round(_SIDE * (1 - y)))  # noqa: E731
    for tenth in range(0, 11, 2):
        value = tenth / 10
        draw.line([at(value, 0), at(value, 1)], fill=_GRID)
        draw.line([at(0, value), at(1, value)], fill=_GRID)
        draw.text((at(value, 0)[0] - 8, at(0, 0)[1] + 8), f"{value:.1f}", fill=_INK)
        draw.text((_MARGIN - 26, at(0, value)[1] - 6), f"{value:.1f}", fill=_INK)
    bins = calibration["bins"]
    for number, one in enumerate(bins):
        if one["accuracy"] is None:
            continue
        left, right = number / len(bins), (number + 1) / len(bins)
        low, high = sorted((one["accuracy"], one["confidence"]))
        draw.rectangle([at(left, one["accuracy"]), at(right, 0)], fill=_BAR, outline=(255, 255, 255))
        draw.rectangle([at(left, high), at(right, low)], outline=_GAP, width=3)
    draw.line([at(0, 0), at(1, 1)], fill=_INK, width=2)
    draw.rectangle([at(0, 1), at(1, 0)], outline=_INK)
    error = calibration["ece"]
    draw.text((_MARGIN, 14), title, fill=_INK)
    told = "no labelled pixel" if error is None else f"expected calibration error {100 * error:.2f} %"
    draw.text((_MARGIN, 32), told, fill=_INK)
    draw.text(
        (_MARGIN + _SIDE // 2 - 150, _SIDE + 2 * _MARGIN - 22),
        "confidence (blue: accuracy, red: what is missing or too much)",
        fill=_INK,
    )
    return np.asarray(picture)
