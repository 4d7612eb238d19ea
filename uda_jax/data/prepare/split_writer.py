"""Writing one split into a prepared folder: what is there already, what is missing, and the files that record it."""

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from uda_jax.data.fingerprint import Fingerprints
from uda_jax.data.io import atomic
from uda_jax.data.io.files import read_file
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.data.prepare import records
from uda_jax.data.prepare.manifest import FORMAT, MANIFEST, journal, read_manifest, tfds_split
from uda_jax.data.prepare.records import Encoder
from uda_jax.data.prepare.shards import WRITER_OPTIONS, Shard, Unreadable, write_shard
from uda_jax.errors import UserError, printable

# How `size` may be reached, and the words of the command line for it: the fields of a `Domain`.
RULES = {
    "image_resampling": ("--resampling", ("bicubic", "bilinear")),
    "disparity_resampling": ("--disparity-resampling", ("nearest", "bilinear")),
    "fit": ("--fit", ("stretch", "pad")),
}
_SAMPLE = 8  # frames whose records tell how many fit into a shard
_VERSIONS = ("uda_jax", "array_record", "numpy", "pillow", "tensorflow_datasets")
# What all splits in one folder share.
_SHARED = ("dataset", "options", "size", *RULES, "recode", "fields")


class SplitWriter:
    """The writing of one split into a folder.

    Args:
      folder: what `prepare` writes into, locked.
      split: its name.
      settings: how frames are stored, as the manifest holds it.
      encoder: makes the records.
      positions: of the frames to store, in the encoder's data set.
      root: where that was opened, for the fingerprints.
      shard_bytes: about how large a shard shall be.

    Raises:
      UserError: the folder holds something else, or was prepared with other settings.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        settings: Mapping[str, Any],
        encoder: Encoder,
        positions: Sequence[int],
        root: str | os.PathLike | None,
        shard_bytes: int,
    ):
        self._folder = folder
        self._split = split
        self._settings = settings
        self._encoder = encoder
        self._journal = journal(tfds_split(split), folder)
        self._manifest = read_manifest(folder) or {"format": FORMAT, **settings, "splits": {}}
        self._check_folder()
        # The folder is locked: what is half-written there was left by a process that was killed.
        for name in (self._stem(), f"{self._journal.name}.", f"{MANIFEST}."):
            for partial in folder.glob(f".{glob.escape(name)}*"):
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
        sources = Fingerprints(encoder.dataset, root, encoder.fields)
        self._jobs = [(Path(path), part, sources.of(part)) for path, part in zip(paths, parts, strict=True)]
        self._forget_changed()

    def write_shards(self, workers: int | None) -> tuple[list[Shard], int]:
        """Writes the shards that are missing or damaged; returns all, and how many were written."""
        finished = {shard["file"]: Shard(**shard) for shard in self._progress["shards"]}
        jobs = [(path, part, source, finished.get(path.name)) for path, part, source in self._jobs]
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
        return [finished[path.name] for path, *_ in self._jobs], written

    def write_manifest(self, shards: Sequence[Shard], entry: Mapping[str, Any]) -> None:
        """Writes what makes the folder a data set, the manifest last."""
        entry = {**entry, "tfds_split": tfds_split(self._split), "frames_per_shard": self._progress["frames_per_shard"]}
        entry |= {"versions": {name: importlib.metadata.version(name) for name in _VERSIONS}}
        self._manifest["splits"][self._split] = entry | {"shards": [shard._asdict() for shard in shards]}
        records.write_metadata(self._folder, self._manifest)
        atomic.write(self._folder / MANIFEST, json.dumps(self._manifest, indent=1))
        self._journal.unlink(missing_ok=True)

    def _forget_changed(self) -> None:
        """Makes a finished split unfinished again where files, classes or ids were changed since."""
        sources = {path.name: source for path, _, source in self._jobs}
        kept = [shard for shard in self._progress["shards"] if sources.get(shard["file"]) == shard.get("source")]
        if len(kept) == len(self._progress["shards"]):
            return
        changed = len(self._progress["shards"]) - len(kept)
        print(
            f"{self._folder}: files or classes were changed since; {changed} of {len(self._jobs)} shards are written "
            "anew",
            file=sys.stderr,
        )
        self._progress["shards"] = kept
        # In this order, a killed process never leaves a manifest of shards that are gone.
        atomic.write(self._journal, json.dumps(self._progress, indent=1))
        if self._manifest["splits"].pop(self._split, None) is not None:
            atomic.write(self._folder / MANIFEST, json.dumps(self._manifest, indent=1))

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
            earlier = json.loads(read_file(self._journal))
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


def _same(earlier: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Checks that the settings of earlier calls are those of now."""
    for key, value in earlier.items():
        if now[key] != value:
            what = "other frames" if key == "names" else f"{key} {_as_written(value)}, not {_as_written(now[key])}"
            raise UserError(f"--out: {folder} was prepared with {what}; choose another folder, or delete this one")


def _as_written(value: Any) -> str:
    """Returns a setting as the command line writes it."""
    if isinstance(value, list) and value and isinstance(value[0], int):
        return f"{value[1]}x{value[0]}"
    return ",".join(value) if isinstance(value, list) else str(value)
