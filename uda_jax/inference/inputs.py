"""What is to be predicted: pictures of a folder, a pattern or a list, or the frames of a video, found and named."""

import dataclasses
import glob
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from uda_jax.data import open_dataset
from uda_jax.data.datasets.video import ANIMATIONS, VIDEOS
from uda_jax.data.io import names
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image
from uda_jax.errors import UserError, os_error_line


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
class Inputs:
    """The images that were found.

    Attributes:
      pictures: in the order in which they are predicted.
      stem: what a video made of all of them is called.
      sequential: whether they are read fastest one after the other, as the frames of a file are.
      rate: frames per second of a video file; None where nothing says it.
      passed_over: files that are no pictures of a kind that is read.
      notes: what else is to be told.
    """

    pictures: list[Picture]
    stem: str
    sequential: bool = False
    rate: float | None = None
    passed_over: list[pathlib.Path] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def find(sources: Sequence[pathlib.Path]) -> Inputs:
    """Returns the images of an input.

    Args:
      sources: a folder, searched with its subfolders; a picture; a video, an animation or an archive, whatever the data
        set `video` reads; a pattern such as `drive/**/*_left.png`; or several pictures.

    Raises:
      UserError: nothing there, or no image in it.
    """
    if len(sources) > 1:
        return _listed(sources, "--input")
    (source,) = sources
    if source.is_dir():
        return _folder(source)
    if source.exists():
        return _file(source)
    if glob.has_magic(str(source)):
        # Sorted, since the order is that of the disk; hidden files are the business of whoever hides them.
        found = [pathlib.Path(path) for path in sorted(glob.glob(str(source), recursive=True))]
        if files := [path for path in found if path.is_file()]:
            return _listed(files, f"--input {source}")
        raise UserError(f"--input {source}: no file fits this pattern; check it, ** stands for folders of any depth")
    raise UserError(f"--input {source}: expected a folder of images or a video, got nothing; check the path")


def _folder(source: pathlib.Path) -> Inputs:
    paths = _files(source)
    found = _pictures(paths, source, source.resolve().name)
    if not found.pictures:
        videos = sorted(path.name for path in paths if path.suffix.lower() in VIDEOS)
        remedy = f"; for a video, give its file, such as {source / videos[0]}" if videos else ""
        raise UserError(f"--input {source}: no image there; expected files such as {', '.join(IMAGE_ENDINGS)}{remedy}")
    return found


def _listed(paths: Sequence[pathlib.Path], where: str) -> Inputs:
    """Returns pictures that are named one by one, or that fit a pattern, below the folder that holds all of them."""
    for path in paths:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "nothing"
            raise UserError(f"{where}: expected files where there are several, got {what} at {path}; give one folder")
    if len(set(paths)) < len(paths):
        raise UserError(f"{where}: expected each file once; leave out what is there twice")
    above = pathlib.Path(os.path.commonpath([path.absolute().parent for path in paths]))
    found = _pictures([path.absolute() for path in paths], above, above.name or "all")
    if not found.pictures:
        raise UserError(f"{where}: no image among the {len(paths)} files; expected {', '.join(IMAGE_ENDINGS)}")
    return found


def _pictures(paths: Sequence[pathlib.Path], above: pathlib.Path, stem: str) -> Inputs:
    pictures = [_picture(path, above) for path in paths if path.suffix.lower() in IMAGE_ENDINGS]
    return Inputs(pictures, stem, passed_over=[path for path in paths if path.suffix.lower() not in IMAGE_ENDINGS])


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


def _file(source: pathlib.Path) -> Inputs:
    """Returns the frames of a video file or an archive, or the picture that a file is."""
    ending = source.suffix.lower()
    still = ending in IMAGE_ENDINGS
    dataset = open_dataset("video", source, "train", "own") if not still or ending in ANIMATIONS else ()
    if still and len(dataset) <= 1:
        return Inputs([_picture(source, source.parent)], source.stem)
    if dataset.problems:
        raise UserError(f"--input {source}: {dataset.problems[0].message}")
    pictures = [
        Picture(source / dataset.name(i), dataset.name(i), "", lambda i=i: dataset.read(i, ("image",))["image"])
        for i in range(len(dataset))
    ]
    notes = [note.message for note in dataset.passed_over]
    # Pictures in an archive stand alone; the frames of a file build on those before them.
    sequential = ending in VIDEOS + ANIMATIONS
    return Inputs(pictures, source.stem, sequential, dataset.frame_rate, notes=notes)


def output_stems(
    pictures: Sequence[Picture], target: pathlib.Path, endings: Sequence[str]
) -> dict[Picture, pathlib.Path]:
    """Gives each image an output path without ending, such that no output falls on another or on an input.

    Args:
      pictures: the images.
      target: the output folder.
      endings: all that may be written of an image: the names must not depend on what is written this time.
    """
    # Compared without case, for file systems that do not tell a.png from A.png.
    taken = {str(picture.path.resolve()).lower() for picture in pictures}
    stems = {}
    for picture in pictures:
        first = names.below(target, picture.name)
        longer = (f"{first.name}_{picture.ending}{'_' * extra}" for extra in itertools.count())
        for name in itertools.chain([first.name], longer):
            files = {str((first.parent / f"{name}{ending}").resolve()).lower() for ending in endings}
            if not files & taken:
                break
        taken |= files
        stems[picture] = first.parent / name
    return stems
