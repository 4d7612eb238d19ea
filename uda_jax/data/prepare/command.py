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
the data and the settings: a resumed run, or one with other workers, gives the same bytes.
"""

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from uda_jax.data import open_dataset, raise_first, reader, require_sound
from uda_jax.data.base import MAPS, Dataset
from uda_jax.data.io import atomic
from uda_jax.data.io.archives import printable
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import transforms
from uda_jax.data.pipeline.frame_lists import listed_positions
from uda_jax.data.pipeline.views import Selection
from uda_jax.data.prepare import records
from uda_jax.data.prepare.prepared import FORMAT, MANIFEST, journal, plain, read_manifest, tfds_split
from uda_jax.data.prepare.records import Encoder
from uda_jax.data.prepare.shards import WRITER_OPTIONS, Shard, Unreadable, write_shard
from uda_jax.errors import UserError

SHARD_BYTES = 256 << 20
# How `size` may be reached, and the words of the command line for it: the fields of a `Domain`.
_RULES = {
    "image_resampling": ("--resampling", ("bicubic", "bilinear")),
    "disparity_resampling": ("--disparity-resampling", ("nearest", "bilinear")),
    "fit": ("--fit", ("stretch", "pad")),
}
_SAMPLE = 8  # frames whose records tell how many fit into a shard
_VERSIONS = ("uda_jax", "array_record", "numpy", "pillow", "tensorflow_datasets")
# What all splits in one folder share.
_SHARED = ("dataset", "options", "size", *_RULES, "recode", "fields")


class Summary(NamedTuple):
    """What `prepare` did: frames and bytes of the split, how many shards it has, how many of them were written now."""

    frames: int
    bytes: int
    shards: int
    written: int


class _Source(NamedTuple):
    """The split to prepare, as `uda_jax.data.open_dataset` takes it."""

    dataset: str
    root: str | os.PathLike | None
    split: str
    options: dict[str, Any]

    @property
    def label_space(self) -> str:
        """The label space that the reader prefers."""
        return inspect.signature(reader(self.dataset)).parameters["label_space"].default

    def open(self, label_space: str | None = None) -> Dataset:
        """Opens it with a label space."""
        return open_dataset(self.dataset, self.root, self.split, label_space or self.label_space, **self.options)


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
      fields: maps to store; None stores all that the split has.
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
    source = _Source(dataset, root, split, dict(options or {}))
    opened = source.open()
    positions = list(range(len(opened)))
    if not positions:
        raise_first(opened.problems, dataset)
    if names_file is not None:
        positions = listed_positions(names_file, opened.names())
    fields = _fields(opened, fields)
    view = opened if names_file is None else Selection(opened, positions)
    require_sound(view, dataset, fields)
    settings = {
        "dataset": dataset,
        "options": plain(source.options),
        "size": plain(size),
        **(rules if size else dict.fromkeys(rules)),
        "recode": recode,
        "fields": list(fields),
    }
    encoder = Encoder(opened, fields, size, transforms.Resampling(image_resampling, disparity_resampling), fit, recode)
    folder = Path(out).expanduser()
    with atomic.locked(folder):
        run = _Run(folder, split, settings, encoder, positions, shard_bytes)
        shards, written = run.write_shards(workers)
        run.write_manifest(shards, _entry(source, opened, positions, fields))
    return Summary(len(positions), sum(shard.bytes for shard in shards), len(shards), written)


def _check_form(rules: Mapping[str, str], size: tuple[int, int] | None, recode: bool) -> None:
    """Raises a UserError for a way of storing frames that there is not."""
    for field, (word, choices) in _RULES.items():
        if rules[field] not in choices:
            raise UserError(f"{word}: expected one of {', '.join(choices)}, got '{rules[field]}'")
    if recode and size:
        raise UserError("--recode: expected no --size beside it, since resized frames are new files anyway")


class _Run:
    """The writing of one split into a folder: what is there already, what is missing, and the files that say so."""

    def __init__(
        self,
        folder: Path,
        split: str,
        settings: Mapping[str, Any],
        encoder: Encoder,
        positions: Sequence[int],
        shard_bytes: int,
    ):
        self._folder = folder
        self._split = split
        self._settings = settings
        self._encoder = encoder
        self._journal = journal(tfds_split(split), folder)
        self._manifest = read_manifest(folder) or {"format": FORMAT, **settings, "splits": {}}
        self._check_folder()
        for partial in folder.glob(f".{self._stem()}*"):
            partial.unlink()
        names = json.dumps([encoder.dataset.name(position) for position in positions])
        progress = self._earlier(hashlib.sha256(names.encode()).hexdigest(), len(positions))
        if progress["frames_per_shard"] is None:
            progress["frames_per_shard"] = self._frames_per_shard(positions, shard_bytes)
        self._progress = progress
        step = progress["frames_per_shard"]
        parts = [tuple(positions[start : start + step]) for start in range(0, len(positions), step)]
        template = tfds.core.ShardedFileTemplate(
            folder, dataset_name=settings["dataset"], split=tfds_split(split), filetype_suffix="array_record"
        )
        paths = template.sharded_filepaths(num_shards=len(parts))
        self._jobs = [(Path(path), part) for path, part in zip(paths, parts, strict=True)]

    def write_shards(self, workers: int | None) -> tuple[list[Shard], int]:
        """Writes the shards that are missing or damaged; returns all, and how many were written."""
        finished = {shard["file"]: Shard(**shard) for shard in self._progress["shards"]}
        jobs = [(path, part, finished.get(path.name)) for path, part in self._jobs]
        bar = progress_bar(f"{self._settings['dataset']}: preparing {self._split}", len(jobs), "shards")
        written, unreadable = 0, []
        with (
            contextlib.closing(bar),
            parallel_map(
                write_shard, jobs, workers, shared=(self._encoder,), ordered=False, chunk=1, few=2, title="prepare"
            ) as results,
        ):
            for shard, fresh, bad in results:
                unreadable += bad
                if fresh:
                    written += 1
                    finished[shard.file] = shard
                    self._write_journal(finished.values())
                bar.update()
        if unreadable:
            self._refuse(unreadable)
        return [finished[path.name] for path, _ in self._jobs], written

    def write_manifest(self, shards: Sequence[Shard], entry: Mapping[str, Any]) -> None:
        """Writes what makes the folder a data set, the manifest last."""
        entry = {**entry, "tfds_split": tfds_split(self._split), "frames_per_shard": self._progress["frames_per_shard"]}
        entry |= {"versions": {name: importlib.metadata.version(name) for name in _VERSIONS}}
        self._manifest["splits"][self._split] = entry | {"shards": [shard._asdict() for shard in shards]}
        records.write_metadata(self._folder, self._manifest)
        atomic.write(self._folder / MANIFEST, json.dumps(self._manifest, indent=1))
        self._journal.unlink(missing_ok=True)

    def _stem(self) -> str:
        return f"{self._settings['dataset']}-{tfds_split(self._split)}."

    def _check_folder(self) -> None:
        """Refuses folders of something else, and of the same data set with other settings."""
        mine = self._manifest["splits"] or any(self._folder.glob(journal("*").name))
        if not mine and any(not path.name.startswith(".") for path in self._folder.iterdir()):
            raise UserError(f"--out: {self._folder} is neither empty nor prepared data; choose a new folder")
        _same({key: self._manifest[key] for key in _SHARED}, self._settings, self._folder)
        for split in self._manifest["splits"]:
            if split != self._split and tfds_split(split) == tfds_split(self._split):
                raise UserError(
                    f"--out: {self._folder} holds split '{split}', whose files are named as those of '{self._split}' "
                    "would be; choose another folder"
                )

    def _earlier(self, names: str, count: int) -> dict[str, Any]:
        """Returns the progress of earlier calls: from the manifest, the journal, or none."""
        start = {**self._settings, "frames": count, "names": names}
        if self._split in self._manifest["splits"]:
            entry = self._manifest["splits"][self._split]
            listed = hashlib.sha256(json.dumps(entry["frames"]).encode()).hexdigest()
            _same({"frames": len(entry["frames"]), "names": listed}, start, self._folder)
            return start | {key: entry[key] for key in ("frames_per_shard", "shards")}
        try:
            earlier = json.loads(self._journal.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return start | {"frames_per_shard": None, "shards": []}
        except ValueError as error:
            raise UserError(f"{self._journal}: damaged ({error}); delete {self._folder} and prepare anew") from None
        _same({key: earlier[key] for key in start}, start, self._folder)
        return earlier

    def _frames_per_shard(self, positions: Sequence[int], shard_bytes: int) -> int:
        """Returns how many frames fit into a shard, judged by a few records."""
        sample = positions[:: -(-len(positions) // _SAMPLE)]
        path = self._folder / f".{self._stem()}sample"
        try:
            writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
            for position in sample:
                # Unreadable frames are reported when their shard is written.
                with contextlib.suppress(UserError):
                    record = self._encoder.record(position)
                    with atomic.disk_full_errors(path):
                        writer.write(record)
            with atomic.disk_full_errors(path):
                writer.close()
            per_frame = path.stat().st_size / len(sample)
        finally:
            path.unlink(missing_ok=True)
        return max(1, min(len(positions), int(shard_bytes / per_frame)))

    def _write_journal(self, shards: Iterable[Shard]) -> None:
        self._progress["shards"] = [shard._asdict() for shard in sorted(shards)]
        if self._split not in self._manifest["splits"]:
            atomic.write(self._journal, json.dumps(self._progress, indent=1))

    def _refuse(self, unreadable: Sequence[Unreadable]) -> None:
        """Lists the frames that cannot be read, and raises a UserError about them."""
        for frame in sorted(unreadable):
            print(f"{printable(frame.name)}: {frame.message}", file=sys.stderr)
        raise UserError(
            f"{self._settings['dataset']}: {len(unreadable)} frames cannot be read, the first is "
            f"'{printable(min(unreadable).name)}'; fix them and run the same command again, or leave them out with "
            f"--names-file FILE from 'uda check {self._settings['dataset']} --fix-list FILE' and a new --out"
        )


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


def _same(earlier: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Checks that the settings of earlier calls are those of now."""
    for key, value in earlier.items():
        if now[key] != value:
            what = "other frames" if key == "names" else f"{key} {_words(value)}, not {_words(now[key])}"
            raise UserError(f"--out: {folder} was prepared with {what}; choose another folder, or delete this one")


def _words(value: Any) -> str:
    """Returns a setting as the command line writes it."""
    if isinstance(value, list) and value and isinstance(value[0], int):
        return f"{value[1]}x{value[0]}"
    return ",".join(value) if isinstance(value, list) else str(value)
