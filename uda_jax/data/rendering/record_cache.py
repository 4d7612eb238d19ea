"""What was rendered once: an ArrayRecord file in a cache folder, written by several processes and read at random."""

import contextlib
import errno
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from uda_jax.data.io import atomic
from uda_jax.data.io.parallel import parallel_map
from uda_jax.data.io.progress import progress_bar
from uda_jax.errors import UserError

FILE = "frames.array_record"
# Records of 192x96 pixels that fit into a megabyte.
_PER_MEGABYTE = 11


class RecordCache:
    """The records of one folder; cheap to pickle, since the file is opened again where a copy arrives.

    Args:
      folder: where they are, or will be.
      count: how many there are.
      dataset: what messages begin with.

    Raises:
      UserError: on access, and from `make`: the file cannot be read or written, or the disk is full.
    """

    def __init__(self, folder: pathlib.Path, count: int, dataset: str):
        self.folder, self._count, self._dataset = folder, count, dataset
        self._source: ArrayRecordDataSource | None = None

    def __getitem__(self, index: int) -> bytes:
        try:
            return self.opened()[index]
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            raise self.unreadable(error) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def make(
        self, render: Callable[..., bytes], jobs: Sequence[tuple], title: str, unit: str, workers: int | None
    ) -> None:
        """Renders what the folder lacks, which is all or nothing, and opens it.

        Args:
          render: from a job to its record.
          jobs: its arguments for each record.
          title, unit: of the progress bar.
          workers: processes; None takes one per core, and none for a few jobs.
        """
        if not self.folder.is_dir():
            try:
                with atomic.folder(self.folder) as temporary:
                    writer = ArrayRecordWriter(str(temporary / FILE), "group_size:1")
                    with (
                        contextlib.closing(writer),
                        parallel_map(render, jobs, workers, title=self._dataset) as records,
                    ):
                        for record in progress_bar(title, len(jobs), unit, records):
                            writer.write(record)
            except OSError as error:
                raise self._unwritable(error) from error
        self.opened()

    def opened(self) -> ArrayRecordDataSource:
        """Returns the open file."""
        if self._source is None:
            try:
                source = ArrayRecordDataSource([str(self.folder / FILE)])
                count = len(source)
            except Exception as error:  # array_record raises bare exceptions of several kinds for a damaged file
                raise self.unreadable(error) from error
            if count != self._count:
                raise self.unreadable(f"{count} records instead of {self._count}")
            self._source = source
        return self._source

    def unreadable(self, error: object) -> UserError:
        """Returns what to say of a file that is damaged."""
        reason = " ".join(str(error).split())[:120]
        where = f"{self.folder / FILE} ({reason})"
        return UserError(f"{self._dataset}: cannot read {where}; delete the folder {self.folder} and run again")

    def _unwritable(self, error: OSError) -> UserError:
        if error.errno == errno.ENOSPC:
            need = f"free {self._count // _PER_MEGABYTE + 1} MB or set UDA_JAX_CACHE to another disk"
            return UserError(f"{self._dataset}: no space left for {self.folder}; {need}")
        return UserError(
            f"{self._dataset}: cannot write {self.folder} ({error}); set UDA_JAX_CACHE to a writable folder"
        )
