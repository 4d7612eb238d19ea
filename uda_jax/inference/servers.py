"""Test servers of published data sets: which ids their files hold, what these are called, and how they are packed.

A server scores labels that nobody else has. Each file is named like its image, with the ending .png, and is of the
image's own size. Cityscapes takes its own ids, the others the 19 training ids.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from uda_jax.data.datasets import acdc, bdd100k, cityscapes, dark_zurich
from uda_jax.data.io import atomic
from uda_jax.data.labels.label_spaces import IGNORE, TRAIN_CLASSES
from uda_jax.errors import UserError, printable
from uda_jax.inference.inputs import Picture
from uda_jax.inference.outputs import png


class Server(NamedTuple):
    """What a server takes.

    Attributes:
      image: pattern of the images' names, without ending.
      example: such a name.
      frames: how many the test split has.
      train_ids: whether files hold the 19 training ids instead of those of Cityscapes.
      folders: of the archive, each with one file per image: "" is its top; "confidence" holds the largest probability
        in 16 bits, any other one the labels.
    """

    image: str
    example: str
    frames: int
    train_ids: bool
    folders: tuple[str, ...]


_GOPRO = r"GOPR\d+_frame_\d{6}_rgb(_anon)?"
SERVERS = {
    "cityscapes": Server(
        r"[a-z-]+_\d{6}_\d{6}_leftImg8bit",
        "berlin_000000_000019_leftImg8bit.png",
        cityscapes.COUNTS["test"],
        False,
        ("",),
    ),
    "acdc": Server(_GOPRO, "GOPR0475_frame_000247_rgb_anon.png", acdc.COUNTS["test"], True, ("labelTrainIds",)),
    # Its third folder is for labels with pixels that a method calls invalid: none does here.
    "dark_zurich": Server(
        _GOPRO,
        "GOPR0475_frame_000247_rgb_anon.png",
        dark_zurich.COUNTS["test"],
        True,
        ("labelTrainIds", "labelTrainIds_invalid", "confidence"),
    ),
    "bdd100k": Server(r"[0-9a-f]{8}-[0-9a-f]{8}", "ac6d4f42-00000000.jpg", bdd100k.COUNTS["test"], True, ("",)),
}


class Submission:
    """The files for a server, in a folder of its name, and the archive of all of them beside it.

    Args:
      server: one of `SERVERS`.
      target: the output folder.
      classes: names of the classes that are predicted.
      pictures: the images.

    Raises:
      UserError: a class that the server does not know, or an image that is not named as the server's are.
    """

    def __init__(self, server: str, target: pathlib.Path, classes: Sequence[str], pictures: Sequence[Picture]):
        self.name, self._server = server, SERVERS[server]
        self.folder, self.archive = target / server, target / f"{server}.zip"
        ids = {row.name: row.train_id if self._server.train_ids else row.id for row in TRAIN_CLASSES}
        if unknown := [name for name in classes if name not in ids]:
            raise UserError(
                f"--server {server}: expected classes of Cityscapes, got {unknown}; predict with a run that has the "
                "label space 19, or 16 or 13 of it"
            )
        self._ids = np.full(256, IGNORE, np.uint8)
        self._ids[: len(classes)] = [ids[name] for name in classes]
        self._pictures = pictures
        self._check_names()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The maps that the files are made of."""
        return ("labels", "confidence") if "confidence" in self._server.folders else ("labels",)

    def _check_names(self) -> None:
        """Raises a UserError unless all images are named as the server's are, each once."""
        seen: dict[str, Picture] = {}
        for picture in self._pictures:
            stem = picture.path.stem
            if not re.fullmatch(self._server.image, stem):
                raise UserError(
                    f"--server {self.name}: expected images named like {self._server.example}, got "
                    f"{printable(str(picture.path))}; give the test split alone"
                )
            if stem in seen:
                raise UserError(
                    f"--server {self.name}: expected each frame once, got {printable(str(seen[stem].path))} and "
                    f"{printable(str(picture.path))}; leave one out"
                )
            seen[stem] = picture

    def paths(self, picture: Picture) -> list[pathlib.Path]:
        """Returns the files of an image, one in each folder of the archive."""
        return [self.folder / folder / f"{picture.path.stem}.png" for folder in self._server.folders]

    def write(self, picture: Picture, maps: Mapping[str, np.ndarray]) -> None:
        """Writes the files of an image: maps "labels" uint8 `[H, W]`, and "confidence" uint16 if it is wanted."""
        labels = png(Image.fromarray(self._ids[maps["labels"]]))
        for folder, path in zip(self._server.folders, self.paths(picture), strict=True):
            confidence = folder == "confidence"
            atomic.write(path, png(Image.fromarray(np.ascontiguousarray(maps[folder]))) if confidence else labels)

    def pack(self) -> str:
        """Writes the archive; returns what to tell of it."""
        with (
            atomic.replacing(self.archive) as temporary,
            # PNGs are compressed.
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for picture in self._pictures:
                for path in self.paths(picture):
                    archive.write(path, os.path.relpath(path, self.folder))
        found, expected = len(self._pictures), self._server.frames
        short = "" if found == expected else f", but the server expects the {expected} frames of the test split"
        return f"{self.archive}: {found} frames for the server of {self.name}{short}"
