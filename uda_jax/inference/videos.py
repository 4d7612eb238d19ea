"""Writing pictures as the frames of a video, where PyAV is installed: `pip install 'uda_jax[video]'`."""

import contextlib
import fractions
import pathlib
from typing import Any

import numpy as np

from uda_jax.data.io import atomic
from uda_jax.errors import UserError

# The encoders that are tried in turn, with what they are told. What is lost of an overlay should not be seen.
ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
WITHOUT = (
    "frames are written instead of a video, which needs PyAV with an encoder of H.264 or MPEG-4; run pip install "
    "'uda_jax[video]'"
)
# Frames per second where the input does not say.
RATE = 25.0


def encoder() -> str | None:
    """Returns the encoder that videos are written with; None where PyAV is missing, or it has none of `ENCODERS`."""
    try:
        import av
    except ImportError:
        return None
    for name in ENCODERS:
        with contextlib.suppress(av.FFmpegError, ValueError):
            av.codec.Codec(name, "w")
            return name
    return None


class VideoWriter:
    """An MP4 file that takes its name when all frames are in it; a context manager.

    Args:
      path: of the file.
      rate: frames per second.
    """

    def __init__(self, path: pathlib.Path, rate: float):
        self.path, self._rate = path, rate
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> "VideoWriter":
        self._temporary = self._stack.enter_context(atomic.replacing(self.path))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._container is not None:
            if kind is None:
                self._container.mux(self._stream.encode())
            self._container.close()
        elif kind is None:
            # No frame, no file: what waits for its name does not exist.
            error = FileNotFoundError()
            kind = FileNotFoundError
        with contextlib.suppress(FileNotFoundError):
            self._stack.__exit__(kind, error, trace)

    def add(self, picture: np.ndarray, name: str) -> None:
        """Adds a frame uint8 RGB `[H, W, 3]`.

        Args:
          picture: the frame.
          name: of its image, for messages.

        Raises:
          UserError: it has another size than the first one.
        """
        import av

        if self._size is None:
            self._start(picture.shape[:2])
        if picture.shape[:2] != self._size:
            height, width = self._size
            raise UserError(
                f"{name}: {picture.shape[1]}x{picture.shape[0]} pixels do not fit into {self.path.name}, whose first "
                f"frame has {width}x{height}; give all of them one size with --size {width}x{height}"
            )
        # Colours are stored for squares of four pixels, so that sides have to be even.
        even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), "edge")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))

    def _start(self, size: tuple[int, int]) -> None:
        import av

        name = encoder()
        self._size = size
        self._container = av.open(str(self._temporary), "w", format="mp4")
        rate = fractions.Fraction(self._rate).limit_denominator(1001)
        self._stream = self._container.add_stream(name, rate=rate, options=ENCODERS[name])
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
