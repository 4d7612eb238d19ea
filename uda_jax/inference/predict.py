"""Predicting a folder of images: label PNGs in palette colours, and overlays."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from uda_jax.data.io import atomic
from uda_jax.data.io.images import read_image
from uda_jax.data.pipeline.transforms import resize
from uda_jax.errors import UserError
from uda_jax.report.pictures import colourise, label_picture, overlay, png

_EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"))


@dataclasses.dataclass
class Summary:
    """What `predict_folder` did.

    Attributes:
      written: the label PNGs.
      renamed: (input, label PNG) where another input has the plain name.
      failed: (input, reason) of the images that could not be read.
    """

    written: list[pathlib.Path] = dataclasses.field(default_factory=list)
    renamed: list[tuple[pathlib.Path, pathlib.Path]] = dataclasses.field(default_factory=list)
    failed: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{source}: written as {target.name}, its plain name was taken" for source, target in self.renamed]
        # The reasons name the files already.
        lines += [reason for _, reason in self.failed]
        lines.append(f"{len(self.written)} images predicted, {len(self.failed)} could not be read")
        return "\n".join(lines)


def predict_folder(
    predict: Callable[[np.ndarray, tuple[int, int]], np.ndarray],
    input_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    size: tuple[int, int] | None,
    palette: np.ndarray,
    batch_size: int = 4,
) -> Summary:
    """Predicts every image of a folder and its subfolders, which the output keeps.

    For `a.jpg` it writes `a.png`, the class ids at the image's own size as an 8-bit palette PNG, and
    `a_overlay.png`. Unreadable images are left out and named in the summary; the others are done.

    Args:
      predict: maps images, uint8 `[batch_size, h, w, 3]`, and a size to scores `[batch_size, *size, C]`. The batch
        is always full, so that one compilation serves all images of one size.
      input_dir: the images; other files are ignored.
      output_dir: outside `input_dir`; made if absent.
      size: (height, width) at which the network sees the images; None for each image's own.
      palette: uint8 `[C, 3]`, the colours of the classes.
      batch_size: images per call.

    Returns:
      What was written and what failed.

    Raises:
      UserError: no such input folder, no image in it, or an output folder inside it.
    """
    source, target = pathlib.Path(input_dir), pathlib.Path(output_dir)
    paths = _images(source, target)
    summary = Summary()
    outputs = _output_stems(paths, source, target)
    summary.renamed += [(path, _label_path(stem)) for path, stem in outputs.items() if stem.name != path.stem]
    for batch in _batches(paths, batch_size, summary):
        images = [image for _, image in batch]
        # A short batch is filled with its last image, whose results are dropped.
        filled = images + images[-1:] * (batch_size - len(images))
        native = images[0].shape[:2]
        inputs = np.stack([resize({"image": image}, size or native)["image"] for image in filled])
        labels = np.asarray(predict(inputs, native).argmax(-1), np.uint8)
        for (path, image), label in zip(batch, labels, strict=False):
            stem = outputs[path]
            atomic.write(stem.with_name(f"{stem.name}_overlay.png"), png(overlay(image, colourise(label, palette))))
            # Last, so that a label PNG means that the image is done.
            atomic.write(_label_path(stem), png(label_picture(label, palette)))
            summary.written.append(_label_path(stem))
    return summary


def _images(source: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images below `source`, sorted, or says why the folders will not do."""
    if not source.is_dir():
        raise UserError(
            f"--input {source}: expected a folder of images, got {'a file' if source.exists() else 'nothing'}"
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {target}: lies in the input folder {source}; give a folder outside it")
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {target}: expected a folder, got a file; give another name")
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in _EXTENSIONS and path.is_file())
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    if not paths:
        raise UserError(f"--input {source}: no image there; expected files such as {', '.join(sorted(_EXTENSIONS))}")
    return paths


def _output_stems(
    paths: list[pathlib.Path], source: pathlib.Path, target: pathlib.Path
) -> dict[pathlib.Path, pathlib.Path]:
    """Gives each input an output path without ending, such that no output falls on another or on an input."""
    # Compared without case, for file systems that do not tell a.png from A.png.
    taken = {str(path.resolve()).lower() for path in paths}
    stems = {}
    for path in paths:
        folder = target / path.parent.relative_to(source)
        longer = (f"{path.stem}_{path.suffix[1:]}{'_' * extra}" for extra in itertools.count())
        for name in itertools.chain([path.stem], longer):
            files = {str((folder / f"{name}{ending}").resolve()).lower() for ending in (".png", "_overlay.png")}
            if not files & taken:
                break
        taken |= files
        stems[path] = folder / name
    return stems


def _label_path(stem: pathlib.Path) -> pathlib.Path:
    # Not with_suffix: a stem may hold dots.
    return stem.with_name(f"{stem.name}.png")


def _batches(
    paths: list[pathlib.Path], batch_size: int, summary: Summary
) -> Iterator[list[tuple[pathlib.Path, np.ndarray]]]:
    """Yields up to `batch_size` neighbours of one size; enters what cannot be read in the summary."""
    batch: list[tuple[pathlib.Path, np.ndarray]] = []
    for path in paths:
        try:
            image = read_image(path)
        except UserError as error:
            summary.failed.append((path, str(error)))
            continue
        if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((path, image))
    if batch:
        yield batch
