"""Pictures of labels, predictions and entropies: arrays in, arrays or PNG bytes out."""

import base64
import io
import os
import pathlib
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from uda_jax.data.io import atomic, names
from uda_jax.data.io.files import require_file
from uda_jax.data.io.images import opened
from uda_jax.errors import UserError

KINDS = ("image", "label", "prediction", "entropy")

_LEGIBLE = 512  # pixels; pictures with lines are enlarged by a whole factor to about this width
_STRIP = 256  # rows
_OPTIMISED = 2**20  # pixels
_TINY = 64  # pixels; pictures up to this width are enlarged for the page, since browsers would blur them

# Dark violet over red to pale yellow; the lightness grows evenly, so that the map also reads in grey.
_HEAT_ANCHORS = np.array([(12, 7, 40), (78, 20, 106), (160, 42, 98), (222, 88, 62), (248, 165, 62), (252, 246, 196)])


def colourise(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paints a label map.

    Args:
      label: uint8 `[H, W]`, class ids.
      palette: uint8 `[C, 3]`, the RGB colour of each class.

    Returns:
      uint8 RGB `[H, W, 3]`; ids without a colour, 255 = ignore among them, are black.
    """
    return _colours(palette)[label]


def overlay(image: np.ndarray, colour: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Blends a painted label map over its image.

    Args:
      image, colour: uint8 RGB `[H, W, 3]`.
      alpha: the share of `colour`, 0 to 1.

    Returns:
      uint8 RGB `[H, W, 3]`.
    """
    blended = np.empty_like(image)
    # By strips of rows, since the floating-point numbers take many times the room of the pictures.
    for rows in (slice(start, start + _STRIP) for start in range(0, len(image), _STRIP)):
        mixed = (1 - alpha) * image[rows].astype(np.float32) + alpha * colour[rows].astype(np.float32)
        blended[rows] = np.rint(mixed).astype(np.uint8)
    return blended


def heat_map(values: np.ndarray) -> np.ndarray:
    """Paints values in [0, 1], such as a normalised entropy, from dark (0) to light (1).

    Args:
      values: float `[H, W]`; what lies outside the range is clipped, NaN counts as 1.

    Returns:
      uint8 RGB `[H, W, 3]`.
    """
    levels = np.nan_to_num(np.clip(np.asarray(values, np.float32), 0, 1), nan=1.0)
    return _heat_table()[np.rint(255 * levels).astype(np.uint8)]


def components_picture(features: np.ndarray) -> np.ndarray:
    """Paints feature maps by their first three principal components, over the map's own pixels, as red, green, blue.

    Pixels that a network sees alike have like colours; a component that is the same everywhere is grey. The colours of
    two maps cannot be compared.

    Args:
      features: float `[h, w, D]`, all finite.

    Returns:
      uint8 RGB `[h, w, 3]`; each component from its least value (0) to its largest (255).
    """
    height, width, channels = features.shape
    vectors = np.asarray(features, np.float64).reshape(-1, channels)
    vectors = vectors - vectors.mean(axis=0)
    # Of the covariance, which is small where the map has more pixels than channels; largest first.
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axes = axes[:, ::-1][:, :3]
    # An axis has no direction of its own: the larger part of its numbers is taken to be positive.
    found = np.zeros((height * width, 3))
    found[:, : axes.shape[1]] = vectors @ (axes * np.where(axes.sum(axis=0) < 0, -1.0, 1.0))
    low, spread = found.min(axis=0), np.ptp(found, axis=0)
    flat = spread <= 1e-9 * max(float(np.abs(features).max(initial=0)), 1e-30)
    shares = np.where(flat, 0.5, (found - low) / np.where(flat, 1.0, spread))
    return np.rint(255 * shares).astype(np.uint8).reshape(height, width, 3)


def enlarged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image uint8 RGB `[H, W, 3]` at another (height, width), each pixel a rectangle: no colour is mixed."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST))


def panel(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Sets images of the same height side by side, with white gaps of `gap` pixels.

    Args:
      images: uint8 RGB `[H, W_i, 3]`, at least one.
      gap: pixels between two neighbours.

    Returns:
      uint8 RGB `[H, sum of W_i + gaps, 3]`.
    """
    space = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (space, image)][1:], axis=1)


def joined(left: np.ndarray, right: np.ndarray, points: np.ndarray, colours: np.ndarray, gap: int = 4) -> np.ndarray:
    """Sets two images of the same height side by side and joins associated pixels by lines.

    Args:
      left, right: uint8 RGB `[H, W, 3]` and `[H, W', 3]`.
      points: int `[N, 4]`, row and column in the left image, row and column in the right one; rows of -1 are no pair.
      colours: uint8 `[N, 3]`, RGB of each line.
      gap: pixels between the images.

    Returns:
      uint8 RGB `[f H, f (W + gap + W'), 3]`; f > 1 enlarges small images, whose lines would hide them.
    """
    factor = max(1, _LEGIBLE // left.shape[1])
    picture = Image.fromarray(panel([left, right], gap).repeat(factor, 0).repeat(factor, 1))
    draw = ImageDraw.Draw(picture)
    shift = left.shape[1] + gap
    for (row, column, other_row, other_column), colour in zip(points.tolist(), colours.tolist(), strict=True):
        if row < 0:
            continue
        # From the middle of one enlarged pixel to that of the other.
        ends = [
            (factor * x + factor // 2, factor * y + factor // 2)
            for x, y in ((column, row), (other_column + shift, other_row))
        ]
        # White below the colour keeps a line visible on ground of its own class's colour.
        draw.line(ends, fill=(255, 255, 255), width=4)
        draw.line(ends, fill=tuple(colour), width=2)
        for x, y in ends:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=tuple(colour), outline=(255, 255, 255))
    return np.array(picture)


def label_picture(label: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Returns a palette picture that stores the class ids of `label`, uint8 `[H, W]`, and shows the palette."""
    picture = Image.fromarray(np.ascontiguousarray(label, np.uint8))
    picture.putpalette(_colours(palette).tobytes())
    return picture


def png(picture: np.ndarray | Image.Image) -> bytes:
    """Returns the bytes of a PNG file of a picture or of a uint8 RGB `[H, W, 3]` array."""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    data = io.BytesIO()
    # Of a photograph it saves 8 % and takes seven times as long, which shows in large ones.
    picture.save(data, "PNG", optimize=picture.width * picture.height <= _OPTIMISED)
    return data.getvalue()


def thumbnail(path: str | os.PathLike, width: int, *, exact: bool = True) -> tuple[str, int, int]:
    """Returns a PNG file as a `data:` address for an HTML page, and its width and height there.

    Args:
      path: the file.
      width: pixels. Wider pictures shrink to it; tiny ones (digits) grow towards it by a whole factor, each pixel a
        square.
      exact: whether colours stand for classes, so that neither shrinking nor compression (JPEG) may mix them.

    Raises:
      UserError: the file cannot be read as a picture.
    """
    try:
        require_file(path)
        with opened(path) as picture:
            picture.load()
    # What Pillow raises for damaged files depends on the format and on where the damage is.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); predict or evaluate again") from None
    tiny = picture.width <= _TINY
    if not exact:
        picture = picture.convert("RGB")
    if picture.width > width:
        # Pillow never mixes the indices of palette pictures: for those it takes the nearest.
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.BOX)
    elif tiny:
        factor = width // picture.width
        picture = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    kind, data = ("png", png(picture)) if exact or tiny else ("jpeg", _jpeg(picture))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", picture.width, picture.height


def frame_folder(name: str) -> str:
    """Returns the folder's name of a frame, which no other frame has; see `names.component`."""
    return names.component(name)


def saved_frames(folder: str | os.PathLike) -> dict[str, dict[str, pathlib.Path]]:
    """Finds what `save_frame` saved.

    Args:
      folder: the folder of the frames' folders; it may be absent.

    Returns:
      The frames' folder names, sorted, each with {"image" | "label" | "prediction" | "entropy": file}. Frames
      without an image or a prediction, as a killed run may leave them, are left out.
    """
    frames = sorted(path for path in pathlib.Path(folder).glob("*") if path.is_dir())
    found = {
        frame.name: {kind: frame / f"{kind}.png" for kind in KINDS if (frame / f"{kind}.png").exists()}
        for frame in frames
    }
    return {name: files for name, files in found.items() if "image" in files and "prediction" in files}


def save_frame(
    folder: str | os.PathLike,
    name: str,
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    entropy: np.ndarray,
    palette: np.ndarray,
) -> None:
    """Saves the pictures of one evaluation frame as `folder/<name>/{image,label,prediction,entropy}.png`.

    Args:
      folder: the run's `pictures` folder.
      name: the frame's name, see `frame_folder`.
      image: uint8 RGB `[H, W, 3]`.
      label: uint8 `[H, W]` or None, where the frame has no label.
      prediction: uint8 `[H, W]`, class ids.
      entropy: float `[H, W]` in [0, 1] (divided by the log of the class number).
      palette: uint8 `[C, 3]`.
    """
    frame = pathlib.Path(folder) / frame_folder(name)
    levels = np.rint(255 * np.nan_to_num(np.clip(np.asarray(entropy, np.float32), 0, 1), nan=1.0)).astype(np.uint8)
    atomic.write(frame / "image.png", png(np.ascontiguousarray(image)))
    if label is not None:
        atomic.write(frame / "label.png", png(label_picture(label, palette)))
    atomic.write(frame / "prediction.png", png(label_picture(prediction, palette)))
    atomic.write(frame / "entropy.png", png(label_picture(levels, _heat_table())))


def _jpeg(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    # Colours at full resolution, as lines and heat maps have small ones.
    picture.save(data, "JPEG", quality=85, subsampling=0)
    return data.getvalue()


def _colours(palette: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


def _heat_table() -> np.ndarray:
    positions = np.linspace(0, 255, len(_HEAT_ANCHORS))
    return (
        np.stack([np.interp(np.arange(256), positions, channel) for channel in _HEAT_ANCHORS.T], -1)
        .round()
        .astype(np.uint8)
    )
