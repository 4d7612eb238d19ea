"""Writing data sets as ArrayRecord shards that train fast: `uda prepare`.

    <out>/gta5-train.array_record-00000-of-00098     shards, of a tf.train.Example per frame
    <out>/features.json, dataset_info.json           what TFDS needs: tfds.builder_from_directory(out)
    <out>/manifest.json                              what `prepared.Prepared` needs; written last

Without a size, image files are copied bit by bit, and so are label files that plainly hold the data set's ids; ids
that are stored otherwise (as colours, in 16 bits) become 8-bit PNGs, and depth and disparity the float PNGs of TFDS,
all exactly. With a size, images are resized as the papers do. Resized frames, and on demand all others, are stored as
uncompressed PNGs, which the records' compression makes small, and which are read several times as fast. Labels stay the
ids of the data set, so that any label space can be chosen when training.

Features, serialisation, file names and metadata are those of TFDS, but its `download_and_prepare` is neither
parallel nor resumable: it writes one shard after the other into a temporary folder, which a killed process leaves
behind to be begun anew. Here each shard is written by one of several processes under a temporary name, flushed,
renamed and entered into a journal, so that the same command goes on where it was killed. Shards depend on nothing but
the data and the settings: a resumed run, or one with other workers, gives the same bytes. Each keeps the fingerprint of
the files, classes and ids that it was made from, and is written anew where that is another one now.
"""

import contextlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data import open_dataset, raise_first, reader, require_sound
from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.io import atomic
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import transforms
from uda_jax.data.pipeline.frame_lists import listed_positions
from uda_jax.data.pipeline.neighbours import with_neighbours
from uda_jax.data.pipeline.views import Selection
from uda_jax.data.prepare.prepared import plain
from uda_jax.data.prepare.records import Encoder
from uda_jax.data.prepare.split_writer import RULES, SplitWriter
from uda_jax.errors import UserError

SHARD_BYTES = 256 << 20


class Summary(NamedTuple):
    """What `prepare` did.

    Attributes:
      frames, bytes, shards: of the split.
      written: how many of the shards were written now.
      notes: lines about files that were passed over, and about maps that are left out for what is wrong with them.
    """

    frames: int
    bytes: int
    shards: int
    written: int
    notes: tuple[str, ...] = ()


class _Source(NamedTuple):
    """The split to prepare, as `uda_jax.data.open_dataset` takes it."""

    dataset: str
    root: str | os.PathLike | None
    split: str
    options: dict[str, Any]
    fields: tuple[str, ...] = ()

    @property
    def label_space(self) -> str:
        """The label space that the reader prefers."""
        return inspect.signature(reader(self.dataset)).parameters["label_space"].default

    def open(self, label_space: str | None = None) -> Dataset:
        """Opens it with a label space, and with the maps on request that shall be stored."""
        where = (self.dataset, self.root, self.split, label_space or self.label_space)
        return with_neighbours(open_dataset(*where, fields=self.fields, **self.options), self.fields)


def prepare(
    dataset: str,
    root: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    split: str = "train",
    size: tuple[int, int] | None = None,
    image_resampling: str = "bicubic",
    disparity_resampling: str = "nearest",
    fit: str = "stretch",
    recode: bool = False,
    fields: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    names_file: str | None = None,
    workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Summary:
    """Writes one split of a data set into a prepared folder, or goes on where an earlier call was stopped.

    Args:
      dataset, root, split, options: of the data set, as `uda_jax.data.get_dataset` takes them.
      out: a new folder, or one into which other splits were prepared with the same settings.
      size: (height, width) in pixels to resize to; None keeps files as they are.
      image_resampling, disparity_resampling, fit: how, as the fields of a `Domain` of these names say; labels and depth
        are resized by nearest neighbour.
      recode: without a size, store the same pixels in the form of sized records, which is larger than most files and
        several times as fast to read; for methods that draw the size of each frame at random.
      fields: maps to store; None stores all that the split has, less those that are looked for on request only. Frames
        without neighbours in time for an image of another time are left out.
      names_file: text file with the names of the frames to keep, one per line, as a domain takes it.
      workers: processes; None takes one per core. A script that asks for several needs
        `if __name__ == "__main__":`, since they are spawned.
      shard_bytes: about how large a shard shall be.

    Returns:
      What was done.

    Raises:
      UserError: anything wrong with the data or the arguments. Unreadable frames are listed on stderr once all shards
        without one are finished; a manifest is written only if there is none.
      OSError: the disk is full.
    """
    rules = {"image_resampling": image_resampling, "disparity_resampling": disparity_resampling, "fit": fit}
    _check_form(rules, size, recode)
    source = _Source(dataset, root, split, dict(options or {}), tuple(fields or ()))
    opened = source.open()
    positions = _positions(opened, dataset, names_file)
    fields = _fields(opened, fields)
    require_sound(opened if names_file is None else Selection(opened, positions), dataset, fields)
    settings = {"dataset": dataset, "options": plain(source.options), "size": plain(size)}
    settings |= (rules if size else dict.fromkeys(rules)) | {"recode": recode, "fields": list(fields)}
    encoder = Encoder(opened, fields, size, transforms.Resampling(image_resampling, disparity_resampling), fit, recode)
    folder = Path(out).expanduser()
    with atomic.locked(folder, "--out", "uda prepare"):
        writer = SplitWriter(folder, split, settings, encoder, positions, root, shard_bytes)
        shards, written = writer.write_shards(workers)
        writer.write_manifest(shards, _entry(source, opened, positions, fields))
    left_out = [problem for problem in opened.problems if problem.field not in fields]
    notes = tuple(problem.message for problem in (*opened.passed_over, *left_out))
    return Summary(len(positions), sum(shard.bytes for shard in shards), len(shards), written, notes)


def _check_form(rules: Mapping[str, str], size: tuple[int, int] | None, recode: bool) -> None:
    """Raises a UserError for a way of storing frames that there is not."""
    for field, (word, choices) in RULES.items():
        if rules[field] not in choices:
            raise UserError(f"{word}: expected one of {', '.join(choices)}, got '{rules[field]}'")
    if recode and size:
        raise UserError("--recode: expected no --size beside it, since resized frames are new files anyway")


def _positions(opened: Dataset, name: str, names_file: str | None) -> Sequence[int]:
    """Returns the frames to store."""
    if not len(opened):
        raise_first(opened.problems, name)
    return list(range(len(opened))) if names_file is None else listed_positions(names_file, opened.names())


def _fields(opened: Dataset, fields: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the maps to store, in the order of `MAPS`, after checking that the frames have them."""
    present = {field for field in MAPS if opened.has(field)}
    if fields is None:
        return tuple(field for field in MAPS if field in present)
    for field in fields:
        if field not in MAPS:
            raise UserError(f"--fields: expected some of {', '.join(MAPS)}, got '{field}'")
        if field not in present:
            raise UserError(f"--fields: no frame of the split has {field}; leave it out")
    if "image" not in fields:
        raise UserError(f"--fields: expected image among them, got '{','.join(fields)}'")
    return tuple(field for field in MAPS if field in fields)


def _entry(source: _Source, opened: Dataset, positions: Sequence[int], fields: Sequence[str]) -> dict[str, Any]:
    """Returns what a manifest says about the frames and labels of a split."""
    names = [opened.name(position) for position in positions]
    absent = {field: set(opened.missing(field)) for field in fields}
    missing = {field: [name for name in names if name in without] for field, without in absent.items()}
    table = _identity(opened.label_space) if opened.table is None else opened.table
    spaces = {source.label_space: (opened.label_space, table)}
    if "label" in fields and opened.table is not None:
        for protocol in ("own", *label_spaces.PROTOCOLS):
            # Not every data set has labels that every protocol can use.
            with contextlib.suppress(UserError):
                other = source.open(protocol)
                spaces[protocol] = (other.label_space, other.table)
    elif "label" in fields and source.label_space == "19":
        for protocol in label_spaces.PROTOCOLS:
            spaces[protocol] = (label_spaces.label_space(protocol), label_spaces.train19_table(protocol))
    return {
        "frames": names,
        "lacking": {field: listed for field, listed in missing.items() if listed},
        "labelled": "label" in fields,
        "in_time": any(opened.sequence(position) is not None for position in positions),
        "known": sorted(opened.known),
        "label_spaces": {
            key: {"names": space.names, "colours": space.colours, "table": table.tobytes().hex()}
            for key, (space, table) in spaces.items()
        },
    }


def _identity(space: label_spaces.LabelSpace) -> np.ndarray:
    table = np.full(256, space.ignore, np.uint8)
    table[: len(space.names)] = np.arange(len(space.names))
    return table
