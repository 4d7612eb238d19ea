"""Predicting a folder of images, or a video: label PNGs in palette colours, and overlays."""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from uda_jax.data import open_dataset
from uda_jax.data.datasets.video import ANIMATIONS, VIDEOS
from uda_jax.data.io import atomic, names
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference.labels import MOST_PIXELS, Labeller, Scores
from uda_jax.report.pictures import colourise, label_picture, overlay, png

# How many of the files that were passed over are named.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of the input.

    Attributes:
      path: names it in messages, and what must not be overwritten.
      name: relative to the input, without ending; slashes are folders.
      ending: of its file, without dot, or "".
      read: returns it, uint8 `[H, W, 3]`, or raises a UserError.
    """

    path: pathlib.Path
    name: str
    ending: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass
class Summary:
    """What `predict_folder` did.

    Attributes:
      written: the label PNGs.
      renamed: (input, label PNG) where another input has the plain name, or the name will not do for a file.
      failed: (input, reason) of the images that could not be read.
      passed_over: files that are no pictures of a kind that is read.
      notes: what was done otherwise than asked.
    """

    written: list[pathlib.Path] = dataclasses.field(default_factory=list)
    renamed: list[tuple[pathlib.Path, pathlib.Path]] = dataclasses.field(default_factory=list)
    failed: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)
    passed_over: list[pathlib.Path] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{source}: written as {target.name}, its plain name was taken or too long"
            for source, target in self.renamed
        ]
        # The reasons name the files already.
        lines += [reason for _, reason in self.failed]
        lines += self.notes
        if self.passed_over:
            kinds = collections.Counter(path.suffix.lower() or "without ending" for path in self.passed_over)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            named = ", ".join(path.name for path in self.passed_over[:_NAMED])
            more = ", ..." if len(self.passed_over) > _NAMED else ""
            lines.append(
                f"{len(self.passed_over)} files passed over, no pictures that are read: {counts} ({named}{more})"
            )
        lines.append(f"{len(self.written)} images predicted, {len(self.failed)} could not be read")
        return "\n".join(lines)


def predict_folder(
    scores: Scores,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    domain: Domain,
    palette: np.ndarray,
    batch_size: int = 4,
    most_pixels: int = MOST_PIXELS,
) -> Summary:
    """Predicts every image of a folder and its subfolders, which the output keeps, or every frame of a video.

    For `a.jpg` it writes `a.png`, the class ids at the image's own size as an 8-bit palette PNG, and
    `a_overlay.png`. Unreadable images are left out and named in the summary; the others are done.

    Args:
      scores: maps images, uint8 `[B, h, w, 3]`, and a size to scores `[B, *size, C]`.
      source: a folder of images, whose other files are passed over and named in the summary; a picture; or what the
        data set `video` reads.
      output: a folder outside `source`; made if absent.
      domain: the split that runs are scored on: images are resized and padded by its rules.
      palette: uint8 `[C, 3]`, the colours of the classes.
      batch_size: images per call; fewer where they are large.
      most_pixels: of one image that are scored at once, see `Labeller`.

    Returns:
      What was written and what failed.

    Raises:
      UserError: no such input, no image in it, or an output that cannot be made or lies inside the input.
    """
    source, target = pathlib.Path(source), pathlib.Path(output)
    summary = Summary()
    pictures = _pictures(source, summary)
    _make(target, source)
    outputs = _output_stems(pictures, target)
    summary.renamed += [
        (picture.path, _label_path(stem)) for picture, stem in outputs.items() if stem != target / picture.name
    ]
    label = Labeller(scores, domain, batch_size, most_pixels=most_pixels)
    for batch in _batches(pictures, label, summary):
        images = [image for _, image in batch]
        # A short batch is filled with its last image, whose results are dropped.
        images += images[-1:] * (label.batch_size(images[0].shape[:2]) - len(images))
        for (picture, image), found in zip(batch, label(images), strict=False):
            stem = outputs[picture]
            atomic.write(stem.with_name(f"{stem.name}_overlay.png"), png(overlay(image, colourise(found, palette))))
            # Last, so that a label PNG means that the image is done.
            atomic.write(_label_path(stem), png(label_picture(found, palette)))
            summary.written.append(_label_path(stem))
    summary.notes += label.notes
    return summary


def _pictures(source: pathlib.Path, summary: Summary) -> list[Picture]:
    """Returns the images of an input, sorted; enters what is passed over in the summary."""
    if not source.exists():
        raise UserError(f"--input {source}: expected a folder of images or a video, got nothing; check the path")
    if not source.is_dir():
        return _frames(source, summary)
    paths = _files(source)
    pictures = [_picture(path, source) for path in paths if path.suffix.lower() in IMAGE_ENDINGS]
    summary.passed_over += [path for path in paths if path.suffix.lower() not in IMAGE_ENDINGS]
    if not pictures:
        videos = sorted(path.name for path in paths if path.suffix.lower() in VIDEOS)
        remedy = f"; for a video, give its file, such as {source / videos[0]}" if videos else ""
        raise UserError(f"--input {source}: no image there; expected files such as {', '.join(IMAGE_ENDINGS)}{remedy}")
    return pictures


def _files(source: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files below a folder, sorted, through links, too; hidden ones are the business of whoever hides them.

    Raises:
      UserError: a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"--input {os_error_line(error)}")

    found = []
    for folder, below, files in os.walk(source, onerror=refuse, followlinks=True):
        here = pathlib.Path(folder)
        above = {parent.resolve() for parent in (here, *here.parents)}
        # A link back to a folder that holds it would lead on for ever.
        below[:] = [name for name in below if not name.startswith(".") and (here / name).resolve() not in above]
        found += [here / name for name in files if not name.startswith(".")]
    # A link that leads nowhere is an image that cannot be read.
    return sorted(path for path in found if path.is_file() or path.is_symlink())


def _picture(path: pathlib.Path, source: pathlib.Path) -> Picture:
    # Not with_suffix: a stem may hold dots.
    name = (path.parent.relative_to(source) / path.stem).as_posix()
    return Picture(path, name, path.suffix[1:], lambda: read_image(path))


def _frames(source: pathlib.Path, summary: Summary) -> list[Picture]:
    """Returns the frames of a video file or an archive, or the picture that a file is."""
    ending = source.suffix.lower()
    still = ending in IMAGE_ENDINGS
    dataset = open_dataset("video", source, "train", "own") if not still or ending in ANIMATIONS else ()
    if still and len(dataset) <= 1:
        return [_picture(source, source.parent)]
    if dataset.problems:
        raise UserError(f"--input {source}: {dataset.problems[0].message}")
    summary.notes += [note.message for note in dataset.passed_over]
    return [
        Picture(source / dataset.name(i), dataset.name(i), "", lambda i=i: dataset.read(i, ("image",))["image"])
        for i in range(len(dataset))
    ]


def _make(target: pathlib.Path, source: pathlib.Path) -> None:
    """Makes the output folder, or says why it will not do."""
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {target}: lies in the input folder {source}; give a folder outside it")
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {target}: expected a folder, got a file; give another name")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {os_error_line(error, target)}") from None


def _output_stems(pictures: Sequence[Picture], target: pathlib.Path) -> dict[Picture, pathlib.Path]:
    """Gives each image an output path without ending, such that no output falls on another or on an input."""
    # Compared without case, for file systems that do not tell a.png from A.png.
    taken = {str(picture.path.resolve()).lower() for picture in pictures}
    stems = {}
    for picture in pictures:
        first = names.below(target, picture.name)
        longer = (f"{first.name}_{picture.ending}{'_' * extra}" for extra in itertools.count())
        for name in itertools.chain([first.name], longer):
            files = {str((first.parent / f"{name}{ending}").resolve()).lower() for ending in (".png", "_overlay.png")}
            if not files & taken:
                break
        taken |= files
        stems[picture] = first.parent / name
    return stems


def _label_path(stem: pathlib.Path) -> pathlib.Path:
    # Not with_suffix: a stem may hold dots.
    return stem.with_name(f"{stem.name}.png")


def _batches(
    pictures: Sequence[Picture], label: Labeller, summary: Summary
) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    """Yields as many neighbours of one size as are predicted at once; enters what cannot be read in the summary."""
    batch: list[tuple[Picture, np.ndarray]] = []
    for picture in pictures:
        try:
            image = picture.read()
        except UserError as error:
            summary.failed.append((picture.path, str(error)))
            continue
        if batch and batch[0][1].shape != image.shape:
            yield batch
            batch = []
        batch.append((picture, image))
        if len(batch) == label.batch_size(image.shape[:2]):
            yield batch
            batch = []
    if batch:
        yield batch
