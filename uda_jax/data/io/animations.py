"""Files of several pictures, such as GIF, WebP, TIFF and APNG, read by Pillow one picture at a time."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uda_jax.data.io.images import BROKEN, damage, opened
from uda_jax.data.io.problems import Problem
from uda_jax.errors import UserError, printable


class _Opened(threading.local):
    """What a thread has open of a file."""

    image: Image.Image | None = None


class Animation:
    """A file of several pictures.

    Attributes:
      names: of the pictures.
      problems, passed_over: what is wrong with the file, and what is not read of it.
    """

    passed_over: tuple[Problem, ...] = ()

    def __init__(self, path: Path):
        self._path = path
        self._thread = _Opened()
        count = self._guarded(lambda image: getattr(image, "n_frames", 1), 0, "")
        # Of animations, only PNG has checksums and says how many pictures there are.
        reason = damage(path.read_bytes()) if path.suffix.lower() in (".png", ".apng") else None
        message = f"{printable(str(path))}: damaged: {reason}; copy it again"
        self.problems = (Problem(None, "image", message),) if reason else ()
        self.names = numbered(path, count)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=_Opened())

    def picture(self, number: int) -> np.ndarray:
        """Returns uint8 RGB `[H, W, 3]`; raises a UserError if it cannot be decoded."""

        def decoded(image: Image.Image) -> np.ndarray:
            image.seek(number)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"expected 8 bits per channel, got Pillow mode {image.mode}")
            return np.array(image.convert("RGB"))

        return self._guarded(decoded, number, f", frame {number}")

    def size(self, number: int) -> tuple[int, int]:
        """Returns (height, width) without decoding."""

        def header(image: Image.Image) -> tuple[int, int]:
            if image.format == "TIFF":
                # Pages may differ, and are found without decoding those before; the frames of others are one canvas.
                image.seek(number)
            return image.size[::-1]

        return self._guarded(header, number, f", frame {number}")

    def _guarded(self, read: Any, number: int, frame: str) -> Any:
        """Returns `read(image)` of this thread's image, which is open and not yet past frame `number`."""
        image = self._thread.image
        try:
            # Pillow goes back to the start for an earlier frame, too, but loses its way there in some PNGs.
            if image is None or image.tell() > number:
                if image is not None:
                    image.close()
                self._thread.image = image = opened(self._path)
            return read(image)
        except (Image.DecompressionBombError, *BROKEN) as error:
            # The next frame starts afresh, so that one that cannot be read does not harm those after it.
            if self._thread.image is not None:
                self._thread.image.close()
            self._thread.image = None
            raise unreadable(self._path, frame, error) from None


def numbered(path: Path, count: int) -> tuple[str, ...]:
    """Returns the names of the pictures of a file: its own and their number."""
    return tuple(f"{path.stem}_{number:06d}" for number in range(count))


def unreadable(path: Path, frame: str, reason: object) -> UserError:
    """Returns what to raise for a file, or a picture of it, that cannot be decoded."""
    words = printable(" ".join(str(reason).split()))
    return UserError(f"video: {printable(str(path))}{frame}: cannot be decoded ({words}); copy it again")
