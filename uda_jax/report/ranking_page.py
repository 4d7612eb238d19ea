"""Rankings of target frames from easy to hard, as IntraDA's rank stage writes them: read, and shown on the page."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from uda_jax.data.io import mirrors
from uda_jax.data.io.files import read_file
from uda_jax.errors import UserError
from uda_jax.report.elements import Figure
from uda_jax.report.pictures import frame_folder, saved_frames
from uda_jax.training.layout import StageFiles

# Key to the types it may have, of the file and of each of its frames.
KEYS: dict[str, tuple[type, ...]] = {
    "stage": (str,),
    "step": (int,),
    "fraction": (int, float),
    "normalise": (bool,),
    "frames": (list,),
}
FRAME_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "score": (int, float),
    "rare_classes": (int,),
    "normaliser": (int, float),
}

_WIDTH = 360  # pixels of a picture
MOST_RANKINGS = 12


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Target frames by increasing entropy score: low entropy is easy (Pan et al., IntraDA, CVPR 2020).

    Attributes:
      folder: name of the stage folder that holds it.
      stage: the stage whose network ranked, or the file of weights.
      step: that network's step; 0 of a file.
      fraction: the share of easy frames (the paper's lambda), 0 to 1.
      normalise: whether scores were multiplied by the rare-class normaliser.
      frames: "name", "score", "rare_classes" and "normaliser" of each frame, easiest first.
      easiest: pictures of the first frames, as `pictures.saved_frames` returns them.
      hardest: pictures of the last ones.
    """

    folder: str
    stage: str
    step: int
    fraction: float
    normalise: bool
    frames: tuple[Mapping[str, Any], ...]
    easiest: Mapping[str, Mapping[str, pathlib.Path]]
    hardest: Mapping[str, Mapping[str, pathlib.Path]]

    @property
    def easy(self) -> int:
        """How many frames are easy: the truncated floating-point product, as the released code splits."""
        return int(len(self.frames) * self.fraction)


def read_ranking(path: str | os.PathLike) -> Ranking:
    """Reads a stage's `ranking.json` and finds the pictures beside it.

    Raises:
      UserError: no JSON, a missing or malformed key, no frame, or frames that are not in increasing score.
    """
    path = pathlib.Path(path)
    try:
        found = json.loads(read_file(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the stage that ranks again") from None
    _check(found, KEYS, str(path))
    if not 0 <= found["fraction"] <= 1:
        raise UserError(f"{path}: key 'fraction': expected a number in [0, 1], got {found['fraction']}")
    if not found["frames"]:
        raise UserError(f"{path}: key 'frames': expected at least one frame, got none; run the stage that ranks again")
    previous = -math.inf
    for number, frame in enumerate(found["frames"], 1):
        _check(frame, FRAME_KEYS, f"{path}: frame {number}")
        if not previous <= frame["score"] < math.inf:
            raise UserError(
                f"{path}: frame {number} ({frame['name']}): expected a score >= {previous}, that of the frame before, "
                f"got {frame['score']}; run the stage that ranks again"
            )
        previous = frame["score"]
    figures = {key: found[key] for key in KEYS if key != "frames"}
    files = StageFiles(path.parent)
    for folder in (files.easiest, files.hardest):
        mirrors.fetch(folder)
    pictures = {"easiest": saved_frames(files.easiest), "hardest": saved_frames(files.hardest)}
    return Ranking(files.path.name, frames=tuple(found["frames"]), **figures, **pictures)


def section(rankings: Sequence[tuple[str, Ranking]]) -> list[dict[str, Any]]:
    """Returns what `rankings.html` shows.

    Args:
      rankings: titles of runs, each with a ranking of that run.
    """
    shown = []
    for title, ranking in rankings:
        positions = {frame_folder(frame["name"]): i for i, frame in enumerate(ranking.frames)}
        # From the ends of the ranking inwards; pictures of frames that it does not name come last.
        last = len(positions)
        easiest = sorted(ranking.easiest, key=lambda name: positions.get(name, last))
        hardest = sorted(ranking.hardest, key=lambda name: -positions.get(name, -1))
        groups = [
            [_figure(ranking, f"easiest: {name}", positions.get(name), ranking.easiest[name]) for name in easiest],
            [_figure(ranking, f"hardest: {name}", positions.get(name), ranking.hardest[name]) for name in hardest],
        ]
        shown.append({"title": title, "summary": _summary(ranking), "groups": groups})
    return shown


def _summary(ranking: Ranking) -> str:
    """What was ranked, in one line."""
    number, easy = len(ranking.frames), ranking.easy
    scores = [frame["score"] for frame in ranking.frames]
    ranges = [
        f"{size} {name} frames" + (f" with scores from {group[0]:.4g} to {group[-1]:.4g}" if group else "")
        for name, size, group in (("easy", easy, scores[:easy]), ("hard", number - easy, scores[easy:]))
    ]
    # A file of weights is of no step.
    at = f" at step {ranking.step}" if ranking.step else ""
    normalised = ", scores normalised by rare classes" if ranking.normalise else ""
    return (
        f"{ranking.folder}: {' and '.join(ranges)}; fraction {ranking.fraction:g} of {number}, "
        f"ranked by {ranking.stage}{at}{normalised}"
    )


def _figure(ranking: Ranking, title: str, position: int | None, files: Mapping[str, pathlib.Path]) -> Figure:
    if position is not None:
        frame = ranking.frames[position]
        title += f", place {position + 1}, score {frame['score']:.4g}"
        title += f", rare classes {frame['rare_classes']}" if ranking.normalise else ""
    return Figure(title, [files.get(kind) for kind in ("image", "prediction", "entropy")], _WIDTH)


def _check(found: Any, keys: Mapping[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected an object with the keys {', '.join(keys)}, got {type(found).__name__}")
    for key, types in keys.items():
        if key not in found:
            raise UserError(f"{where}: key '{key}' is missing; run the stage that ranks again")
        if not isinstance(found[key], types) or (isinstance(found[key], bool) and bool not in types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise UserError(f"{where}: key '{key}': expected {expected}, got {found[key]!r}")
