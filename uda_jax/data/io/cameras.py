"""What a camera's pictures say about space: its intrinsics as shares of the image, from calibrations of several forms.

(fx / W, fy / H, u0 / W, v0 / H), for an image W pixels wide and H high, are the same for every size of it. The
principal point (u0, v0) is counted from the outer corner of the first pixel, so that one in the middle of the image is
(1/2, 1/2). Calibrations mostly count from the centre of that pixel, as OpenCV's do, and theirs is half a pixel less.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uda_jax.data.io.archives import File, Tree
from uda_jax.data.io.files import cannot_read
from uda_jax.errors import UserError, printable

# What describes the camera of pictures that lie beside it.
FILE = "intrinsics.txt"
LINE = "fx fy cx cy width height"


class Camera(NamedTuple):
    """A camera, and how far the right one of a pair is from it.

    Attributes:
      intrinsics: the map of this name, four numbers.
      baseline: metres; None if there is no pair, or it is not known.
    """

    intrinsics: tuple[float, float, float, float]
    baseline: float | None = None

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps that are known of it."""
        found = {"intrinsics": np.array(self.intrinsics, np.float32)}
        return found | ({} if self.baseline is None else {"baseline": np.float32(self.baseline)})


# Of whole data sets, for files that have no calibration of their own; without half pixels, as released code has them.
# Sources: the loaders of the depth networks behind CorDA (SDE: Cityscapes, GTA's video at 1920x1080, SYNTHIA's at
# 1280x760), Monodepth2 (KITTI); the distances are those of most of Cityscapes' camera files, and of KITTI's colour
# cameras.
PUBLISHED = {
    "cityscapes": Camera((2262.52 / 2048, 2265.3018 / 1024, 1096.98 / 2048, 513.137 / 1024), 0.209313),
    "gta": Camera((1.206285, 2.144507, 0.5, 0.5)),
    "kitti": Camera((0.58, 1.92, 0.5, 0.5), 0.5327),
    "synthia": Camera((532.740352 / 1280, 532.740352 / 760, 0.5, 0.5)),
}


def calibrated(focal: tuple[float, float], centre: tuple[float, float], size: tuple[int, int]) -> Camera:
    """Returns the camera of a calibration that counts from the centre of the first pixel.

    Args:
      focal: fx and fy in pixels.
      centre: cx and cy, the principal point, in pixels.
      size: height and width of the image in pixels.
    """
    height, width = size
    (fx, fy), (cx, cy) = focal, centre
    return Camera((fx / width, fy / height, (cx + 0.5) / width, (cy + 0.5) / height))


def read_line(file: File) -> Camera:
    """Reads a user's own calibration: one line `fx fy cx cy width height`, and perhaps the baseline in metres.

    All but that are pixels, of the size that the calibration was made for, which need not be that of the pictures; cx
    and cy count from the centre of the first pixel. What follows a # is a comment.

    Raises:
      UserError: the file cannot be read, or is something else.
    """
    lines = [line.partition("#")[0].strip() for line in _text(file).splitlines()]
    lines = [line for line in lines if line]
    numbers = _numbers(lines[0]) if len(lines) == 1 else []
    example = f"expected one line '{LINE}' in pixels, and perhaps the baseline in metres"
    if len(numbers) not in (6, 7):
        got = f"'{printable(lines[0])}'" if len(lines) == 1 else f"{len(lines)} lines"
        raise UserError(f"{file}: {example}, got {got}; write for instance '721.5 721.5 609.6 172.9 1242 375'")
    fx, fy, cx, cy, width, height, *baseline = numbers
    if min(fx, fy, width, height, *baseline) <= 0:
        raise UserError(f"{file}: {example}, all above 0, got '{printable(lines[0])}'; correct the file")
    if not (-0.5 <= cx <= width - 0.5 and -0.5 <= cy <= height - 0.5):
        raise UserError(
            f"{file}: expected cx and cy within an image of {width:g}x{height:g} pixels, got {cx:g} and {cy:g}; the "
            f"order is '{LINE}'"
        )
    return calibrated((fx, fy), (cx, cy), (height, width))._replace(baseline=baseline[0] if baseline else None)


def of_frames(
    dataset: str, root: Path, names: Collection[str], camera: str | None, *, below: bool
) -> dict[str, Camera]:
    """Returns the cameras of a user's recordings: {folder: its camera}, where "" stands for what is in no other one.

    Args:
      dataset: its name, for messages.
      root: the folder of all frames, or an archive.
      names: of the frames, folders included.
      camera: a file as `read_line` takes it, or a key of `PUBLISHED`, for all of them; None looks for files `FILE`.
      below: whether folders in the root count, too.

    Raises:
      UserError: a frame has no camera, or a file is not as it should be.
    """
    if camera in PUBLISHED:
        return {"": PUBLISHED[camera]}
    if camera is not None:
        path = Path(camera).expanduser()
        if not path.is_file():
            known = ", ".join(PUBLISHED)
            raise UserError(f"{dataset}: camera: expected {known}, or a file with a line '{LINE}', got '{camera}'")
        return {"": read_line(File(path))}
    files = {FILE: File(root / FILE)} if (root / FILE).is_file() else {}
    if below:
        files = Tree(dataset, root).files("", (FILE,), recursive=True)
    found = {name.rpartition("/")[0]: read_line(file) for name, file in files.items() if file.name == FILE}
    if lacking := [name for name in names if nearest(name, found) is None]:
        where = printable(str(root / FILE))
        raise UserError(
            f"{dataset}: no file {where} with the intrinsics of '{printable(lacking[0])}'; write a line '{LINE}' into "
            f"it, or set the option camera to {', '.join(PUBLISHED)} or to a file"
        )
    return found


def nearest(name: str, found: Mapping[str, Camera]) -> Camera | None:
    """Returns the camera of the nearest folder that a frame is in, as `of_frames` gave them; None without any."""
    folder = name.rpartition("/")[0]
    while folder and folder not in found:
        folder = folder.rpartition("/")[0]
    return found.get(folder)


def read_json_numbers(file: File, fields: Sequence[tuple[str, str]]) -> list[float]:
    """Reads numbers above 0 of a JSON file with sections, such as Cityscapes' `extrinsic` and `intrinsic`.

    Args:
      file: the file.
      fields: (section, name) of each number.

    Raises:
      UserError: the file is missing, no JSON, or lacks one of them.
    """
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as JSON ({reason}); copy it again") from None
    found = []
    for section, field in fields:
        part = values.get(section) if isinstance(values, dict) else None
        value = part.get(field) if isinstance(part, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(
                f"{file}: {section}.{field}: expected a number above 0, got {value!r}; copy the original file again"
            )
        found.append(float(value))
    return found


def read_kitti(file: File) -> Camera:
    """Reads a day's `calib_cam_to_cam.txt` of KITTI's raw drives: the rectified colour cameras 02 and 03.

    A projection matrix P of 3x4 holds fx, cx, fy and cy, and minus fx times how far its camera is to the right.

    Raises:
      UserError: the file cannot be read, or lacks a line.
    """
    entries = {}
    for line in _text(file).splitlines():
        key, _, rest = line.partition(":")
        entries[key.strip()] = _numbers(rest)
    for key, count in (("S_rect_02", 2), ("P_rect_02", 12), ("P_rect_03", 12)):
        if len(entries.get(key, ())) != count or entries[key][0] <= 0:
            raise UserError(f"{file}: {key}: expected {count} numbers; copy the original file again")
    width, height = entries["S_rect_02"]
    left, right = entries["P_rect_02"], entries["P_rect_03"]
    baseline = (left[3] - right[3]) / left[0]
    return calibrated((left[0], left[5]), (left[2], left[6]), (height, width))._replace(baseline=baseline)


def _text(file: File) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise UserError(cannot_read(file, error)) from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: expected a text file, got other bytes; replace it") from None


def _numbers(text: str) -> list[float]:
    """Returns the numbers of a text; none if anything in it is no finite number."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
