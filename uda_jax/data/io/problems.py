"""What is wrong with a data set on disk, for whoever lists it and whoever asks."""

from typing import NamedTuple


class Problem(NamedTuple):
    """Something wrong with a data set on disk.

    Attributes:
      frame: name of the frame that cannot be used for it; None if it concerns no single one.
      field: the map that it concerns: "image" (the whole frame), "label" or any other.
      message: one line: which file, expected, got, what to do.
      orphan: whether it is a file that belongs to no frame, which does no harm unless some frame lacks one.
      frames: names of the frames that cannot be used for it, where one line tells of many.
      note: whether it is worth knowing, but may be meant.
    """

    frame: str | None
    field: str
    message: str
    orphan: bool = False
    frames: tuple[str, ...] = ()
    note: bool = False

    @property
    def concerned(self) -> tuple[str, ...]:
        """Names of all frames that cannot be used for it."""
        return self.frames if self.frame is None else (self.frame, *self.frames)
