"""Classes of the pixels of images of any size, prepared as an evaluation split is, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.data.pipeline import domains

Size = tuple[int, int]
# predict(images uint8 [B, H, W, 3], size) -> scores [B, *size, C].
Scores = Callable[[np.ndarray, Size], jax.Array]

# Pixels of one image that are scored at once, and of all images of one call: of 19 classes about 0.3 and 0.6 GB.
MOST_PIXELS = 2**22
_MOST_PIXELS_OF_A_BATCH = 2**23
# Windows of an image that is larger and is not resized, and the border of each that is left to its neighbours.
_WINDOW, _BORDER = (1024, 2048), 128
_ROWS = 64


class Labeller:
    """Predicts the class of every pixel of images, at their own size.

    Images are resized by the rules of the split that runs are scored on, padding included; scores are cut back from it.
    Where all scores of an image would not fit, they are made coarser first and then interpolated by strips; an image
    that the network would have to see at such a size is seen by overlapping windows.

    Args:
      scores: makes scores of a batch that is always full, so that one compilation serves all images of one size.
      domain: the split.
      batch_size: images per call; fewer where they are large.
      most_pixels: of one image that are scored at once.

    Attributes:
      notes: what was done otherwise than asked, in one line each.
    """

    def __init__(self, scores: Scores, domain: domains.Domain, batch_size: int, *, most_pixels: int = MOST_PIXELS):
        self._scores = scores
        self._domain = domain
        self._batch_size = batch_size
        self._most = most_pixels
        self.notes: dict[str, None] = {}

    def batch_size(self, size: Size) -> int:
        """Returns how many images of a size (height, width) are predicted at once."""
        # Windows are seen one at a time, and strips are made of one image's scores.
        if _pixels(size) > self._most:
            fitting = 1
        else:
            pixels = max(_pixels(size), _pixels(self._domain.size or size))
            fitting = max(1, _MOST_PIXELS_OF_A_BATCH // pixels)
        if fitting < self._batch_size:
            self._note(f"images of {size[0]}x{size[1]} are predicted {fitting} at a time, to bound memory")
        return min(fitting, self._batch_size)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns uint8 `[B, H, W]`, the classes of images uint8 `[H, W, 3]` of one size, as many as `batch_size`."""
        size = images[0].shape[:2]
        if self._domain.size is None and _pixels(size) > self._most:
            return np.stack([self._by_windows(image) for image in images])
        inputs = np.stack([domains.resized({"image": image}, self._domain)["image"] for image in images])
        # What the whole input shows, padding included, at the scale of the images.
        whole = domains.padded_size(self._domain, size)
        if _pixels(whole) <= self._most:
            return _classes(self._scores(inputs, whole))[:, : size[0], : size[1]]
        self._note(f"scores of images of {size[0]}x{size[1]} are interpolated in two steps, to bound memory")
        shrink = (self._most / _pixels(whole)) ** 0.5
        asked = tuple(max(1, int(side * shrink)) for side in whole)
        scores = self._scores(inputs, asked)
        return np.concatenate(list(_enlarged(scores, whole)), axis=1)[:, : size[0], : size[1]]

    def _by_windows(self, image: np.ndarray) -> np.ndarray:
        """Predicts one image by windows, each of which gives the pixels that lie further from its border."""
        size = image.shape[:2]
        factor = min(1.0, (self._most / _pixels(_WINDOW)) ** 0.5)
        window = tuple(min(side, max(2, int(side_ * factor))) for side, side_ in zip(size, _WINDOW, strict=True))
        border = min(_BORDER, min(window) // 4)
        self._note(f"images of {size[0]}x{size[1]} are seen by windows of {window[0]}x{window[1]}, to bound memory")
        labels = np.zeros(size, np.uint8)
        for top in _starts(size[0], window[0], border):
            for left in _starts(size[1], window[1], border):
                crop = image[top : top + window[0], left : left + window[1]]
                found = _classes(self._scores(crop[None], window))[0]
                # Later windows overwrite what lies near the end of earlier ones.
                inner = (border if top else 0, border if left else 0)
                labels[top + inner[0] : top + window[0], left + inner[1] : left + window[1]] = found[
                    inner[0] :, inner[1] :
                ]
        return labels

    def _note(self, text: str) -> None:
        self.notes[text] = None


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _classes(scores: jax.Array) -> np.ndarray:
    return np.asarray(scores.argmax(-1), np.uint8)


def _starts(length: int, window: int, border: int) -> list[int]:
    """Returns where windows start along one axis, overlapping by twice the border; the last one ends at the end."""
    stride = max(1, window - 2 * border)
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _enlarged(scores: jax.Array, size: Size) -> Iterator[np.ndarray]:
    """Yields the classes of scores `[B, h, w, C]` at a larger size, interpolated by pixel centres, strip by strip."""
    rows, columns = (_centres(have, wanted) for have, wanted in zip(scores.shape[1:3], size, strict=True))
    for start in range(0, size[0], _ROWS):
        strip = rows[start : start + _ROWS]
        # Always as many rows, for one compilation.
        padded = np.concatenate([strip, np.repeat(strip[-1:], _ROWS - len(strip))])
        yield np.asarray(_strip(scores, padded, columns))[:, : len(strip)]


def _centres(have: int, wanted: int) -> np.ndarray:
    """Returns where the centres of pixels lie in a shorter axis, float32 [wanted]."""
    return np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1).astype(np.float32)


@jax.jit
def _strip(scores: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    # By gathers: the matrices of `ops.resize_bilinear` would be as large as the image.
    scores = jnp.asarray(scores, jnp.float32)
    for axis, centres in ((1, rows), (2, columns)):
        first = jnp.floor(centres).astype(jnp.int32)
        second = jnp.minimum(first + 1, scores.shape[axis] - 1)
        share = (centres - first).reshape([-1 if i == axis else 1 for i in range(4)])
        scores = jnp.take(scores, first, axis) * (1 - share) + jnp.take(scores, second, axis) * share
    return scores.argmax(-1).astype(jnp.uint8)
