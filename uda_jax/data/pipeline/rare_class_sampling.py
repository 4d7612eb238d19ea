"""Rare class sampling: frames drawn such that classes with few pixels are seen as often as the others.

A class is drawn first, the rarer the likelier; then a frame that shows enough of it; then crops of the frame until one
does, too. What the labels hold is counted once and kept in a cache.

Source: DAFormer, section "Rare Class Sampling"; its mmseg/datasets/uda_dataset.py.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import uda_jax
from uda_jax.data.base import Dataset
from uda_jax.data.fingerprint import fingerprint
from uda_jax.data.io import atomic
from uda_jax.data.io.files import cache_folder
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.errors import UserError
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class RareClasses:
    """Rare class sampling (DAFormer); the defaults are those of its published runs."""

    temperature: float = config_field(
        0.01, "Smoothness: near 0 the rarest class is drawn alone, a large value draws all classes alike.", low=1e-6
    )
    min_pixels: int = config_field(
        3000, "Pixels, before resizing, of which a frame must show more to show a class.", low=0
    )
    crop_share: float = config_field(
        0.5, "Share of min_pixels of which a crop must show more to show it (HRDA and MIC: 2.0).", low=0.0
    )
    retries: int = config_field(
        10, "Times that a crop that does not is drawn anew before the last one is taken.", low=0
    )


def class_probabilities(counts: np.ndarray, temperature: float) -> np.ndarray:
    """Returns how likely each class is drawn: softmax of (1 - f) / temperature over the classes that occur.

    Args:
      counts: int `[N, C]`, pixels of each class in each frame. f is a class's share of all of them, so that pixels
        without a class do not count.
      temperature: T of the paper.

    Returns:
      float64 `[C]` with sum 1; 0 for classes that never occur.
    """
    total = counts.sum(axis=0, dtype=np.float64)
    present = total > 0
    scores = -(total[present] / total.sum()) / temperature
    weights = np.exp(scores - scores.max())
    probabilities = np.zeros(len(total))
    probabilities[present] = weights / weights.sum()
    return probabilities


class RareClassSampler:
    """Draws a class, and a frame that shows it.

    Args:
      counts: int `[N, C]`, pixels of each class in each frame.
      section: temperature and min_pixels.
      class_names: C names, for messages.
      path: dotted name of the section, for messages.

    Raises:
      UserError: no frame shows enough of a class that may be drawn.
    """

    def __init__(self, counts: np.ndarray, section: RareClasses, class_names: Sequence[str], path: str):
        if not counts.any():
            raise UserError(f"{path}: no label of the split has a pixel of a class; leave the section out")
        probabilities = class_probabilities(counts, section.temperature)
        self._classes = np.flatnonzero(probabilities)
        self._cumulative = np.cumsum(probabilities[self._classes])
        self._frames = {int(k): np.flatnonzero(counts[:, k] > section.min_pixels) for k in self._classes}
        most = counts.max(axis=0)
        hardest = min(self._frames, key=lambda k: most[k])
        if most[hardest] <= section.min_pixels:
            raise UserError(
                f"{path}.min_pixels: expected less than {most[hardest]}, the most pixels of class "
                f"'{class_names[hardest]}' in any frame, got {section.min_pixels}"
            )

    def draw(self, generator: np.random.Generator) -> tuple[int, int]:
        """Returns (class, frame)."""
        position = np.searchsorted(self._cumulative, generator.random(), side="right")
        # The sum of the probabilities may round to a little less than 1.
        chosen = int(self._classes[min(position, len(self._classes) - 1)])
        frames = self._frames[chosen]
        return chosen, int(frames[generator.integers(len(frames))])


@dataclasses.dataclass(frozen=True)
class RareClassFrames:
    """Draws one augmented example, for grain's `random_map` over elements whose values are ignored.

    Attributes:
      frames: prepared frames with labels.
      sampler: draws from them.
      augment: the random transforms.
      enough: a result shows the class if more pixels than these do.
      attempts: how often to augment at most.
    """

    frames: Sequence[dict[str, Any]]
    sampler: RareClassSampler
    augment: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
    enough: float
    attempts: int

    def __call__(self, element: Any, generator: np.random.Generator) -> dict[str, Any]:
        del element
        chosen, index = self.sampler.draw(generator)
        frame = self.frames[index]
        for _ in range(self.attempts):
            example = self.augment(frame, generator)
            if np.count_nonzero(example["label"] == chosen) > self.enough:
                break
        return example


def class_counts(dataset: Dataset, source: tuple[str, str | None, str, Any]) -> np.ndarray:
    """Counts the pixels of each class in each frame, once: the result is kept in a cache.

    Args:
      dataset: opened, with labels.
      source: (data set, root, split, options), what it was opened with.

    Returns:
      int64 `[N, C]`, from labels as the data set delivers them, before resizing.

    Raises:
      UserError: a damaged label; the cache cannot be written.
    """
    title = f"{source[0]}/{source[2]}"
    cached = cache_folder("class_counts") / f"{source[0]}-{_key(dataset, source)}.npy"
    shape = (len(dataset), len(dataset.label_space.names))
    # A file that cannot be read, for whatever reason, is written anew.
    with contextlib.suppress(OSError, ValueError, EOFError):
        counts = np.load(cached)
        if counts.shape == shape and counts.dtype == np.int64:
            return counts

    def histogram(index: int) -> list[int]:
        label = dataset.read(index, ("label",))["label"]
        # Several times as fast as np.bincount.
        return Image.fromarray(label).histogram()[: shape[1]]

    # Threads: decoding, which takes most of the time, runs outside of the interpreter's lock.
    with parallel_map(histogram, [(index,) for index in range(shape[0])], os.cpu_count(), threads=True) as rows:
        bar = progress_bar(f"{title}: counting classes", shape[0], "labels", rows)
        counts = np.array(list(bar), np.int64).reshape(shape)
    _write(cached, counts)
    return counts


def _key(dataset: Dataset, source: tuple) -> str:
    """Returns a digest of everything that decides the counts; a changed label file or class changes it."""
    name, root, split, options = source
    where = (name, None if root is None else str(Path(root).expanduser().resolve()), split, repr(options))
    content = (uda_jax.__version__, where, fingerprint(dataset, root, ("label",)))
    return hashlib.sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:24]


def _write(path: Path, counts: np.ndarray) -> None:
    try:
        with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, counts)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); set UDA_JAX_CACHE to a writable folder") from None
