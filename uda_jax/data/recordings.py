"""Frames in time: names that end in a number tell which recording a frame belongs to, and where it is in it."""

from collections.abc import Iterable, Mapping

from uda_jax.data.io.archives import File


def moment(name: str) -> tuple[str, int] | None:
    """Returns (recording, number) of a frame: what its name begins with, and the number it ends with, if any."""
    recording = name.rstrip("0123456789")
    return (recording, int(name[len(recording) :])) if recording != name else None


def shifted(images: Iterable[str], video: Mapping[str, File], offset: int) -> dict[str, File]:
    """Returns {frame name: the file of the frame so many numbers later}, of the frames for which there is one.

    Args:
      images: names of the frames.
      video: {frame name: file} of all frames of the recordings.
      offset: difference of the numbers, which are written with equally many digits.
    """
    found = {}
    for name in images:
        if (where := moment(name)) is not None:
            recording, number = where
            digits = len(name) - len(recording)
            other = f"{recording}{number + offset:0{digits}}"
            if other in video:
                found[name] = video[other]
    return found


def nearest(images: Iterable[str], files: Mapping[str, File]) -> dict[str, File]:
    """Returns {frame name: the file of the nearest frame of its recording}, the frame itself if it has one.

    Args:
      images: names of the frames.
      files: {frame name: file}, of which some frames may have none.
    """
    recordings: dict[str, list[tuple[int, str]]] = {}
    for name in files:
        if (where := moment(name)) is not None:
            recordings.setdefault(where[0], []).append((where[1], name))
    found = {}
    for name in images:
        where = moment(name)
        if name in files:
            found[name] = files[name]
        elif where is not None and where[0] in recordings:
            found[name] = files[min(recordings[where[0]], key=lambda entry: abs(entry[0] - where[1]))[1]]
    return found
