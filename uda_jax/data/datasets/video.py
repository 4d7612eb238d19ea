"""Frames of a video, without labels: a folder of numbered pictures, an animation, or a video file.

Take it as a target that is a recording, without cutting it into frames first.

The root decides:
- a folder (or an archive of one) of pictures in any depth, in the order of the numbers in their names: frame_2 comes
  before frame_10, and all of drive_2 before drive_10. A frame is named by its path in the folder without the ending.
- an animated GIF, WebP or PNG, or a TIFF of several pages.
- a video file (mp4, mov, mkv, avi, webm, m4v); this needs PyAV: `pip install 'uda_jax[video]'`.
Frames of a file are named `<stem>_<number>`, numbers counting all frames of the file from 0.

The option `every` keeps each n-th frame: neighbours in a video are nearly equal. It counts frames, not seconds, also
where a video's frame rate varies. Frames of a video file are turned as its metadata tells players to; pictures are not.
An AVI file does not store in which order B-frames are shown, so neighbours may come in another order.

What surrounds a frame, where a domain's fields ask for it: `image_previous` and `image_next`, which are in the video
itself, and `intrinsics`, from one line `fx fy cx cy width height` in pixels (cx and cy from the centre of the first
one; `data.io.cameras`). It stands in `intrinsics.txt` in the folder of the pictures, or in one above it up to the root;
or beside a video file; or the option `camera` names the file, or a data set whose cameras are known: cityscapes, gta,
kitti, synthia.

Reading frame after frame is as fast as decoding. Any other order costs up to a whole group of pictures, or of an
animation all frames before it, for each frame: for training, let `uda prepare` write the frames out once.
"""

import bisect
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.base import Dataset
from uda_jax.data.io import cameras
from uda_jax.data.io.animations import Animation, numbered, unreadable
from uda_jax.data.io.archives import Problem, Tree
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image, stored_size
from uda_jax.data.labels import label_spaces
from uda_jax.data.pairing import by_name, passed_over
from uda_jax.errors import UserError, printable

# A video has no splits of its own; any other name will do as well.
SPLITS = ("train",)
ANIMATIONS = (".gif", ".webp", ".tif", ".tiff", ".png", ".apng")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
# How far a decoder may hand out frames in another order than that of their times: the deepest that H.265 allows.
_REORDERED = 16


class Video(Dataset):
    """The frames of a video: a data set of images only.

    Instances can be pickled; the file is opened again where they arrive, and once for each thread.

    Args:
      root: a folder or archive of pictures, an animation, or a video file.
      split: any name; a video has one split.
      label_space: any; the frames have no labels. "own" is one without classes.
      every: keeps frames 0, n, 2n, ...
      camera: a file with intrinsics, or a key of `cameras.PUBLISHED`; None looks for `cameras.FILE`.
      views: maps on request that frames shall have, too (`data.base.requested`).

    Attributes:
      label_space: names and colours of its classes.
      problems: what is wrong with a folder of pictures.
      frame_rate: frames per second of a video file, before `every`; None where the root does not say it.

    Raises:
      UserError: nothing there, no frame in it, a file that is damaged or of another kind, or PyAV is needed and
        missing; on access, a frame that cannot be decoded.
    """

    def __init__(
        self,
        root: str | os.PathLike | None,
        split: str,
        label_space: str = "19",
        *,
        every: int = 1,
        camera: str | None = None,
        views: Collection[str] = (),
    ):
        del split
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UserError(f"video: every: expected an integer >= 1, got {every!r}")
        own = label_spaces.LabelSpace((), ())
        self.label_space = own if label_space == "own" else label_spaces.label_space(label_space)
        self._every = every
        self._source = _open(root)
        self.problems, self.passed_over = self._source.problems, self._source.passed_over
        self.frame_rate: float | None = getattr(self._source, "rate", None)
        if not self._source.names and not self.problems:
            raise UserError(
                f"video: {printable(str(root))} holds no picture ({', '.join(IMAGE_ENDINGS)}); set root to a folder of "
                "pictures or to a video file"
            )
        in_folder = isinstance(self._source, _Pictures)
        where = Path(root).expanduser() if in_folder else Path(root).expanduser().parent
        asked = "intrinsics" in views
        self._cameras = cameras.of_frames("video", where, self._source.names, camera, below=in_folder) if asked else {}
        self.rule = repr(self._cameras) if asked else ""

    @property
    def maps(self) -> tuple[str, ...]:
        """The image, and where they are asked for the intrinsics."""
        return ("image", "intrinsics") if self._cameras else ("image",)

    def __len__(self) -> int:
        return -(-len(self._source.names) // self._every)

    def name(self, index: int) -> str:
        """Returns the name of frame `index` without decoding it."""
        return self._source.names[range(len(self))[index] * self._every]

    def read(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """Returns frame `index`, decoded if `fields` has "image"."""
        index = range(len(self))[index]
        example: dict[str, Any] = {"name": self.name(index), "index": index}
        if "image" in fields:
            example["image"] = self._source.picture(index * self._every)
        if "intrinsics" in fields and self._cameras:
            example["intrinsics"] = cameras.nearest(self.name(index), self._cameras).maps["intrinsics"]
        return example

    def stored_size(self, index: int, field: str) -> tuple[int, int] | None:
        """Returns (height, width) of the image of frame `index`; None for a video file, whose frames have one size."""
        return self._source.size(range(len(self))[index] * self._every) if field == "image" else None


def _open(root: str | os.PathLike | None) -> Any:
    """Returns the frames of a root: `names`, `problems`, `picture(number)`, uint8 `[H, W, 3]`, and `size(number)`."""
    path = Path(root).expanduser() if root is not None else None
    if path is None or not path.is_file():
        return _Pictures(Tree("video", root))
    ending = path.suffix.lower()
    if ending in VIDEOS:
        return _Stream(path)
    if ending in ANIMATIONS:
        return Animation(path)
    if ending in (".zip", ".tar"):
        return _Pictures(Tree("video", root))
    raise UserError(
        f"video: {printable(str(path))}: expected one of {', '.join(dict.fromkeys(VIDEOS + ANIMATIONS))}, or a folder "
        "of pictures; convert the file, for instance with ffmpeg"
    )


class _Pictures:
    """A folder of pictures."""

    def __init__(self, tree: Tree):
        problems: list[Problem] = []
        files = by_name(tree.files("", IMAGE_ENDINGS, recursive=True), IMAGE_ENDINGS, problems)
        self.names = tuple(sorted(files, key=natural))
        self.problems = tuple(problem for problem in (*tree.problems, *problems) if not problem.note)
        notes = [problem for problem in tree.problems if problem.note]
        others = [name for name in tree.passed_over("") if name.rpartition("/")[2] != cameras.FILE]
        self.passed_over = [*notes, *passed_over(tree.where(""), others, "image", ())]
        self._files = tuple(files[name] for name in self.names)

    def picture(self, number: int) -> np.ndarray:
        return read_image(self._files[number])

    def size(self, number: int) -> tuple[int, int]:
        return stored_size(self._files[number])


def natural(name: str) -> tuple:
    """Returns a key that sorts names by the numbers in them, folder by folder."""
    parts = [re.split("([0-9]+)", part) for part in name.split("/")]
    # Names that differ in leading zeros only keep a definite order by the name itself.
    return [[(int(p), "") if k % 2 else (0, p) for k, p in enumerate(part)] for part in parts], name


class _Opened(threading.local):
    """What a thread has open of a video: its container and the frames to come."""

    container: Any = None
    frames: Any = None
    last: int | None = None  # when the frame that was read last is shown


class _Stream:
    """The video stream of a file, read by PyAV.

    All packets are listed once, without decoding: their times, in order, are the frames. A frame is reached from the
    key frame before it, or from the frame that was read last if that is nearer.
    """

    problems: tuple[Problem, ...] = ()

    def __init__(self, path: Path):
        self._path = path
        self._thread = _Opened()
        av = _pyav(path)
        try:
            with av.open(str(path)) as container:
                stream = _first_stream(container, path)
                found = [packet for packet in container.demux(stream) if packet.size]
                self.rate = float(stream.average_rate) if stream.average_rate else None
                packets = [(packet.pts, packet.dts, packet.is_keyframe) for packet in found if not packet.is_discard]
                self.passed_over = _early_end(path, stream, container.duration, found)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise unreadable(path, "", error) from None
        if any(time is None for time, _, _ in packets):
            raise UserError(
                f"video: {printable(str(path))}: its frames carry no times, so none can be found again; convert it, "
                "for instance with 'ffmpeg -i <file> out.mp4'"
            )
        self._times = sorted({time for time, _, _ in packets})
        # When a key frame is shown, and when it is decoded.
        self._keys = sorted((time, time if decoded is None else decoded) for time, decoded, is_key in packets if is_key)
        self.names = numbered(path, len(self._times))
        if not self.names:
            raise UserError(f"video: {printable(str(path))}: the video holds no frame; copy it again")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=_Opened())

    def picture(self, number: int) -> np.ndarray:
        av = _pyav(self._path)
        time = self._times[number]
        last = self._thread.last
        key = bisect.bisect_right(self._keys, time, key=lambda key: key[0]) - 1
        # Containers differ in which of its times leads to a key frame; the start of the file leads everywhere.
        starts = (*(dict.fromkeys(self._keys[key]) if key >= 0 else ()), None)
        try:
            near = last is not None and last < time and (key < 0 or self._keys[key][0] <= last)
            if near and (frame := self._until(number)) is not None:
                return _upright(frame)
            for start in starts:
                self._start(start)
                if (frame := self._until(number)) is not None:
                    return _upright(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._close()
            raise unreadable(self._path, f", frame {number}", error) from None
        self._close()
        raise unreadable(self._path, f", frame {number}", "its data is missing or damaged")

    def size(self, number: int) -> None:
        del number

    def _start(self, time: int | None) -> None:
        """Goes to a key frame, or to the start of the file."""
        state = self._thread
        if time is None:
            self._close()
        if state.container is None:
            state.container = _pyav(self._path).open(str(self._path))
        stream = state.container.streams.video[0]
        if time is not None:
            state.container.seek(time, stream=stream)
        state.frames = state.container.decode(stream)
        state.last = None

    def _until(self, number: int) -> Any:
        """Decodes on to a frame; None if it does not come."""
        state, wanted = self._thread, self._times[number]
        allowed = None
        for frame in state.frames:
            state.last = frame.pts
            if frame.pts == wanted:
                # Concealed damage is no picture; from an earlier key frame it may be whole.
                return None if frame.is_corrupt else frame
            if allowed is None and frame.pts is not None:
                allowed = max(0, number - bisect.bisect_left(self._times, frame.pts)) + _REORDERED
            elif allowed is not None:
                allowed -= 1
            if allowed == 0:
                break
        state.last = None
        return None

    def _close(self) -> None:
        """Gives up the open file, whose decoder is in an unknown state after an error."""
        state = self._thread
        if state.container is not None:
            state.container.close()
        state.container = state.frames = state.last = None


def _early_end(path: Path, stream: Any, duration: int | None, packets: list[Any]) -> tuple[Problem, ...]:
    """Returns what to say of a file that has less in it than its header says, as one that was cut off has."""
    ends = [packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None]
    if not ends or not duration:
        return ()
    # The duration of a file is in microseconds, and other streams may be a little longer.
    said, end = duration / 1e6, float(max(ends) * packets[0].time_base)
    if stream.frames <= len(packets) and (stream.frames or said - end <= max(0.1, 0.02 * said)):
        return ()
    message = (
        f"{printable(str(path))}: its pictures end after {end:.2f} s, {len(packets)} of them, but its header says "
        f"{said:.2f} s{f', {stream.frames} of them' if stream.frames else ''}; if it was cut off, copy it again"
    )
    return (Problem(None, "image", message, note=True),)


def _first_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise UserError(f"video: {printable(str(path))}: the file has no video stream; set root to another one")
    return container.streams.video[0]


def _pyav(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(
            f"video: {printable(str(path))}: reading video files needs PyAV; run pip install 'uda_jax[video]', or "
            "write the frames into a folder"
        ) from None
    return av


def _upright(frame: Any) -> np.ndarray:
    """Returns a decoded frame as uint8 `[H, W, 3]`, turned by quarters as its metadata asks for."""
    # PyAV gives the angle counter-clockwise, as rot90 takes it.
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarters))
