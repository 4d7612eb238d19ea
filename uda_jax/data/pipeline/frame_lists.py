"""Choosing frames of a data set by name: those that a text file lists, or some at random."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from uda_jax.data.frames import IMAGE_ENDINGS
from uda_jax.data.io.files import read_file
from uda_jax.errors import UserError, printable

# What published lists append to a frame's name, before the file's ending.
_SUFFIXES = (
    "_leftImg8bit",
    "_gtFine_labelIds",
    "_gtFine_labelTrainIds",
    "_gtCoarse_labelIds",
    "_gtCoarse_labelTrainIds",
    "_rgb_anon",
    "_rgb_ref_anon",
    "_gt_labelIds",
    "_gt_labelTrainIds",
    "_train_id",
)
# Letters of a line that a message shows: a file that is no list may be one line as a whole.
_LONGEST = 300


def random_positions(names: Sequence[str], count: int, seed: int) -> list[int]:
    """Chooses `count` of some names at random, the same ones on every machine.

    The names, sorted, are permuted by the order of as many raw draws of PCG64, whose stream NumPy promises never to
    change, and the first are taken: a smaller count chooses some of the frames of a larger one.

    Returns:
      Their positions, in increasing order.

    Raises:
      UserError: there are fewer names.
    """
    if count > len(names):
        raise UserError(f"count: expected at most the {len(names)} frames of the split, got {count}")
    return sorted(shuffled_positions(names, seed)[:count])


def shuffled_positions(names: Sequence[str], seed: int) -> list[int]:
    """Returns the positions of all names in an order that the seed decides; see `random_positions`."""
    ordered = sorted(range(len(names)), key=lambda k: names[k])
    permutation = np.argsort(np.random.PCG64(seed).random_raw(len(names)), kind="stable")
    return [ordered[k] for k in permutation]


def listed_positions(path: str, names: Sequence[str]) -> list[int]:
    """Finds the frames that a text file lists, one per line.

    A line is a frame's name, or a row of a list as papers publish them, of whose columns, set apart by tabs or spaces,
    the first one counts: a file's path, whose folders and endings are dropped as far as the names do without them.

    Args:
      path: the text file.
      names: of all frames.

    Returns:
      Positions of the listed frames, in the order of the lines.

    Raises:
      UserError: the file cannot be read or lists nothing; a line fits no frame, several, or one of an earlier line.
    """
    try:
        lines = read_file(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"names_file: cannot read {path}: {error}") from None
    index = _NameIndex(names)
    chosen: dict[int, None] = {}
    for number, line in enumerate(lines, start=1):
        if not (line := line.strip()):
            continue
        where = f"names_file: {path}, line {number}"
        found = index.find(line)
        if not found:
            shown = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
            raise UserError(f"{where}: no frame '{printable(shown)}' in the split{index.hint(line[:_LONGEST])}")
        if len(found) > 1:
            raise UserError(f"{where}: '{printable(line)}' fits {' and '.join(found[:2])}; write the whole name")
        position = index.positions[found[0]]
        if position in chosen:
            raise UserError(f"{where}: frame '{found[0]}' is listed twice; remove one line")
        chosen[position] = None
    if not chosen:
        raise UserError(f"names_file: {path} lists no frame; write one name per line")
    return list(chosen)


class _NameIndex:
    """Frames by name and by the last part of their names."""

    def __init__(self, names: Iterable[str]):
        self.positions = {name: k for k, name in enumerate(names)}
        self._by_last: dict[str, list[str]] = {}
        for name in self.positions:
            self._by_last.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, line: str) -> list[str]:
        """Returns the names that a line may mean, best first; several only if they fit equally well."""
        column = line.split("\t")[0].strip()
        path = column.split()[0]
        for name in (line, column, path):
            if name in self.positions:
                return [name]
        *folders, last = [part for part in path.split("/") if part] or [path]
        for stem in _stems(last):
            parts = [*folders, stem]
            # A list may name more folders than the data set does, or fewer.
            fitting = {name: _shared(name.split("/"), parts) for name in self._by_last.get(stem, ())}
            best = max(fitting.values(), default=0)
            if best:
                return [name for name, length in fitting.items() if length == best]
        return []

    def hint(self, line: str) -> str:
        """Returns what else the line may have meant."""
        close = difflib.get_close_matches(line, self.positions, n=1)
        return f"; did you mean '{close[0]}'?" if close else "; the file may belong to another split"


def _stems(last: str) -> list[str]:
    """Returns what a file's name may be as the name of a frame."""
    ending = next((ending for ending in IMAGE_ENDINGS if last.lower().endswith(ending)), "")
    stem = last[: len(last) - len(ending)]
    return [last, stem, *(stem.removesuffix(suffix) for suffix in _SUFFIXES if stem.endswith(suffix))]


def _shared(name: Sequence[str], path: Sequence[str]) -> int:
    """Returns how many parts the shorter has if it is the end of the longer, else 0."""
    length = min(len(name), len(path))
    return length if list(name[-length:]) == list(path[-length:]) else 0
