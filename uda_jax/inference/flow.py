"""Reading ahead, the device, and writing behind, side by side; where the time goes is told."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from uda_jax.data.io import atomic
from uda_jax.data.io.parallel import ahead
from uda_jax.errors import UserError
from uda_jax.inference import outputs, videos
from uda_jax.inference.inputs import Picture
from uda_jax.inference.labels import Labeller
from uda_jax.inference.servers import Submission
from uda_jax.inference.summary import Summary

# Threads that decode pictures, and that encode and write; what they do is mostly outside of the interpreter's lock.
THREADS = min(8, max(2, os.cpu_count() or 1))
# Says what made the files of an output folder.
RECORD = "predictions.json"


class Writer:
    """Writes what is wanted of images, in threads; the frames of videos in one of its own, in their order.

    Args:
      encoder: makes the files.
      stems: their names without endings.
      kinds: names of `outputs.KINDS`, one file each.
      films: videos by kind, opened by the caller.
      submission: what a test server wants, if anything.
      record: text for a file about the predictions, None for none.
      target: the output folder.
    """

    def __init__(
        self,
        encoder: outputs.Encoder,
        stems: Mapping[Picture, pathlib.Path],
        kinds: Sequence[str],
        films: Mapping[str, videos.VideoWriter],
        submission: Submission | None,
        record: str | None,
        target: pathlib.Path,
    ):
        self._encoder, self._stems, self._kinds = encoder, stems, kinds
        self.films, self._submission = films, submission
        self._record, self._target = record, target

    def begin(self) -> None:
        """Says what makes the predictions, once there are some."""
        if self._record is not None:
            atomic.write(self._target / RECORD, self._record)

    def files(self, picture: Picture) -> list[pathlib.Path]:
        """Returns the files of an image; of the videos, those that hold all images."""
        own = [self._encoder.path(self._stems[picture], kind) for kind in self._kinds]
        films = [film.path for film in self.films.values()]
        return [*own, *films, *(self._submission.paths(picture) if self._submission else ())]

    def is_done(self, picture: Picture) -> bool:
        return all(path.exists() for path in self.files(picture))

    def write(self, picture: Picture, image: np.ndarray, maps: concurrent.futures.Future, row: int) -> None:
        """Writes the files of an image, whose maps are a row of a batch's."""
        own = {name: values[row] for name, values in maps.result().items()}
        for kind in self._kinds:
            path = self._encoder.path(self._stems[picture], kind)
            atomic.write(path, self._encoder.encoded(kind, own, image))
        if self._submission:
            self._submission.write(picture, own)

    def film(self, picture: Picture, image: np.ndarray, maps: concurrent.futures.Future, row: int) -> None:
        """Adds the frames of an image to the videos."""
        own = {name: values[row] for name, values in maps.result().items()}
        for kind, film in self.films.items():
            film.add(self._encoder.picture(kind, own, image), picture.name)

    def jobs(self) -> tuple[Callable[..., None], ...]:
        """Returns what is to be done with each image, the one that keeps the order last."""
        return (self.write, self.film) if self.films else (self.write,)

    def written(self, picture: Picture) -> pathlib.Path:
        return self.files(picture)[0]


def flow(
    pictures: Sequence[Picture],
    label: Labeller,
    writer: Writer,
    summary: Summary,
    readers: int,
    done: Callable[[int], Any],
) -> None:
    """Predicts and writes images; enters in the summary what was done and where the time went."""
    begun, seen = time.perf_counter(), set()
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(THREADS))
        in_order = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        pending: collections.deque[tuple[int, list[concurrent.futures.Future]]] = collections.deque()
        batches = _batches(pictures, label, summary, readers)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            read = time.perf_counter()
            summary.reading += read - start
            if batch is None:
                break
            size = batch[0].image.shape[:2]
            images = [each.input for each in batch]
            # A short batch is filled with its last image, whose results are dropped.
            images += images[-1:] * (label.batch_size(size) - len(images))
            maps = jax.block_until_ready(label(images, size))
            if not seen:
                writer.begin()
            known = (size, images[0].shape) in seen
            seen.add((size, images[0].shape))
            computed = time.perf_counter()
            # The first batch of a size is compiled.
            if known:
                summary.busy += computed - read
            else:
                summary.compiling += computed - read
            # Copied once for all; threads take their jobs in order, so that none waits for a copy behind it.
            fetched = threads.submit(jax.device_get, maps)
            pools = zip(writer.jobs(), (threads, in_order), strict=False)
            jobs = [
                pool.submit(job, each.picture, each.image, fetched, row)
                for job, pool in pools
                for row, each in enumerate(batch)
            ]
            pending.append((len(batch), jobs))
            summary.written += [writer.written(each.picture) for each in batch]
            # Bounded, so that pictures do not pile up before a slow disk.
            while len(pending) > 2:
                _wait(pending.popleft(), done)
            summary.writing += time.perf_counter() - computed
        start = time.perf_counter()
        while pending:
            _wait(pending.popleft(), done)
        summary.writing += time.perf_counter() - start
    summary.seconds += time.perf_counter() - begun


def _wait(entry: tuple[int, list[concurrent.futures.Future]], done: Callable[[int], Any]) -> None:
    """Waits until a batch is written; raises what went wrong there."""
    count, jobs = entry
    for job in jobs:
        job.result()
    done(count)


@dataclasses.dataclass(frozen=True)
class _Read:
    """A picture that was read: the image, and what the network is to see of it; or why it could not be read."""

    picture: Picture
    image: np.ndarray | None
    input: np.ndarray | None
    reason: str = ""


def _batches(pictures: Sequence[Picture], label: Labeller, summary: Summary, readers: int) -> Iterator[list[_Read]]:
    """Yields as many neighbours of one size as are predicted at once; enters what cannot be read in the summary."""

    def read(picture: Picture) -> _Read:
        try:
            image = picture.read()
        except UserError as error:
            return _Read(picture, None, None, str(error))
        return _Read(picture, image, label.prepared(image))

    batch: list[_Read] = []
    for found in ahead(read, pictures, readers, 8):
        if found.image is None:
            summary.failed.append((found.picture.path, found.reason))
            continue
        if batch and batch[0].image.shape != found.image.shape:
            yield batch
            batch = []
        batch.append(found)
        if len(batch) == label.batch_size(found.image.shape[:2]):
            yield batch
            batch = []
    if batch:
        yield batch
