"""Kinds of damage to a data set on disk, each a function that does it and says by what words it must be named.

`KINDS` lists them once the modules of this package are imported: {name: (function, which layouts it suits)}. A function
takes a `layouts.Case` and returns a text, or several of which one will do.
"""

from collections.abc import Callable

from layouts import Case, Layout

Named = str | tuple[str, ...]
KINDS: dict[str, tuple[Callable[[Case], Named], Callable[[Layout], bool]]] = {}
# {kind: where it makes another sound content, which nobody can tell from what was meant}.
UNSEEN: dict[str, Callable[[Layout], bool]] = {}


def damage(suits: Callable[[Layout], bool], unseen: Callable[[Layout], bool] | None = None) -> Callable:
    """Enters a function into `KINDS`, and into `UNSEEN`, under its name."""

    def enter(function: Callable[[Case], Named]) -> Callable[[Case], Named]:
        assert function.__name__ not in KINDS
        KINDS[function.__name__] = function, suits
        if unseen is not None:
            UNSEEN[function.__name__] = unseen
        return function

    return enter


def in_files(layout: Layout) -> bool:
    """Whether each map of a frame is a file."""
    return bool(layout.paths)


def has(*fields: str, ending: str = "") -> Callable[[Layout], bool]:
    """Returns whether a layout has all of some maps, in files of an ending."""
    return lambda layout: all(field in layout.paths and layout.paths[field].endswith(ending) for field in fields)


def has_png(layout: Layout) -> bool:
    return any(path.endswith(".png") for path in layout.paths.values())


def has_jpeg(layout: Layout) -> bool:
    return any(path.endswith(".jpg") for path in layout.paths.values())


def has_distance(layout: Layout) -> bool:
    return any(layout.paths.get(field, "").endswith(".png") for field in ("depth", "disparity"))


def name(case: Case, path) -> str:
    """Returns what a message says of a file, wherever the folder lies."""
    return path.relative_to(case.root).as_posix()
