"""Predicting images and videos: reading ahead, the device, and writing behind go on side by side."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from uda_jax.data.io import atomic
from uda_jax.data.io.parallel import ahead
from uda_jax.data.io.progress import progress_bar
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference import inputs, outputs, videos
from uda_jax.inference.inputs import Picture
from uda_jax.inference.labels import MOST_PIXELS, Labeller, Predict
from uda_jax.inference.servers import Submission
from uda_jax.inference.summary import Summary

# Threads that decode pictures, and that encode and write; what they do is mostly outside of the interpreter's lock.
_THREADS = min(8, max(2, os.cpu_count() or 1))
# Says what made the files of an output folder.
RECORD = "predictions.json"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be written.

    Attributes:
      kinds: names of `outputs.KINDS`.
      overlay: "jpg" or "png", how overlays are written.
      size: (height, width) of all of it; None = the size of each image.
      video: whether pictures become the frames of one video per kind instead of a file each.
      rate: frames per second of the video; None = that of the input.
      server: a test server whose archive is written, too, one of `servers.SERVERS`.
      again: whether files that exist are made anew instead of skipped.
    """

    kinds: tuple[str, ...] = outputs.DEFAULT
    overlay: str = "jpg"
    size: tuple[int, int] | None = None
    video: bool = False
    rate: float | None = None
    server: str | None = None
    again: bool = False


def predict_folder(
    predict: Predict,
    source: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    domain: Domain,
    palette: np.ndarray,
    classes: Sequence[str] = (),
    batch_size: int = 4,
    most_pixels: int = MOST_PIXELS,
    wanted: Wanted | None = None,
    made_by: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Summary:
    """Predicts every image of a folder and its subfolders, which the output keeps, or every frame of a video.

    For `a.jpg` it writes `a.png`, the class ids at the image's own size as an 8-bit palette PNG, and `a_overlay.jpg`,
    or what else is wanted. Images whose files all exist are skipped. Unreadable images are left out and named in the
    summary; the others are done.

    Args:
      predict: see `labels.Predict`.
      source: what `inputs.find` takes, one path or several.
      output: a folder outside `source`; made if absent.
      domain: the split that runs are scored on: images are resized and padded by its rules.
      palette: uint8 `[C, 3]`, the colours of the classes.
      classes: their names.
      batch_size: images per call; fewer where they are large.
      most_pixels: of one image that are scored at once, see `Labeller`.
      wanted: what is written.
      made_by: what makes the predictions, for `predictions.json` in the output; files that something else has made are
        not mixed with.
      progress: whether to show a bar.

    Returns:
      What was written and what failed.

    Raises:
      UserError: no such input, no image in it, an output that cannot be made, lies inside the input or holds
        predictions of something else, or what is wanted cannot be had.
    """
    wanted = wanted or Wanted()
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    found, target = inputs.find([pathlib.Path(each) for each in sources]), pathlib.Path(output)
    encoder = outputs.Encoder(palette, classes, wanted.overlay)
    submission = Submission(wanted.server, target, classes) if wanted.server else None
    if submission:
        submission.check(found.pictures)
    _make(target, [pathlib.Path(each) for each in sources])
    summary = Summary(passed_over=found.passed_over, notes=found.notes)
    stems = inputs.output_stems(found.pictures, target, outputs.endings())
    summary.renamed += [
        (picture.path, encoder.path(stem, "labels")) for picture, stem in stems.items() if stem != target / picture.name
    ]
    with contextlib.ExitStack() as stack:
        films = _films(wanted, found, target, summary)
        writer = _Writer(encoder, stems, [kind for kind in wanted.kinds if kind not in films], films, submission)
        if made_by is not None:
            _record(target / RECORD, made_by, wanted.again)
        todo = [picture for picture in found.pictures if wanted.again or not writer.is_done(picture)]
        summary.skipped = len(found.pictures) - len(todo)
        maps = dict.fromkeys(outputs.KINDS[kind].map for kind in wanted.kinds)
        label = Labeller(
            predict,
            domain,
            batch_size,
            wanted=tuple(maps | dict.fromkeys(submission.wanted if submission else ())),
            size=wanted.size,
            most_pixels=most_pixels,
        )
        if todo:
            for film in films.values():
                stack.enter_context(film)
            bar = stack.enter_context(progress_bar("predicting", len(todo), "frames", shown=progress))
            _flow(todo, label, writer, summary, 1 if found.sequential else _THREADS, bar.update)
        summary.notes += label.notes
    if submission and not summary.failed:
        summary.notes.append(submission.pack(found.pictures))
    return summary


class _Writer:
    """Writes what is wanted of images, in threads; the frames of videos in one of its own, in their order."""

    def __init__(
        self,
        encoder: outputs.Encoder,
        stems: Mapping[Picture, pathlib.Path],
        kinds: Sequence[str],
        films: Mapping[str, videos.VideoWriter],
        submission: Submission | None,
    ):
        self._encoder, self._stems, self._kinds = encoder, stems, kinds
        self._films, self._submission = films, submission

    def files(self, picture: Picture) -> list[pathlib.Path]:
        """Returns the files of an image; of the videos, those that hold all images."""
        own = [self._encoder.path(self._stems[picture], kind) for kind in self._kinds]
        films = [film.path for film in self._films.values()]
        return [*own, *films, *(self._submission.paths(picture) if self._submission else ())]

    def is_done(self, picture: Picture) -> bool:
        return all(path.exists() for path in self.files(picture))

    def write(self, picture: Picture, image: np.ndarray, maps: Mapping[str, Any], row: int) -> None:
        """Writes the files of an image, whose maps are a row of a batch's."""
        own = {name: np.asarray(values)[row] for name, values in maps.items()}
        for kind in self._kinds:
            path = self._encoder.path(self._stems[picture], kind)
            atomic.write(path, self._encoder.encoded(kind, own, image))
        if self._submission:
            self._submission.write(picture, own)

    def film(self, picture: Picture, image: np.ndarray, maps: Mapping[str, Any], row: int) -> None:
        """Adds the frames of an image to the videos."""
        own = {name: np.asarray(values)[row] for name, values in maps.items()}
        for kind, film in self._films.items():
            film.add(self._encoder.picture(kind, own, image), picture.name)

    def jobs(self) -> tuple[Callable[..., None], ...]:
        """Returns what is to be done with each image, the one that keeps the order last."""
        return (self.write, self.film) if self._films else (self.write,)

    def written(self, picture: Picture) -> pathlib.Path:
        return self.files(picture)[0]


def _flow(
    pictures: Sequence[Picture],
    label: Labeller,
    writer: _Writer,
    summary: Summary,
    readers: int,
    done: Callable[[int], Any],
) -> None:
    """Predicts and writes images; enters in the summary what was done and where the time went."""
    begun, seen = time.perf_counter(), set()
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_THREADS))
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
            known = (size, images[0].shape) in seen
            seen.add((size, images[0].shape))
            computed = time.perf_counter()
            # The first batch of a size is compiled.
            if known:
                summary.busy += computed - read
            else:
                summary.compiling += computed - read
            pools = zip(writer.jobs(), (threads, in_order), strict=False)
            jobs = [
                pool.submit(job, each.picture, each.image, maps, row)
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


def _films(
    wanted: Wanted, found: inputs.Inputs, target: pathlib.Path, summary: Summary
) -> dict[str, videos.VideoWriter]:
    """Returns the videos that are to be written, by kind; none, and a note, where they cannot be."""
    kinds = [kind for kind in wanted.kinds if kind in outputs.PICTURES] if wanted.video else []
    if wanted.video and not kinds:
        raise UserError(f"--video: expected --write with {' or '.join(outputs.PICTURES)}, which videos are made of")
    if not kinds:
        return {}
    if videos.encoder() is None:
        summary.notes.append(
            "frames are written instead of a video, which needs PyAV with an encoder of H.264 or MPEG-4; run pip "
            "install 'uda_jax[video]'"
        )
        return {}
    stems = inputs.output_stems([Picture(target / found.stem, found.stem, "", lambda: None)], target, ())
    (stem,) = stems.values()
    rate = wanted.rate or found.rate or videos.RATE
    return {kind: videos.VideoWriter(stem.with_name(f"{stem.name}_{kind}.mp4"), rate) for kind in kinds}


def _make(target: pathlib.Path, sources: Sequence[pathlib.Path]) -> None:
    """Makes the output folder, or says why it will not do."""
    for source in sources:
        if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
            raise UserError(f"--output {target}: lies in the input folder {source}; give a folder outside it")
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {target}: expected a folder, got a file; give another name")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {os_error_line(error, target)}") from None


def _record(path: pathlib.Path, made_by: Mapping[str, Any], again: bool) -> None:
    """Writes what makes the predictions; raises a UserError if those that are there were made otherwise."""
    text = json.dumps(made_by, indent=1, default=str) + "\n"
    if path.exists() and not again:
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = None
        now = json.loads(text)
        if before != now:
            differing = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
            raise UserError(
                f"--output {path.parent}: holds predictions that were made otherwise ({', '.join(differing) or RECORD}"
                "); give another folder, or --again to replace them"
            )
    atomic.write(path, text)
