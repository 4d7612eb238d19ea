"""Maps of images of any size, prepared as an evaluation split is, in bounded memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses
from uda_jax.data.pipeline import domains
from uda_jax.errors import UserError

Size = tuple[int, int]
Maps = Mapping[str, jax.Array]
# predict(images uint8 [B, H, W, 3], size, reduce) -> reduce(maps), of {"scores": [B, *size, C], optional "depth":
# [B, *size, 1]}; `reduce` can be hashed, so that it may be compiled with the network and spare the scores' way to
# memory.
Predict = Callable[[np.ndarray, Size, Callable[[Maps], Maps]], Maps]

# Pixels of one image that are scored at once, and of all images of one call: of 19 classes about 0.3 and 0.6 GB.
MOST_PIXELS = 2**22
_MOST_PIXELS_OF_A_BATCH = 2**23
# Windows of an image that is larger and is not resized, and the border of each that is left to its neighbours.
_WINDOW, _BORDER = (1024, 2048), 128
_ROWS = 64

# The maps that can be had of an image -> what the method has to predict for it.
MAPS = {
    "labels": "scores",
    "confidence": "scores",
    "entropy": "scores",
    "probabilities": "scores",
    "depth": "depth",
}
# Steps of a stored depth per metre, and of a stored confidence or entropy from 0 to 1.
DEPTH_STEPS, LEVELS = 100, 65535


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Makes of scores and depths what is wanted of them, where they are: on the device, and a fraction of their size.

    Attributes:
      wanted: names of `MAPS`.
    """

    wanted: tuple[str, ...] = ("labels",)

    def __call__(self, maps: Maps) -> dict[str, jax.Array]:
        """Returns the wanted maps.

        Args:
          maps: {"scores": [B, h, w, C], "depth": [B, h, w, 1] in metres}, or what of it is needed.

        Returns:
          "labels" uint8 [B, h, w]; "confidence", the largest probability, and "entropy", normalised, both uint16 in
          steps of 1 / `LEVELS`; "probabilities" float16 [B, h, w, C]; "depth" uint16 in steps of 1 / `DEPTH_STEPS`
          metres, the largest value for all that is further.

        Raises:
          UserError: the method does not predict what is needed.
        """
        for name in self.wanted:
            if MAPS[name] not in maps:
                what = {"scores": "classes", "depth": "depth"}[MAPS[name]]
                known = ", ".join(other for other, needed in MAPS.items() if needed in maps)
                raise UserError(
                    f"{name}: expected a method of {what}, got {sorted(maps)} alone; write what it has: {known}"
                )
        found = {}
        if "labels" in self.wanted:
            found["labels"] = jnp.argmax(maps["scores"], axis=-1).astype(jnp.uint8)
        if {"confidence", "entropy", "probabilities"} & set(self.wanted):
            probabilities = jax.nn.softmax(jnp.asarray(maps["scores"], jnp.float32))
            if "confidence" in self.wanted:
                found["confidence"] = _levels(probabilities.max(axis=-1))
            if "entropy" in self.wanted:
                found["entropy"] = _levels(losses.self_information(probabilities).sum(axis=-1))
            if "probabilities" in self.wanted:
                found["probabilities"] = probabilities.astype(jnp.float16)
        if "depth" in self.wanted:
            steps = jnp.round(jnp.asarray(maps["depth"], jnp.float32)[..., 0] * DEPTH_STEPS)
            found["depth"] = jnp.clip(steps, 0, np.iinfo(np.uint16).max).astype(jnp.uint16)
        return found


def _levels(values: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(values, 0, 1) * LEVELS).astype(jnp.uint16)


def as_they_are(maps: Maps) -> Maps:
    """Reduces nothing."""
    return maps


class Labeller:
    """Predicts the class of every pixel of images, and other maps, at their own size or at a chosen one.

    Images are resized by the rules of the split that runs are scored on, padding included; maps are cut back from it.
    Where all scores of an image would not fit, they are made coarser first and then interpolated by strips; an image
    that the network would have to see at such a size is seen by overlapping windows.

    Args:
      predict: is given a batch that is always full, so that one compilation serves all images of one size.
      domain: the split.
      batch_size: images per call; fewer where they are large.
      wanted: names of `MAPS`.
      size: (height, width) of the maps; None = the image's.
      most_pixels: of one image that are scored at once.

    Attributes:
      notes: what was done otherwise than asked, in one line each.
    """

    def __init__(
        self,
        predict: Predict,
        domain: domains.Domain,
        batch_size: int,
        *,
        wanted: Sequence[str] = ("labels",),
        size: Size | None = None,
        most_pixels: int = MOST_PIXELS,
    ):
        self._predict = predict
        self._domain = domain
        self._batch_size = batch_size
        self._reduce = Reduction(tuple(wanted))
        self._size = size
        self._most = most_pixels
        self.notes: dict[str, None] = {}

    def batch_size(self, size: Size) -> int:
        """Returns how many images of a size (height, width) are predicted at once."""
        # Windows are seen one at a time, and strips are made of one image's scores.
        if max(map(_pixels, (size, self._size or size))) > self._most:
            fitting = 1
        else:
            pixels = max(map(_pixels, (size, self._size or size, self._domain.size or size)))
            fitting = max(1, _MOST_PIXELS_OF_A_BATCH // pixels)
        if fitting < self._batch_size:
            self._note(f"images of {size[0]}x{size[1]} are predicted {fitting} at a time, to bound memory")
        return min(fitting, self._batch_size)

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Returns what the network is to see of an image uint8 `[H, W, 3]`: resized, as far as the split is."""
        return domains.resized({"image": image}, self._domain)["image"]

    def __call__(self, inputs: Sequence[np.ndarray], size: Size) -> dict[str, np.ndarray | jax.Array]:
        """Returns the wanted maps of images of one size.

        Args:
          inputs: what `prepared` made of the images, as many as `batch_size` says.
          size: (height, width) of the images.

        Returns:
          Arrays `[B, *size, ...]`, see `Reduction`, on the device or on the host, and perhaps not yet computed.
        """
        asked = self._size or size
        if self._domain.size is None and _pixels(size) > self._most:
            parts = [self._by_windows(image) for image in inputs]
            return {name: _nearest(np.stack([part[name] for part in parts]), asked) for name in parts[0]}
        # What the whole input shows, padding included, at the scale of the maps.
        padded = domains.padded_size(self._domain, size)
        whole = tuple(max(to, round(side * to / own)) for side, to, own in zip(padded, asked, size, strict=True))
        images = np.stack(inputs)
        if _pixels(whole) <= self._most:
            return _cut(self._predict(images, whole, self._reduce), whole, asked)
        self._note(f"scores of images of {size[0]}x{size[1]} are interpolated in two steps, to bound memory")
        shrink = (self._most / _pixels(whole)) ** 0.5
        coarse = self._predict(images, tuple(max(1, int(side * shrink)) for side in whole), as_they_are)
        strips = list(_enlarged(coarse, whole, self._reduce))
        return _cut({name: np.concatenate([s[name] for s in strips], axis=1) for name in strips[0]}, whole, asked)

    def _by_windows(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts one image by windows, each of which gives the pixels that lie further from its border."""
        size = image.shape[:2]
        factor = min(1.0, (self._most / _pixels(_WINDOW)) ** 0.5)
        window = tuple(min(side, max(2, int(side_ * factor))) for side, side_ in zip(size, _WINDOW, strict=True))
        border = min(_BORDER, min(window) // 4)
        self._note(f"images of {size[0]}x{size[1]} are seen by windows of {window[0]}x{window[1]}, to bound memory")
        found: dict[str, np.ndarray] = {}
        for top in _starts(size[0], window[0], border):
            for left in _starts(size[1], window[1], border):
                crop = image[top : top + window[0], left : left + window[1]]
                # Later windows overwrite what lies near the end of earlier ones.
                inner = (border if top else 0, border if left else 0)
                for name, part in jax.device_get(self._predict(crop[None], window, self._reduce)).items():
                    whole = found.setdefault(name, np.zeros((*size, *part.shape[3:]), part.dtype))
                    part = part[0, inner[0] :, inner[1] :]
                    whole[top + inner[0] : top + window[0], left + inner[1] : left + window[1]] = part
        return found

    def _note(self, text: str) -> None:
        self.notes[text] = None


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _cut(maps: Maps, whole: Size, size: Size) -> dict[str, np.ndarray | jax.Array]:
    """Returns maps without what lies outside of a size, such as padding."""
    return dict(maps) if whole == size else {name: m[:, : size[0], : size[1]] for name, m in maps.items()}


def _nearest(maps: np.ndarray, size: Size) -> np.ndarray:
    """Returns maps `[B, h, w, ...]` at another size, each pixel the one whose centre is nearest."""
    if maps.shape[1:3] == size:
        return maps
    rows, columns = (np.rint(_centres(*sides)).astype(int) for sides in zip(maps.shape[1:3], size, strict=True))
    return maps[:, rows][:, :, columns]


def _starts(length: int, window: int, border: int) -> list[int]:
    """Returns where windows start along one axis, overlapping by twice the border; the last one ends at the end."""
    stride = max(1, window - 2 * border)
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _enlarged(maps: Maps, size: Size, reduce: Reduction) -> Iterator[dict[str, np.ndarray]]:
    """Yields what `reduce` makes of maps at a larger size, interpolated by pixel centres, strip by strip."""
    have = next(iter(maps.values())).shape[1:3]
    rows, columns = (_centres(*sides) for sides in zip(have, size, strict=True))
    for start in range(0, size[0], _ROWS):
        strip = rows[start : start + _ROWS]
        # Always as many rows, for one compilation.
        padded = np.concatenate([strip, np.repeat(strip[-1:], _ROWS - len(strip))])
        found = jax.device_get(_strip(dict(maps), padded, columns, reduce))
        yield {name: values[:, : len(strip)] for name, values in found.items()}


def _centres(have: int, wanted: int) -> np.ndarray:
    """Returns where the centres of pixels lie in an axis of another length, float32 [wanted]."""
    return np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1).astype(np.float32)


def _interpolated(values: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    # By gathers: the matrices of `ops.resize_bilinear` would be as large as the image.
    values = jnp.asarray(values, jnp.float32)
    for axis, centres in ((1, rows), (2, columns)):
        first = jnp.floor(centres).astype(jnp.int32)
        second = jnp.minimum(first + 1, values.shape[axis] - 1)
        share = (centres - first).reshape([-1 if i == axis else 1 for i in range(4)])
        values = jnp.take(values, first, axis) * (1 - share) + jnp.take(values, second, axis) * share
    return values


def _strip_of(maps: Maps, rows: jax.Array, columns: jax.Array, reduce: Reduction) -> Maps:
    return reduce({name: _interpolated(values, rows, columns) for name, values in maps.items()})


_strip = jax.jit(_strip_of, static_argnames="reduce")
