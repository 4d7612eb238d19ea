"""What is written of a predicted image: one file per kind, encoded where threads can do it side by side."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uda_jax.data.io import jpeg
from uda_jax.inference.labels import LEVELS
from uda_jax.report import pictures


class Kind(NamedTuple):
    """What can be written of an image.

    Attributes:
      ending: follows the stem of the image's file.
      map: that it is made of, one of `labels.MAPS`.
      text: what it is, for the command's help.
    """

    ending: str
    map: str
    text: str


KINDS = {
    "labels": Kind(".png", "labels", "class ids, 8 bits, in the colours of a palette"),
    "colours": Kind("_colours.png", "labels", "the colours of the classes, RGB"),
    "overlay": Kind("_overlay.jpg", "labels", "the image and the colours, half and half, as JPEG"),
    "confidence": Kind("_confidence.png", "confidence", "the largest probability, 8 bits grey, 255 = 1"),
    "entropy": Kind("_entropy.png", "entropy", "entropy of the probabilities over its largest value, 8 bits grey"),
    "depth": Kind("_depth.png", "depth", "centimetres, 16 bits grey, 655.35 m and more as 65535"),
    "probabilities": Kind("_probabilities.npz", "probabilities", "float16 [H, W, classes] and the names of classes"),
}
DEFAULT = ("labels", "overlay")
# Kinds that a video can be made of.
PICTURES = ("colours", "overlay")
# Zlib's third level: of label maps it leaves half as much again as its slowest, in a tenth of the time.
_LEVEL = 3


def endings() -> tuple[str, ...]:
    """Returns all endings that files of an image may have."""
    return (*(kind.ending for kind in KINDS.values()), "_overlay.png")


class Encoder:
    """Makes files and pictures of predicted maps.

    Args:
      palette: uint8 `[C, 3]`, the colours of the classes.
      classes: their names.
      overlay: "jpg" or "png", how overlays are written.
    """

    def __init__(self, palette: np.ndarray, classes: Sequence[str] = (), overlay: str = "jpg"):
        self._palette = palette
        self._colours = np.zeros((256, 3), np.uint8)
        self._colours[: len(palette)] = palette
        self._classes = tuple(classes)
        self._overlay = overlay

    def path(self, stem: pathlib.Path, kind: str) -> pathlib.Path:
        """Returns the file of a kind for an image whose output is called `stem`."""
        ending = "_overlay.png" if (kind, self._overlay) == ("overlay", "png") else KINDS[kind].ending
        # Not with_suffix: a stem may hold dots.
        return stem.with_name(f"{stem.name}{ending}")

    def picture(self, kind: str, maps: Mapping[str, np.ndarray], image: np.ndarray) -> np.ndarray:
        """Returns the picture uint8 RGB `[h, w, 3]` of a kind of `PICTURES`.

        Args:
          kind: which.
          maps: of one image, `[h, w, ...]`.
          image: uint8 RGB `[H, W, 3]`, which is resized to the maps.
        """
        # Much faster than indexing by the labels.
        colours = np.take(self._colours, maps["labels"], axis=0)
        if kind == "colours":
            return colours
        if image.shape != colours.shape:
            image = np.asarray(Image.fromarray(image).resize(colours.shape[1::-1], Image.Resampling.BILINEAR))
        return pictures.overlay(image, colours)

    def encoded(self, kind: str, maps: Mapping[str, np.ndarray], image: np.ndarray) -> bytes:
        """Returns the bytes of the file of a kind; arguments as `picture`."""
        if kind == "labels":
            return png(pictures.label_picture(maps["labels"], self._palette))
        if kind in PICTURES:
            picture = self.picture(kind, maps, image)
            as_jpeg = kind == "overlay" and self._overlay == "jpg"
            return jpeg.encode(picture) if as_jpeg else png(Image.fromarray(picture))
        if kind == "probabilities":
            data = io.BytesIO()
            # Not compressed: it would take ten times as long and save little.
            np.savez(data, probabilities=maps[kind], classes=np.array(self._classes))
            return data.getvalue()
        if kind == "depth":
            return png(Image.fromarray(np.ascontiguousarray(maps["depth"])))
        return png(Image.fromarray(np.rint(maps[kind] * (255 / LEVELS)).astype(np.uint8)))


def png(picture: Any) -> bytes:
    """Returns the bytes of a PNG file of a Pillow picture, quickly rather than small."""
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=_LEVEL)
    return data.getvalue()
