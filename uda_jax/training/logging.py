"""What a run logs while it trains: metrics.jsonl, TensorBoard events and one progress line.

`metrics.jsonl` is the file that programs read (reports, notebooks): one JSON object per line,
`{"step": 100, "stage": "train", "loss/total": 1.25, ...}`, written as soon as it is known, so that a killed
run has lost nothing that lies before its last checkpoint.
"""

import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import numpy as np
from tensorboardX import summary as summaries
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from uda_jax.data.io import json_lines
from uda_jax.data.io.progress import StatusLine
from uda_jax.training.layout import StageFiles

_FLUSH_SECONDS = 10  # how long TensorBoard may lag behind
_WRITERS_OF_THIS_PROCESS = itertools.count()

# It warns of every NaN and infinity, which are written here on purpose.
logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)


class MetricWriter:
    """Writes scalars to metrics.jsonl and TensorBoard, images to TensorBoard.

    The method names are those of clu's metric writers, which cannot be imported without TensorFlow.

    Args:
      folder: the stage's folder; made if absent.
      stage: the stage's name, stored in every row.
      active: False on all processes but the first; every method then does nothing.
    """

    def __init__(self, folder: str | os.PathLike, *, stage: str = "", active: bool = True):
        self._path, self._stage = StageFiles(folder).metrics, stage
        self._flush_at, self._closed = 0.0, False
        self._events: EventsWriter | None = None
        if active:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in name order, which begins with the second of their making; two
            # writers of one second would write into the same file without a suffix.
            suffix = f".{os.getpid()}.{next(_WRITERS_OF_THIS_PROCESS)}"
            # Not tensorboardX's SummaryWriter, which writes from a thread: once that has failed, as on a full disk,
            # the next values wait for it for ever.
            self._events = EventsWriter(str(self._path.with_name("events")), suffix)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one row.

        Args:
          step: the step after which the values hold.
          scalars: flat names ("loss/total") to anything that `float` takes, device scalars included. What is
            not finite becomes null in metrics.jsonl, which JSON can hold, and stays as it is in TensorBoard.
        """
        if self._events is None:
            return
        values = {name: float(value) for name, value in scalars.items()}
        row = {"step": int(step), "stage": self._stage}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        json_lines.append(self._path, [row])
        self._write(step, [summaries.scalar(name, value) for name, value in values.items()])

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images, uint8 RGB `[H, W, 3]`, or `[N, H, W, 3]`, which become the tags `tag/0`, `tag/1` and so on."""
        if self._events is None:
            return
        single = {}
        for tag, image in images.items():
            image = np.asarray(image)
            single |= {f"{tag}/{i}": each for i, each in enumerate(image)} if image.ndim == 4 else {tag: image}
        self._write(step, [summaries.image(tag, image, dataformats="HWC") for tag, image in single.items()])

    def resume_at(self, step: int) -> None:
        """Forgets what was logged beyond `step`, so that a resumed run leaves the rows of an uninterrupted one.

        Args:
          step: the step of the restored checkpoint. Rows of this stage beyond it go, and so does a last line
            that a killed process left unfinished. The file is replaced in one move. TensorBoard hides what earlier
            event files hold beyond the step.
        """
        if self._events is None:
            return
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=int(step) + 1, session_log=restart))
        if self._path.exists():
            rows = read_metrics(self._path)
            kept = [row for row in rows if row.get("stage") != self._stage or row["step"] <= step]
            json_lines.write(self._path, kept)

    def close(self) -> None:
        """Flushes and closes the file of TensorBoard's events; a second call does nothing."""
        if self._events is not None and not self._closed:
            self._closed = True
            self._events.close()

    def _write(self, step: int, parts: list[Summary]) -> None:
        """Writes summaries of one value each as one event."""
        together = Summary(value=[value for part in parts for value in part.value])
        self._events.write_event(Event(wall_time=time.time(), step=int(step), summary=together))
        if time.monotonic() >= self._flush_at:
            self._events.flush()
            self._flush_at = time.monotonic() + _FLUSH_SECONDS


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl, without a last line that is still being written."""
    return [row for row in json_lines.read(path) if isinstance(row.get("step"), int)]


def losses(scalars: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the losses among scalars by their short names, the total first."""
    found = {name.removeprefix("loss/"): value for name, value in scalars.items() if name.startswith("loss/")}
    return {name: found[name] for name in sorted(found, key=lambda name: name != "total")}


class ProgressLine:
    """One line that shows how far a stage is, its losses and its speed.

        120/2000  ETA 0:16:22  3.80 images/s  waiting 3 %  dev mIoU 14.52  total 1.532

    Speed and the share of time that was spent waiting for data are those since the previous line. Losses have what room
    is left, the last ones go first; `metrics.jsonl` has them all. The ETA goes by all steps since the first line,
    because the steps before it include compilation; evaluations and checkpoints in between count, as they will again.

    Args:
      total_steps: the steps of the stage.
      batch_images: images that one step consumes (both domains), for the speed.
      first_step: the step that the stage continues from.
      stream: where to write. On a terminal the line rewrites itself, elsewhere each call prints a line.
      clock: returns seconds; only differences matter.
      active: False on all processes but the first; nothing is then printed.

    Attributes:
      score: what the line says of the last score, "" until there is one.
    """

    def __init__(
        self,
        total_steps: int,
        batch_images: int,
        *,
        first_step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        active: bool = True,
    ):
        self._total_steps, self._batch_images = total_steps, batch_images
        self._line = StatusLine(stream, shown=active)
        self._clock, self.score = clock, ""
        self._previous = (first_step, clock())
        self._origin: tuple[int, float] | None = None
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Accounts the time spent inside as waiting for data."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    def update(self, step: int, losses: Mapping[str, Any]) -> dict[str, float]:
        """Prints the line.

        Args:
          step: steps done.
          losses: names to scalars, printed with 4 significant digits in the order given, as far as there is room.

        Returns:
          {"speed/images_per_second", "speed/waiting_for_data"}: images/s and a fraction, for the metric writer.
        """
        now = self._clock()
        last_step, last_time = self._previous
        elapsed = max(now - last_time, 1e-9)
        speed = (step - last_step) * self._batch_images / elapsed
        waiting = min(self._waited / elapsed, 1.0)
        since_step, since_time = self._origin or self._previous
        seconds_per_step = (now - since_time) / max(step - since_step, 1)
        eta = _duration(seconds_per_step * (self._total_steps - step))
        line = f"{step}/{self._total_steps}  ETA {eta}  {_digits(speed, 3)} images/s  waiting {100 * waiting:.0f} %"
        line += f"  {self.score}" if self.score else ""
        for name, value in losses.items():
            longer = f"{line}  {name} {_digits(float(value))}"
            if len(longer) > self._line.columns:
                break
            line = longer
        self._line.show(line)
        self._previous, self._waited = (step, now), 0.0
        self._origin = self._origin or self._previous
        return {"speed/images_per_second": speed, "speed/waiting_for_data": waiting}

    def close(self) -> None:
        """Ends the rewritten line, so that what follows starts on its own."""
        self._line.close()


def _digits(value: float, count: int = 4) -> str:
    return f"{value:#.{count}g}".rstrip(".") if math.isfinite(value) else str(value)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(max(seconds, 0)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
