"""Looking at single frames of a data set, more closely than training does, in several processes."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data.frames import MAPS
from uda_jax.data.io.archives import File, printable
from uda_jax.data.io.images import header, is_whole
from uda_jax.errors import UserError

# Below this many frames, starting worker processes costs more than it saves.
_IN_PROCESS = 64
# Frames that a worker takes at once: few, so that the progress bar moves.
_TAKEN = 8
LISTED = 3

# Notes of a report: "3 frames <note>: ...".
NOT_ASCII = "have a name beyond ASCII, which other systems may write differently"
OTHER_LABEL_SIZE = "have a label of another size than the image, which is fitted to it"
NO_CLASS = "have a label without one pixel of a class"
NO_DEPTH = "have a depth map without one valid pixel"


class Range(NamedTuple):
    """Values of a depth or disparity map: smallest and largest valid one, valid pixels, all pixels."""

    low: float
    high: float
    valid: int
    pixels: int

    def __or__(self, other: "Range") -> "Range":
        valid, pixels = self.valid + other.valid, self.pixels + other.pixels
        return Range(min(self.low, other.low), max(self.high, other.high), valid, pixels)


class Finding(NamedTuple):
    """What one frame is like.

    Attributes:
      problems: {map: message}.
      notes: which of this module's notes apply.
      kinds: {map: mode of its file}.
      sizes: {map: (height, width)}, of those that could be read.
      pixels: int64 `[256]` of the label space, or None without a label.
      ranges: as in `Report`.
    """

    problems: dict[str, str]
    notes: tuple[str, ...]
    kinds: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    pixels: np.ndarray | None
    ranges: dict[str, Range]


def _inspect(dataset: Sequence[dict[str, Any]], name: str, index: int) -> Finding:
    """Reads frame `index` and looks at its files; never raises for what they hold."""
    files = files_of(dataset, index)
    where = {field: str(files.get(field, f"{name}: frame '{printable(dataset.name(index))}'")) for field in MAPS}
    example, problems = _decoded(dataset, index, where, tuple(files) or MAPS)
    kinds = {}
    for field, file in files.items():
        try:
            data = file.read_bytes()
        except OSError as error:
            problems[field] = _unreadable(file, error)
            continue
        if not is_whole(data):
            problems.setdefault(field, f"{file}: damaged: its end or a checksum is wrong; copy it again")
        with contextlib.suppress(Exception):
            # A file that Pillow cannot identify is reported by its decoder, or is no picture.
            kinds[field] = _kind(data)
    notes, ranges, pixels = [], {}, None
    if "label" in example:
        pixels, unknown = _label_values(dataset, example["label"])
        if unknown:
            listed = ", ".join(map(str, unknown[:LISTED])) + (", ..." if len(unknown) > LISTED else "")
            problems.setdefault(
                "label", f"{where['label']}: ids {listed} are none of {name}; replace the file or leave the frame out"
            )
        if not pixels[: len(dataset.label_space.names)].any():
            notes.append(NO_CLASS)
    for field in ("depth", "disparity"):
        if field in example:
            values = example[field]
            if not np.isfinite(values).all() or (values < 0).any():
                problems.setdefault(
                    field, f"{where[field]}: {field} holds negative or infinite values; replace the file"
                )
                continue
            valid = values[values > 0]
            low, high = (float(valid.min()), float(valid.max())) if valid.size else (np.inf, -np.inf)
            ranges[field] = Range(low, high, valid.size, values.size)
            notes += [] if valid.size else [NO_DEPTH]
    sizes = {field: example[field].shape[:2] for field in MAPS if field in example}
    # The label of a classified picture is one pixel.
    if "image" in sizes and sizes.get("label", sizes["image"]) not in (sizes["image"], (1, 1)):
        notes.append(OTHER_LABEL_SIZE)
    return Finding(problems, tuple(notes), kinds, sizes, pixels, ranges)


def files_of(dataset: Sequence[dict[str, Any]], index: int) -> dict[str, File]:
    """Returns {map: file} of a frame; empty if the data set does not keep a frame's maps in files of their own."""
    if not hasattr(dataset, "frames"):
        return {}
    frame = dataset.frames[index]
    return {field: file for field in MAPS if hasattr(file := getattr(frame, field, None), "read_bytes")}


def _decoded(
    dataset: Sequence[dict[str, Any]], index: int, where: Mapping[str, str], fields: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what can be read of a frame, labels as stored where the set offers that, and {map: what is wrong}."""
    read = getattr(dataset, "stored", None) or getattr(dataset, "read", None)
    if read is None:
        example, message = _attempt(where["image"], dataset.__getitem__, index)
        return example, {"image": message} if message else {}
    example, message = _attempt(where["image"], read, index, MAPS)
    if not message:
        return example, {}
    problems = {}
    for field in fields:
        part, reason = _attempt(where[field], read, index, (field,))
        example |= part
        problems |= {field: reason} if reason else {}
    if not problems:
        # Each map by itself is sound: they do not fit together.
        problems[next((field for field in fields if message.startswith(f"{where[field]}:")), "image")] = message
    return example, problems


def _attempt(where: str, read: Callable[..., dict[str, Any]], *arguments: Any) -> tuple[dict[str, Any], str]:
    """Returns (what `read` returns, "") or ({}, why it could not)."""
    try:
        return read(*arguments), ""
    except UserError as error:
        return {}, str(error)
    # A check of many frames must not end at one that its reader did not foresee.
    except Exception as error:
        reason = printable(" ".join(str(error).split()))
        return (
            {},
            f"{where}: the reader failed ({type(error).__name__}: {reason}); replace the file or remove the frame",
        )


def _unreadable(file: File, error: OSError) -> str:
    if not file.member and file.path.is_symlink() and not os.path.exists(file.path):
        target = printable(os.readlink(file.path))
        return f"{file}: a link to '{target}', where there is no file; mend or remove the link"
    return f"{file}: cannot be read ({printable(error.strerror or str(error))}); copy it again"


def _kind(data: bytes) -> str:
    """Returns an image's Pillow mode, with the bits per channel where the mode does not tell."""
    mode, bits = header(data)
    return f"{mode} of 16 bits" if mode == "RGB" and bits == 16 else mode


def _label_values(dataset: Sequence[dict[str, Any]], label: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Returns int64 `[256]`, pixels of each value of the label space, and the ids that the data set does not define."""
    counts = np.bincount(label.ravel(), minlength=256)
    present = np.flatnonzero(counts).tolist()
    if not hasattr(dataset, "stored"):
        defined = {*range(len(dataset.label_space.names)), dataset.label_space.ignore}
        return counts, [value for value in present if value not in defined]
    pixels = np.zeros(256, np.int64)
    np.add.at(pixels, dataset.table, counts)
    return pixels, [value for value in present if value not in dataset.known]


@contextlib.contextmanager
def inspected(dataset: Sequence[dict[str, Any]], name: str, workers: int | None) -> Iterator[Iterator[Finding]]:
    """Yields an iterator of the findings, in order, made by several processes where that pays."""
    if workers is None:
        workers = os.cpu_count() or 1 if len(dataset) >= _IN_PROCESS else 0
    if not workers:
        yield (_inspect(dataset, name, index) for index in range(len(dataset)))
        return
    # Spawn, not fork: the caller may have started JAX's threads.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _receive, (dataset, name))
    try:
        yield _results(pool, len(dataset), 4 * workers)
    except concurrent.futures.BrokenExecutor:
        raise UserError(f"{name}: a worker process died, perhaps for lack of memory; give fewer workers") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# What a worker process received when it started.
_received: tuple[Any, ...] = ()


def _receive(*arguments: Any) -> None:
    global _received
    _received = arguments
    # Ctrl-C reaches every process; the one that started them ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _inspect_received(indices: range) -> list[Finding]:
    return [_inspect(*_received, index) for index in indices]


def _results(pool: concurrent.futures.Executor, frames: int, ahead: int) -> Iterator[Finding]:
    """Yields the findings in order, with a bounded number of tasks under way."""
    starts = iter(range(0, frames, _TAKEN))
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    while True:
        while len(pending) < ahead and (start := next(starts, None)) is not None:
            pending.append(pool.submit(_inspect_received, range(start, min(start + _TAKEN, frames))))
        if not pending:
            return
        yield from pending.popleft().result()
