"""Which files make a frame: pairing them by name, and saying in few lines which files make none, and why."""

import collections
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from uda_jax.data.io.archives import File, Problem, Tree
from uda_jax.data.io.images import IMAGE_ENDINGS, LABEL_ENDINGS, UNREAD_ENDINGS
from uda_jax.errors import printable

# What tools put behind the name of an image to name its label.
_LABEL_WORDS = re.compile(
    r"[ ._-](mask|label|gt|seg|annotation|instance|colou?r|train_?id|pixel|class)[a-z0-9_.-]*", re.IGNORECASE
)
_LISTED = 3


class Frame(NamedTuple):
    """One frame: its name, its files, and whatever else its decoders need.

    Attributes:
      name: tells the frame from the others.
      files: {map: file}, of the maps that the frame has.
      context: such as a camera file or a table of colours.
    """

    name: str
    files: Mapping[str, File]
    context: Any = None

    @property
    def image(self) -> File:
        """The file of its image."""
        return self.files["image"]

    @property
    def label(self) -> File | None:
        """The file of its label, if it has one."""
        return self.files.get("label")

    @property
    def depth(self) -> File | None:
        """The file of its depth, if it has one."""
        return self.files.get("depth")


def by_name(
    files: Mapping[str, File], endings: str | Sequence[str], problems: list[Problem] | None = None, field: str = "image"
) -> dict[str, File]:
    """Turns {path in a folder: file} into {frame name: file}.

    Args:
      files: from `Tree.files`.
      endings: what follows the frame's name, such as "_leftImg8bit.png"; files without any of them are left out.
      problems: where two files of one frame are reported; such a frame is left out.
      field: the map that these files hold.

    Returns:
      Files by what precedes the ending, folders included, in order.
    """
    endings = (endings,) if isinstance(endings, str) else endings
    found: dict[str, File] = {}
    doubles = set()
    for path, file in files.items():
        ending = next((ending for ending in endings if path.lower().endswith(ending.lower())), None)
        if ending is None:
            continue
        name = path[: -len(ending)] if ending else path
        if name in found and problems is not None:
            message = f"{file}: shares the stem '{printable(name)}' with {found[name].name}; remove one"
            problems.append(Problem(name, field, message))
            doubles.add(name)
        found[name] = file
    return {name: file for name, file in found.items() if name not in doubles}


def pair(
    images: Mapping[str, File],
    *,
    context: Mapping[str, Any] | None = None,
    optional: Collection[str] = (),
    **others: Mapping[str, File] | None,
) -> tuple[list[Frame], list[Problem]]:
    """Pairs the files of a split by frame name.

    Args:
      images: {frame name: image file}, in order.
      context: {frame name: context}.
      optional: maps that some frames may be without.
      **others: {frame name: file} of "label", "depth" or any other map. None or empty: the split has none of these.

    Returns:
      The frames, and what is wrong: a frame without a map that others have, files without an image.
    """
    problems = []
    for field, files in others.items():
        surplus = {name: file for name, file in (files or {}).items() if name not in images}
        without = [name for name in images if name not in (files or {})]
        problems += _unpaired(field, surplus, images, without)
        if files and field not in optional:
            told = {name for problem in problems if problem.field == field for name in problem.frames}
            problems += [
                Problem(name, field, f"{images[name]}: there is no {field} of this frame; add it or remove the image")
                for name in without
                if name not in told
            ]
    maps = {"image": images} | {field: files or {} for field, files in others.items()}
    frames = [
        Frame(name, {field: files[name] for field, files in maps.items() if name in files}, (context or {}).get(name))
        for name in images
    ]
    return frames, problems


def masks_among(images: Mapping[str, File]) -> list[Problem]:
    """Reports images that are named as others with a word for labels behind, as some tools export both."""
    found = [name for name in images if (word := _LABEL_WORDS.search(name)) and name[: word.start()] in images]
    if not found:
        return []
    first = found[0]
    message = (
        f"{images[first]}: {len(found)} of {len(images)} images have the name of another one with a word for labels "
        "behind it; move labels into the folder 'labels', each under the name of its image"
    )
    return [Problem(None, "image", message, frames=tuple(found))]


def passed_over(where: str, names: Sequence[str], field: str, frames: Collection[str]) -> list[Problem]:
    """Returns what to say of files in a folder whose endings are not read: one line that counts them.

    Args:
      where: the folder.
      names: of the files.
      field: the map that the folder holds.
      frames: names of the frames without this map.

    Returns:
      Nothing, or one problem. Its `frames` are those whose map is there, but as a file of another kind.
    """
    if not names:
        return []
    kinds = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    listed = ", ".join(f"{printable(kind)} ({count})" for kind, count in kinds.most_common(_LISTED))
    endings = IMAGE_ENDINGS if field == "image" else LABEL_ENDINGS
    pictures = IMAGE_ENDINGS if field != "image" else ()
    stems = {os.path.splitext(name)[0] for name in names if name.lower().endswith(pictures)}
    concerned = tuple(name for name in frames if name in stems)
    cure = f"a {field} must be {' or '.join(endings)}, convert them" if concerned else f"{', '.join(endings)} are read"
    message = f"{where}: {len(names)} files are passed over: {listed}, the first is '{printable(names[0])}'; {cure}"
    return [Problem(None, field, message, frames=concerned, note=not concerned)]


def other_kinds(tree: Tree, frames: Sequence[Frame]) -> list[Problem]:
    """Returns what to say of files in the folders of a published data set that are of another kind than its own.

    Files beside its labels that are no pictures, such as polygons, belong to it and are meant to be passed over.

    Args:
      tree: from which the frames were listed.
      frames: of the split.

    Returns:
      One note for each map whose folders hold some.
    """
    groups: dict[str, list[tuple[str, str, tuple[str, ...]]]] = collections.defaultdict(list)
    for folder, names, asked, files in tree.other_kinds():
        held = (field for frame in frames for field, file in frame.files.items() if file in files)
        # Where no frame has a file of the folder, what lacks is labels, or images if there are no frames.
        field = next(held, "label" if frames else "image")
        # Beside images nothing else belongs to a set; beside labels there may be polygons and the like.
        pictures = IMAGE_ENDINGS + UNREAD_ENDINGS
        groups[field] += [
            (folder, name, asked) for name in names if field == "image" or name.lower().endswith(pictures)
        ]
    notes = []
    for field, others in groups.items():
        if not others:
            continue
        kinds = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for _, name, _ in others)
        listed = ", ".join(f"{printable(kind)} ({count})" for kind, count in kinds.most_common(_LISTED))
        folder, name, asked = others[0]
        message = (
            f"{tree.where(folder)}: {len(others)} files are passed over: {listed}, the first is '{printable(name)}'; "
            f"{', '.join(asked)} are read"
        )
        notes.append(Problem(None, field, message, note=True))
    return notes


def _unpaired(
    field: str, surplus: Mapping[str, File], images: Mapping[str, File], without: Sequence[str]
) -> list[Problem]:
    """Returns what is wrong with files of a map that have no image, those of one cause in one line."""
    problems, groups, rest = [], collections.defaultdict(dict), []
    finders = _finders(surplus, images, without)
    for name in surplus:
        cause, frame = next(((cause, frame) for cause, find in finders if (frame := find(name)) is not None), ("", ""))
        if frame:
            groups[cause.format(printable(name.removeprefix(frame)))][name] = frame
        else:
            rest.append(name)
    lacking = set(without)
    for cause, pairs in groups.items():
        first = next(iter(pairs))
        frames = tuple(frame for frame in pairs.values() if frame in lacking)
        many = f"this and {len(pairs) - 1} more {field} files have" if len(pairs) > 1 else f"this {field} file has"
        cure = f"give each the name of its image, such as '{printable(pairs[first])}'"
        if not frames:
            cure = f"the frames have a {field} besides, so these are not read"
        message = f"{surplus[first]}: {many} {cause}; {cure}"
        problems.append(Problem(None, field, message, frames=frames, note=not frames))
    if len(rest) > _LISTED:
        message = f"{surplus[rest[0]]}: this and {len(rest) - 1} more {field} files have no image of their name; add "
        problems.append(Problem(None, field, message + "the images or remove these files", orphan=True))
    else:
        problems += [
            Problem(
                None,
                field,
                f"{surplus[name]}: there is no image '{printable(name)}'; add it or remove this file",
                orphan=True,
            )
            for name in rest
        ]
    return problems


def _finders(surplus: Mapping[str, File], images: Mapping[str, File], without: Sequence[str]) -> list[tuple]:
    """Returns (cause, function from the name of a file to the image that it must belong to, or None)."""
    same = {folded_name(name): name for name in without}
    lasts = collections.Counter(name.rpartition("/")[2] for name in without)
    last = {name.rpartition("/")[2]: name for name in without if lasts[name.rpartition("/")[2]] == 1}
    kernels = _kernels(list(without))
    own = _kernels(list(surplus))
    shared = {kernel: name for name, kernel in kernels.items()} if set(own.values()) & set(kernels.values()) else {}

    def suffixed(name: str) -> str | None:
        return next((name[:end] for end in range(len(name) - 1, 0, -1) if name[:end] in images), None)

    return [
        (
            "the name of an image but for case or the form of letters (NFC, NFD)",
            lambda name: same.get(folded_name(name)),
        ),
        ("the name of an image with '{}' behind it", lambda name: _separate(name, suffixed(name))),
        ("the name of an image in another folder", lambda name: last.get(name.rpartition("/")[2])),
        ("the name of an image with another beginning or end", lambda name: shared.get(own[name])),
    ]


def _separate(name: str, image: str | None) -> str | None:
    """Returns an image if what follows its name is a suffix, and not the rest of a number or word."""
    return image if image is not None and not name[len(image)].isalnum() else None


def _kernels(names: Sequence[str]) -> dict[str, str]:
    """Returns {name: what is left of it without the beginning and end that all names share, whole numbers kept}."""
    if len(names) < 2:
        return {name: name for name in names}
    start = os.path.commonprefix(list(names)).rstrip("0123456789")
    end = os.path.commonprefix([name[::-1] for name in names])[::-1].lstrip("0123456789")
    return {name: name[len(start) : len(name) - len(end)] for name in names}


def folded_name(name: str) -> str:
    """Returns what names have in common that differ in case or the form of letters (NFC, NFD) only."""
    return unicodedata.normalize("NFC", name).casefold()
