"""Predicting images and videos: what is asked for, checked and put together; `flow` does it."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.data.io.progress import progress_bar
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference import inputs, outputs, videos
from uda_jax.inference.flow import RECORD, THREADS, Writer, flow
from uda_jax.inference.inputs import Picture
from uda_jax.inference.labels import MOST_PIXELS, Labeller, Predict
from uda_jax.inference.servers import Submission
from uda_jax.inference.summary import Summary


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
    or what else is wanted. Images whose files exist are skipped, unreadable ones named in the summary.

    Args:
      predict: see `labels.Predict`.
      source: what `inputs.find` takes, one path or several.
      output: a folder outside `source`; made if absent.
      domain: the split that runs are scored on: images are resized and padded by its rules.
      palette, classes: uint8 `[C, 3]`, the colours of the classes, and their names.
      batch_size, most_pixels: see `Labeller`.
      wanted: what is written.
      made_by: what makes the predictions, for `predictions.json` in the output, which holds those of nothing else.
      progress: whether to show a bar.

    Raises:
      UserError: no such input, no image in it, an output that cannot be made, lies inside the input or holds
        predictions of something else, or what is wanted cannot be had.
    """
    wanted = wanted or Wanted()
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    paths, target = [pathlib.Path(each) for each in sources], pathlib.Path(output)
    found, encoder = inputs.find(paths), outputs.Encoder(palette, classes, wanted.overlay)
    submission = Submission(wanted.server, target, classes, found.pictures) if wanted.server else None
    _make(target, paths)
    record = _record(target / RECORD, made_by, wanted.again)
    summary = Summary(passed_over=found.passed_over, notes=found.notes)
    stems = inputs.output_stems(found.pictures, target, outputs.endings())
    renamed = ((picture.path, stem) for picture, stem in stems.items() if stem != target / picture.name)
    summary.renamed += [(path, encoder.path(stem, "labels")) for path, stem in renamed]
    films = _films(wanted, found, target, summary)
    writer = Writer(encoder, stems, [k for k in wanted.kinds if k not in films], films, submission, record, target)
    maps = (*(outputs.KINDS[kind].map for kind in wanted.kinds), *(submission.wanted if submission else ()))
    options = {"wanted": tuple(dict.fromkeys(maps)), "size": wanted.size, "most_pixels": most_pixels}
    label = Labeller(predict, domain, batch_size, **options)
    todo = [picture for picture in found.pictures if wanted.again or not writer.is_done(picture)]
    summary.skipped = len(found.pictures) - len(todo)
    if todo:
        _pass(todo, label, writer, summary, 1 if found.sequential else THREADS, progress)
    summary.notes += label.notes
    if submission:
        missing = f"{submission.archive}: not written, since images could not be read"
        summary.notes.append(missing if summary.failed else submission.pack())
    return summary


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
        summary.notes.append(videos.WITHOUT)
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


def _pass(
    pictures: Sequence[Picture], label: Labeller, writer: Writer, summary: Summary, readers: int, progress: bool
) -> None:
    with contextlib.ExitStack() as stack:
        for film in writer.films.values():
            stack.enter_context(film)
        bar = stack.enter_context(progress_bar("predicting", len(pictures), "frames", shown=progress))
        flow(pictures, label, writer, summary, readers, bar.update)


def _record(path: pathlib.Path, made_by: Mapping[str, Any] | None, again: bool) -> str | None:
    """Returns what is to stand in a file about the predictions; raises a UserError if others are there already."""
    if made_by is None:
        return None
    record = json.dumps(made_by, indent=1, default=str) + "\n"
    if again or not path.exists():
        return record
    try:
        before = json.loads(path.read_text())
    except ValueError:
        before = None
    now = json.loads(record)
    if before != now:
        differing = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
        raise UserError(
            f"--output {path.parent}: holds predictions that were made otherwise ({', '.join(differing) or RECORD}); "
            "give another folder, or --again to replace them"
        )
    return record
