"""What `dataset.yaml` says of the classes of a user's own files.

`dataset.yaml` with everything it can say; only `classes` is required:

    classes: [road, sidewalk, car]       # class 0, 1, 2, ... in this order
    ids: [7, 8, [26, 29]]                # what the 8-bit label PNGs store for each class, one id or several;
                                         #   left out: 0, 1, 2, ...
    colours:                             # red, green, blue of each class. With `ids` they only colour pictures;
      - [128, 64, 128]                   #   without `ids`, the label PNGs are RGB pictures painted in them
      - [244, 35, 232]
      - [0, 0, 142]
    ignore: [0, 255]                     # ids (for painted labels: colours) of pixels without a class;
                                         #   left out: 255 (for painted labels: black)
    depth_unit: 0.01                     # metres per count of the depth PNGs; needed when there are any

A stored value that is neither listed nor ignored is an error: it is more often a wrong table than a class
that nobody wants.
"""

import dataclasses
import reprlib
from pathlib import Path
from typing import Any

from uda_jax.data.io.files import cannot_read, read_file
from uda_jax.data.io.yaml_files import load_yaml
from uda_jax.data.labels.label_spaces import IGNORE
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

Colour = tuple[int, int, int]
# How values are shown in messages: those of our schema whole, a file that is something else in part.
_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 12
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 80
_shown = _REPR.repr


@dataclasses.dataclass(frozen=True)
class Description:
    """What a `dataset.yaml` says, checked.

    Attributes:
      path: the file.
      classes: K names.
      ids: K tuples of stored ids, or None where labels are painted in `colours`.
      colours: K colours, or None.
      ignore: ids, or colours where `ids` is None, of pixels without a class; None ignores whatever is in no class.
      depth_unit: metres per count, or None.
    """

    path: Path
    classes: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...] | None
    colours: tuple[Colour, ...] | None
    ignore: tuple | None
    depth_unit: float | None


def description_path(root: Path) -> Path:
    """Returns where the description of a folder lies: in it, or beside it, for source and target in one."""
    own, common = root / "dataset.yaml", root.resolve().parent / "dataset.yaml"
    return common if common.is_file() and not own.is_file() else own


def read_description(path: Path) -> Description:
    """Reads and checks a `dataset.yaml` (schema: this module's docstring).

    Raises:
      UserError: one line that names the file and the key.
    """
    try:
        values = load_yaml(read_file(path).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_elsewhere(path)}") from None
    except OSError as error:
        raise UserError(cannot_read(path, error)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}; save it as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    keys = ("classes", "ids", "colours", "ignore", "depth_unit")
    if values is None:
        raise UserError(f"{path}: nothing is in it; write the classes, such as 'classes: [road, car]'")
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected the keys {', '.join(keys)}, got {_shown(values)}")
    for key in values:
        if key not in keys:
            word = str(key)[:80]
            raise UserError(f"{path}: {word}: unknown key{did_you_mean(word, keys)}")
    classes = _names(values.get("classes"), path)
    colours = None
    if "colours" in values:
        colours = tuple(
            _colour(colour, path, "colours") for colour in _per_class(values["colours"], classes, path, "colours")
        )
    ids, ignore = _stored_values(values, classes, colours, path)
    unit = values.get("depth_unit")
    if unit is not None and (
        isinstance(unit, bool) or not isinstance(unit, (int, float)) or not 0 < unit < float("inf")
    ):
        raise UserError(f"{path}: depth_unit: expected metres per count, a number above 0, got {_shown(unit)}")
    return Description(path, classes, ids, colours, ignore, unit)


def _elsewhere(path: Path) -> str:
    """Says what to do about a description that is not there."""
    above = path.resolve().parents
    for folder in above[:2]:
        for other in sorted(folder.glob("[dD][aA][tT][aA][sS][eE][tT].[yY]*[mM][lL]")):
            if other.is_file():
                return f"rename {other} to {path.name}"
            return f"{other} is a folder, put a file there"
    for folder in above[2:4]:
        if (other := folder / path.name).is_file():
            return f"found {other}, so set root to the folder that holds the splits, such as 'data/source'"
    return "write one that lists your classes, such as 'classes: [road, car]'"


def _stored_values(
    values: dict, classes: tuple, colours: tuple | None, path: Path
) -> tuple[tuple | None, tuple | None]:
    """Returns (ids or None, ignored ids or colours or None), and checks that no stored value has two meanings."""
    painted = colours is not None and "ids" not in values
    if painted:
        ids, stored = None, list(colours)
    else:
        entries = _per_class(values.get("ids", list(range(len(classes)))), classes, path, "ids")
        ids = tuple(
            tuple(_id(one, path, "ids") for one in (entry if isinstance(entry, list) else [entry])) for entry in entries
        )
        stored = [one for entry in ids for one in entry]
        if () in ids:
            raise UserError(f"{path}: ids: expected at least one id for '{classes[ids.index(())]}', got []")
    default = [[0, 0, 0]] if painted else [IGNORE]
    given = values.get("ignore", default)
    if not isinstance(given, list) and given != "others":
        raise UserError(f"{path}: ignore: expected a list such as {default}, or others, got {_shown(given)}")
    listed = [] if given == "others" else given
    ignore = [_colour(entry, path, "ignore") if painted else _id(entry, path, "ignore") for entry in listed]
    if "ignore" not in values:
        # The default gives way to a class that uses its value: black may well be a class.
        ignore = [entry for entry in ignore if entry not in stored]
    if not painted and "ids" not in values:
        for entry in ignore:
            if entry in stored:
                raise UserError(
                    f"{path}: ignore: {entry} is class {entry}, '{classes[entry]}', since without 'ids' they are "
                    f"stored as 0 .. {len(classes) - 1}; give 'ids', such as {list(range(1, len(classes) + 1))}"
                )
    for entry in stored + ignore:
        if (stored + ignore).count(entry) > 1:
            key = "ignore" if entry in ignore else "colours" if painted else "ids"
            raise UserError(f"{path}: {key}: {entry} is listed twice; every stored value needs one meaning")
    return ids, None if given == "others" else tuple(ignore)


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        cure = _unquoted(value)
        raise UserError(f"{path}: classes: expected a list of names such as [road, car], got {_shown(value)}{cure}")
    if len(value) > IGNORE:
        raise UserError(f"{path}: classes: expected at most {IGNORE} names, got {len(value)}")
    for name in value:
        if value.count(name) > 1:
            raise UserError(f"{path}: classes: '{name}' is listed twice; give one class several ids instead")
    return tuple(value)


def _unquoted(value: Any) -> str:
    """Says what YAML made of words without quotes, if it did."""
    if isinstance(value, list) and any(isinstance(name, bool) for name in value):
        return "; YAML takes yes, no, on and off for True and False, so put these names in quotes"
    if isinstance(value, list) and any(isinstance(name, (int, float)) for name in value):
        return "; put numbers that are names in quotes"
    return ""


def _per_class(value: Any, classes: tuple[str, ...], path: Path, key: str) -> list:
    if not isinstance(value, list) or len(value) != len(classes):
        got = f"{len(value)}" if isinstance(value, list) else _shown(value)
        raise UserError(f"{path}: {key}: expected a list with one entry for each of {len(classes)} classes, got {got}")
    return value


def _id(value: Any, path: Path, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        what = "a whole number from 0 to 255 per channel" if key == "colours" else "an id between 0 and 255"
        raise UserError(f"{path}: {key}: expected {what}, got {_shown(value)}")
    return value


def _colour(value: Any, path: Path, key: str) -> Colour:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f"{path}: {key}: expected a colour as [red, green, blue], got {_shown(value)}")
    return tuple(_id(part, path, key) for part in value)
